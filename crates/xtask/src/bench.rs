//! `cargo xtask bench`: bft and PyTorch in turn, on the same machine, in one run.
//!
//! Both sides wait for a line on standard input, run one step and answer with one line of JSON. Steps alternate, so that
//! whatever else the machine does falls on both alike.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::demo;
use crate::model;
use crate::shell::{self, heading};

/// One row of the table.
struct Case {
    name: &'static str,
    /// PyTorch's side of it: the mode of torch_step.py, and its flags.
    torch: Option<&'static [&'static str]>,
    /// Flags of `bft bench`.
    bft: &'static [&'static str],
    rounds: usize,
}

const CASES: [Case; 7] = [
    Case {
        name: "train, 4 × 256 tokens, all trained",
        torch: Some(&["train"]),
        bft: &["--task", "train", "--device", "cpu"],
        rounds: 5,
    },
    Case {
        name: "train, 4 ragged samples, two thirds masked",
        torch: Some(&["train-ragged", "--steps", "8"]),
        bft: &["--task", "train", "--device", "cpu", "--data", RAGGED],
        rounds: 8,
    },
    Case {
        name: "train, 4 × 256 tokens, a quarter trained",
        torch: None,
        bft: &[
            "--task",
            "train",
            "--device",
            "cpu",
            "--trained-share",
            "0.25",
        ],
        rounds: 3,
    },
    Case {
        name: "train, 256 + 128 + 64 + 32 tokens",
        torch: None,
        bft: &[
            "--task",
            "train",
            "--device",
            "cpu",
            "--lengths",
            "256,128,64,32",
        ],
        rounds: 3,
    },
    Case {
        name: "embed, 16 × 128 tokens",
        torch: Some(&["embed"]),
        bft: &[
            "--task",
            "embed",
            "--device",
            "cpu",
            "--batch-size",
            "16",
            "--length",
            "128",
        ],
        rounds: 5,
    },
    Case {
        name: "generate, 64 tokens, greedy",
        torch: Some(&["generate"]),
        bft: &["--task", "generate", "--device", "cpu", "--length", "64"],
        rounds: 5,
    },
    Case {
        name: "train, 4 × 256 tokens, best GPU adapter",
        torch: None,
        bft: &["--task", "train", "--device", "gpu"],
        rounds: 2,
    },
];

/// Stands for the file of ragged rows that both sides train on.
const RAGGED: &str = "ragged.jsonl";

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
    let imports = "import torch, transformers, peft, gguf";
    let torch = shell::succeeds(Command::new(&python).args(["-c", imports]));
    if !torch {
        println!(
            "PyTorch's side is left out: `{python}` lacks torch, transformers, peft or gguf; install tests/bench/requirements.txt and set BFT_PYTHON to that Python"
        );
    }
    let ragged = shell::root().join("target/bench").join(RAGGED);
    let sides = Sides {
        bft,
        model,
        python: torch.then_some(python),
        ragged,
    };
    let mut rows = vec![
        "| case | bft tokens/s | PyTorch tokens/s | ratio | bft peak | PyTorch peak |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for case in CASES.iter().filter(|case| case.name.contains(wanted)) {
        heading(case.name);
        match sides.measure(case)? {
            Some(row) => rows.push(row),
            None => println!("left out: its rows come from PyTorch's side"),
        }
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
    tokens: f64,
    seconds: f64,
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
        let mut server = Server {
            child,
            input,
            output,
            shown,
        };
        // The first line says what is measured and that the model is loaded.
        let ready = server.answer()?;
        if ready["ready"] != true {
            return Err(format!("`{}` is not ready: {ready}", server.shown));
        }
        Ok(server)
    }

    /// Runs one step.
    fn step(&mut self) -> Result<Value, String> {
        self.input
            .write_all(b"step\n")
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("`{}` stopped listening: {error}", self.shown))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| format!("`{}` stopped answering: {error}", self.shown))?;
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
        self.tokens += demo::number(answer, "tokens")?;
        self.seconds += demo::number(answer, "seconds")?;
        self.peak = self.peak.max(demo::number(answer, "peak_rss_bytes")?);
        Ok(())
    }

    /// Over all steps together: ragged steps differ in length.
    fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds
    }
}

/// The two programs, and what they are measured with.
struct Sides {
    bft: PathBuf,
    model: PathBuf,
    python: Option<String>,
    ragged: PathBuf,
}

impl Sides {
    fn torch(&self, case: &Case) -> Option<Command> {
        let mut command = Command::new(self.python.as_ref()?);
        command
            .arg(shell::root().join("tests/bench/torch_step.py"))
            .args(case.torch?)
            .arg("--model")
            .arg(&self.model);
        Some(command)
    }

    fn ours(&self, case: &Case) -> Command {
        let mut command = Command::new(&self.bft);
        command
            .args(["bench", "--serve", "--model"])
            .arg(&self.model);
        for flag in case.bft {
            match *flag {
                RAGGED => command.arg(&self.ragged),
                flag => command.arg(flag),
            };
        }
        command
    }

    /// The case's row of the table; `None` if it cannot be measured here.
    fn measure(&self, case: &Case) -> Result<Option<String>, String> {
        if case.bft.contains(&RAGGED) {
            let Some(mut command) = self.torch(case) else {
                return Ok(None);
            };
            if let Some(folder) = self.ragged.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| format!("{}: {error}", folder.display()))?;
            }
            shell::run(command.arg("--write-rows").arg(&self.ragged))?;
        }
        let mut ours = Server::start(&mut self.ours(case))?;
        let mut theirs = match self.torch(case) {
            Some(mut command) => Some(Server::start(command.arg("--serve"))?),
            None => None,
        };
        let (mut bft, mut torch) = (Side::default(), Side::default());
        for _ in 0..case.rounds {
            let answer = ours.step()?;
            println!("bft      {answer}");
            bft.add(&answer)?;
            if let Some(theirs) = &mut theirs {
                let answer = theirs.step()?;
                println!("PyTorch  {answer}");
                torch.add(&answer)?;
            }
        }
        let gigabytes = |peak: f64| format!("{:.2} GB", peak / 1e9);
        let (speed, peak) = (bft.tokens_per_second(), gigabytes(bft.peak));
        Ok(Some(match theirs {
            Some(_) => format!(
                "| {} | {speed:.1} | {:.1} | {:.2} | {peak} | {} |",
                case.name,
                torch.tokens_per_second(),
                speed / torch.tokens_per_second(),
                gigabytes(torch.peak)
            ),
            None => format!("| {} | {speed:.1} | – | – | {peak} | – |", case.name),
        }))
    }
}
