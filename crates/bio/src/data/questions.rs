//! Questions with given answers, as published: MedQA, MedMCQA, PubMedQA, and rows of question,
//! options and answer.
//!
//! | layout | keys of a row |
//! |---|---|
//! | [`Layout::Options`] | `question`, `options` or `choices` (an object by letters, a list, a list of `key` and `value`), `answer_idx` or `answer` |
//! | [`Layout::Letters`] | `question`, `A`, `B` and so on, `answer` |
//! | [`Layout::MedMcqa`] | `question`, `opa` to `opd`, `cop` |
//! | [`Layout::PubMedQa`] | `question`, `context` with `contexts`, `final_decision` |
//! | [`Layout::PubMedQaOriginal`] | `QUESTION`, `CONTEXTS`, `final_decision` |
//!
//! An answer is a letter, the text of an option, or a number counted from 0 or from 1. Which of
//! these a file means is told by all its rows together; where two would do and mean different
//! options, the file is refused.

use std::fmt;
use std::path::Path;

use bft_train::{Columns, KeyList, ObjectRow, Origin, excerpt, parse_objects};
use serde_json::{Map, Value};

use crate::error::{BioError, Result, cannot_read};

/// Most options of a question: one for each letter.
const MOST_OPTIONS: usize = 26;

/// How a file lays out its questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All options under one key.
    Options,
    /// A key for each option, named by its letter.
    Letters,
    /// `opa` to `opd`.
    MedMcqa,
    /// As the hub's files have it.
    PubMedQa,
    /// As its authors' files have it.
    PubMedQaOriginal,
}

/// Keys of letters.
const LETTERS: [&str; MOST_OPTIONS] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W",
    "X", "Y", "Z",
];
const ANSWERS: &[&str] = &["answer_idx", "answer"];
const SUBJECTS: [&str; 3] = ["subject", "subject_name", "meta_info"];
const NAMES: [&str; 3] = ["id", "pubid", "PMID"];
const DECISIONS: [&str; 3] = ["yes", "no", "maybe"];

impl Layout {
    const ALL: [Self; 5] = [Self::Options, Self::Letters, Self::MedMcqa, Self::PubMedQa, Self::PubMedQaOriginal];

    /// Keys of which one must be there for a row to be of this layout.
    fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Options => &["options", "choices"],
            Self::Letters => &LETTERS,
            Self::MedMcqa => &["opa", "opb", "opc", "opd"],
            // The same decision stands in both.
            Self::PubMedQa => &["final_decision"],
            Self::PubMedQaOriginal => &["QUESTION", "CONTEXTS"],
        }
    }

    fn question(self) -> &'static str {
        if self == Self::PubMedQaOriginal { "QUESTION" } else { "question" }
    }

    fn answers(self) -> &'static [&'static str] {
        match self {
            Self::Options | Self::Letters => ANSWERS,
            Self::MedMcqa => &["cop"],
            Self::PubMedQa | Self::PubMedQaOriginal => &["final_decision"],
        }
    }

    fn context(self) -> &'static str {
        if self == Self::PubMedQaOriginal { "CONTEXTS" } else { "context" }
    }

    /// All keys that are read.
    fn reads(self, key: &str) -> bool {
        let shared = [self.question(), self.context()];
        shared.contains(&key)
            || SUBJECTS.contains(&key)
            || NAMES.contains(&key)
            || self.marks().contains(&key)
            || self.answers().contains(&key)
    }

    /// What comes before a context in a prompt.
    pub fn context_label(self) -> &'static str {
        match self {
            Self::PubMedQa | Self::PubMedQaOriginal => "Abstract",
            _ => "Context",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Options => "question, options and answer",
            Self::Letters => "question, A, B, … and answer",
            Self::MedMcqa => "MedMCQA",
            Self::PubMedQa => "PubMedQA",
            Self::PubMedQaOriginal => "PubMedQA, as its authors have it",
        })
    }
}

/// Keys that `--columns` may name a column for.
pub fn column_keys() -> Vec<&'static str> {
    let own = ["question", "options", "answer", "context", "subject", "id"];
    own.into_iter().chain(LETTERS).collect()
}

/// How an answer names its option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// By its letter.
    Letter,
    /// By its text.
    Text,
    /// By its number, the first being 0.
    FromZero,
    /// By its number, the first being 1.
    FromOne,
}

impl Reading {
    /// Every reading.
    pub const ALL: [Self; 4] = [Self::Letter, Self::Text, Self::FromZero, Self::FromOne];

    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Letter => "letter",
            Self::Text => "text",
            Self::FromZero => "from-0",
            Self::FromOne => "from-1",
        }
    }

    /// The option that an answer names, read so.
    fn option(self, answer: &Value, options: &[String]) -> Option<usize> {
        let text = match answer {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let number = || text.parse::<usize>().ok();
        let found = match self {
            Self::Letter => {
                let letter = text.strip_suffix(['.', ')']).unwrap_or(&text).to_ascii_uppercase();
                LETTERS.iter().position(|it| *it == letter)?
            }
            Self::Text => options.iter().position(|option| option.trim() == text)?,
            Self::FromZero => number()?,
            Self::FromOne => number()?.checked_sub(1)?,
        };
        (found < options.len()).then_some(found)
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What its row calls itself.
    pub id: Option<String>,
    /// Where it was.
    pub origin: Origin,
    /// What it is about, where the row says so.
    pub subject: Option<String>,
    /// What is to be read before it.
    pub context: Option<String>,
    /// What is asked.
    pub question: String,
    /// The answers that are offered, 2 to 26.
    pub options: Vec<String>,
    /// The right one.
    pub answer: usize,
}

/// The questions of one file.
#[derive(Debug, Clone)]
pub struct Questions {
    /// The file's name as the user gave it.
    pub file: String,
    /// How it lays them out.
    pub layout: Layout,
    /// How its answers name options.
    pub reading: Reading,
    /// The questions, in the file's order.
    pub questions: Vec<Question>,
    /// Rows that cannot be used, left out on request, with what is wrong.
    pub skipped: Vec<String>,
    /// Keys that were read past.
    pub ignored: KeyList,
}

/// How a file is read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Columns that stand for keys.
    pub columns: Columns,
    /// How answers name options; told by the file where it is not said.
    pub reading: Option<Reading>,
    /// Leave out rows that cannot be used.
    pub skip_bad_rows: bool,
}

/// A question whose answer is still to be read.
struct Asked {
    question: Question,
    answer: Value,
    /// The answer's text, in files that say both.
    spelt: Option<String>,
}

impl Questions {
    /// Reads a file: JSON lines, a JSON array, one JSON object of rows, CSV, TSV or Parquet, as they
    /// are or packed with gzip or zstd.
    ///
    /// # Errors
    /// Names the row and what is wrong with it, or the two ways in which the file could be read.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| cannot_read(path, &error))?;
        Self::parse(&path.display().to_string(), &bytes, options)
    }

    /// As [`Self::read`], of a file's bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(file: &str, bytes: &[u8], options: &ReadOptions) -> Result<Self> {
        let rows = parse_objects(file, bytes, &options.columns).map_err(BioError::data)?;
        let layout = layout_of(&rows[0], &options.columns)?;
        // A column that the user names for the answer is the answer, whatever else a row holds.
        let named = options.columns.keys().any(|key| key == "answer");
        if named && !layout.answers().contains(&"answer") {
            return Err(BioError::data(format!(
                "{file} is laid out as {layout}, whose answers stand in \"{}\", and --columns names a column for \"answer\": \
                 leave that out, or name columns for \"options\" (or \"A\", \"B\" and so on) too",
                layout.answers()[0]
            )));
        }
        let (mut asked, mut skipped, mut ignored) = (Vec::new(), Vec::new(), KeyList::default());
        for mut row in rows {
            if named {
                row.row.shift_remove("answer_idx");
            }
            row.row.keys().filter(|key| !layout.reads(key)).for_each(|key| ignored.add(key));
            let found = layout_of(&row, &options.columns)?;
            if found != layout {
                let at = &row.origin;
                return Err(BioError::data(format!(
                    "{at}: a row laid out as {found}, where the first is laid out as {layout}: give them as two files"
                )));
            }
            match read_row(row, layout) {
                Ok(question) => asked.push(question),
                Err(problem) if options.skip_bad_rows => skipped.push(problem),
                Err(problem) => return Err(bad_row(&problem)),
            }
        }
        let reading = match options.reading {
            Some(reading) => reading,
            None => reading_of(file, &asked)?,
        };
        let mut questions = Vec::new();
        for it in asked {
            match answered(it, reading) {
                Ok(question) => questions.push(question),
                Err(problem) if options.skip_bad_rows => skipped.push(problem),
                Err(problem) => return Err(bad_row(&problem)),
            }
        }
        if questions.is_empty() {
            let first = skipped.first().map_or("", String::as_str);
            return Err(BioError::data(format!(
                "{file} has no usable question: all {} rows were skipped, the first because {first}",
                skipped.len()
            )));
        }
        Ok(Self { file: file.to_owned(), layout, reading, questions, skipped, ignored })
    }
}

fn bad_row(problem: &str) -> BioError {
    BioError::data(format!("{problem} (--skip-bad-rows leaves such rows out)"))
}

/// The one layout that a row's keys say. One with a key that a column stands for goes before others.
fn layout_of(row: &ObjectRow, columns: &Columns) -> Result<Layout> {
    let mark = |layout: &Layout| layout.marks().iter().find(|key| row.row.contains_key(**key)).copied();
    let mut found: Vec<Layout> = Layout::ALL.into_iter().filter(|layout| mark(layout).is_some()).collect();
    // Its authors' rows and the hub's have the decision's key in common.
    if found.contains(&Layout::PubMedQaOriginal) {
        found.retain(|layout| *layout != Layout::PubMedQa);
    }
    let named = |layout: &Layout| columns.keys().any(|key| layout.marks().contains(&key));
    if found.iter().any(named) {
        found.retain(named);
    }
    let at = &row.origin;
    match *found {
        [layout] => Ok(layout),
        [] => {
            let keys: Vec<String> = row.row.keys().take(8).map(|key| format!("\"{}\"", excerpt(key))).collect();
            Err(BioError::data(format!(
                "{at}: found the keys {}; expected \"question\" with \"options\" (or \"choices\", or \"A\", \"B\" and so on) \
                 and \"answer\", or those of MedMCQA (opa to opd, cop) or PubMedQA (final_decision); --columns \
                 question=stem,A=first names others",
                keys.join(", ")
            )))
        }
        [first, second, ..] => {
            let [one, other] = [first, second].map(|layout| mark(&layout).unwrap_or_default());
            Err(BioError::data(format!(
                "{at}: could be read in two ways: as {first} by \"{one}\", and as {second} by \"{other}\"; leave one of \
                 them out, or say which is meant with --columns, such as --columns options={one}"
            )))
        }
    }
}

/// A row's question; says what is wrong with it, and where.
fn read_row(row: ObjectRow, layout: Layout) -> std::result::Result<Asked, String> {
    let ObjectRow { name, row, origin } = row;
    let fail = |problem: String| match &name {
        Some(name) => format!("{origin}: \"{}\": {problem}", excerpt(name)),
        None => format!("{origin}: {problem}"),
    };
    let question = filled(&row, layout.question()).map_err(&fail)?;
    let options = options(&row, layout).map_err(&fail)?;
    check(&options).map_err(&fail)?;
    let Some(answer) = layout.answers().iter().find_map(|key| row.get(*key)) else {
        let expected: Vec<String> = layout.answers().iter().map(|key| format!("\"{key}\"")).collect();
        return Err(fail(format!("has no {}, which says the right option", expected.join(" or "))));
    };
    let spelt = row.contains_key("answer_idx").then(|| row.get("answer")).flatten();
    let context = context(&row, layout).map_err(&fail)?;
    let word = |keys: &[&str]| keys.iter().find_map(|key| text_of(row.get(*key)?));
    let id = name.clone().or_else(|| word(&NAMES));
    let subject = word(&SUBJECTS);
    let question = Question { id, origin: origin.clone(), subject, context, question, options, answer: 0 };
    Ok(Asked { question, answer: answer.clone(), spelt: spelt.and_then(Value::as_str).map(str::to_owned) })
}

/// A text, or a number in its digits.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A text that must be there and say something.
fn filled(row: &Map<String, Value>, key: &str) -> std::result::Result<String, String> {
    match row.get(key) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("{key} is empty, expected a text")),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("{key} is {}, expected a text", kind(other))),
        None => Err(format!("has no \"{key}\", or it is empty")),
    }
}

/// What the question is about, to be read before it.
fn context(row: &Map<String, Value>, layout: Layout) -> std::result::Result<Option<String>, String> {
    let key = layout.context();
    let parts = |value: &Value| -> Option<String> {
        let parts = value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
        (!parts.is_empty()).then(|| parts.join("\n"))
    };
    let is_abstract = matches!(layout, Layout::PubMedQa | Layout::PubMedQaOriginal);
    match row.get(key) {
        None | Some(Value::Null) if is_abstract => Err(format!("has no \"{key}\", which holds the abstract")),
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
        Some(Value::String(_)) if !is_abstract => Ok(None),
        Some(value) => parts(value).or_else(|| parts(value.get("contexts")?)).map(Some).ok_or_else(|| {
            format!(
                "{key} is {}, expected a text, a list of texts, or an object with them under \"contexts\"",
                kind(value)
            )
        }),
    }
}

/// The options of a row, in the order of their letters.
fn options(row: &Map<String, Value>, layout: Layout) -> std::result::Result<Vec<String>, String> {
    match layout {
        Layout::PubMedQa | Layout::PubMedQaOriginal => Ok(DECISIONS.map(str::to_owned).to_vec()),
        Layout::MedMcqa => layout.marks().iter().map(|key| filled(row, key)).collect(),
        Layout::Letters => by_letter(row.iter().filter(|(key, _)| LETTERS.contains(&key.as_str()))),
        Layout::Options => {
            let mut there = layout.marks().iter().filter(|key| row.contains_key(**key));
            let key = there.next().copied().unwrap_or_default();
            if let Some(other) = there.next() {
                return Err(format!("has both \"{key}\" and \"{other}\": leave one of them out"));
            }
            under_one_key(key, &row[key])
        }
    }
}

fn under_one_key(key: &str, value: &Value) -> std::result::Result<Vec<String>, String> {
    match value {
        Value::Object(options) => by_letter(options.iter().filter(|(_, option)| !option.is_null())),
        Value::Array(options) if options.iter().any(Value::is_object) => {
            let pair = |option: &Value| Some((option.get("key")?.as_str()?.to_owned(), option.get("value")?.clone()));
            let pairs: Option<Map<String, Value>> = options.iter().map(pair).collect();
            match pairs.filter(|pairs| pairs.len() == options.len()) {
                Some(pairs) => by_letter(pairs.iter()),
                None => Err(format!(
                    "{key} is a list of objects, expected each to have a \"key\" of its own and a \"value\""
                )),
            }
        }
        Value::Array(options) => {
            let text = |(i, option): (usize, &Value)| match option {
                Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
                Value::String(_) => Err(format!("{key}[{i}] is empty, expected a text")),
                other => Err(format!("{key}[{i}] is {}, expected a text", kind(other))),
            };
            options.iter().enumerate().map(text).collect()
        }
        // As tables that know texts alone keep lists.
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => under_one_key(key, &value),
            _ => Err(format!(
                "{key} is a text, expected a list or an object in JSON, such as [\"one\", \"other\"]; --columns A=…,B=… \
                 names a column for each option"
            )),
        },
        other => Err(format!("{key} is {}, expected a list of texts or an object by letters", kind(other))),
    }
}

/// Options under their letters, which must follow one another from A.
fn by_letter<'r>(options: impl Iterator<Item = (&'r String, &'r Value)>) -> std::result::Result<Vec<String>, String> {
    let mut found: Vec<(String, &Value)> =
        options.map(|(key, option)| (key.trim().to_ascii_uppercase(), option)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let text = |(i, (key, option)): (usize, (String, &Value))| match option {
        _ if LETTERS.get(i) != Some(&key.as_str()) => {
            let expected = LETTERS.get(i).unwrap_or(&"no more than 26 options");
            Err(format!("has the option \"{}\", expected {expected}: letters follow one another from A", excerpt(&key)))
        }
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::String(_) => Err(format!("option {key} is empty, expected a text")),
        other => Err(format!("option {key} is {}, expected a text", kind(other))),
    };
    found.into_iter().enumerate().map(text).collect()
}

fn check(options: &[String]) -> std::result::Result<(), String> {
    if !(2..=MOST_OPTIONS).contains(&options.len()) {
        let found = options.len();
        return Err(format!("has {found} option{}, expected 2 to {MOST_OPTIONS}", if found == 1 { "" } else { "s" }));
    }
    for (i, option) in options.iter().enumerate() {
        if let Some(before) = options[..i].iter().position(|it| it.trim() == option.trim()) {
            let [one, other] = [before, i].map(letter);
            let text = excerpt(option);
            return Err(format!("options {one} and {other} are both \"{text}\": which is right cannot be told"));
        }
    }
    Ok(())
}

/// The letter of an option.
pub fn letter(option: usize) -> &'static str {
    LETTERS.get(option).copied().unwrap_or("?")
}

/// The reading that holds for the most rows; an error where two do and mean different options.
fn reading_of(file: &str, asked: &[Asked]) -> Result<Reading> {
    let read = |reading: Reading, it: &Asked| reading.option(&it.answer, &it.question.options);
    let fits = |reading: Reading| asked.iter().filter(|it| read(reading, it).is_some()).count();
    let most = Reading::ALL.map(fits).into_iter().max().unwrap_or(0);
    let best: Vec<Reading> = Reading::ALL.into_iter().filter(|reading| fits(*reading) == most).collect();
    for it in asked {
        for (i, one) in best.iter().enumerate() {
            for other in &best[..i] {
                if let (Some(a), Some(b)) = (read(*other, it), read(*one, it))
                    && a != b
                {
                    let (found, [a, b]) = (shown(&it.answer), [a, b].map(letter));
                    let [other, one] = [other, one].map(|reading| reading.word());
                    return Err(BioError::data(format!(
                        "the answers of {file} could be read in two ways: {}: {found} is option {a} as {other} and option \
                         {b} as {one}; say which with --answers {other} or --answers {one}",
                        it.question.origin
                    )));
                }
            }
        }
    }
    Ok(best[0])
}

/// A question with its answer.
fn answered(asked: Asked, reading: Reading) -> std::result::Result<Question, String> {
    let Asked { mut question, answer, spelt } = asked;
    let Some(option) = reading.option(&answer, &question.options) else {
        let last = question.options.len() - 1;
        let expected = match reading {
            Reading::Letter => format!("a letter from A to {}", letter(last)),
            Reading::Text => "the text of one of its options".to_owned(),
            Reading::FromZero => format!("a number from 0 to {last}"),
            Reading::FromOne => format!("a number from 1 to {}", last + 1),
        };
        return Err(format!("{}: the answer is {}, expected {expected}", question.origin, shown(&answer)));
    };
    if let Some(spelt) = spelt
        && let Some(other) = (question.options.iter().position(|it| it.trim() == spelt.trim()))
            .or_else(|| Reading::Letter.option(&Value::String(spelt), &question.options))
        && other != option
    {
        return Err(format!(
            "{}: answer_idx is {}, which is option {}, and answer says option {}: correct one of them",
            question.origin,
            shown(&answer),
            letter(option),
            letter(other)
        ));
    }
    question.answer = option;
    Ok(question)
}

/// A value for messages.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "questions/tests.rs"]
mod tests;
