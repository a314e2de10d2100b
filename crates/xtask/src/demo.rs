//! `cargo xtask demo`: SmolLM2 learns gene facts with BFT, and what changed is shown.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bft_fetch::sources::Dataset;
use serde::Deserialize;

use crate::curve::Curve;
use crate::model;
use crate::neighbours::Vectors;
use crate::shell::{self, bold, dim, green, heading};

/// Flags of the training run; found by trying (see data/genes).
const TRAINING: [&str; 14] = [
    "--loss",
    "bft",
    "--group-size",
    "16",
    "--steps",
    "110",
    "--batch-size",
    "8",
    "--lr",
    "1e-3",
    "--rank",
    "16",
    "--seed",
    "1",
];

#[derive(Debug, Deserialize)]
struct Questions {
    questions: Vec<Question>,
    neighbours_of: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Question {
    question: String,
    answer: String,
}

/// One run of the demo.
struct Demo {
    bft: PathBuf,
    model: PathBuf,
    data: PathBuf,
    work: PathBuf,
}

/// `cargo xtask demo`.
pub fn run(rest: &[String]) -> Result<(), String> {
    shell::no_arguments(rest, "demo")?;
    let started = Instant::now();
    println!("{}", bold("SmolLM2-135M learns human gene facts with Balanced Fine-Tuning"));

    heading("1. The model");
    let model = model::get(Dataset::SmolLm2)?;
    heading("2. The program");
    let bft = shell::build_bft()?;
    let work = target_folder(&bft).join("demo");
    let demo = Demo { bft, model, data: shell::root().join("crates/xtask/data/genes"), work };
    demo.clear()?;
    let questions: Questions = read_json(&demo.data.join("questions.json"))?;

    heading("3. Before training");
    let answers_before = demo.answers(&questions, None)?;

    println!("{} questions asked; the answers stand below, beside those after training", answers_before.len());

    heading("4. Training");
    println!("{}", dim("held out: trained facts in phrasings that training never shows"));
    let adapter = demo.work.join("adapter");
    demo.train(&adapter)?;

    heading("5. After training");
    let curve = Curve::read(&adapter.join("metrics.jsonl"))?;
    let (before, after) = curve.held_out().ok_or("metrics.jsonl holds no evaluation before and after training")?;
    let answers_after = demo.answers(&questions, Some(&adapter))?;
    println!("held-out NLL {before:.3} → {} a token", green(&format!("{after:.3}")));
    for (index, question) in questions.questions.iter().enumerate() {
        println!("\n  {}", bold(&question.question));
        println!("    before  {}", dim(&answers_before[index]));
        println!("    after   {}", green(&answers_after[index]));
        println!("    truth   {}", question.answer);
    }

    heading("6. Nearest neighbours by embedding");
    let vectors = demo.embed(&adapter)?;
    for gene in &questions.neighbours_of {
        let near = vectors.nearest(gene, 3).ok_or_else(|| format!("embed.jsonl has no row for {gene}"))?;
        let near: Vec<String> =
            near.iter().map(|(name, cosine)| format!("{name:<8} {}", dim(&format!("{cosine:.2}")))).collect();
        println!("  {gene:<8} {}", near.join("   "));
    }

    heading("7. What is left on disk");
    let picture = demo.work.join("loss.svg");
    curve.draw(&picture, "SmolLM2-135M on gene facts, BFT")?;
    println!("  loss curve  {}", picture.display());
    println!("  adapter     {} (PEFT layout)", adapter.display());
    println!("\nUse it:\n");
    let mut example = demo.bft("generate");
    example.arg("--adapter").arg(&adapter).args(["--prompt", &questions.questions[0].question]);
    println!("  {}", shell::show(&example).replacen("bft", &demo.bft.display().to_string(), 1));
    println!("\n{}", dim(&format!("{:.1} minutes in all", started.elapsed().as_secs_f64() / 60.0)));
    if after < before {
        Ok(())
    } else {
        Err(format!("held-out NLL did not fall ({before:.3} → {after:.3}): something is wrong"))
    }
}

impl Demo {
    fn bft(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.bft);
        command.arg(verb).arg("--model").arg(&self.model);
        command
    }

    /// Removes what an earlier demo left.
    fn clear(&self) -> Result<(), String> {
        let problem = |error| format!("{}: {error}", self.work.display());
        if self.work.exists() {
            std::fs::remove_dir_all(&self.work).map_err(problem)?;
        }
        std::fs::create_dir_all(&self.work).map_err(problem)
    }

    fn answers(&self, questions: &Questions, adapter: Option<&Path>) -> Result<Vec<String>, String> {
        let ask = |question: &Question| {
            let mut command = self.bft("generate");
            command.args(["--prompt", &question.question]).args(["--max-new-tokens", "48", "--json"]);
            with_adapter(&mut command, adapter);
            let answer = shell::json(&mut command)?;
            let text = answer["text"].as_str().unwrap_or_default();
            Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        questions.questions.iter().map(ask).collect()
    }

    fn train(&self, adapter: &Path) -> Result<(), String> {
        let mut command = self.bft("train");
        command
            .arg("--data")
            .arg(self.data.join("train.jsonl"))
            .arg("--eval-data")
            .arg(self.data.join("heldout.jsonl"))
            .arg("--output")
            .arg(adapter)
            .args(TRAINING);
        shell::run(&mut command)
    }

    fn embed(&self, adapter: &Path) -> Result<Vectors, String> {
        let out = self.work.join("genes.jsonl");
        let mut command = self.bft("embed");
        command
            .arg("--adapter")
            .arg(adapter)
            .arg("--input")
            .arg(self.data.join("embed.jsonl"))
            .arg("--output")
            .arg(&out)
            .arg("--json");
        shell::json(&mut command)?;
        let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let mut vectors = Vectors::default();
        for line in text.lines() {
            #[derive(Deserialize)]
            struct Row {
                id: String,
                embedding: Vec<f32>,
            }
            let row: Row = serde_json::from_str(line).map_err(|error| format!("{}: {error}", out.display()))?;
            vectors.names.push(row.id);
            vectors.rows.push(row.embedding);
        }
        vectors.centre();
        Ok(vectors)
    }
}

fn with_adapter(command: &mut Command, adapter: Option<&Path>) {
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// `target/`, whatever it is called here: the program lies in its `release` folder.
fn target_folder(bft: &Path) -> PathBuf {
    bft.ancestors().nth(2).unwrap_or(bft).to_path_buf()
}
