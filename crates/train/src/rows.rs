//! Data rows: JSON lines, a JSON array, CSV, TSV or Parquet, packed or not, in one of seven formats
//! that a row's keys tell.
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
//! published chat sets carry a flattened copy in `text` or `prompt`); a format of which [`Columns`]
//! name a key goes first. All rows have one format.
//!
//! Rows of turns may also have `system`, `tools`, `documents` and `chat_template_kwargs`, and their
//! turns may have any key: the chat template is given them all, except for those that say whether a
//! turn is trained (`weight`, `train`, `loss` and their like), which are obeyed. A key that other
//! trainers act on and this one does not is refused by name; what nobody acts on is listed in
//! [`Rows::ignored`].

mod choose;
mod columns;
mod fields;
mod objects;
mod parquet;
mod prompts;
mod read;
mod split;
mod table;
mod turns;
mod unpack;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bft_formats::{Conversation, Message};

pub use fields::excerpt;
pub(crate) use fields::{found_keys, kind, nearest_optional, token_ids};
pub use objects::{ObjectRow, RowsError, parse_objects};
pub use prompts::{Prompt, PromptRow, parse_prompts};
pub(crate) use read::Records;
pub(crate) use split::{Content, content as content_of, packed};
pub(crate) use table::read_cells;
pub(crate) use unpack::{reader as unpacked, unpacked_name};

pub use choose::Cap;
pub use columns::Columns;
pub(crate) use columns::{check_pair, check_pairs};
#[cfg(not(target_arch = "wasm32"))]
pub use read::read_rows;
pub(crate) use read::sha256_of;
pub use read::{RowOptions, parse_rows};

/// Where a row came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file's name as the user gave it.
    pub file: Arc<str>,
    /// Where in it.
    pub place: Place,
}

/// Where in a file a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Line that it starts on, from 1.
    Line(usize),
    /// An element of a JSON array: the line that it starts on, from 1, and its index, from 0.
    #[expect(missing_docs, reason = "the sentence above says what they are")]
    Element { line: usize, index: usize },
    /// Row of a table that has no lines, from 1.
    Row(usize),
}

impl Origin {
    /// A line of a file, from 1.
    pub fn line(file: &Arc<str>, line: usize) -> Self {
        Self { file: file.clone(), place: Place::Line(line) }
    }

    /// The line or row, from 1.
    pub fn number(&self) -> usize {
        match self.place {
            Place::Line(number) | Place::Element { line: number, .. } | Place::Row(number) => number,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "{}:{line}", self.file),
            Place::Element { line, index } => write!(f, "{}:{line} (element [{index}])", self.file),
            Place::Row(row) => write!(f, "{} (row {row})", self.file),
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

/// Data files, read.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The file's name as the user gave it; of several, the first one's and how many more.
    pub file: Arc<str>,
    /// The files.
    pub files: Vec<DataFile>,
    /// The one format of all rows.
    pub format: RowFormat,
    /// The rows, in the order of the files.
    pub rows: Vec<Row>,
    /// Rows that were read and not drawn where [`RowOptions::cap`] says how many are kept.
    pub left_out: usize,
    /// Rows left out because the caller asked to skip bad ones.
    pub skipped: Vec<RowError>,
    /// Keys of rows that were read past, in the order in which they first appear.
    pub ignored: KeyList,
}

/// One of the files that rows were read from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DataFile {
    /// Its name as the user gave it.
    pub file: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Rows in it, bad ones included.
    pub rows: usize,
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
    pub fn add(&mut self, key: &str) {
        let key = fields::excerpt(key).escape_debug().to_string();
        if self.0.len() <= Self::MOST && !self.0.contains(&key) {
            self.0.push(if self.0.len() < Self::MOST { key } else { Self::MORE.into() });
        }
    }

    /// Adds those of another list.
    #[cfg(not(target_arch = "wasm32"))] // A tab hands over its files as one.
    fn merge(&mut self, other: Self) {
        let new = other.0.into_iter().filter(|key| !self.0.contains(key)).collect::<Vec<_>>();
        self.0.extend(new);
        if self.0.len() > Self::MOST {
            self.0.retain(|key| key != Self::MORE);
            self.0.truncate(Self::MOST);
            self.0.push(Self::MORE.into());
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
    #[error("found {found}; expected {EXPECTED_KEYS}{hint}; --columns prompt=question,completion=answer names others")]
    Keys { found: String, hint: String },
    /// A required key of the file's format is missing here.
    #[error("found {found}; a row with \"{present}\" also needs \"{missing}\"{hint}")]
    MissingKey { found: String, present: &'static str, missing: &'static str, hint: String },
    /// A column that stands for a key is not there.
    #[error("there is no \"{column}\", which --columns {pair} asks for{hint} (found {found})")]
    NoColumn { column: String, pair: String, hint: String, found: String },
    /// A record with more or fewer cells than there are columns.
    #[error(
        "found {cells} cells, expected {columns} as the header has: put a cell that holds the delimiter or a line break in \
         quotes"
    )]
    Ragged { cells: usize, columns: usize },
    /// A cell that a row of a table cannot do without.
    #[error("the cell under \"{column}\" is empty, and every row needs one")]
    EmptyCell { column: String },
    /// Text behind the quote that ends a cell.
    #[error("text follows a closing quote at byte {column}: double the quotes inside a quoted cell")]
    Quote { column: usize },
    /// A cell that holds no whole JSON.
    #[error("{path} begins as JSON does but is none: {problem}{hint}")]
    Cell { path: String, problem: String, hint: &'static str },
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
    #[error("data file {file} is empty: expected rows")]
    Empty { file: String },
    /// UTF-16 by its byte-order mark.
    #[error("data file {file} is UTF-16: save it as UTF-8")]
    Utf16 { file: String },
    /// Something else than rows.
    #[error("data file {file} is {found}, not rows: {advice}")]
    NotRows { file: String, found: &'static str, advice: &'static str },
    /// The array's end is missing or not the end.
    #[error("{file}:{line}: {problem}")]
    Array { file: String, line: usize, problem: String },
    /// A compressed file that cannot be unpacked.
    #[error("data file {file}: {problem}")]
    Unpack { file: String, problem: String },
    /// A table that cannot be read further.
    #[error("{file}:{line}: {problem}")]
    Table { file: String, line: usize, problem: String },
    /// A Parquet file, or a column of it, that cannot be read.
    #[error("data file {file} is Parquet, but {problem}")]
    Parquet { file: String, problem: String },
    /// Columns that are missing, or that make no format.
    #[error("{at}: {problem}")]
    Columns { at: String, problem: Box<RowProblem> },
    /// Nothing on one side of a split.
    #[error(
        "val-size {size} holds out {held} of the {count} rows of {file}, and both sides need some (equal rows stay on one \
         side): give another share, or how many rows"
    )]
    OneSided { file: String, size: f64, held: usize, count: usize },
    /// A bad row, where bad rows are not skipped.
    #[error("{0} (--skip-bad-rows leaves such rows out)")]
    Row(RowError),
    /// Two formats.
    #[error(
        "{origin}: a row of format {found}, where the first row ({first}) is of format {format}: rows of one run have one \
         format"
    )]
    Mixed { origin: Origin, found: RowFormat, first: Origin, format: RowFormat },
    /// Every row was bad and skipped.
    #[error("data file {file} has no usable row: all {count} were skipped, the first because {first}")]
    AllSkipped { file: String, count: usize, first: RowError },
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
