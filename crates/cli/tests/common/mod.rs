//! Driving the real `bft`.
#![allow(dead_code)] // Each test file uses its part.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder of `tests/fixtures`.
pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    path.canonicalize().expect("the fixture is there").display().to_string()
}

/// `bft` with these arguments, on the CPU's account: no GPU driver is looked for unless a test
/// asks, and no hub.
pub fn bft<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(arguments: I) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bft"));
    command.args(arguments).stdin(Stdio::null()).env("HF_HUB_OFFLINE", "1");
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // The tests themselves may run under `nohup`, whose way with SIGHUP a child takes over.
        // SAFETY: `signal` may be called between fork and exec, and touches no memory.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
    }
    command
}

/// What a run came to.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The one line after `error: `; checks that there is just one and that it comes last.
    #[track_caller]
    pub fn error(&self) -> &str {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "one error line in {self:?}");
        assert!(self.stderr.trim_end().ends_with(lines[0]), "the error comes last in {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        &lines[0]["error: ".len()..]
    }

    #[track_caller]
    pub fn ok(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The last line of standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.ok();
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs it to its end.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(arguments: I) -> Done {
    Done::of(bft(arguments).output().expect("bft starts"))
}

/// Runs a line of arguments parted by single spaces.
pub fn line(arguments: &str) -> Done {
    run(arguments.split(' '))
}

/// Waits until `ready`, or fails after a minute.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process.
#[cfg(unix)]
pub fn signal(child: &Child, signal: i32) {
    let id = i32::try_from(child.id()).expect("a process id");
    // SAFETY: kill has no memory to misuse; the id is that of a child that was not waited for yet.
    let sent = unsafe { libc::kill(id, signal) };
    assert_eq!(sent, 0, "the signal is sent");
}

/// The child's end, with what it wrote.
pub fn finish(child: Child) -> Done {
    Done::of(child.wait_with_output().expect("the child ends"))
}

/// Flags of a small, quick training run that goes on for `steps`.
pub fn tiny_training(output: &Path, steps: usize) -> Vec<String> {
    let model = fixture("llama");
    let mut flags: Vec<String> = ["train", "--device", "cpu", "--model", &model, "--data"].map(str::to_owned).to_vec();
    flags.push(format!("{model}/rows.jsonl"));
    for (flag, value) in [
        ("--output", output.display().to_string()),
        ("--steps", steps.to_string()),
        ("--group-size", "4".into()),
        ("--rank", "4".into()),
        ("--lr", "0.005".into()),
        ("--schedule", "constant".into()),
    ] {
        flags.push(flag.to_owned());
        flags.push(value);
    }
    flags
}

/// Steps in metrics.jsonl, in order; evaluation rows are left out.
pub fn steps(output: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|row| row.get("nll").is_some())
        .filter_map(|row| row["step"].as_u64())
        .collect()
}

/// The newest checkpoint's step.
pub fn last_checkpoint(output: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(output.join("checkpoints")).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
        .max()
}

/// A file of a temporary folder.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}
