//! Running other programs, and saying so.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The cargo that runs this task.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds `bft` for speed and returns its path.
pub fn build_bft() -> Result<PathBuf, String> {
    println!("{}", dim("$ cargo build --release --package bft-cli"));
    let started = Instant::now();
    let messages = output(cargo().args([
        "build",
        "--release",
        "--package",
        "bft-cli",
        "--message-format",
        "json-render-diagnostics",
    ]))?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or("cargo built no program")?;
    println!("{}", dim(&format!("  ok, {:.0} s", started.elapsed().as_secs_f64())));
    Ok(executable)
}

/// A heading.
pub fn heading(text: &str) {
    println!("\n{}", bold(text));
}

/// Bold on a terminal, plain elsewhere and under `NO_COLOR`.
pub fn bold(text: &str) -> String {
    styled(text, "1")
}

/// Green on a terminal.
pub fn green(text: &str) -> String {
    styled(text, "32")
}

/// Dim on a terminal.
pub fn dim(text: &str) -> String {
    styled(text, "2")
}

fn styled(text: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// Runs a command with its output on this terminal; shows the command and how long it took.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    println!("{}", dim(&format!("$ {shown}")));
    let started = Instant::now();
    let status = command.status().map_err(|error| format!("`{shown}` could not be started: {error}"))?;
    if status.success() {
        println!("{}", dim(&format!("  ok, {:.0} s", started.elapsed().as_secs_f64())));
        Ok(())
    } else {
        Err(format!("`{shown}` failed ({status})"))
    }
}

/// A command that runs beside others; what it says is shown when it is done.
pub struct Aside {
    shown: String,
    child: Child,
    said: File,
}

impl Aside {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let shown = show(command);
        let failed = |error: std::io::Error| format!("`{shown}` could not be started: {error}");
        let said = tempfile::tempfile().map_err(failed)?;
        let (out, err) = (said.try_clone().map_err(failed)?, said.try_clone().map_err(failed)?);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(failed)?;
        Ok(Self { shown, child, said })
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<(), String> {
        let status = self.child.wait();
        println!("{}", dim(&format!("$ {}", self.shown)));
        let shown = self.said.rewind().and_then(|()| std::io::copy(&mut self.said, &mut std::io::stdout()));
        match (status, shown) {
            (Ok(status), Ok(_)) if status.success() => Ok(()),
            (Ok(status), Ok(_)) => Err(format!("`{}` failed ({status})", self.shown)),
            (Err(error), _) | (_, Err(error)) => Err(format!("`{}`: {error}", self.shown)),
        }
    }
}

/// Runs a command and returns its standard output; its standard error goes to this terminal.
pub fn output(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let done = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("`{shown}` could not be started: {error}"))?;
    if !done.status.success() {
        return Err(format!("`{shown}` failed ({})", done.status));
    }
    String::from_utf8(done.stdout).map_err(|_| format!("`{shown}` printed no valid text"))
}

/// Runs a command for its last line of standard output, a JSON value.
pub fn json(command: &mut Command) -> Result<serde_json::Value, String> {
    let text = output(command)?;
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| format!("`{}` printed no JSON: {error}: {line}", show(command)))
}

/// Whether a program runs at all, quietly.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as one would type it.
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(OsStr::new("?"));
    let mut text = name.to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        text.push(' ');
        if argument.is_empty() || argument.contains([' ', '\'', '"', '$', '*', '?']) {
            text.push_str(&format!("'{}'", argument.replace('\'', "'\\''")));
        } else {
            text.push_str(&argument);
        }
    }
    text
}

/// Refuses what a task does not take.
pub fn no_arguments(rest: &[String], task: &str) -> Result<(), String> {
    match rest.first() {
        None => Ok(()),
        Some(found) => Err(format!("`cargo xtask {task}` takes no arguments, found `{found}`")),
    }
}
