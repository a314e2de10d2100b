//! Errors as the page shows them: a sentence and what can be done about it.

use bft_core::ModelError;
use bft_core::device::DeviceError;
use bft_formats::FormatError;
use bft_train::{EmbedError, EngineError, TrainError, WriteError};
use serde::Serialize;
use wasm_bindgen::JsValue;

use crate::contract::FailureKind as Kind;

/// A failure of protocol.ts.
#[derive(Debug, Serialize)]
pub struct Failure {
    kind: Kind,
    message: String,
}

/// What methods of the session give.
pub type Answer<T> = Result<T, Failure>;

impl Failure {
    pub fn new(kind: Kind, message: impl std::fmt::Display) -> Self {
        let message = without_dashes(&message.to_string());
        Self { kind, message }
    }

    /// Something that was asked for in the wrong order, or cannot be used.
    pub fn input(message: impl std::fmt::Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Whoever asked for it had enough.
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "stopped")
    }

    pub fn other(message: impl std::fmt::Display) -> Self {
        Self::new(Kind::Other, message)
    }
}

/// The page has fields where the command line has flags.
fn without_dashes(message: &str) -> String {
    let mut words = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find("--") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        words.push_str(before);
        let flag = after.starts_with(|c: char| c.is_ascii_lowercase())
            && !before.ends_with(|c: char| c.is_alphanumeric() || c == '-');
        if !flag {
            words.push_str("--");
        }
        rest = after;
    }
    words.push_str(rest);
    words
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        crate::host::to_js(&failure)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match &error {
            DeviceError::Lost(reason) => Self::new(
                Kind::Lost,
                format!("the GPU was lost ({reason}): open a device again; finished checkpoints are safe"),
            ),
            DeviceError::OutOfMemory { what, .. } => Self::new(
                Kind::Memory,
                format!(
                    "the device ran out of memory at {what}: use a smaller batch or shorter samples, \
                     compute activations again, or take the CPU"
                ),
            ),
            DeviceError::TooLarge { .. } => Self::new(Kind::Memory, error),
            DeviceError::Weights(_) => Self::input(error),
            _ => Self::other(error),
        }
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::input(error)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Device(error) => error.into(),
            ModelError::Format(error) => error.into(),
            other => Self::other(other),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error.downcast::<ModelError>() {
            Ok(error) => (*error).into(),
            Err(error) => match error.downcast::<DeviceError>() {
                Ok(error) => (*error).into(),
                Err(error) => Self::other(error),
            },
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Engine(source) => source.into(),
            TrainError::Step { step, source, checkpoint } => {
                let Failure { kind, message } = source.into();
                let left = if checkpoint.is_some() {
                    "the last checkpoint is kept, and the run can go on from it"
                } else {
                    "no checkpoint was made yet"
                };
                Self::new(kind, format!("step {step} failed: {message}; {left}"))
            }
            TrainError::Write { source, .. } => Self::new(Kind::Storage, source),
            TrainError::NotFinite { .. } | TrainError::Diverged { .. } => Self::other(error),
            other => Self::input(other),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Model(error) => error.into(),
            other => Self::input(other),
        }
    }
}

impl From<EmbedError> for Failure {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Engine(error) => error.into(),
            other => Self::input(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lose_their_dashes_and_nothing_else_does() {
        for (found, expected) in [
            ("raise --steps or --epochs to go on", "raise steps or epochs to go on"),
            ("a -- b, x--y, ---, --1", "a -- b, x--y, ---, --1"),
            ("--device cpu", "device cpu"),
        ] {
            assert_eq!(without_dashes(found), expected);
        }
    }
}
