//! `cargo xtask bench`: bft and others in turn, on the same machine, in one run.
//!
//! All sides wait for a line on standard input, run one step and answer with one line of JSON. Steps alternate, so that
//! whatever else the machine does falls on all alike.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::demo;
use crate::model;
use crate::shell::{self, heading};

/// What is measured: bft's flags, and who else does the same.
struct Case {
    name: &'static str,
    /// Flags of `bft bench`.
    bft: &'static [&'static str],
    rivals: &'static [Rival],
    rounds: usize,
}

/// Another program at the same work.
#[derive(Clone, Copy)]
enum Rival {
    /// PyTorch + PEFT in f32: the mode of torch_step.py, and its flags.
    Torch(&'static [&'static str]),
    /// The same in bf16.
    TorchBf16(&'static [&'static str]),
    /// llama.cpp, which only generates.
    Llama,
}

const RAGGED_ROWS: &[&str] = &["train-ragged", "--steps", "8"];

const CASES: [Case; 7] = [
    Case {
        name: "train, 4 × 256 tokens, all trained",
        bft: &["--task", "train", "--device", "cpu"],
        rivals: &[Rival::Torch(&["train"]), Rival::TorchBf16(&["train"])],
        rounds: 5,
    },
    Case {
        name: "train, 4 ragged samples, two thirds masked",
        bft: &["--task", "train", "--device", "cpu", "--data", RAGGED],
        rivals: &[Rival::Torch(RAGGED_ROWS)],
        rounds: 8,
    },
    Case {
        name: "train, 4 × 256 tokens, a quarter trained",
        bft: &[
            "--task",
            "train",
            "--device",
            "cpu",
            "--trained-share",
            "0.25",
        ],
        rivals: &[],
        rounds: 3,
    },
    Case {
        name: "train, 256 + 128 + 64 + 32 tokens",
        bft: &[
            "--task",
            "train",
            "--device",
            "cpu",
            "--lengths",
            "256,128,64,32",
        ],
        rivals: &[],
        rounds: 3,
    },
    Case {
        name: "embed, 16 × 128 tokens",
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
        rivals: &[Rival::Torch(&["embed"])],
        rounds: 5,
    },
    Case {
        name: "generate, 64 tokens, greedy",
        bft: &["--task", "generate", "--device", "cpu", "--length", "64"],
        rivals: &[Rival::Torch(&["generate"]), Rival::Llama],
        rounds: 5,
    },
    Case {
        name: "train, 4 × 256 tokens, best GPU adapter",
        bft: &["--task", "train", "--device", "gpu"],
        rivals: &[],
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
    if !CASES.iter().any(|case| case.name.contains(wanted)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(format!(
            "no case has `{wanted}` in its name; there are:\n  {}",
            names.join("\n  ")
        ));
    }
    let model = model::get()?;
    let bft = demo::build()?;
    let python = std::env::var("BFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = |what: &str, imports: &str, file: &str| {
        let there =
            shell::succeeds(Command::new(&python).args(["-c", &format!("import {imports}")]));
        if !there {
            println!(
                "{what} is left out: `{python}` cannot import {imports}; install tests/bench/{file} and set BFT_PYTHON to that Python"
            );
        }
        there
    };
    let sides = Sides {
        bft,
        model,
        torch: has(
            "PyTorch",
            "torch, transformers, peft, gguf",
            "requirements.txt",
        ),
        llama: has("llama.cpp", "llama_cpp", "requirements-llama.txt"),
        python,
        ragged: shell::root().join("target/bench").join(RAGGED),
    };
    let mut rows = vec![
        "| case | bft tokens/s | bft peak | against | tokens/s | peak | ratio |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for case in CASES.iter().filter(|case| case.name.contains(wanted)) {
        heading(case.name);
        rows.extend(sides.measure(case)?);
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

    fn peak(&self) -> String {
        format!("{:.2} GB", self.peak / 1e9)
    }
}

/// The programs, and what they are measured with.
struct Sides {
    bft: PathBuf,
    model: PathBuf,
    python: String,
    torch: bool,
    llama: bool,
    ragged: PathBuf,
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Rival::Torch(_) => "PyTorch f32",
            Rival::TorchBf16(_) => "PyTorch bf16",
            Rival::Llama => "llama.cpp",
        }
    }
}

impl Sides {
    /// The rival's program; `None` where it is not installed.
    fn theirs(&self, rival: Rival) -> Option<Command> {
        let script = |name: &str| {
            let mut command = Command::new(&self.python);
            command
                .arg(shell::root().join("tests/bench").join(name))
                .arg("--model")
                .arg(&self.model);
            command
        };
        let torch = |mode: &[&str], dtype: &str| {
            let mut command = script("torch_step.py");
            command.args(mode).args(["--dtype", dtype]);
            command
        };
        match rival {
            Rival::Torch(mode) => self.torch.then(|| torch(mode, "f32")),
            Rival::TorchBf16(mode) => self.torch.then(|| torch(mode, "bf16")),
            Rival::Llama => self.llama.then(|| script("llama_step.py")),
        }
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

    /// The case's rows of the table, one a rival.
    fn measure(&self, case: &Case) -> Result<Vec<String>, String> {
        if case.bft.contains(&RAGGED) {
            let Some(mut command) = self.theirs(Rival::Torch(RAGGED_ROWS)) else {
                println!("left out: its rows come from PyTorch's side");
                return Ok(Vec::new());
            };
            if let Some(folder) = self.ragged.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| format!("{}: {error}", folder.display()))?;
            }
            shell::run(command.arg("--write-rows").arg(&self.ragged))?;
        }
        let mut sides = vec![("bft", Server::start(&mut self.ours(case))?, Side::default())];
        for rival in case.rivals {
            let Some(mut command) = self.theirs(*rival) else {
                continue;
            };
            if !matches!(rival, Rival::Llama) {
                command.arg("--serve");
            }
            let server = Server::start(&mut command)?;
            sides.push((rival.name(), server, Side::default()));
        }
        for _ in 0..case.rounds {
            for (name, server, side) in &mut sides {
                let answer = server.step()?;
                println!("{name:<12} {answer}");
                side.add(&answer)?;
            }
        }
        let (_, _, bft) = &sides[0];
        let speed = bft.tokens_per_second();
        let ours = format!("| {} | {speed:.1} | {}", case.name, bft.peak());
        if sides.len() == 1 {
            return Ok(vec![format!("{ours} | – | – | – | – |")]);
        }
        let row = |(name, _, side): &(&str, Server, Side)| {
            let theirs = side.tokens_per_second();
            let ratio = speed / theirs;
            format!(
                "{ours} | {name} | {theirs:.1} | {} | {ratio:.2} |",
                side.peak()
            )
        };
        Ok(sides[1..].iter().map(row).collect())
    }
}
