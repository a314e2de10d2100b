//! The data card that stands beside the files.

use super::options::{Options, Written};
use bft_fetch::sources::SOURCES;

pub(super) fn card(written: &Written, options: &Options) -> String {
    let mut text = String::from(
        "# Instruction data about human genes\n\nMade by `bft bio instruct`. Not for clinical use: the annotation is of 2022, and one answer per question is kept where many are true.\n\n| file | rows | what |\n|---|---|---|\n",
    );
    for (file, rows) in &written.files {
        let what = match *file {
            "train.jsonl" => "training facts, each in several phrasings",
            "validation.jsonl" => "facts of genes and terms kept for validation, in test phrasings",
            "test_phrasing.jsonl" => "the training facts, each in a phrasing that never occurs in training",
            _ => "facts of genes and terms that never occur in training, in test phrasings",
        };
        text.push_str(&format!("| `{file}` | {rows} | {what} |\n"));
    }
    text.push_str("| `facts.tsv` | | every fact with its Entrez id, GO id and evidence codes |\n\n| kind | training | validation | held out |\n|---|---|---|---|\n");
    for (kind, [train, validation, test]) in &written.facts {
        text.push_str(&format!("| {} | {train} | {validation} | {test} |\n", kind.word()));
    }
    text.push_str(&format!(
        "\nSettings: seed {}, {} training phrasings a fact, at most {} facts of a kind a gene, evidence {}. Genes and terms are split by SHA-256 of the seed and their name, 8 : 1 : 1. \
Names of complexes and cellular components are left out, as they would tell the answer to the interaction task; so is the root of each ontology, and \"protein binding\".\n\n## Sources\n\n",
        options.seed, options.phrasings, options.per_gene, options.evidence.join(", ")
    ));
    for source in SOURCES.iter().filter(|source| ["genes", "ontology"].contains(&source.key)) {
        text.push_str(&format!(
            "- {} {}: {}. Licence: {}\n",
            source.package.name, source.package.version, source.what, source.licence
        ));
    }
    text
}
