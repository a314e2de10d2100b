//! One JSON object to what the row holds.

use bft_formats::Message;
use serde_json::{Map, Value};

use super::{MASKED, RowContent, RowFormat, RowProblem};

/// Roles that chat templates know.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
/// Names that ShareGPT-like sets use, with the role each stands for.
const SPEAKERS: [(&str, &str); 7] = [
    ("system", "system"),
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("tool", "tool"),
    ("developer", "developer"),
];

/// The row's format and content.
pub(super) fn content(row: &Map<String, Value>) -> Result<(RowFormat, RowContent), RowProblem> {
    let format = format(row)?;
    let content = match format {
        RowFormat::Tokens => tokens(row)?,
        RowFormat::Messages => RowContent::Chat(messages(row)?.into()),
        RowFormat::Conversations => RowContent::Chat(conversations(row)?.into()),
        RowFormat::Instruction => RowContent::Chat(instruction(row)?.into()),
        RowFormat::PromptCompletion => {
            RowContent::PromptCompletion { prompt: string(row, "prompt")?, completion: filled(row, "completion")? }
        }
        RowFormat::Text => RowContent::Text(filled(row, "text")?),
    };
    Ok((format, content))
}

/// A readable name of a JSON value's type.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Finds the format: the first whose required keys are all there.
fn format(row: &Map<String, Value>) -> Result<RowFormat, RowProblem> {
    let has = |key: &&str| row.contains_key(*key);
    if let Some(format) = RowFormat::ALL.into_iter().find(|f| f.required_keys().iter().all(&has)) {
        for expected in format.optional_keys().iter().filter(|k| !has(k)) {
            let near = |key: &&String| !is_known(key) && distance(key, expected) == 1;
            if let Some(found) = row.keys().find(near) {
                return Err(RowProblem::Misspelt { found: found.clone(), expected });
            }
        }
        return Ok(format);
    }
    // Half of a pair says what the row was meant to be.
    for format in RowFormat::ALL {
        let keys = format.required_keys();
        if let (Some(present), Some(missing)) = (keys.iter().find(|k| has(k)), keys.iter().find(|k| !has(k))) {
            let hint = match (*missing, nearest(row, &[*missing])) {
                (_, Some((found, _))) => format!(": did you misspell it as \"{found}\"?"),
                ("labels", None) => " (the token ids again, with -100 for those that are not to be trained on)".into(),
                _ => String::new(),
            };
            return Err(RowProblem::MissingKey { found: found_keys(row), present, missing, hint });
        }
    }
    let known: Vec<&'static str> = RowFormat::ALL.iter().flat_map(|f| f.required_keys()).copied().collect();
    let hint = match nearest(row, &known) {
        Some((found, expected)) => {
            format!(" (did you mean \"{expected}\" instead of \"{found}\"?)")
        }
        None => String::new(),
    };
    Err(RowProblem::Keys { found: found_keys(row), hint })
}

fn is_known(key: &str) -> bool {
    RowFormat::ALL.iter().any(|f| f.required_keys().contains(&key) || f.optional_keys().contains(&key))
}

fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(&a.to_ascii_lowercase(), b)
}

/// The key of `row` nearest to one of `known`, if it is near enough to be a slip.
fn nearest<'r>(row: &'r Map<String, Value>, known: &[&'static str]) -> Option<(&'r str, &'static str)> {
    row.keys()
        .filter(|key| !is_known(key))
        .flat_map(|key| known.iter().map(move |expected| (distance(key, expected), key.as_str(), *expected)))
        .filter(|(d, _, expected)| *d <= if expected.len() <= 4 { 1 } else { 2 })
        .min_by_key(|(d, ..)| *d)
        .map(|(_, found, expected)| (found, expected))
}

/// `keys "a", "b"`, cut where a row has very many or very long ones.
fn found_keys(row: &Map<String, Value>) -> String {
    const SHOWN: usize = 8;
    if row.is_empty() {
        return "no keys".into();
    }
    let mut names: Vec<String> = row.keys().take(SHOWN).map(|k| format!("\"{}\"", excerpt(k))).collect();
    if row.len() > SHOWN {
        names.push(format!("{} more", row.len() - SHOWN));
    }
    format!("{} {}", if row.len() == 1 { "key" } else { "keys" }, names.join(", "))
}

/// At most 40 characters of a text, for messages.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn text_at(value: Option<&Value>, path: impl Fn() -> String) -> Result<String, RowProblem> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        other => {
            Err(RowProblem::Type { path: path(), found: other.map_or("missing", kind).into(), expected: "a string" })
        }
    }
}

fn string(row: &Map<String, Value>, key: &str) -> Result<String, RowProblem> {
    text_at(row.get(key), || key.to_owned())
}

/// A string that must hold something.
fn filled(row: &Map<String, Value>, key: &str) -> Result<String, RowProblem> {
    let text = string(row, key)?;
    if text.is_empty() { Err(RowProblem::Empty { path: key.into() }) } else { Ok(text) }
}

fn instruction(row: &Map<String, Value>) -> Result<Vec<Message>, RowProblem> {
    let instruction = filled(row, "instruction")?;
    let output = filled(row, "output")?;
    // Published sets write "" or null where there is no input.
    let input = match row.get("input") {
        None | Some(Value::Null) => String::new(),
        value => text_at(value, || "input".into())?,
    };
    let question = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
    Ok(vec![Message::new("user", question), Message::new("assistant", output)])
}

fn messages(row: &Map<String, Value>) -> Result<Vec<Message>, RowProblem> {
    turns(row, "messages", "role", "content", |role| ROLES.iter().find(|r| **r == role).copied(), &ROLES)
}

fn conversations(row: &Map<String, Value>) -> Result<Vec<Message>, RowProblem> {
    let names = SPEAKERS.map(|(name, _)| name);
    let role = |name: &str| SPEAKERS.iter().find(|(n, _)| *n == name).map(|(_, role)| *role);
    turns(row, "conversations", "from", "value", role, &names)
}

/// A list of turns, each with a speaker and a text.
fn turns(
    row: &Map<String, Value>,
    list: &'static str,
    who: &'static str,
    what: &'static str,
    role: impl Fn(&str) -> Option<&'static str>,
    known: &[&str],
) -> Result<Vec<Message>, RowProblem> {
    let entries = match &row[list] {
        Value::Array(entries) => entries,
        other => {
            let expected = "a list of turns";
            return Err(RowProblem::Type { path: list.into(), found: kind(other).into(), expected });
        }
    };
    if entries.is_empty() {
        return Err(RowProblem::Empty { path: list.into() });
    }
    let mut messages = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let path = |key: &str| format!("{list}[{i}].{key}");
        let Value::Object(turn) = entry else {
            return Err(RowProblem::Type {
                path: format!("{list}[{i}]"),
                found: kind(entry).into(),
                expected: "an object",
            });
        };
        for key in [who, what] {
            if !turn.contains_key(key) {
                let expected = if (who, what) == ("role", "content") {
                    "an object with \"role\" and \"content\""
                } else {
                    "an object with \"from\" and \"value\" (with \"role\" and \"content\", name the list \"messages\")"
                };
                let found = format!("an object with {}", found_keys(turn));
                return Err(RowProblem::Type { path: format!("{list}[{i}]"), found, expected });
            }
        }
        let name = text_at(turn.get(who), || path(who))?;
        let Some(role) = role(&name) else {
            let near = known.iter().filter(|k| distance(&name, k) <= 2).min_by_key(|k| distance(&name, k));
            return Err(RowProblem::Role {
                path: path(who),
                found: excerpt(&name),
                expected: known.join(", "),
                hint: near.map(|k| format!(" (did you mean \"{k}\"?)")).unwrap_or_default(),
            });
        };
        let content = text_at(turn.get(what), || path(what))?;
        if content.is_empty() && role == "assistant" {
            return Err(RowProblem::Empty { path: path(what) });
        }
        messages.push(Message::new(role, content));
    }
    Ok(messages)
}

/// Token ids: whole numbers that fit a token id.
pub(crate) fn token_ids(value: &Value, key: &str) -> Result<Vec<u32>, RowProblem> {
    let id = |v: &Value| v.as_u64().filter(|id| *id <= i32::MAX as u64).map(|id| id as u32);
    integers(value, key, "a token id (a whole number from 0)", id)
}

fn integers<T>(
    value: &Value,
    key: &str,
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, RowProblem> {
    let Value::Array(entries) = value else {
        let expected = "a list of whole numbers";
        return Err(RowProblem::Type { path: key.into(), found: kind(value).into(), expected });
    };
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| {
            read(entry).ok_or_else(|| RowProblem::Type {
                path: format!("{key}[{i}]"),
                found: if entry.is_number() { entry.to_string() } else { kind(entry).into() },
                expected,
            })
        })
        .collect()
}

fn tokens(row: &Map<String, Value>) -> Result<RowContent, RowProblem> {
    let input_ids = token_ids(&row["input_ids"], "input_ids")?;
    let label = |v: &Value| {
        v.as_i64().filter(|l| *l == i64::from(MASKED) || (0..=i64::from(i32::MAX)).contains(l)).map(|l| l as i32)
    };
    let labels = integers(&row["labels"], "labels", "a token id or -100", label)?;
    if input_ids.is_empty() {
        return Err(RowProblem::Empty { path: "input_ids".into() });
    }
    if labels.len() != input_ids.len() {
        return Err(RowProblem::LabelsLength { labels: labels.len(), input_ids: input_ids.len() });
    }
    Ok(RowContent::Tokens { input_ids, labels })
}
