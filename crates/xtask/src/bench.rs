//! `cargo xtask bench`: bft and PyTorch in turn, on the same machine, in one run.
//!
//! Both sides wait for a line on standard input, run one step and answer with one line of JSON. Steps alternate, so that
//! whatever else the machine does falls on both alike.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::demo;
use crate::model;
use crate::shell::{self, heading};

/// One row of the table.
struct Case {
    name: &'static str,
    /// Flags that both sides take.
    flags: &'static [&'static str],
    /// Flags for bft alone.
    ours: &'static [&'static str],
    /// Whether PyTorch runs it too.
    torch: bool,
    rounds: usize,
}

const TRAIN: &[&str] = &["--task", "train", "--batch-size", "4", "--length", "256"];

const CASES: [Case; 6] = [
    Case {
        name: "train, 4 × 256 tokens, all trained",
        flags: TRAIN,
        ours: &["--device", "cpu"],
        torch: true,
        rounds: 5,
    },
    Case {
        name: "train, 4 × 256 tokens, a quarter trained",
        flags: &[
            "--task",
            "train",
            "--batch-size",
            "4",
            "--length",
            "256",
            "--trained-share",
            "0.25",
        ],
        ours: &["--device", "cpu"],
        torch: false,
        rounds: 3,
    },
    Case {
        name: "train, 256 + 128 + 64 + 32 tokens",
        flags: &["--task", "train", "--lengths", "256,128,64,32"],
        ours: &["--device", "cpu"],
        torch: false,
        rounds: 3,
    },
    Case {
        name: "embed, 16 × 128 tokens",
        flags: &["--task", "embed", "--batch-size", "16", "--length", "128"],
        ours: &["--device", "cpu"],
        torch: true,
        rounds: 5,
    },
    Case {
        name: "generate, greedy, 64 tokens",
        flags: &["--task", "generate", "--length", "64"],
        ours: &["--device", "cpu"],
        torch: true,
        rounds: 3,
    },
    Case {
        name: "train, 4 × 256 tokens, on the best GPU adapter",
        flags: TRAIN,
        ours: &["--device", "gpu"],
        torch: false,
        rounds: 2,
    },
];

/// `cargo xtask bench [WORD]`: every case, or those whose name holds the word.
pub fn run(rest: &[String]) -> Result<(), String> {
    let wanted = match rest {
        [] => "",
        [word] => word.as_str(),
        _ => {
            return Err(
                "`cargo xtask bench` takes at most one word, a part of a case's name".to_owned(),
            );
        }
    };
    let model = model::get()?;
    let bft = demo::build()?;
    let python = std::env::var("BFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let needs_torch = |case: &&Case| case.torch && case.name.contains(wanted);
    let torch = CASES.iter().any(|case| needs_torch(&case))
        && shell::succeeds(
            Command::new(&python).args(["-c", "import torch, transformers, peft, gguf"]),
        );
    if !torch {
        println!(
            "PyTorch is left out: `{python}` has no torch, transformers, peft and gguf; see tests/bench/requirements.txt, and set BFT_PYTHON to a Python that has them"
        );
    }
    let mut rows = vec![
        "| case | bft tokens/s | PyTorch tokens/s | ratio | bft peak | PyTorch peak |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for case in CASES.iter().filter(|case| case.name.contains(wanted)) {
        heading(case.name);
        rows.push(measure(
            case,
            &bft,
            &model,
            (torch && case.torch).then_some(python.as_str()),
        )?);
    }
    println!("\n{}", rows.join("\n"));
    Ok(())
}

/// A program that runs a step for each line it is given.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    shown: String,
}

/// What a side came to.
#[derive(Default)]
struct Side {
    speeds: Vec<f64>,
    peak: f64,
}

impl Server {
    fn start(command: &mut Command) -> Result<Self, String> {
        let shown = shell::show(command);
        println!("{}", shell::dim(&format!("$ {shown}")));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`{shown}` could not be started: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("`{shown}` has no pipes"));
        };
        let output = BufReader::new(output);
        Ok(Server {
            child,
            input,
            output,
            shown,
        })
    }

    /// Runs one step.
    fn step(&mut self) -> Result<Value, String> {
        let gone = |error: std::io::Error| format!("`{}` stopped answering: {error}", self.shown);
        self.input.write_all(b"step\n").map_err(gone)?;
        self.input.flush().map_err(gone)?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(gone)?;
        serde_json::from_str(&line)
            .map_err(|_| format!("`{}` answered with no JSON: {line:?}", self.shown))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose: a server only measures.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Side {
    fn add(&mut self, answer: &Value) -> Result<(), String> {
        self.speeds.push(demo::number(answer, "tokens_per_second")?);
        self.peak = self.peak.max(demo::number(answer, "peak_bytes")?);
        Ok(())
    }

    fn median(&self) -> f64 {
        let mut sorted = self.speeds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn measure(case: &Case, bft: &Path, model: &Path, python: Option<&str>) -> Result<String, String> {
    let mut command = Command::new(bft);
    command
        .args(["bench", "--serve", "--json", "--model"])
        .arg(model)
        .args(case.flags)
        .args(case.ours);
    let mut ours = Server::start(&mut command)?;
    let mut theirs = python
        .map(|python| {
            let mut command = Command::new(python);
            command
                .arg(shell::root().join("tests/bench/torch_step.py"))
                .arg("--model")
                .arg(model)
                .args(case.flags);
            Server::start(&mut command)
        })
        .transpose()?;
    let (mut bft_side, mut torch_side) = (Side::default(), Side::default());
    for round in 0..=case.rounds {
        let answer = ours.step()?;
        let other = theirs.as_mut().map(Server::step).transpose()?;
        // The first round warms caches up and is not counted.
        if round > 0 {
            bft_side.add(&answer)?;
            println!("bft      {answer}");
            if let Some(other) = other {
                torch_side.add(&other)?;
                println!("PyTorch  {other}");
            }
        }
    }
    let gigabytes = |peak: f64| format!("{:.2} GB", peak / 1e9);
    let speed = bft_side.median();
    Ok(if theirs.is_some() {
        let torch = torch_side.median();
        format!(
            "| {} | {speed:.1} | {torch:.1} | {:.2} | {} | {} |",
            case.name,
            speed / torch,
            gigabytes(bft_side.peak),
            gigabytes(torch_side.peak)
        )
    } else {
        format!(
            "| {} | {speed:.1} | – | – | {} | – |",
            case.name,
            gigabytes(bft_side.peak)
        )
    })
}
