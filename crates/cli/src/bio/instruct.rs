//! `bft bio instruct`: instruction data about human genes.

use std::path::PathBuf;

use bft_bio::data::genome::JUDGED;
use bft_bio::genes::list::GeneList;
use bft_bio::genes::resolver::{Mapping, Resolver};
use bft_bio::instruct::{self, Kind, Options};
use clap::{Args, ValueEnum};

use super::knowledge::{Knowledge, NamesFlag};
use crate::error::CliError;
use crate::flags::at_least;
use crate::open;
use crate::ui;

/// Write instruction data about human genes, with test phrasings and test genes apart
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio instruct --output data
  bft bio instruct --output data --kinds name,process,function --facts 5000
  bft bio instruct --output data --genes mygenes.txt --evidence EXP,IDA,IMP

Writes train.jsonl, validation.jsonl, test_phrasing.jsonl (trained facts, unseen phrasing), test_genes.jsonl (unseen genes),
facts.tsv and README.md, the data card. The same seed gives the same bytes. Not for clinical use.")]
pub struct InstructFlags {
    /// Folder for the files
    #[arg(long, short = 'o', value_name = "DIR")]
    pub output: PathBuf,
    /// Kinds of facts
    #[arg(long, value_enum, value_delimiter = ',', default_value = "name,alias,process,function,definition")]
    pub kinds: Vec<KindFlag>,
    /// Evidence codes that count; all for every code
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_values = JUDGED)]
    pub evidence: Vec<String>,
    /// A list of genes; their facts alone are taken [default: every protein-coding gene]
    #[arg(long, value_name = "FILE")]
    pub genes: Option<PathBuf>,
    #[command(flatten)]
    pub names: NamesFlag,
    /// Training phrasings of a fact
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = at_least(1))]
    pub phrasings: usize,
    /// Facts of one kind about one gene, at most
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = at_least(1))]
    pub per_gene: usize,
    /// Facts in all, at most, drawn by hash; 0 = all
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = facts)]
    pub facts: usize,
    /// Part of every hash that picks a phrasing, an order or a split
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
}

/// `--kinds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindFlag {
    /// symbol to full name
    Name,
    /// alias to official symbol
    Alias,
    /// gene to biological process
    Process,
    /// gene to molecular function
    Function,
    /// term to definition
    Definition,
}

impl From<KindFlag> for Kind {
    fn from(flag: KindFlag) -> Self {
        match flag {
            KindFlag::Name => Self::Name,
            KindFlag::Alias => Self::Alias,
            KindFlag::Process => Self::Process,
            KindFlag::Function => Self::Function,
            KindFlag::Definition => Self::Definition,
        }
    }
}

/// None, or enough for all three sides of the split.
fn facts(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count == 0 || count >= 10 => Ok(count),
        _ => Err("expected 0 for all, or a whole number from 10".to_owned()),
    }
}

/// Runs `bft bio instruct`.
pub fn run(flags: &InstructFlags) -> Result<(), CliError> {
    open::writable_folder("--output", &flags.output)?;
    flags.genes.as_deref().map_or(Ok(()), |path| open::readable("--genes", path))?;
    let knowledge = Knowledge::open()?;
    let mut genes = Vec::new();
    if let Some(path) = &flags.genes {
        let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.names.keep_na);
        let list = GeneList::read(path, &resolver).map_err(CliError::failed)?;
        list.notes.iter().for_each(|note| ui::note(note));
        let mapping = Mapping::new(&resolver, list.words.iter().map(String::as_str));
        ui::note(&mapping.summary());
        for row in mapping.details(&knowledge.genome) {
            ui::warn(&row.join(": "));
        }
        genes = mapping.genes.iter().map(|(gene, _)| *gene).collect();
        if genes.is_empty() {
            return Err(CliError::failed(format!(
                "--genes {}: none of its words is a known human gene",
                path.display()
            )));
        }
    }
    let every = flags.evidence.iter().any(|code| code.eq_ignore_ascii_case("all"));
    let tenth = flags.facts.div_ceil(10);
    let options = Options {
        seed: flags.seed,
        kinds: flags.kinds.iter().map(|kind| Kind::from(*kind)).collect(),
        per_gene: flags.per_gene,
        phrasings: flags.phrasings,
        evidence: if every { Vec::new() } else { flags.evidence.iter().map(|code| code.to_uppercase()).collect() },
        genes,
        most: [flags.facts - 2 * tenth, tenth, tenth],
    };
    let written =
        instruct::write(&flags.output, &knowledge.genome, &knowledge.ontology, &options).map_err(CliError::failed)?;
    let mut rows = vec![["facts", "training", "validation", "held out"].map(str::to_owned).to_vec()];
    for (kind, counts) in &written.facts {
        rows.push(std::iter::once(kind.word().to_owned()).chain(counts.iter().map(ToString::to_string)).collect());
    }
    ui::result(&ui::table(&rows))?;
    for (file, rows) in &written.files {
        ui::note(&format!("{}: {rows} rows", flags.output.join(file).display()));
    }
    Ok(())
}
