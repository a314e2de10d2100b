//! Data rows: JSONL or a JSON array, in one of seven formats that a row's keys tell.
//!
//! | format | keys of a row |
//! |---|---|
//! | [`RowFormat::Tokens`] | `input_ids`, `labels` (−100 where nothing is trained) |
//! | [`RowFormat::Messages`] | `messages`: a list of `{role, content}` |
//! | [`RowFormat::Conversations`] | `conversations`: a list of `{from, value}` |
//! | [`RowFormat::Instruction`] | `instruction`, `output`, and `input`, `history` if there are |
//! | [`RowFormat::PromptCompletionTurns`] | `prompt`, `completion`: lists of `{role, content}` |
//! | [`RowFormat::PromptCompletion`] | `prompt`, `completion`: texts |
//! | [`RowFormat::Text`] | `text` |
//!
//! A row with the keys of several formats is read as the first of them in this order (many
//! published chat sets carry a flattened copy in `text` or `prompt`). All rows of a file have one
//! format.
//!
//! Rows of turns may also have `system`, `tools`, `documents` and `chat_template_kwargs`, and their
//! turns may have any key: the chat template is given them all, except for those that say whether a
//! turn is trained (`weight`, `train`, `loss` and their like), which are obeyed. A key that other
//! trainers act on and this one does not is refused by name; what nobody acts on is listed in
//! [`Rows::ignored`].

mod fields;
mod split;
mod turns;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bft_formats::{Conversation, Message};

pub(crate) use fields::{kind, nearest_optional, token_ids};
pub(crate) use split::packed;
use split::{Record, SplitError};

/// Where a row came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file's name as the user gave it.
    pub file: Arc<str>,
    /// Line that the row starts on, from 1.
    pub line: usize,
    /// Index in the file's JSON array, from 0; `None` in JSONL.
    pub element: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.element {
            Some(element) => write!(f, " (element [{element}])"),
            None => Ok(()),
        }
    }
}

/// What the keys of a file's rows say they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// Pre-tokenised: `input_ids` and `labels`.
    Tokens,
    /// `messages`: a list of `{role, content}`.
    Messages,
    /// `conversations`: a list of `{from, value}`.
    Conversations,
    /// `instruction`, `output` and an optional `input`.
    Instruction,
    /// `prompt` and `completion` as lists of `{role, content}`.
    PromptCompletionTurns,
    /// `prompt` and `completion` as texts.
    PromptCompletion,
    /// `text`.
    Text,
}

impl RowFormat {
    /// Every format, in the order of precedence.
    pub const ALL: [Self; 7] = [
        Self::Tokens,
        Self::Messages,
        Self::Conversations,
        Self::Instruction,
        Self::PromptCompletionTurns,
        Self::PromptCompletion,
        Self::Text,
    ];

    /// Keys that a row of this format must have.
    pub const fn required_keys(self) -> &'static [&'static str] {
        match self {
            Self::Tokens => &["input_ids", "labels"],
            Self::Messages => &["messages"],
            Self::Conversations => &["conversations"],
            Self::Instruction => &["instruction", "output"],
            Self::PromptCompletionTurns | Self::PromptCompletion => &["prompt", "completion"],
            Self::Text => &["text"],
        }
    }

    /// Keys that a row of this format may have.
    pub const fn optional_keys(self) -> &'static [&'static str] {
        match self {
            Self::Tokens => &["attention_mask"],
            Self::Instruction => {
                &["input", "history", "system", "system_prompt", "tools", "documents", "chat_template_kwargs"]
            }
            Self::Messages | Self::Conversations | Self::PromptCompletionTurns => {
                &["system", "system_prompt", "tools", "documents", "chat_template_kwargs"]
            }
            Self::PromptCompletion | Self::Text => &[],
        }
    }

    /// Whether rows of this format go through the model's chat template.
    pub const fn is_chat(self) -> bool {
        matches!(self, Self::Messages | Self::Conversations | Self::Instruction | Self::PromptCompletionTurns)
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens => "input_ids/labels",
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Instruction => "instruction/input/output",
            Self::PromptCompletionTurns => "prompt/completion turns",
            Self::PromptCompletion => "prompt/completion",
            Self::Text => "text",
        })
    }
}

/// A conversation and which of its answers are trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// What the chat template is given.
    pub conversation: Conversation,
    /// Indices of assistant turns that the row keeps out of training.
    pub masked: BTreeSet<usize>,
}

impl Chat {
    /// Indices of the assistant's turns.
    pub fn assistant_turns(&self) -> impl Iterator<Item = usize> {
        let messages = self.conversation.messages.iter().enumerate();
        messages.filter(|(_, message)| message.role() == "assistant").map(|(turn, _)| turn)
    }

    /// Indices of the assistant's turns that are trained.
    pub fn trained_turns(&self) -> impl Iterator<Item = usize> {
        self.assistant_turns().filter(|turn| !self.masked.contains(turn))
    }
}

impl From<Vec<Message>> for Chat {
    fn from(messages: Vec<Message>) -> Self {
        Self { conversation: messages.into(), masked: BTreeSet::new() }
    }
}

/// What one row holds.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum RowContent {
    /// A chat, whichever of the chat formats it was written in.
    Chat(Chat),
    /// Raw text with a masked prompt.
    PromptCompletion { prompt: String, completion: String },
    /// Raw text, all of it trained on.
    Text(String),
    /// Tokens with their labels, aligned as Hugging Face aligns them: `labels[t]` belongs to
    /// `input_ids[t]`.
    Tokens { input_ids: Vec<u32>, labels: Vec<i32> },
}

/// The label of a token that is not trained on.
pub const MASKED: i32 = -100;

/// One row of a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it holds.
    pub content: RowContent,
    /// Where it was.
    pub origin: Origin,
}

/// A data file, read.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The file's name as the user gave it.
    pub file: Arc<str>,
    /// The one format of all rows.
    pub format: RowFormat,
    /// The rows, in file order.
    pub rows: Vec<Row>,
    /// Rows left out because the caller asked to skip bad ones.
    pub skipped: Vec<RowError>,
    /// Keys of rows that were read past, in the order in which they first appear.
    pub ignored: KeyList,
}

/// Names of keys, each once, in the order in which they first appear. A file may have as many as it
/// likes, so only the first of them are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(transparent)]
pub struct KeyList(Vec<String>);

impl KeyList {
    const MOST: usize = 20;
    const MORE: &str = "…";

    /// Adds a key, unless it is there.
    pub(crate) fn add(&mut self, key: &str) {
        let key = fields::excerpt(key).escape_debug().to_string();
        if self.0.len() <= Self::MOST && !self.0.contains(&key) {
            self.0.push(if self.0.len() < Self::MOST { key } else { Self::MORE.into() });
        }
    }

    /// The names; the last is an ellipsis where there are more.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct RowError {
    /// Where the row is.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: Box<RowProblem>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum RowProblem {
    /// A byte that no UTF-8 text holds.
    #[error("byte {byte:#04x} at column {column} is not UTF-8: save the file as UTF-8")]
    NotUtf8 { byte: u8, column: usize },
    /// The line or element is no JSON.
    #[error("not valid JSON at column {column}: {reason}")]
    Json { column: usize, reason: String },
    /// The text stops before the JSON value is complete.
    #[error("the JSON stops in the middle: is the file truncated, or one object spread over several lines?")]
    Truncated,
    /// JSON, but not an object.
    #[error("expected an object such as {{\"prompt\": …, \"completion\": …}}, found {found}")]
    NotObject { found: &'static str },
    /// The keys belong to no format.
    #[error("found {found}; expected {EXPECTED_KEYS}{hint}")]
    Keys { found: String, hint: String },
    /// A required key of the file's format is missing here.
    #[error("found {found}; a row with \"{present}\" also needs \"{missing}\"{hint}")]
    MissingKey { found: String, present: &'static str, missing: &'static str, hint: String },
    /// A key that is surely a misspelling of an optional one.
    #[error("unknown key \"{found}\": did you mean \"{expected}\"?")]
    Misspelt { found: String, expected: &'static str },
    /// A key that means something that is not done here.
    #[error("{path} {why}")]
    Refused { path: String, why: &'static str },
    /// A value of the wrong type.
    #[error("{path} is {found}, expected {expected}")]
    Type { path: String, found: String, expected: &'static str },
    /// A text or list that must hold something.
    #[error("{path} is empty")]
    Empty { path: String },
    /// A role that no chat template knows.
    #[error("{path} is \"{found}\", expected one of {expected}{hint}")]
    Role { path: String, found: String, expected: String, hint: String },
    /// `labels` and `input_ids` must align.
    #[error("labels has {labels} entries, input_ids has {input_ids}: they must have the same length")]
    LabelsLength { labels: usize, input_ids: usize },
    /// Something that only shows once the row meets the tokenizer or the chat template.
    #[error("{0}")]
    Sample(String),
}

const EXPECTED_KEYS: &str = "\"messages\", or \"conversations\", or \"instruction\" + \"output\", or \"prompt\" + \
                             \"completion\", or \"text\", or \"input_ids\" + \"labels\"";

/// A data file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("cannot read data file {file}: {source}")]
    Read { file: String, source: std::io::Error },
    /// Nothing in it.
    #[error("data file {file} is empty: expected JSON rows, one object a line or one array")]
    Empty { file: String },
    /// UTF-16 by its byte-order mark.
    #[error("data file {file} is UTF-16: save it as UTF-8")]
    Utf16 { file: String },
    /// Something else than JSON.
    #[error("data file {file} is {found}, not JSON rows: {advice}")]
    NotRows { file: String, found: &'static str, advice: &'static str },
    /// The array's end is missing or not the end.
    #[error("{file}:{line}: {problem}")]
    Array { file: String, line: usize, problem: String },
    /// A bad row, where bad rows are not skipped.
    #[error("{0} (--skip-bad-rows leaves such rows out)")]
    Row(RowError),
    /// Two formats in one file.
    #[error(
        "{origin}: a row of format {found} in a file whose first row ({first}) is of format {format}: use one format a file"
    )]
    Mixed { origin: Origin, found: RowFormat, first: Origin, format: RowFormat },
    /// Every row was bad and skipped.
    #[error("data file {file} has no usable row: all {count} were skipped, the first because {first}")]
    AllSkipped { file: String, count: usize, first: RowError },
}

/// Reads a data file's bytes.
///
/// `file` is only a name for messages. With `skip_bad_rows`, rows that cannot be read are listed in
/// [`Rows::skipped`] instead of failing; a damaged array end or a second format is an error all the
/// same, because what follows cannot be trusted.
pub fn parse_rows(file: &str, bytes: &[u8], skip_bad_rows: bool) -> Result<Rows, DataError> {
    if split::is_utf16(bytes) {
        return Err(DataError::Utf16 { file: file.into() });
    }
    if let Some((found, advice)) = split::other_than_rows(file, bytes) {
        return Err(DataError::NotRows { file: file.into(), found, advice });
    }
    let name: Arc<str> = file.into();
    let mut first: Option<(RowFormat, Origin)> = None;
    let (mut rows, mut skipped, mut ignored) = (Vec::new(), Vec::new(), KeyList::default());
    for record in split::records(bytes) {
        let record = record.map_err(|e| array_error(file, &e))?;
        let origin = Origin { file: name.clone(), line: record.line, element: record.element };
        match parse_record(&record, &mut ignored) {
            Ok((format, content)) => {
                let (expected, at) = first.get_or_insert_with(|| (format, origin.clone()));
                if *expected != format {
                    return Err(DataError::Mixed { origin, found: format, first: at.clone(), format: *expected });
                }
                rows.push(Row { content, origin });
            }
            Err(problem) => {
                let error = RowError { origin, problem: Box::new(problem) };
                if !skip_bad_rows {
                    return Err(DataError::Row(error));
                }
                skipped.push(error);
            }
        }
    }
    match (first, skipped.first()) {
        (Some((format, _)), _) => Ok(Rows { file: name, format, rows, skipped, ignored }),
        (None, Some(error)) => {
            Err(DataError::AllSkipped { file: file.into(), count: skipped.len(), first: error.clone() })
        }
        (None, None) => Err(DataError::Empty { file: file.into() }),
    }
}

/// Reads a data file. See [`parse_rows`].
#[cfg(not(target_arch = "wasm32"))]
pub fn read_rows(path: &std::path::Path, skip_bad_rows: bool) -> Result<Rows, DataError> {
    read_rows_and_sha256(path, skip_bad_rows).map(|(rows, _)| rows)
}

/// Reads a data file once, which a pipe allows: its rows, and the SHA-256 of the bytes they were
/// read from.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn read_rows_and_sha256(path: &std::path::Path, skip_bad_rows: bool) -> Result<(Rows, String), DataError> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { file: file.clone(), source })?;
    Ok((parse_rows(&file, &bytes, skip_bad_rows)?, bft_formats::sha256_bytes(&bytes)))
}

fn array_error(file: &str, error: &SplitError) -> DataError {
    let (line, problem) = match error {
        SplitError::Truncated { line, element } => {
            (*line, format!("the file ends inside element [{element}], which starts here: is it truncated?"))
        }
        SplitError::Unclosed { line } => (*line, "the file ends before the array's `]`: is it truncated?".into()),
        SplitError::Trailing { line } => {
            (*line, "text after the array's `]`: expected one JSON array, or one object a line".into())
        }
    };
    DataError::Array { file: file.into(), line, problem }
}

fn parse_record(record: &Record<'_>, ignored: &mut KeyList) -> Result<(RowFormat, RowContent), RowProblem> {
    let row = parse_object(record.bytes)?;
    let (format, content) = fields::content(&row)?;
    for key in fields::ignored(&row, format) {
        ignored.add(key);
    }
    Ok((format, content))
}

/// Parses one JSON object.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, RowProblem> {
    let text = utf8(bytes)?;
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(object)) => Ok(object),
        Ok(other) => Err(RowProblem::NotObject { found: kind(&other) }),
        Err(e) if e.is_eof() && !text.is_empty() => Err(RowProblem::Truncated),
        Err(e) => {
            let words = e.to_string();
            let reason = words.split(" at line ").next().unwrap_or(&words).to_owned();
            Err(RowProblem::Json { column: e.column(), reason })
        }
    }
}

/// Checks that bytes are UTF-8, naming the first that is not.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, RowProblem> {
    std::str::from_utf8(bytes)
        .map_err(|e| RowProblem::NotUtf8 { byte: bytes[e.valid_up_to()], column: e.valid_up_to() + 1 })
}

#[cfg(test)]
#[path = "rows/tests.rs"]
mod tests;
