//! `bft bio embed-genes`: a vector for each gene of a list.

use std::path::{Path, PathBuf};

use bft_bio::data::genome::{Aspect, GeneId, JUDGED};
use bft_bio::data::h5ad::write_obsm;
use bft_bio::genes::encode::TextModel;
use bft_bio::genes::facts::FactCheck;
use bft_bio::genes::generate::{self, Answerer};
use bft_bio::genes::list::GeneList;
use bft_bio::genes::partial::{Partial, fingerprint, key};
use bft_bio::genes::profile;
use bft_bio::genes::resolver::{Mapping, Resolver};
use bft_core::device::Device;
use bft_fetch::sources::Dataset;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::knowledge::{Knowledge, NamesFlag, is_word};
use crate::embed_output::{Embeddings, OutputKind, RowId};
use crate::error::CliError;
use crate::flags::{DeviceFlag, at_least};
use crate::hub;
use crate::open;
use crate::ui::{self, Progress};

/// Turn genes into vectors
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio embed-genes genes.txt -o genes.parquet
  bft bio embed-genes all --profile annotation -o genes.h5ad
  bft bio embed-genes genes.txt --profile generated --model m.gguf --adapter tuned -o genes.parquet
  bft bio embed-genes genes.txt --encoder llm --model ./Qwen3-0.6B -o genes.npy

GENES is a list or a table: symbols, aliases, outdated symbols, Ensembl or Entrez ids. What each word became is counted, and
every word that did not simply become a gene stands in OUTPUT.genes.tsv. The output's ending chooses its format: .parquet,
.npy (with an index in .tsv), .tsv, .jsonl, .safetensors or .h5ad (obsm). A run that was stopped goes on where it was.
Generated profiles are kept in OUTPUT.profiles.jsonl, with what the annotation contradicts. Not for clinical use.")]
pub struct EmbedGenesFlags {
    /// A file of genes; or all, every protein-coding gene
    #[arg(value_name = "GENES")]
    pub genes: PathBuf,
    /// File to write; its ending chooses the format
    #[arg(long, short = 'o', value_name = "FILE", help_heading = "Text and vectors")]
    pub output: PathBuf,
    /// The text that stands for a gene
    #[arg(long, value_enum, default_value_t = ProfileFlag::Name, help_heading = "Text and vectors")]
    pub profile: ProfileFlag,
    /// llm (the language model's hidden states, mean over tokens), or an encoder's folder [default:
    /// the fetched MiniLM]
    #[arg(long, value_name = "llm|DIR", help_heading = "Text and vectors")]
    pub encoder: Option<PathBuf>,
    /// The language model that writes profiles, or embeds with --encoder llm [default: the fetched
    /// SmolLM2]
    #[arg(long, value_name = "PATH", help_heading = "Text and vectors")]
    pub model: Option<PathBuf>,
    /// LoRA adapter of the language model
    #[arg(long, value_name = "DIR", help_heading = "Text and vectors")]
    pub adapter: Option<PathBuf>,
    /// Tokens of a generated profile, at most
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(1), help_heading = "Text and vectors")]
    pub max_new_tokens: usize,
    #[command(flatten, next_help_heading = "Text and vectors")]
    pub names: NamesFlag,
    #[command(flatten, next_help_heading = "Run")]
    pub run: DeviceFlag,
    /// Print a JSON summary
    #[arg(long, help_heading = "Run")]
    pub json: bool,
}

/// `--profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProfileFlag {
    /// SYMBOL: full name
    Name,
    /// name, processes and functions that a person judged
    Annotation,
    /// what the language model writes about the gene
    Generated,
}

/// Asks for a profile as the paper does; at most 2,000 characters are kept.
const MOST_CHARACTERS: usize = 2000;

/// Runs `bft bio embed-genes`.
pub fn run(flags: &EmbedGenesFlags) -> Result<(), CliError> {
    let kind = Output::of(&flags.output)?;
    open::writable("--output", &flags.output)?;
    open::not_over(&flags.output, "GENES", &flags.genes)?;
    open::adapters_exist(flags.adapter.as_slice())?;
    let mut flags = flags.clone();
    flags.model = flags.model.map(|path| hub::model_path("--model", &path)).transpose()?;
    let is_llm = |path: &PathBuf| path == Path::new("llm");
    flags.encoder = match flags.encoder {
        Some(path) if !is_llm(&path) => Some(hub::model_path("--encoder", &path)?),
        word => word,
    };
    let flags = &flags;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.names.keep_na);
    let mapping = genes(flags, &knowledge, &resolver)?;
    let genes: Vec<GeneId> = mapping.genes.iter().map(|(gene, _)| *gene).collect();
    let device = open::device(flags.run.device())?;
    // Before profiles, whose writing may take hours.
    let (path, adapter) = encoder(flags, &knowledge)?;
    let model = TextModel::open(&path, adapter).map_err(CliError::failed)?;
    let partial = beside(&flags.output, "partial.jsonl");
    let key = key(&[model.fingerprint(), &format!("{:?}", flags.profile)]);
    let mut partial = Partial::open(&partial, &key).map_err(CliError::failed)?;
    let texts = texts(flags, &knowledge, &genes, &device)?;
    let name = |gene: GeneId| knowledge.genome.genes[gene].entrez.as_str();
    let left: Vec<usize> =
        (0..genes.len()).filter(|row| partial.get(name(genes[*row]), &texts[*row]).is_none()).collect();
    if left.len() < genes.len() {
        ui::note(&format!("going on: {} of {} vectors were there", genes.len() - left.len(), genes.len()));
    }
    let mut progress = Progress::new("embedding", "genes", genes.len() as u64, (genes.len() - left.len()) as u64);
    let todo: Vec<String> = left.iter().map(|row| texts[*row].clone()).collect();
    let mut written = Ok(());
    model
        .embed(&device, &todo, |number, vector| {
            let row = left[number];
            let put = partial.put(name(genes[row]), &texts[row], json!(vector));
            if written.is_ok() {
                written = put;
            }
            progress.at((genes.len() - left.len() + number + 1) as u64, model.name());
        })
        .map_err(CliError::failed)?;
    progress.finish();
    written.map_err(CliError::failed)?;
    let mut values = Vec::with_capacity(genes.len() * model.width());
    for (row, gene) in genes.iter().enumerate() {
        let vector = partial.get(name(*gene), &texts[row]).and_then(Value::as_array);
        values.extend(vector.into_iter().flatten().map(|value| value.as_f64().unwrap_or(f64::NAN) as f32));
    }
    let symbols: Vec<&str> = genes.iter().map(|gene| knowledge.genome.genes[*gene].symbol.as_str()).collect();
    let words: Vec<&str> = mapping.genes.iter().map(|(_, word)| word.as_str()).collect();
    kind.write(&flags.output, &symbols, &words, model.width(), values)?;
    partial.remove();
    if flags.json {
        return ui::json(&json!({
            "genes": genes.len(), "words": mapping.words(), "duplicates": mapping.duplicates.len(),
            "ambiguous": mapping.ambiguous.len(), "missing": mapping.missing.len(), "unmapped": mapping.unmapped.len(),
            "width": model.width(), "encoder": model.name(), "output": flags.output,
        }));
    }
    ui::note(&format!("{} vectors of {} numbers in {}", genes.len(), model.width(), flags.output.display()));
    Ok(())
}

/// `genes.parquet` + `genes.tsv` → `genes.parquet.genes.tsv` and the like.
fn beside(output: &Path, ending: &str) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{name}.{ending}"))
}

/// Resolves the list and says what became of it.
fn genes(flags: &EmbedGenesFlags, knowledge: &Knowledge, resolver: &Resolver<'_>) -> Result<Mapping, CliError> {
    let genome = &knowledge.genome;
    if is_word(&flags.genes, "all") {
        let coding = genome.genes.iter().filter(|gene| gene.protein_coding).map(|gene| gene.entrez.as_str());
        return Ok(Mapping::new(resolver, coding));
    }
    let path = open::existing("GENES", &flags.genes)?;
    let list = GeneList::read(path, resolver).map_err(CliError::failed)?;
    if let Some(header) = &list.header {
        ui::note(&format!("the first line was taken for a header: {header}"));
    }
    if let Some(column) = list.column {
        ui::note(&format!("genes are taken from column {column}"));
    }
    list.notes.iter().for_each(|note| ui::note(note));
    let mapping = Mapping::new(resolver, list.words.iter().map(String::as_str));
    ui::note(&mapping.summary());
    let details = mapping.details(genome);
    if !details.is_empty() {
        let file = beside(&flags.output, "genes.tsv");
        let lines: String = details.iter().map(|row| row.join("\t") + "\n").collect();
        let text = format!("word\tbecame\tgene\twhy\n{lines}");
        bft_formats::write_atomic(&file, |out| out.write_all(text.as_bytes())).map_err(CliError::failed)?;
        for row in details.iter().take(5) {
            ui::warn(&row.iter().filter(|cell| !cell.is_empty()).cloned().collect::<Vec<_>>().join(": "));
        }
        ui::note(&format!("what became of every such word: {}", file.display()));
    }
    if mapping.genes.is_empty() {
        return Err(CliError::failed(format!(
            "{}: none of its {} words is a known human gene",
            path.display(),
            mapping.words()
        )));
    }
    Ok(mapping)
}

/// The encoder's path, and the adapter where it is the language model.
fn encoder<'f>(flags: &'f EmbedGenesFlags, knowledge: &Knowledge) -> Result<(PathBuf, Option<&'f Path>), CliError> {
    match &flags.encoder {
        Some(word) if word == Path::new("llm") => Ok((language_model(flags, knowledge)?, flags.adapter.as_deref())),
        Some(path) => Ok((path.clone(), None)),
        None => Ok((knowledge.path(Dataset::MiniLm)?, None)),
    }
}

fn language_model(flags: &EmbedGenesFlags, knowledge: &Knowledge) -> Result<PathBuf, CliError> {
    flags.model.clone().map_or_else(|| knowledge.path(Dataset::SmolLm2), Ok)
}

/// The text that stands for each gene.
fn texts(
    flags: &EmbedGenesFlags,
    knowledge: &Knowledge,
    genes: &[GeneId],
    device: &Device,
) -> Result<Vec<String>, CliError> {
    let Knowledge { genome, ontology, .. } = knowledge;
    match flags.profile {
        ProfileFlag::Name => Ok(genes.iter().map(|gene| profile::name(genome, *gene)).collect()),
        ProfileFlag::Annotation => {
            profile::annotations(genome, ontology, genes, &[Aspect::Process, Aspect::Function], &JUDGED)
                .map_err(CliError::failed)
        }
        ProfileFlag::Generated => generated(flags, knowledge, genes, device),
    }
}

/// What the model writes about each gene, kept beside the output.
fn generated(
    flags: &EmbedGenesFlags,
    knowledge: &Knowledge,
    genes: &[GeneId],
    device: &Device,
) -> Result<Vec<String>, CliError> {
    let genome = &knowledge.genome;
    let path = language_model(flags, knowledge)?;
    let (model, adapter) = generate::open(&path, flags.adapter.as_deref()).map_err(CliError::failed)?;
    let answerer = Answerer::new(device, &model, adapter.as_ref()).map_err(CliError::failed)?;
    let check = FactCheck::new(genome).map_err(CliError::failed)?;
    let file = beside(&flags.output, "profiles.jsonl");
    let settings = [
        fingerprint(&model.sha256().map_err(CliError::failed)?, flags.adapter.as_deref()).map_err(CliError::failed)?,
        flags.max_new_tokens.to_string(),
    ];
    let key = key(&settings.each_ref().map(String::as_str));
    let mut kept = Partial::open(&file, &key).map_err(CliError::failed)?;
    let mut progress = Progress::new("writing profiles", "genes", genes.len() as u64, 0);
    let (mut texts, mut flagged) = (Vec::with_capacity(genes.len()), 0);
    for (row, gene) in genes.iter().enumerate() {
        let symbol = &genome.genes[*gene].symbol;
        let question = format!("Tell me about gene {symbol}.");
        if kept.get(symbol, &question).is_none() {
            let text = answerer.answer(&question, "", flags.max_new_tokens).map_err(CliError::failed)?;
            let text: String = text.chars().take(MOST_CHARACTERS).collect();
            let contradicted = check.contradictions(*gene, &text);
            kept.put(symbol, &question, json!({ "profile": text, "contradicted": contradicted }))
                .map_err(CliError::failed)?;
        }
        let value = kept.get(symbol, &question).unwrap_or(&Value::Null);
        flagged += usize::from(value["contradicted"].as_array().is_some_and(|list| !list.is_empty()));
        texts.push(value["profile"].as_str().filter(|text| !text.is_empty()).unwrap_or(symbol).to_owned());
        progress.at(row as u64 + 1, symbol);
    }
    progress.finish();
    ui::note(&format!(
        "profiles: {}; {flagged} of {} say something that the annotation contradicts",
        file.display(),
        genes.len()
    ));
    Ok(texts)
}

/// The format of the output.
enum Output {
    Table(OutputKind),
    Tsv,
    H5ad,
}

impl Output {
    fn of(path: &Path) -> Result<Self, CliError> {
        match path.extension().unwrap_or_default().to_str() {
            Some("tsv") => Ok(Self::Tsv),
            Some("h5ad") => Ok(Self::H5ad),
            _ => OutputKind::of(path).map(Self::Table).map_err(|_| {
                CliError::usage(format!(
                    "--output {}: the ending chooses the format and must be .parquet, .npy, .tsv, .jsonl, .safetensors or .h5ad",
                    path.display()
                ))
            }),
        }
    }

    fn write(
        &self,
        path: &Path,
        symbols: &[&str],
        words: &[&str],
        width: usize,
        values: Vec<f32>,
    ) -> Result<(), CliError> {
        match self {
            Self::H5ad => write_obsm(path, "X_bft", symbols, words, width, &values).map_err(CliError::failed),
            Self::Tsv => bft_formats::write_atomic(path, |out| {
                for (symbol, vector) in symbols.iter().zip(values.chunks(width.max(1))) {
                    let numbers: Vec<String> = vector.iter().map(ToString::to_string).collect();
                    writeln!(out, "{symbol}\t{}", numbers.join("\t"))?;
                }
                Ok(())
            })
            .map_err(CliError::failed),
            Self::Table(kind) => {
                let ids = symbols.iter().enumerate();
                let rows = ids.map(|(row, symbol)| RowId { id: Some(json!(symbol)), line: row + 1 }).collect();
                Embeddings { rows, width, values }.write(path, *kind)?;
                if *kind == OutputKind::Npy {
                    let index: String =
                        symbols.iter().zip(words).map(|(symbol, word)| format!("{symbol}\t{word}\n")).collect();
                    let file = path.with_extension("tsv");
                    bft_formats::write_atomic(&file, |out| write!(out, "symbol\tinput\n{index}"))
                        .map_err(CliError::failed)?;
                }
                Ok(())
            }
        }
    }
}
