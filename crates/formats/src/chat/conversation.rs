//! What a chat template is given: turns with all their keys, tools, documents and variables.

use serde_json::{Map, Value};

/// Names under which a turn's reasoning is passed; the first is the one that templates read.
pub const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

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

    /// `system`, `user`, `assistant`, or whatever else the template knows; empty where the turn
    /// names none.
    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Every key of the turn.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
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

/// As transformers prepares a turn: null is the same as a missing key, for most templates print a
/// null as "None", and reasoning goes by every name that templates read it under.
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
    /// Descriptions of the tools that the model may call, as JSON schemas; `None` where none are
    /// spoken of.
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

/// Variables that a template always has and that nobody may set.
pub const RESERVED_VARIABLES: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Variables as a user writes them: `NAME=VALUE` or a JSON object. A value that is JSON (true, 3,
/// "text", [1, 2]) is that, any other is a text. The error is what is wrong, ready to read.
pub fn parse_variables(text: &str) -> Result<Map<String, Value>, String> {
    let vars = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|problem| format!("not a JSON object: {problem}"))?
    } else {
        let (name, value) =
            text.split_once('=').ok_or("expected NAME=VALUE, such as enable_thinking=false, or a JSON object")?;
        let value = match value {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Map::from_iter([(name.trim().to_owned(), value)])
    };
    for (name, value) in &vars {
        let begins = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !begins || name.contains(|c: char| !c.is_alphanumeric() && c != '_') {
            return Err(format!("{name:?} is no name of a variable"));
        }
        if RESERVED_VARIABLES.contains(&name.as_str()) {
            return Err(format!("{name} is what the template has from the conversation"));
        }
        if value.is_null() {
            return Err(format!("{name} is null: leave it out instead"));
        }
    }
    Ok(vars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_json_where_they_can_be_and_texts_elsewhere() {
        let vars = |text: &str| parse_variables(text).map(Value::Object);
        assert_eq!(vars("enable_thinking=false"), Ok(serde_json::json!({"enable_thinking": false})));
        assert_eq!(vars("enable_thinking=False"), Ok(serde_json::json!({"enable_thinking": false})));
        assert_eq!(vars("n=3"), Ok(serde_json::json!({"n": 3})));
        assert_eq!(vars("date_string=26 Jul 2024"), Ok(serde_json::json!({"date_string": "26 Jul 2024"})));
        assert_eq!(vars("{\"a\": [1], \"b\": \"=\"}"), Ok(serde_json::json!({"a": [1], "b": "="})));
        for wrong in ["enable_thinking", "messages=1", "1=2", "=2", "a b=2", "a=null", "{\"a\""] {
            assert!(vars(wrong).is_err(), "{wrong}");
        }
    }
}
