//! `cargo xtask bench`: bft and others in turn, on the same machine, in one run.
//!
//! All sides wait for a line on standard input, run one step and answer with one line of JSON.
//! Steps alternate, so that whatever else the machine does falls on all alike.

mod server;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use bft_fetch::sources::Dataset;
use serde_json::Value;

use crate::model;
use crate::shell::{self, cargo, heading};
use server::{Server, Side};
use table::Table;

/// What is measured: bft's flags, and who else does the same.
struct Case {
    name: &'static str,
    model: Subject,
    /// Flags of `bft bench`.
    bft: &'static [&'static str],
    rivals: &'static [Rival],
    rounds: usize,
    counts: Counts,
}

/// The model that a case measures.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Pinned(Dataset),
    /// A file or folder that rivals/half_billion.py makes: a model of half a billion parameters.
    Made(&'static str),
}

/// What a case's rates count.
#[derive(Clone, Copy)]
enum Counts {
    Tokens,
    Gflop,
}

impl Counts {
    /// The key of an answer.
    fn key(self) -> &'static str {
        match self {
            Counts::Tokens => "tokens",
            Counts::Gflop => "gflop",
        }
    }

    fn show(self, rate: f64) -> String {
        match self {
            Counts::Tokens => format!("{rate:.1} tokens/s"),
            Counts::Gflop => format!("{rate:.1} GFLOP/s"),
        }
    }
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
    /// burn's autotuned products on wgpu, in f32, at the sizes that bft names.
    Burn,
}

const SMOLLM2: Subject = Subject::Pinned(Dataset::SmolLm2);
const HALF_BILLION_BF16: Subject = Subject::Made("bf16");
const HALF_BILLION_Q4_K_M: Subject = Subject::Made("half-billion.Q4_K_M.gguf");
const RAGGED_ROWS: &[&str] = &["train-ragged", "--steps", "8"];

const CASES: [Case; 13] = [
    Case {
        name: "train, 4 × 256 tokens, all trained",
        model: SMOLLM2,
        bft: &["--task", "train", "--device", "cpu"],
        rivals: &[Rival::Torch(&["train"]), Rival::TorchBf16(&["train"])],
        rounds: 5,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 4 ragged samples, two thirds masked",
        model: SMOLLM2,
        bft: &["--task", "train", "--device", "cpu", "--data", RAGGED],
        rivals: &[Rival::Torch(RAGGED_ROWS)],
        rounds: 8,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 4 × 256 tokens, a quarter trained",
        model: SMOLLM2,
        bft: &["--task", "train", "--device", "cpu", "--trained-share", "0.25"],
        rivals: &[],
        rounds: 3,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 256 + 128 + 64 + 32 tokens",
        model: SMOLLM2,
        bft: &["--task", "train", "--device", "cpu", "--lengths", "256,128,64,32"],
        rivals: &[],
        rounds: 3,
        counts: Counts::Tokens,
    },
    Case {
        name: "embed, 16 × 128 tokens",
        model: SMOLLM2,
        bft: &["--task", "embed", "--device", "cpu", "--batch-size", "16", "--length", "128"],
        rivals: &[Rival::Torch(&["embed"])],
        rounds: 5,
        counts: Counts::Tokens,
    },
    Case {
        name: "embed, 64 × 16 tokens, MiniLM",
        model: Subject::Pinned(Dataset::MiniLm),
        bft: &["--task", "embed", "--device", "cpu", "--batch-size", "64", "--length", "16"],
        rivals: &[Rival::Torch(&["embed", "--batch-size", "64", "--length", "16"])],
        rounds: 5,
        counts: Counts::Tokens,
    },
    Case {
        name: "generate, 64 tokens, greedy",
        model: SMOLLM2,
        bft: &["--task", "generate", "--device", "cpu", "--length", "64"],
        rivals: &[Rival::Torch(&["generate"]), Rival::Llama],
        rounds: 5,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 4 × 256 tokens, half a billion in Q4_K_M",
        model: HALF_BILLION_Q4_K_M,
        bft: &["--task", "train", "--device", "cpu"],
        rivals: &[Rival::Torch(&["train"])],
        rounds: 3,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 4 × 256 tokens, half a billion in bf16",
        model: HALF_BILLION_BF16,
        bft: &["--task", "train", "--device", "cpu"],
        // Not PyTorch in bf16, which takes minutes a step where the processor has no bf16.
        rivals: &[Rival::Torch(&["train"])],
        rounds: 3,
        counts: Counts::Tokens,
    },
    Case {
        name: "generate, 64 tokens, greedy, half a billion in Q4_K_M",
        model: HALF_BILLION_Q4_K_M,
        bft: &["--task", "generate", "--device", "cpu", "--length", "64"],
        rivals: &[Rival::Llama],
        rounds: 5,
        counts: Counts::Tokens,
    },
    Case {
        name: "train, 4 × 256 tokens, best GPU adapter",
        model: SMOLLM2,
        bft: &["--task", "train", "--device", "gpu"],
        rivals: &[],
        rounds: 2,
        counts: Counts::Tokens,
    },
    Case {
        name: "products of that step, f32 weights, best GPU adapter",
        model: SMOLLM2,
        bft: &["--task", "products", "--device", "gpu", "--weights", "f32"],
        rivals: &[Rival::Burn],
        rounds: 5,
        counts: Counts::Gflop,
    },
    Case {
        name: "products of that step, weights as in the file, best GPU adapter",
        model: SMOLLM2,
        bft: &["--task", "products", "--device", "gpu"],
        rivals: &[Rival::Burn],
        rounds: 5,
        counts: Counts::Gflop,
    },
];

/// Stands for the file of ragged rows that both sides train on.
const RAGGED: &str = "ragged.jsonl";

/// `cargo xtask bench [WORD] [--output FILE]`: every case, or those whose name holds the word; the
/// table goes to FILE, or into `target/bench/table.md`.
pub fn run(rest: &[String]) -> Result<(), String> {
    let (wanted, output) = match rest {
        [] => ("", None),
        [flag, file] if flag == "--output" => ("", Some(file)),
        [word] if word != "--output" => (word.as_str(), None),
        [word, flag, file] if flag == "--output" => (word.as_str(), Some(file)),
        _ => {
            return Err(
                "`cargo xtask bench` takes at most one word, a part of a case's name, and --output FILE".to_owned()
            );
        }
    };
    let output = output.map_or_else(|| shell::root().join("target/bench/table.md"), PathBuf::from);
    if !CASES.iter().any(|case| case.name.contains(wanted)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("no case has `{wanted}` in its name; there are:\n  {}", names.join("\n  ")));
    }
    let cases = || CASES.iter().filter(|case| case.name.contains(wanted));
    for model in [Dataset::SmolLm2, Dataset::MiniLm] {
        if cases().any(|case| case.model == Subject::Pinned(model)) {
            model::get(model)?;
        }
    }
    let bft = shell::build_bft()?;
    let python = std::env::var("BFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = |what: &str, imports: &str, file: &str| {
        let there = shell::succeeds(Command::new(&python).args(["-c", &format!("import {imports}")]));
        if !there {
            println!(
                "{what} is left out: `{python}` cannot import {imports}; install crates/xtask/rivals/{file} and set BFT_PYTHON to that Python"
            );
        }
        there
    };
    let with_burn = cases().any(|case| case.rivals.iter().any(|it| matches!(it, Rival::Burn)));
    let sides = Sides {
        bft,
        torch: has("PyTorch", "torch, transformers, peft, gguf", "requirements.txt"),
        llama: has("llama.cpp", "llama_cpp", "requirements-llama.txt"),
        burn: with_burn.then(build_burn).flatten(),
        python,
        ragged: shell::root().join("target/bench").join(RAGGED),
    };
    let mut table = Table::new(["cargo xtask bench", wanted].join(" ").trim_end().to_owned());
    for case in cases() {
        heading(case.name);
        match sides.model(case.model)? {
            Some(model) => sides.measure(case, &model, &mut table)?,
            None => println!("left out: its model is made with PyTorch and llama.cpp"),
        }
    }
    println!("\n{}", table.markdown());
    table.write(&output)?;
    println!("written to {}", output.display());
    Ok(())
}

/// Builds the program that times burn; `None`, and says so, where that fails.
fn build_burn() -> Option<PathBuf> {
    let folder = shell::root().join("target/bench/burn");
    let built = shell::run(
        cargo()
            .args(["build", "--release", "--locked", "--quiet"])
            .arg("--manifest-path")
            .arg(shell::root().join("crates/xtask/rivals/burn/Cargo.toml"))
            .arg("--target-dir")
            .arg(&folder),
    );
    if let Err(problem) = built {
        println!("burn is left out: {problem}");
        return None;
    }
    let name = format!("burn-step{}", std::env::consts::EXE_SUFFIX);
    Some(folder.join("release").join(name))
}

/// The programs, and what they are measured with.
struct Sides {
    bft: PathBuf,
    python: String,
    torch: bool,
    llama: bool,
    burn: Option<PathBuf>,
    ragged: PathBuf,
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Rival::Torch(_) => "PyTorch f32",
            Rival::TorchBf16(_) => "PyTorch bf16",
            Rival::Llama => "llama.cpp",
            Rival::Burn => "burn, f32",
        }
    }
}

impl Sides {
    /// The rival's program; `None` where it is not installed. `bft` is what bft says that it
    /// measures.
    fn theirs(&self, rival: Rival, model: &Path, bft: &Value) -> Option<Command> {
        let script = |name: &str| {
            let mut command = Command::new(&self.python);
            command.arg(shell::root().join("crates/xtask/rivals").join(name)).arg("--model").arg(model);
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
            Rival::Burn => self.burn.as_ref().map(|program| {
                let mut command = Command::new(program);
                command.arg(bft["products"].to_string());
                command
            }),
        }
    }

    fn ours(&self, case: &Case, model: &Path) -> Command {
        let mut command = Command::new(&self.bft);
        command.args(["bench", "--serve", "--model"]).arg(model);
        for flag in case.bft {
            match *flag {
                RAGGED => command.arg(&self.ragged),
                flag => command.arg(flag),
            };
        }
        command
    }

    /// Where the model lies. One that is made is made once; `None` without the programs for it.
    fn model(&self, subject: Subject) -> Result<Option<PathBuf>, String> {
        let name = match subject {
            Subject::Pinned(model) => {
                return model.path(&model::cache()?).map(Some).map_err(|error| error.to_string());
            }
            Subject::Made(_) if !(self.torch && self.llama) => return Ok(None),
            Subject::Made(name) => name,
        };
        let folder = shell::root().join("target/bench/half-billion");
        if !folder.exists() {
            let script = shell::root().join("crates/xtask/rivals/half_billion.py");
            let partial = folder.with_extension("partial");
            std::fs::create_dir_all(&partial).map_err(|error| format!("{}: {error}", partial.display()))?;
            shell::run(Command::new(&self.python).arg(script).arg(&partial))?;
            std::fs::rename(&partial, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(Some(folder.join(name)))
    }

    /// Measures the case; adds a row of the table for each rival.
    fn measure(&self, case: &Case, model: &Path, table: &mut Table) -> Result<(), String> {
        if case.bft.contains(&RAGGED) {
            let Some(mut command) = self.theirs(Rival::Torch(RAGGED_ROWS), model, &Value::Null) else {
                println!("left out: its rows come from PyTorch's side");
                return Ok(());
            };
            if let Some(folder) = self.ragged.parent() {
                std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            }
            shell::run(command.arg("--write-rows").arg(&self.ragged))?;
        }
        let bft = Server::start(&mut self.ours(case, model))?;
        let about = bft.about.clone();
        table.note(&about);
        let mut sides = vec![("bft", bft, Side::default())];
        for rival in case.rivals {
            let Some(mut command) = self.theirs(*rival, model, &about) else {
                continue;
            };
            if matches!(rival, Rival::Torch(_) | Rival::TorchBf16(_)) {
                command.arg("--serve");
            }
            // What others built may not run on this processor; that is no reason to measure
            // nothing.
            match Server::start(&mut command) {
                Ok(server) => {
                    table.note(&server.about);
                    sides.push((rival.name(), server, Side::default()));
                }
                Err(problem) => println!("{} is left out: {problem}", rival.name()),
            }
        }
        for _ in 0..case.rounds {
            for (name, server, side) in &mut sides {
                let answer = server.step()?;
                println!("{name:<12} {answer}");
                side.add(&answer, case.counts.key())?;
            }
        }
        let (_, _, bft) = &sides[0];
        let speed = bft.rate();
        let ours = format!("| {} | {} | {}", case.name, case.counts.show(speed), bft.peak());
        let row = |(name, _, side): &(&str, Server, Side)| {
            format!(
                "{ours} | {name} | {} | {} | {:.2} |",
                case.counts.show(side.rate()),
                side.peak(),
                speed / side.rate()
            )
        };
        table.rows(match &sides[1..] {
            [] => vec![format!("{ours} | – | – | – | – |")],
            rivals => rivals.iter().map(row).collect(),
        });
        Ok(())
    }
}
