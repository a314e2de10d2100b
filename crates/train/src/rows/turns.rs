//! Lists of turns: who speaks, what the chat template is given of it, and whether it is trained.

use std::collections::BTreeSet;

use bft_formats::Message;
use serde_json::{Map, Value};

use super::RowProblem;
use super::fields::{MEDIA, NO_MEDIA, distance, excerpt, found_keys, kind, says_something, text_at};

/// Roles that chat templates know.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
/// What stands for a call of tools, the JSON of which is the turn's text.
const CALL: &str = "tool call";
/// Names that sets of several makers use, with the role each stands for; ShareGPT's own come first.
const SPEAKERS: [(&str, &str); 20] = [
    ("system", "system"),
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("function_call", CALL),
    ("observation", "tool"),
    ("tool", "tool"),
    ("developer", "developer"),
    ("bot", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("tool_call", CALL),
    ("function-call", CALL),
    ("tool_response", "tool"),
    ("function_response", "tool"),
    ("function-response", "tool"),
    ("ipython", "tool"),
];
/// The first of them, which a message lists.
const SPEAKERS_SHOWN: usize = 9;
/// Keys that say with 1 or true that a turn is trained, with 0 or false that it is not; other
/// trainers' names for it.
const TRAINED: [&str; 8] =
    ["weight", "train", "training", "trainable", "train_on_turn", "loss", "loss_weight", "loss_scale"];
/// The key that says the opposite.
const MASKED_TURN: &str = "masked";
/// Keys of a turn that other trainers act on and that nothing is done with here, with what to do.
const REFUSED: [(&[&str], &str); 3] = [
    (MEDIA, NO_MEDIA),
    (
        &["function_call"],
        "is the older form of \"tool_calls\": write it as \"tool_calls\": [{\"type\": \"function\", \"function\": …}]",
    ),
    (
        &["train_detail", "training_detail", "reasoning_training_detail", "mask"],
        "is not read: a turn is trained whole or, with \"train\": false, not at all",
    ),
];
/// Keys under which a turn says something beside its content.
const BESIDE_CONTENT: [&str; 4] = ["tool_calls", "reasoning_content", "thinking", "reasoning"];

/// How a list names the speaker and the text of its turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// `role` and `content`.
    Role,
    /// `from` and `value`.
    From,
}

impl Speech {
    /// The keys of the speaker and of the text.
    const fn keys(self) -> [&'static str; 2] {
        match self {
            Self::Role => ["role", "content"],
            Self::From => ["from", "value"],
        }
    }

    /// The role that a name stands for, or [`CALL`].
    fn role(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Role if ["tool_call", "tool_response"].contains(&name) => role_of(name),
            Self::Role => ROLES.iter().find(|role| **role == name).copied(),
            Self::From => role_of(name),
        }
    }

    fn unknown(self, name: &str, path: String) -> RowProblem {
        let known = match self {
            Self::Role => ROLES.to_vec(),
            Self::From => SPEAKERS[..SPEAKERS_SHOWN].iter().map(|(name, _)| *name).collect(),
        };
        let near = known.iter().filter(|k| distance(name, k) <= 2).min_by_key(|k| distance(name, k));
        let hint = match (role_of(name), near) {
            (Some(CALL), _) => " (write \"assistant\" with \"tool_calls\")".into(),
            (Some(role), _) => format!(" (write \"{role}\")"),
            (None, Some(near)) => format!(" (did you mean \"{near}\"?)"),
            (None, None) => String::new(),
        };
        RowProblem::Role { path, found: excerpt(name), expected: known.join(", "), hint }
    }
}

fn role_of(name: &str) -> Option<&'static str> {
    SPEAKERS.iter().find(|(n, _)| *n == name).map(|(_, role)| *role)
}

/// Turns, and which of the assistant's are not trained.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub messages: Vec<Message>,
    pub masked: BTreeSet<usize>,
    /// Assistant's turns that say that they are trained.
    asked: BTreeSet<usize>,
}

impl From<Vec<Message>> for Turns {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

impl Turns {
    /// Reads the list under the key `list`.
    pub(super) fn read(value: &Value, list: &str, speech: Speech) -> Result<Self, RowProblem> {
        let Value::Array(entries) = value else {
            let expected = "a list of turns";
            return Err(RowProblem::Type { path: list.into(), found: kind(value).into(), expected });
        };
        if entries.is_empty() {
            return Err(RowProblem::Empty { path: list.into() });
        }
        let mut turns = Self::default();
        for (i, entry) in entries.iter().enumerate() {
            let (message, trained) = turn(entry, &format!("{list}[{i}]"), speech)?;
            match trained {
                Some(true) => drop(turns.asked.insert(i)),
                Some(false) if message.role() == "assistant" => drop(turns.masked.insert(i)),
                _ => {}
            }
            turns.messages.push(message);
        }
        Ok(turns)
    }

    /// The same turns, none of them trained.
    pub(super) fn untrained(mut self, list: &str) -> Result<Self, RowProblem> {
        if let Some(i) = self.asked.first() {
            let why = "is to be trained, but only the answers of \"completion\" are: move it there";
            return Err(RowProblem::Refused { path: format!("{list}[{i}]"), why });
        }
        self.masked = (0..self.messages.len()).filter(|i| self.messages[*i].role() == "assistant").collect();
        Ok(self)
    }

    pub(super) fn followed_by(mut self, more: Self) -> Self {
        let before = self.messages.len();
        self.masked.extend(more.masked.iter().map(|i| i + before));
        self.messages.extend(more.messages);
        self
    }

    /// Puts the system text of the row's `key` before the turns.
    pub(super) fn begin_with_system(&mut self, text: String, key: &str) -> Result<(), RowProblem> {
        match self.messages.first() {
            Some(first) if ["system", "developer"].contains(&first.role()) => {
                if first.get("content").and_then(Value::as_str) == Some(text.as_str()) {
                    return Ok(());
                }
                let why = "is given, and the first turn is another system text: keep one of them";
                Err(RowProblem::Refused { path: key.into(), why })
            }
            _ => {
                self.messages.insert(0, Message::new("system", text));
                self.masked = self.masked.iter().map(|i| i + 1).collect();
                Ok(())
            }
        }
    }
}

/// One turn, and whether it says that it is trained.
fn turn(entry: &Value, path: &str, speech: Speech) -> Result<(Message, Option<bool>), RowProblem> {
    let Value::Object(given) = entry else {
        return Err(RowProblem::Type { path: path.into(), found: kind(entry).into(), expected: "an object" });
    };
    let [who, what] = speech.keys();
    let at = |key: &str| format!("{path}.{key}");
    let has_more = BESIDE_CONTENT.iter().any(|key| given.get(*key).is_some_and(says_something));
    if !given.contains_key(who) || !(given.contains_key(what) || has_more) {
        let expected = match speech {
            Speech::Role => "an object with \"role\" and \"content\"",
            Speech::From => {
                "an object with \"from\" and \"value\" (with \"role\" and \"content\", name the list \"messages\")"
            }
        };
        let found = format!("an object with {}", found_keys(given));
        return Err(RowProblem::Type { path: path.into(), found, expected });
    }
    for (keys, why) in REFUSED {
        if let Some(key) = keys.iter().find(|key| given.get(**key).is_some_and(says_something)) {
            return Err(RowProblem::Refused { path: at(key), why });
        }
    }
    if let (Speech::From, Some(key)) = (speech, Speech::Role.keys().iter().find(|key| given.contains_key(**key))) {
        let why = "stands beside \"from\" and \"value\": keep one pair of them";
        return Err(RowProblem::Refused { path: at(key), why });
    }
    let name = text_at(given.get(who), || at(who))?;
    let role = speech.role(&name).ok_or_else(|| speech.unknown(&name, at(who)))?;
    let trained = trained(given, path)?;
    if trained == Some(true) && !["assistant", CALL].contains(&role) {
        let why = "is to be trained, but bft trains the assistant's turns alone: remove the key that says so";
        return Err(RowProblem::Refused { path: path.into(), why });
    }
    let mut keys = Map::new();
    let said = given.get(what).unwrap_or(&Value::Null);
    keys.insert("role".into(), if role == CALL { "assistant" } else { role }.into());
    if role == CALL {
        keys.insert("tool_calls".into(), calls(said, &at(what))?);
    } else {
        let may_be_empty = role != "assistant" || has_more;
        let may_be_null = role == "assistant" && has_more;
        if !(said.is_null() && may_be_null) && is_empty_content(said, &at(what))? && !may_be_empty {
            return Err(RowProblem::Empty { path: at(what) });
        }
        keys.insert("content".into(), said.clone());
    }
    for (key, value) in given {
        let is_read = [who, what, MASKED_TURN].contains(&key.as_str()) || TRAINED.contains(&key.as_str());
        match (key.as_str(), value) {
            _ if is_read || value.is_null() => continue,
            ("tool_calls", _) if role == CALL => {
                let why = "stands beside a turn that is a call itself: keep one of them";
                return Err(RowProblem::Refused { path: at(key), why });
            }
            ("tool_calls", Value::Array(calls)) if calls.iter().all(Value::is_object) => {}
            ("tool_calls", _) => {
                return Err(RowProblem::Type {
                    path: at(key),
                    found: kind(value).into(),
                    expected: "a list of objects",
                });
            }
            (key, _) if BESIDE_CONTENT.contains(&key) => drop(text_at(Some(value), || at(key))?),
            _ => {}
        }
        keys.insert(key.clone(), value.clone());
    }
    Ok((Message::from(keys), trained))
}

/// What a turn says of its being trained.
fn trained(turn: &Map<String, Value>, path: &str) -> Result<Option<bool>, RowProblem> {
    let mut said = None;
    for key in TRAINED.into_iter().chain([MASKED_TURN]) {
        let flag = match turn.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(other) => {
                let found = if other.is_number() { other.to_string() } else { kind(other).into() };
                let expected = "0 or 1, or false or true: a turn is trained whole or not at all";
                return Err(RowProblem::Type { path: format!("{path}.{key}"), found, expected });
            }
        };
        let flag = flag != (key == MASKED_TURN);
        if said.is_some_and(|said| said != flag) {
            let why = "contradicts another key of the turn: say once whether it is trained";
            return Err(RowProblem::Refused { path: format!("{path}.{key}"), why });
        }
        said = Some(flag);
    }
    Ok(said)
}

/// Checks a turn's content, a text or a list of text parts; whether it is empty.
fn is_empty_content(content: &Value, path: &str) -> Result<bool, RowProblem> {
    let parts = match content {
        Value::String(text) => return Ok(text.is_empty()),
        Value::Array(parts) => parts,
        other => {
            let expected = "a string or a list of text parts";
            return Err(RowProblem::Type { path: path.into(), found: kind(other).into(), expected });
        }
    };
    let mut is_empty = true;
    for (i, part) in parts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Value::Object(part) = part else {
            let expected = "a part such as {\"type\": \"text\", \"text\": …}";
            return Err(RowProblem::Type { path, found: kind(part).into(), expected });
        };
        match part.get("type").and_then(Value::as_str) {
            Some("text") => {}
            other => {
                let found = other.map_or_else(|| "missing".into(), |kind| format!("\"{}\"", excerpt(kind)));
                let expected = "\"text\": bft reads text only";
                return Err(RowProblem::Type { path: format!("{path}.type"), found, expected });
            }
        }
        is_empty &= text_at(part.get("text"), || format!("{path}.text"))?.is_empty();
        if trained(part, &path)? == Some(false) {
            let why =
                "is a part that is not to be trained: a turn is trained whole or, with \"train\": false, not at all";
            return Err(RowProblem::Refused { path, why });
        }
    }
    Ok(is_empty)
}

/// The calls of a turn whose text is their JSON: an object with `name` and `arguments`, or a list
/// of such.
fn calls(said: &Value, path: &str) -> Result<Value, RowProblem> {
    let expected = "the JSON of {\"name\": …, \"arguments\": …}, or of a list of such";
    let wrong = |found: &str| RowProblem::Type { path: path.into(), found: found.into(), expected };
    let parsed = match said {
        Value::String(text) => serde_json::from_str(text).map_err(|_| wrong("a string that is no JSON"))?,
        other => other.clone(),
    };
    let calls = match parsed {
        Value::Array(calls) if !calls.is_empty() => calls,
        call => vec![call],
    };
    let is_call = |call: &Value| call.get("name").is_some_and(Value::is_string) && call.get("arguments").is_some();
    match calls.iter().find(|call| !is_call(call)) {
        Some(Value::Object(call)) => Err(wrong(&format!("an object with {}", found_keys(call)))),
        Some(other) => Err(wrong(kind(other))),
        None => Ok(calls.into_iter().map(|call| serde_json::json!({ "type": "function", "function": call })).collect()),
    }
}
