//! Every way a run can end other than well, and the exit code that says so.

use std::fmt::Display;
use std::io;

use bft_train::{ConfigError, TrainError};

use crate::stop;

/// Why the program stops. Shown as one line on standard error.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line (or its `--config` file) cannot be understood: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The command was understood and could not be done: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// A signal stopped the run, which has saved what it did: exit code 128 and the signal's number.
    #[error("{0}")]
    Stopped(String),
    /// The reader of standard output went away (`bft … | head`): nothing is wrong, exit code 0.
    #[error("standard output was closed")]
    ClosedPipe,
    /// What rank 0 of a job says on behalf of this one: exit code 0, for a launcher ends all ranks as
    /// soon as one of them fails, and rank 0 might not have spoken.
    #[error("rank 0 says what is wrong")]
    Echo,
}

impl CliError {
    /// A failure that is not the command line's fault; `error` is put on one line.
    pub fn failed(error: impl Display) -> Self {
        CliError::Failed(one_line(&error.to_string()))
    }

    /// A command line that cannot be understood; `error` is put on one line.
    pub fn usage(error: impl Display) -> Self {
        CliError::Usage(one_line(&error.to_string()))
    }

    /// A run that was asked to stop and did; `message` says how it goes on.
    pub fn stopped(message: impl Display) -> Self {
        CliError::Stopped(one_line(&message.to_string()))
    }

    /// A setting that cannot be used: the command line's fault, unless only the model shows it.
    pub fn setting(error: ConfigError) -> Self {
        match error {
            ConfigError::Rank { .. } | ConfigError::NotThere { .. } => CliError::failed(error),
            _ => CliError::usage(error),
        }
    }

    /// What stops a run, which may be one of its settings.
    pub fn run(error: TrainError) -> Self {
        match error {
            TrainError::Config(error) => CliError::setting(error),
            _ => CliError::failed(error),
        }
    }

    /// The process's exit code: 2 for a bad command line, 128 and its number for a signal that
    /// stopped the run, 1 for any other failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Failed(_) => 1,
            CliError::Stopped(_) => stop::exit_code(),
            CliError::ClosedPipe | CliError::Echo => 0,
        }
    }

    /// What went wrong while writing results to standard output.
    pub fn from_stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            CliError::ClosedPipe
        } else {
            CliError::failed(format!(
                "cannot write the result to standard output: {error}; send it somewhere with room"
            ))
        }
    }
}

/// Joins the lines of a message: an error is one line, so that logs and scripts can hold it.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        let error = CliError::failed("cannot read a.json:\n  line 3\n\n  is broken\n");
        assert_eq!(error.to_string(), "cannot read a.json:; line 3; is broken");
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        assert_eq!(CliError::usage("x").exit_code(), 2);
        assert_eq!(CliError::failed("x").exit_code(), 1);
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(CliError::from_stdout(closed).exit_code(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(CliError::from_stdout(full).exit_code(), 1);
    }
}
