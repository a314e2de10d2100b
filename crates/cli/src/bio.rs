//! `bft bio …`: gene knowledge, gene vectors and the tasks they are judged by, and questions with given
//! answers.

mod celltype;
mod embed_genes;
mod fetch;
mod instruct;
mod interaction;
mod knowledge;
mod mcq;
mod perturbation;
mod process;
mod study;

use clap::{Args, Subcommand};

use crate::error::CliError;

/// Biology: public data, gene vectors, tasks with their baselines, and medical questions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bft bio fetch
  bft bio embed-genes genes.txt -o genes.parquet
  bft bio interaction corum --vectors genes.parquet
  bft bio mcq --model ./Qwen3-0.6B --adapter tuned --data medqa/test.jsonl

Not for clinical use.")]
pub struct BioVerbs {
    #[command(subcommand)]
    verb: BioVerb,
}

#[derive(Debug, Subcommand)]
enum BioVerb {
    Fetch(fetch::FetchFlags),
    Instruct(instruct::InstructFlags),
    EmbedGenes(embed_genes::EmbedGenesFlags),
    Interaction(interaction::InteractionFlags),
    Perturbation(perturbation::PerturbationFlags),
    Process(process::ProcessFlags),
    #[command(name = "celltype")]
    CellType(celltype::CellTypeFlags),
    Mcq(mcq::McqFlags),
    Study(study::StudyFlags),
}

/// Runs a verb of biology.
pub fn run(verbs: BioVerbs) -> Result<(), CliError> {
    match verbs.verb {
        BioVerb::Fetch(flags) => fetch::run(&flags),
        BioVerb::Instruct(flags) => instruct::run(&flags),
        BioVerb::EmbedGenes(flags) => embed_genes::run(&flags),
        BioVerb::Interaction(flags) => interaction::run(&flags),
        BioVerb::Perturbation(flags) => perturbation::run(&flags),
        BioVerb::Process(flags) => process::run(&flags),
        BioVerb::CellType(flags) => celltype::run(&flags),
        BioVerb::Mcq(flags) => mcq::run(&flags),
        BioVerb::Study(flags) => study::run(&flags),
    }
}
