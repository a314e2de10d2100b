//! A program that runs a step for each line it is given, and what its steps came to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::shell;

/// The running program.
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    shown: String,
    /// Its first line: what it measures, with what.
    pub about: Value,
}

/// What a program's steps came to.
#[derive(Default)]
pub struct Side {
    amount: f64,
    seconds: f64,
    peak: f64,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(command: &mut Command) -> Result<Self, String> {
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
        let mut server = Server { child, input, output, shown, about: Value::Null };
        // The first line says what is measured and that the model is loaded.
        server.about = server.answer()?;
        if server.about["ready"] != true {
            return Err(format!("`{}` is not ready: {}", server.shown, server.about));
        }
        Ok(server)
    }

    /// Runs one step.
    pub fn step(&mut self) -> Result<Value, String> {
        self.input
            .write_all(b"step\n")
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("`{}` stopped listening: {error}", self.shown))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| format!("`{}` stopped answering: {error}", self.shown))?;
        serde_json::from_str(&line).map_err(|_| format!("`{}` answered with no JSON: {line:?}", self.shown))
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
    /// Adds a step; `of` is the key of what is counted.
    pub fn add(&mut self, answer: &Value, of: &str) -> Result<(), String> {
        self.amount += number(answer, of)?;
        self.seconds += number(answer, "seconds")?;
        self.peak = self.peak.max(number(answer, "peak_rss_bytes")?);
        Ok(())
    }

    /// Over all steps together, by the second: ragged steps differ in length.
    pub fn rate(&self) -> f64 {
        self.amount / self.seconds
    }

    /// For the table.
    pub fn peak(&self) -> String {
        format!("{:.2} GB", self.peak / 1e9)
    }
}

/// A number of an answer in JSON.
fn number(answer: &Value, key: &str) -> Result<f64, String> {
    answer[key].as_f64().ok_or_else(|| format!("found no number `{key}` in {answer}"))
}
