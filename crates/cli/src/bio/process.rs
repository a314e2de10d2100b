//! `bft bio process`: names for gene sets, with the evidence beside them.

use std::path::{Path, PathBuf};

use bft_bio::data::gmt::GeneSets;
use bft_bio::data::sources::Dataset;
use bft_bio::genes::generate::{self, Answerer};
use bft_bio::genes::resolver::Resolver;
use bft_bio::tasks::process::{self, Enrichment, OPENING, Options};
use bft_core::device::DeviceRequest;
use clap::Args;
use serde_json::json;

use super::knowledge::Knowledge;
use crate::error::CliError;
use crate::flags::at_least;
use crate::open;
use crate::ui::{self, DIM, Progress};

/// Name the process of each gene set, and show what enrichment says of the name
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio process go --sets 20                  # Gene Ontology processes of held-out branches
  bft bio process modules.gmt --model m.gguf --adapter tuned -o names.tsv
  bft bio process modules.gmt --no-model        # enrichment alone

Beside each name stands the GO term nearest to it with overlap and p-value, genes that the answer names and the set has not,
and the term that enrichment puts first (a set's own term left out). Not for clinical use.")]
pub struct ProcessFlags {
    /// A GMT file; or go, processes of 10 to 100 genes from held-out branches
    #[arg(value_name = "GMT")]
    pub sets: PathBuf,
    /// Sets to name, at most
    #[arg(long = "sets", value_name = "COUNT", default_value_t = 50, value_parser = at_least(1), help_heading = "Data")]
    pub most: usize,
    /// The language model that names [default: the fetched SmolLM2]
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// LoRA adapter of the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Enrichment alone
    #[arg(long, conflicts_with_all = ["model", "adapter"], help_heading = "Model")]
    pub no_model: bool,
    /// auto (a real GPU if there is one, else the CPU), cpu, gpu, or gpu:N as `bft devices` counts
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = crate::flags::device, help_heading = "Run")]
    pub device: DeviceRequest,
    /// Seed of the held-out branches, of which sets are taken, and of intervals
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Run")]
    pub seed: u64,
    /// Redraws for the 95 % intervals
    #[arg(long, value_name = "TIMES", default_value_t = 1000, value_parser = at_least(0), help_heading = "Run")]
    pub redraws: usize,
    /// Write the table of sets here as TSV
    #[arg(long, short = 'o', value_name = "FILE", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// Print both tables as JSON
    #[arg(long, help_heading = "Run")]
    pub json: bool,
}

/// Tokens of an answer, at most.
const ANSWER: usize = 24;

/// Runs `bft bio process`.
pub fn run(flags: &ProcessFlags) -> Result<(), CliError> {
    flags
        .output
        .as_deref()
        .map_or(Ok(()), |path| open::writable("--output", path))?;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome);
    let enrichment =
        Enrichment::new(&knowledge.genome, &knowledge.ontology).map_err(CliError::failed)?;
    let mut about = Vec::new();
    let sets = if flags.sets == Path::new("go") && !flags.sets.exists() {
        let (sets, split) =
            process::of_ontology(&knowledge.ontology, &enrichment, flags.most, flags.seed);
        about.push(("split", split));
        sets
    } else {
        let path = open::existing("GMT", &flags.sets)?;
        let sets = GeneSets::read_gmt(path, &resolver).map_err(CliError::failed)?;
        about.extend(sets.notes.iter().map(|note| ("input", note.clone())));
        process::of_gmt(&sets, flags.most)
    };
    let (mut named, mut model_name) = (Vec::new(), String::new());
    let mut progress = Progress::new("naming", "sets", sets.len() as u64, 0);
    if flags.no_model {
        named.extend(
            sets.into_iter()
                .map(|set| process::judge(&knowledge.genome, &enrichment, set, "")),
        );
    } else {
        let path = flags
            .model
            .clone()
            .map_or_else(|| knowledge.path(Dataset::SmolLm2), Ok)?;
        open::existing("--model", &path)?;
        let (model, adapter) =
            generate::open(&path, flags.adapter.as_deref()).map_err(CliError::failed)?;
        let device = open::device(&flags.device)?;
        let answerer =
            Answerer::new(&device, &model, adapter.as_ref()).map_err(CliError::failed)?;
        model_name = flags
            .adapter
            .as_ref()
            .map_or(model.name.clone(), |adapter| {
                format!("{} + {}", model.name, adapter.display())
            });
        for set in sets {
            let question = process::question(&knowledge.genome, &set.genes);
            let answer = answerer
                .answer(&question, OPENING, ANSWER)
                .map_err(CliError::failed)?;
            named.push(process::judge(&knowledge.genome, &enrichment, set, &answer));
            progress.at(named.len() as u64, "");
        }
    }
    progress.finish();
    let options = Options {
        seed: flags.seed,
        redraws: flags.redraws,
    };
    let (mut rows, whole) = process::report(&named, &knowledge.ontology, &model_name, options)
        .map_err(CliError::failed)?;
    about
        .into_iter()
        .for_each(|(what, value)| rows.say(what, value));
    if let Some(path) = &flags.output {
        bft_formats::write_atomic(path, |out| out.write_all(rows.tsv().as_bytes()))
            .map_err(CliError::failed)?;
    }
    if flags.json {
        return ui::json(&json!({ "sets": rows.json(), "whole": whole.json() }));
    }
    for (what, value) in rows.about.iter().chain(&whole.about) {
        ui::note(&format!("{DIM}{what}: {value}{DIM:#}"));
    }
    ui::result(&ui::table(&rows.cells()))?;
    ui::result("")?;
    ui::result(&ui::table(&whole.cells()))
}
