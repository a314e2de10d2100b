//! One JSON object to what the row holds.

use bft_formats::{Conversation, Message};
use serde_json::{Map, Value};

use super::columns::Columns;
use super::turns::{Speech, Turns};
use super::{Chat, MASKED, RowContent, RowFormat, RowProblem};

/// Keys of a row that other trainers act on and that nothing is done with here, with what they mean
/// and what to do.
type Refused = (&'static [&'static str], &'static str);
/// Such keys of what a model is asked.
static REFUSED_IN_PROMPTS: [Refused; 3] = [
    (MEDIA, NO_MEDIA),
    (
        &["functions", "function_call"],
        "is the older form of \"tools\" and \"tool_calls\": write {\"type\": \"function\", \"function\": …} in their lists",
    ),
    (
        &["parallel_tool_calls"],
        "means nothing to a chat template unless it is in \"chat_template_kwargs\": move it there, or remove it",
    ),
];
/// Such keys of what is trained.
static REFUSED_IN_ANSWERS: [Refused; 2] = [
    (
        &["chosen", "rejected", "rejected_response", "rejected_messages"],
        "belongs to a preference pair (DPO and its like), which bft does not train: keep the good answer alone, as a turn of \
         \"messages\" or as \"completion\", and remove the key",
    ),
    (
        &["completion_mask", "assistant_masks", "seq_lengths", "position_ids"],
        "is not read: say in \"labels\" what is trained (-100 where nothing is), one text a row, and remove the key",
    ),
];
/// Names of pictures, films and sounds.
pub(super) const MEDIA: &[&str] = &["images", "image", "videos", "video", "audios", "audio"];
pub(super) const NO_MEDIA: &str = "is given, but bft reads text only: remove the key and the rows that need it";
/// Keys whose true or false says whether an answer is a good one.
pub(super) const VERDICTS: [&str; 2] = ["label", "kto_tag"];

/// The row's format and content. A format with keys that a column stands for goes before others.
pub(super) fn content(row: &Map<String, Value>, columns: &Columns) -> Result<(RowFormat, RowContent), RowProblem> {
    refuse(row, refused())?;
    let format = format(row, columns)?;
    if !matches!(format, RowFormat::Tokens | RowFormat::Text) {
        refuse_verdict(row)?;
    }
    let content = match format {
        RowFormat::Tokens => tokens(row)?,
        RowFormat::Messages => {
            RowContent::Chat(chat(row, format, Turns::read(&row["messages"], "messages", Speech::Role)?)?)
        }
        RowFormat::Conversations => {
            RowContent::Chat(chat(row, format, Turns::read(&row["conversations"], "conversations", Speech::From)?)?)
        }
        RowFormat::Instruction => {
            let mut messages = question(row)?;
            messages.push(Message::new("assistant", filled(row, "output")?));
            RowContent::Chat(chat(row, format, messages.into())?)
        }
        RowFormat::PromptCompletionTurns => {
            let prompt = Turns::read(&row["prompt"], "prompt", Speech::Role)?;
            let completion = Turns::read(&row["completion"], "completion", Speech::Role)?;
            RowContent::Chat(chat(row, format, prompt.untrained("prompt")?.followed_by(completion))?)
        }
        RowFormat::PromptCompletion => {
            let no_template = |key: &&&str| row.get(**key).is_some_and(says_something);
            if let Some(key) = RowFormat::Instruction.optional_keys()[1..].iter().find(no_template) {
                let why = "is for rows of turns: a prompt that is a text goes through no chat template; write \"prompt\" and \
                           \"completion\" as lists of turns, or remove the key";
                return Err(RowProblem::Refused { path: (*key).into(), why });
            }
            RowContent::PromptCompletion { prompt: string(row, "prompt")?, completion: filled(row, "completion")? }
        }
        RowFormat::Text => RowContent::Text(filled(row, "text")?),
    };
    Ok((format, content))
}

/// Keys that say something and that a row of this format is read without.
pub(super) fn ignored(row: &Map<String, Value>, format: RowFormat) -> impl Iterator<Item = &str> {
    let read = [format.required_keys(), format.optional_keys()];
    row.iter()
        .filter(move |(key, value)| !read.iter().any(|keys| keys.contains(&key.as_str())) && says_something(value))
        .map(|(key, _)| key.as_str())
}

/// The optional key of a format that `key` is a slip of, if it looks like one.
pub(crate) fn nearest_optional(key: &str, format: RowFormat) -> Option<&'static str> {
    format.optional_keys().iter().find(|expected| !is_known(key) && distance(key, expected) == 1).copied()
}

/// Whether a value is more than a place that was left empty.
pub(super) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(entries) => !entries.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Says what is wrong with the names of a table's columns, which every row has.
pub(super) fn check_names(names: &[String], columns: &Columns) -> Result<(), RowProblem> {
    // What stands under them is not known yet, but that it is something.
    let mut row: Map<String, Value> = names.iter().map(|name| (name.clone(), Value::Bool(true))).collect();
    if let Some(problem) = columns.missing(&row) {
        return Err(problem);
    }
    columns.rename(&mut row, &mut Default::default());
    format(&row, columns).map(|_| ()).map_err(|problem| refuse(&row, refused()).err().unwrap_or(problem))
}

/// The cell that is missing in a row which is of no format, where the names of the table's columns
/// are those of one.
pub(super) fn empty_cell(row: &Map<String, Value>, names: &[String], columns: &Columns) -> Option<RowProblem> {
    let mut promised: Map<String, Value> = names.iter().map(|name| (name.clone(), Value::Bool(true))).collect();
    columns.rename(&mut promised, &mut Default::default());
    let keys = format(&promised, columns).ok()?.required_keys();
    let key = keys.iter().find(|key| !row.contains_key(**key))?;
    Some(RowProblem::EmptyCell { column: columns.column(key).to_owned() })
}

/// Whether rows with this key say what is not done here.
pub(super) fn is_refused(key: &str) -> bool {
    refused().any(|(keys, _)| keys.contains(&key)) || VERDICTS.contains(&key)
}

/// Refuses rows that say what a model is asked in a way that nothing is done with here.
pub(super) fn check_prompt(row: &Map<String, Value>) -> Result<(), RowProblem> {
    refuse(row, REFUSED_IN_PROMPTS.iter())
}

fn refused() -> impl Iterator<Item = &'static Refused> {
    REFUSED_IN_PROMPTS.iter().chain(&REFUSED_IN_ANSWERS)
}

fn refuse(row: &Map<String, Value>, refused: impl Iterator<Item = &'static Refused>) -> Result<(), RowProblem> {
    for (keys, why) in refused {
        if let Some(key) = keys.iter().find(|key| row.get(**key).is_some_and(says_something)) {
            return Err(RowProblem::Refused { path: (*key).into(), why });
        }
    }
    Ok(())
}

/// Refuses rows that say whether their answer is a good one.
fn refuse_verdict(row: &Map<String, Value>) -> Result<(), RowProblem> {
    match VERDICTS.iter().find(|key| row.get(**key).is_some_and(Value::is_boolean)) {
        Some(key) => {
            let why = "says whether an answer is a good one (KTO and its like), which bft does not train: keep the rows whose \
                       answers are good, and remove the key";
            Err(RowProblem::Refused { path: (*key).into(), why })
        }
        None => Ok(()),
    }
}

/// Turns with all else that their row gives the chat template.
pub(super) fn chat(row: &Map<String, Value>, format: RowFormat, mut turns: Turns) -> Result<Chat, RowProblem> {
    for key in ["system", "system_prompt"] {
        if row.get(key).is_some_and(says_something) {
            turns.begin_with_system(string(row, key)?, key)?;
        }
    }
    let mut tools = objects(row, "tools")?;
    if matches!(format, RowFormat::Conversations | RowFormat::Instruction) {
        // LLaMA-Factory, whose rows these are, lists functions without the envelope that templates
        // expect.
        for tool in tools.iter_mut().flatten() {
            if tool.get("name").is_some() && tool.get("function").is_none() {
                *tool = serde_json::json!({ "type": "function", "function": tool.take() });
            }
        }
    }
    let variables = match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(other) => {
            let expected = "an object of template variables";
            return Err(RowProblem::Type { path: "chat_template_kwargs".into(), found: kind(other).into(), expected });
        }
    };
    let Turns { messages, masked, .. } = turns;
    let documents = objects(row, "documents")?;
    Ok(Chat { conversation: Conversation { messages, tools, documents, variables }, masked })
}

/// A list of objects, or the JSON of one in a string, as tables with typed columns keep it; `None`
/// where it is empty.
fn objects(row: &Map<String, Value>, key: &str) -> Result<Option<Vec<Value>>, RowProblem> {
    let expected = "a list of objects, or a string with the JSON of one";
    let wrong = |path: String, found: &str| RowProblem::Type { path, found: found.into(), expected };
    let list = match row.get(key).filter(|value| says_something(value)) {
        None => Value::Null,
        Some(Value::String(text)) if text.trim().is_empty() => Value::Null,
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|_| wrong(key.into(), "a string that is no JSON"))?
        }
        Some(value) => value.clone(),
    };
    match list {
        Value::Null => Ok(None),
        Value::Array(entries) => match entries.iter().position(|entry| !entry.is_object()) {
            Some(i) => Err(wrong(format!("{key}[{i}]"), kind(&entries[i]))),
            None => Ok(Some(entries).filter(|entries| !entries.is_empty())),
        },
        other => Err(wrong(key.into(), kind(&other))),
    }
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
fn format(row: &Map<String, Value>, columns: &Columns) -> Result<RowFormat, RowProblem> {
    let has = |key: &&str| row.contains_key(*key);
    let are_turns = ["prompt", "completion"].iter().any(|key| row.get(*key).is_some_and(Value::is_array));
    let fits = |format: &RowFormat| *format != RowFormat::PromptCompletionTurns || are_turns;
    let mut whole = RowFormat::ALL.into_iter().filter(|f| f.required_keys().iter().all(&has) && fits(f));
    let first = whole.clone().next();
    let named = whole.find(|format| columns.keys().any(|key| format.required_keys().contains(&key)));
    if let Some(format) = named.or(first) {
        // Half of the question would be missing.
        if format == RowFormat::Instruction && !has(&"input") {
            let near = |key: &&String| !is_known(key) && distance(key, "input") == 1;
            if let Some(found) = row.keys().find(near) {
                return Err(RowProblem::Misspelt { found: found.clone(), expected: "input" });
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

/// Whether a format has this key.
pub(super) fn is_known(key: &str) -> bool {
    RowFormat::ALL.iter().any(|f| f.required_keys().contains(&key) || f.optional_keys().contains(&key))
}

pub(super) fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(&a.to_ascii_lowercase(), b)
}

/// The key of `row` nearest to one of `known`, if it is near enough to be a slip.
pub(super) fn nearest<'r>(row: &'r Map<String, Value>, known: &[&'static str]) -> Option<(&'r str, &'static str)> {
    row.keys()
        .filter(|key| !is_known(key))
        .flat_map(|key| known.iter().map(move |expected| (distance(key, expected), key.as_str(), *expected)))
        .filter(|(d, _, expected)| *d <= if expected.len() <= 4 { 1 } else { 2 })
        .min_by_key(|(d, ..)| *d)
        .map(|(_, found, expected)| (found, expected))
}

/// The one of `names` that `name` is nearest to, if it looks like a slip of it.
pub(super) fn nearest_of<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = |other: &str| strsim::osa_distance(&name.to_lowercase(), &other.to_lowercase());
    let most = if name.chars().count() <= 4 { 1 } else { 2 };
    names.map(|other| (near(other), other)).min().filter(|(distance, _)| *distance <= most).map(|(_, other)| other)
}

/// `keys "a", "b"`, cut where a row has very many or very long ones.
pub(crate) fn found_keys(row: &Map<String, Value>) -> String {
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
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn text_at(value: Option<&Value>, path: impl Fn() -> String) -> Result<String, RowProblem> {
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
pub(super) fn filled(row: &Map<String, Value>, key: &str) -> Result<String, RowProblem> {
    let text = string(row, key)?;
    if text.is_empty() { Err(RowProblem::Empty { path: key.into() }) } else { Ok(text) }
}

/// The turns before the answer of a row of an instruction.
pub(super) fn question(row: &Map<String, Value>) -> Result<Vec<Message>, RowProblem> {
    let instruction = filled(row, "instruction")?;
    // Published sets write "" or null where there is no input.
    let input = match row.get("input") {
        None | Some(Value::Null) => String::new(),
        value => text_at(value, || "input".into())?,
    };
    let question = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
    let mut messages = Vec::new();
    match row.get("history") {
        None | Some(Value::Null) => {}
        Some(Value::Array(rounds)) => {
            for (i, round) in rounds.iter().enumerate() {
                let path = |j: usize| format!("history[{i}][{j}]");
                let Some([question, answer]) = round.as_array().map(Vec::as_slice) else {
                    let expected = "a list of a question and its answer";
                    let found = kind(round).into();
                    return Err(RowProblem::Type { path: format!("history[{i}]"), found, expected });
                };
                let answer = text_at(Some(answer), || path(1))?;
                if answer.is_empty() {
                    return Err(RowProblem::Empty { path: path(1) });
                }
                messages.push(Message::new("user", text_at(Some(question), || path(0))?));
                messages.push(Message::new("assistant", answer));
            }
        }
        Some(other) => {
            let expected = "a list of questions with their answers";
            return Err(RowProblem::Type { path: "history".into(), found: kind(other).into(), expected });
        }
    }
    messages.push(Message::new("user", question));
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
    if row.get("attention_mask").is_some_and(says_something) {
        let seen = |v: &Value| v.as_u64().filter(|mask| *mask == 1);
        integers(&row["attention_mask"], "attention_mask", "1 (leave padding out of the row)", seen)?;
    }
    Ok(RowContent::Tokens { input_ids, labels })
}
