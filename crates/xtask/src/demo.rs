//! `cargo xtask demo`: SmolLM2 learns gene facts with BFT, and what changed is shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::curve::Curve;
use crate::model;
use crate::neighbours::Vectors;
use crate::shell::{self, bold, cargo, dim, green, heading};

/// Flags of the training run: two passes over the facts, found by trying.
const TRAINING: &[&str] = &[
    "--loss",
    "bft",
    "--group-size",
    "16",
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--lr",
    "1e-3",
    "--rank",
    "16",
    "--seed",
    "1",
];

/// data/genes/questions.json.
#[derive(Debug, Deserialize)]
struct Questions {
    questions: Vec<Question>,
    /// The genes whose neighbours are shown.
    neighbours_of: Vec<String>,
    /// Ten families of ten genes.
    families: BTreeMap<String, Vec<String>>,
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
    crate::no_arguments(rest, "demo")?;
    let started = Instant::now();
    println!(
        "{}",
        bold("SmolLM2-135M learns human gene facts with Balanced Fine-Tuning")
    );

    heading("1. The model");
    let model = model::get()?;
    heading("2. The program");
    let bft = build()?;
    let work = target_folder(&bft).join("demo");
    let demo = Demo {
        bft,
        model,
        data: shell::root().join("crates/xtask/data/genes"),
        work,
    };
    demo.clear()?;
    let questions: Questions = read_json(&demo.data.join("questions.json"))?;

    heading("3. Before training");
    let other_before = demo.evaluate("other.jsonl", None)?;
    let answers_before = demo.answers(&questions, None)?;
    for (question, answer) in questions.questions.iter().zip(&answers_before) {
        println!("  {}\n    {}", question.question, dim(answer));
    }

    heading("4. Training");
    let adapter = demo.work.join("adapter");
    demo.train(&adapter)?;
    let curve = Curve::read(&adapter.join("metrics.jsonl"))?;
    let (Some(&(_, before)), Some(&(_, after))) = (curve.eval.first(), curve.eval.last()) else {
        return Err("metrics.jsonl holds no evaluations".to_owned());
    };

    heading("5. After training");
    let other_after = demo.evaluate("other.jsonl", Some(&adapter))?;
    println!("  NLL a token (nats; lower is better)     before   after");
    println!(
        "    trained facts, asked in new words     {before:>6.3}  {}",
        green(&format!("{after:>6.3}"))
    );
    println!("    facts of genes never trained on       {other_before:>6.3}  {other_after:>6.3}");
    let answers_after = demo.answers(&questions, Some(&adapter))?;
    for (index, question) in questions.questions.iter().enumerate() {
        println!("\n  {}", bold(&question.question));
        println!("    before  {}", dim(&answers_before[index]));
        println!("    after   {}", green(&answers_after[index]));
        println!("    truth   {}", question.answer);
    }

    heading("6. Nearest neighbours of ten genes, by embedding");
    demo.neighbours(&questions, &adapter)?;

    heading("7. What is left on disk");
    let picture = demo.work.join("loss.svg");
    curve.draw(&picture, "SmolLM2-135M on gene facts, BFT")?;
    println!("  loss curve  {}", picture.display());
    println!("  adapter     {} (PEFT's layout)", adapter.display());
    println!("\nAsk it something:\n");
    let mut example = demo.bft("generate");
    example
        .arg("--adapter")
        .arg(&adapter)
        .args(["--prompt", &questions.questions[0].question]);
    println!("  {}", shell::show_whole(&example));
    println!(
        "\n{}",
        dim(&format!(
            "{:.1} minutes in all",
            started.elapsed().as_secs_f64() / 60.0
        ))
    );
    if after < before {
        Ok(())
    } else {
        Err(format!(
            "the held-out NLL did not fall ({before:.3} to {after:.3}): something is wrong"
        ))
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

    fn evaluate(&self, rows: &str, adapter: Option<&Path>) -> Result<f64, String> {
        let mut command = self.bft("eval");
        command
            .arg("--data")
            .arg(self.data.join(rows))
            .arg("--json");
        with_adapter(&mut command, adapter);
        number(&shell::json(quiet(&mut command))?, "nll")
    }

    fn answers(
        &self,
        questions: &Questions,
        adapter: Option<&Path>,
    ) -> Result<Vec<String>, String> {
        let ask = |question: &Question| {
            let mut command = self.bft("generate");
            command.args(["--prompt", &question.question]).args([
                "--max-new-tokens",
                "48",
                "--json",
            ]);
            with_adapter(&mut command, adapter);
            let answer = shell::json(quiet(&mut command))?;
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

    fn neighbours(&self, questions: &Questions, adapter: &Path) -> Result<(), String> {
        let vectors = self.embed(adapter)?;
        let (mut kin, mut shown) = (0, 0);
        for gene in &questions.neighbours_of {
            let near = vectors
                .nearest(gene, 4)
                .ok_or_else(|| format!("embed.jsonl has no row for {gene}"))?;
            let mut line = format!("  {gene:<8}");
            for (name, cosine) in near {
                let in_family = |family: &&Vec<String>| {
                    family.contains(gene) && family.iter().any(|it| it == name)
                };
                let related = questions.families.values().any(|family| in_family(&family));
                let cell = format!("{name:<8} {cosine:>5.2}");
                line.push_str("   ");
                line.push_str(&if related { green(&cell) } else { dim(&cell) });
                kin += usize::from(related);
                shown += 1;
            }
            println!("{line}");
        }
        let members: usize = questions.families.values().map(Vec::len).sum();
        let chance = shown as f64 * 9.0 / (members.max(2) - 1) as f64;
        println!(
            "  {kin} of {shown} are of the gene's own family ({chance:.1} would be by chance); cosine after centring"
        );
        Ok(())
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
        shell::json(quiet(&mut command))?;
        let text =
            std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let mut vectors = Vectors::default();
        for line in text.lines() {
            #[derive(Deserialize)]
            struct Row {
                id: String,
                embedding: Vec<f32>,
            }
            let row: Row = serde_json::from_str(line)
                .map_err(|error| format!("{}: {error}", out.display()))?;
            vectors.names.push(row.id);
            vectors.rows.push(row.embedding);
        }
        vectors.centre();
        Ok(vectors)
    }
}

/// Without its messages: the demo says itself what it does.
fn quiet(command: &mut Command) -> &mut Command {
    command.stderr(Stdio::piped())
}

fn with_adapter(command: &mut Command, adapter: Option<&Path>) {
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
}

/// A number of an answer in JSON.
pub fn number(answer: &Value, key: &str) -> Result<f64, String> {
    answer[key]
        .as_f64()
        .ok_or_else(|| format!("found no number `{key}` in {answer}"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Builds `bft` for speed and returns its path.
pub fn build() -> Result<PathBuf, String> {
    println!("{}", dim("$ cargo build --release --package bft-cli"));
    let started = Instant::now();
    let messages = shell::output(
        cargo()
            .args(["build", "--release", "--package", "bft-cli"])
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit()),
    )?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or("cargo built no program")?;
    println!(
        "{}",
        dim(&format!("  ok, {:.0} s", started.elapsed().as_secs_f64()))
    );
    Ok(executable)
}

/// `target/`, whatever it is called here: the program lies in its `release` folder.
fn target_folder(bft: &Path) -> PathBuf {
    bft.ancestors().nth(2).unwrap_or(bft).to_path_buf()
}
