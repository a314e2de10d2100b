//! `cargo xtask TASK`: what a contributor or CI would otherwise keep in shell scripts.

mod bench;
mod curve;
mod demo;
mod model;
mod neighbours;
mod page;
mod shell;
mod system;
mod templates;
mod test;
mod web;

use std::process::ExitCode;

/// One task: its name, what it does, and how.
struct Task {
    name: &'static str,
    does: &'static str,
    run: fn(&[String]) -> Result<(), String>,
}

const TASKS: [Task; 6] = [
    Task {
        name: "demo",
        does: "tunes SmolLM2 on gene facts and shows what changed (10 minutes on 2 cores)",
        run: demo::run,
    },
    Task {
        name: "test",
        does: "installs what the tests need (Debian) and runs format, lints and every test, the page's in Chromium too",
        run: test::run,
    },
    Task {
        name: "bench",
        does: "times bft, PyTorch, llama.cpp and burn in turn and writes the table into target/bench/table.md, or --output FILE",
        run: bench::run,
    },
    Task {
        name: "web",
        does: "builds the page and serves it on this machine; --build leaves it in web/dist/, --test drives it in Chromium",
        run: web::run,
    },
    Task {
        name: "templates",
        does: "holds public chat templates (260 MB of packages) against transformers, natively and in WebAssembly",
        run: templates::run,
    },
    Task {
        name: "model",
        does: "gets the model of the demo and the tests into the cache and prints its path",
        run: model::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        None => return list("which task?"),
        Some((name, _)) if matches!(name.as_str(), "help" | "--help" | "-h") => {
            print!("{}", tasks());
            return ExitCode::SUCCESS;
        }
        Some((name, rest)) => (name, rest),
    };
    let Some(task) = TASKS.iter().find(|task| task.name == *name) else {
        let nearest = TASKS
            .iter()
            .max_by(|a, b| strsim::jaro(name, a.name).total_cmp(&strsim::jaro(name, b.name)))
            .filter(|task| strsim::jaro(name, task.name) > 0.6);
        let guess = nearest.map_or_else(String::new, |task| format!("; did you mean `cargo xtask {}`?", task.name));
        return list(&format!("there is no task `{name}`{guess}"));
    };
    match (task.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\nerror: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn list(problem: &str) -> ExitCode {
    eprint!("error: {problem}\n\n{}", tasks());
    ExitCode::from(2)
}

fn tasks() -> String {
    let mut text = "cargo xtask TASK\n\n".to_owned();
    for task in &TASKS {
        text.push_str(&format!("  {:<9} {}\n", task.name, task.does));
    }
    text
}
