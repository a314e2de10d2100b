//! What a chat template is given: turns with all their keys, tools, documents and variables.

use serde_json::{Map, Value};

/// Names under which a turn's reasoning is passed; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One turn of a conversation, with every key that a template may read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message(Map<String, Value>);

impl Message {
    /// A turn of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let pair = |key: &str, text: String| (key.to_owned(), Value::String(text));
        Self(Map::from_iter([pair("role", role.into()), pair("content", content.into())]))
    }

    /// `system`, `user`, `assistant`, or whatever else the template knows; empty where the turn names none.
    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The value under `key`, which is never null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The same turn with another text in place of its content.
    pub fn with_content(&self, content: impl Into<String>) -> Self {
        let mut keys = self.0.clone();
        keys.insert("content".to_owned(), Value::String(content.into()));
        Self(keys)
    }
}

/// As transformers prepares a turn: null is the same as a missing key, for most templates print a null as "None",
/// and reasoning goes by every name that templates read it under.
impl From<Map<String, Value>> for Message {
    fn from(mut keys: Map<String, Value>) -> Self {
        keys.retain(|_, value| !value.is_null());
        if let Some(reasoning) = REASONING.iter().find_map(|name| keys.get(*name)).cloned() {
            keys.insert("reasoning_content".to_owned(), reasoning.clone());
            keys.entry("thinking").or_insert(reasoning);
        }
        Self(keys)
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.0
    }
}

/// A whole conversation: what a template can see besides the tokens that it is made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// Descriptions of the tools that the model may call, as JSON schemas; `None` where none are spoken of.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from; `None` where there are none.
    pub documents: Option<Vec<Value>>,
    /// Further variables, such as `enable_thinking`; they win over those of the template.
    pub variables: Map<String, Value>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}
