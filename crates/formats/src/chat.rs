//! Chat templates: messages to the text a model was tuned on.

use crate::{FormatError, Result};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or whatever else the template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A model's own Jinja chat template; cheap to clone.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos_token` and `eos_token` are what the template's variables of that name hold.
    pub fn new(source: &str, _bos_token: Option<&str>, _eos_token: Option<&str>) -> Result<Self> {
        Ok(Self {
            source: source.to_string(),
        })
    }

    /// Text of a conversation; `add_generation_prompt` ends it with the opening of an assistant's turn.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        Err(FormatError::ChatTemplate("not written yet".to_string()))
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }
}
