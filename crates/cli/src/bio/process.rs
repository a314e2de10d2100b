//! `bft bio process`: names for gene sets, with the evidence beside them.

use std::path::PathBuf;

use bft_bio::data::gmt::GeneSets;
use bft_bio::genes::encode::TextModel;
use bft_bio::genes::facts::FactCheck;
use bft_bio::genes::generate::{self, Answerer};
use bft_bio::genes::resolver::Resolver;
use bft_bio::stats::features::Features;
use bft_bio::stats::tfidf::tfidf;
use bft_bio::tasks::Options;
use bft_bio::tasks::process::{self, Enrichment, Judge, Named, NamedSet, OPENING, Support};
use bft_fetch::sources::Dataset;
use clap::Args;
use serde_json::json;

use super::knowledge::{Knowledge, NamesFlag, is_word};
use crate::error::CliError;
use crate::flags::{DeviceFlag, at_least};
use crate::hub;
use crate::open;
use crate::ui::{self, BOLD, DIM, Progress};

/// Name the process of each gene set, and show what enrichment says of the name
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio process go --sets 20                  # Gene Ontology processes of held-out branches
  bft bio process modules.gmt --model m.gguf --adapter tuned -o names.tsv
  bft bio process modules.gmt --no-model        # enrichment alone

Beside each name stands the GO term nearest to it with overlap and p-value, genes that the answer names and the set has not,
what it says of their place that the annotation contradicts, and the term that enrichment puts first (a set's own term, its
ancestors and its descendants left out). The TSV holds the answers too. Not for clinical use.")]
pub struct ProcessFlags {
    /// A GMT file; or go, processes of 10 to 100 genes from held-out branches
    #[arg(value_name = "GMT")]
    pub sets: PathBuf,
    /// Sets to name, at most
    #[arg(long = "sets", value_name = "COUNT", default_value_t = 50, value_parser = at_least(1), help_heading = "Data")]
    pub most: usize,
    /// Let enrichment answer with ancestors and descendants of a set's own term
    #[arg(long, help_heading = "Data")]
    pub keep_relatives: bool,
    #[command(flatten, next_help_heading = "Data")]
    pub names: NamesFlag,
    /// The language model that names [default: the fetched SmolLM2]
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// LoRA adapter of the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Enrichment alone
    #[arg(long, conflicts_with_all = ["model", "adapter"], help_heading = "Model")]
    pub no_model: bool,
    /// A sentence encoder's folder, for how near names are [default: the fetched MiniLM, else
    /// TF-IDF]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub encoder: Option<PathBuf>,
    /// Tokens of an answer, at most
    #[arg(long, value_name = "TOKENS", default_value_t = 96, value_parser = at_least(1), help_heading = "Model")]
    pub max_new_tokens: usize,
    #[command(flatten, next_help_heading = "Run")]
    pub run: DeviceFlag,
    /// Seed of the held-out branches, of which sets are taken, and of intervals
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Run")]
    pub seed: u64,
    /// Redraws for the 95 % intervals
    #[arg(long, value_name = "TIMES", default_value_t = 1000, value_parser = at_least(0), help_heading = "Run")]
    pub redraws: usize,
    /// Write the table of sets here as TSV
    #[arg(long, short = 'o', value_name = "FILE", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long, help_heading = "Run")]
    pub json: bool,
}

/// Runs `bft bio process`.
pub fn run(flags: &ProcessFlags) -> Result<(), CliError> {
    flags.output.as_deref().map_or(Ok(()), |path| open::writable("--output", path))?;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.names.keep_na);
    let enrichment = Enrichment::new(&knowledge.genome, &knowledge.ontology).map_err(CliError::failed)?;
    let mut about = Vec::new();
    let sets = if is_word(&flags.sets, "go") {
        let (sets, split) = process::of_ontology(&knowledge.ontology, &enrichment, flags.most, flags.seed);
        about.push(("split", split));
        sets
    } else {
        let path = open::existing("GMT", &flags.sets)?;
        let sets = GeneSets::read_gmt(path, &resolver).map_err(CliError::failed)?;
        about.extend(sets.notes.iter().map(|note| ("input", note.clone())));
        process::of_gmt(&sets, flags.most)
    };
    let judge = Judge {
        genome: &knowledge.genome,
        enrichment: &enrichment,
        facts: FactCheck::new(&knowledge.genome).map_err(CliError::failed)?,
        options: Options { seed: flags.seed, redraws: flags.redraws, ..Options::default() },
        leave_out_relatives: !flags.keep_relatives,
    };
    // Before the answers, whose writing may take hours.
    let (by, encoder) = encoder(flags, &knowledge)?;
    let (named, model) = if flags.no_model {
        let judged = sets.into_iter().map(|set| judge.judge(set, ""));
        (judged.collect(), String::new())
    } else {
        answers(flags, &knowledge, &judge, sets)?
    };
    let mut rows = judge.sets(&named);
    about.into_iter().for_each(|(what, value)| rows.say(what, value));
    let vectors = |texts: &[String]| match &encoder {
        None => Ok(tfidf(texts)),
        Some((model, device)) => {
            let mut values = Vec::new();
            model.embed(device, texts, |_, vector| values.extend_from_slice(vector))?;
            let width = model.width();
            Ok(Features::Dense { width, values }.normalized())
        }
    };
    let whole = judge.whole(&named, &model, &by, vectors).map_err(CliError::failed)?;
    if let Some(path) = &flags.output {
        bft_formats::write_atomic(path, |out| out.write_all(rows.tsv().as_bytes())).map_err(CliError::failed)?;
    }
    if flags.json {
        return ui::json(&json!({ "sets": rows.json(), "whole": whole.json() }));
    }
    for (what, value) in rows.about.iter().chain(&whole.about) {
        ui::note(&format!("{DIM}{what}: {value}{DIM:#}"));
    }
    for it in &named {
        show(it)?;
    }
    ui::result(&ui::table(&whole.cells()))
}

/// Asks the model for a name of every set.
fn answers(
    flags: &ProcessFlags,
    knowledge: &Knowledge,
    judge: &Judge<'_>,
    sets: Vec<NamedSet>,
) -> Result<(Vec<Named>, String), CliError> {
    let path = match &flags.model {
        Some(path) => hub::model_path("--model", path)?,
        None => knowledge.path(Dataset::SmolLm2)?,
    };
    let (model, adapter) = generate::open(&path, flags.adapter.as_deref()).map_err(CliError::failed)?;
    let device = open::device(flags.run.device())?;
    let answerer = Answerer::new(&device, &model, adapter.as_ref()).map_err(CliError::failed)?;
    let mut progress = Progress::new("naming", "sets", sets.len() as u64, 0);
    let mut named = Vec::with_capacity(sets.len());
    for set in sets {
        let question = process::question(&knowledge.genome, &set.genes);
        let answer = answerer.answer(&question, OPENING, flags.max_new_tokens).map_err(CliError::failed)?;
        named.push(judge.judge(set, &answer));
        progress.at(named.len() as u64, "");
    }
    progress.finish();
    let name =
        flags.adapter.as_ref().map_or(model.name.clone(), |adapter| format!("{} + {}", model.name, adapter.display()));
    Ok((named, name))
}

/// What tells how near two names are, and its name.
type Encoder = Option<(TextModel, open::OpenDevice)>;

fn encoder(flags: &ProcessFlags, knowledge: &Knowledge) -> Result<(String, Encoder), CliError> {
    let path = match &flags.encoder {
        Some(path) => Some(hub::model_path("--encoder", path)?),
        None => knowledge.encoder()?,
    };
    let Some(path) = path else {
        return Ok(("TF-IDF".to_owned(), None));
    };
    let model = TextModel::open(&path, None).map_err(CliError::failed)?;
    let device = open::device(flags.run.device())?;
    Ok((model.name().to_owned(), Some((model, device))))
}

/// A set with its name and the evidence below it.
fn show(it: &Named) -> Result<(), CliError> {
    let evidence = |term: &Support| {
        let q = term.q.map_or_else(String::new, |q| format!(", q {q:.1e}"));
        format!("{} {}: {}, p {:.1e}{q}", term.go, term.name, term.overlap(), term.p)
    };
    ui::result(&format!("{BOLD}{}{BOLD:#} ({} genes)", it.set.genes.name, it.set.genes.genes.len()))?;
    if !it.answer.is_empty() {
        ui::result(&format!("  model       {}", it.name))?;
        let nearest = it.support.as_ref().map(evidence);
        let nearest = nearest.as_deref().unwrap_or("no term shares a word with it");
        ui::result(&format!("  nearest     {nearest}"))?;
    }
    for (what, list) in [("not in set ", &it.invented), ("contradicted", &it.contradicted)] {
        if !list.is_empty() {
            ui::result(&format!("  {what:<11} {}", list.join("; ")))?;
        }
    }
    let first = it.enriched.as_ref().map(evidence);
    let first = first.as_deref().unwrap_or("no term has a gene of the set");
    ui::result(&format!("  enrichment  {first}\n"))
}
