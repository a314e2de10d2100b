//! Rows to what a model is asked in them: those of training, whose answers are left out, and rows
//! without an answer.

use serde_json::{Map, Value};

use super::fields::{chat, check_prompt, filled, found_keys, nearest, question};
use super::objects::{RowsError, each_object, unpacked};
use super::turns::{Speech, Turns};
use super::{Chat, DataError, Origin, RowError, RowFormat, RowProblem};

/// What one row asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text: `prompt`.
    Text(String),
    /// Turns that are to be answered: `messages` or `conversations` up to the last answer, a list of
    /// turns under `prompt`, or `instruction` with `input` and `history`.
    Chat(Chat),
}

/// One row of a file of prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptRow {
    /// What it asks.
    pub prompt: Prompt,
    /// All its keys.
    pub row: Map<String, Value>,
    /// Where it was.
    pub origin: Origin,
}

/// Reads a file of prompts, all of it: JSON lines, a JSON array, CSV, TSV or Parquet, as they are or
/// packed with gzip or zstd. `file` is a name for messages. Each row's own keys tell what it asks.
///
/// # Errors
/// Names the row that cannot be read.
pub fn parse_prompts(file: &str, bytes: &[u8]) -> Result<Vec<PromptRow>, RowsError> {
    let mut rows = Vec::new();
    each_object(file, unpacked(file, bytes)?, |origin, row| match row.and_then(|row| Ok((prompt(&row)?, row))) {
        Ok((prompt, row)) => {
            rows.push(PromptRow { prompt, row, origin });
            Ok(())
        }
        Err(problem) => Err(RowsError::from(RowError { origin, problem: Box::new(problem) })),
    })?;
    if rows.is_empty() { Err(DataError::Empty { file: file.into() }.into()) } else { Ok(rows) }
}

/// The keys that tell what is asked, the first that is there.
const KEYS: [&str; 4] = ["messages", "conversations", "instruction", "prompt"];

fn prompt(row: &Map<String, Value>) -> Result<Prompt, RowProblem> {
    check_prompt(row)?;
    let turns = |key: &str, speech| Turns::read(&row[key], key, speech);
    let Some(key) = KEYS.iter().find(|key| row.contains_key(**key)) else {
        let hint = nearest(row, &KEYS)
            .map_or_else(String::new, |(found, key)| format!(" (did you mean \"{key}\" instead of \"{found}\"?)"));
        let expected = "\"prompt\", or \"messages\", or \"conversations\", or \"instruction\"";
        return Err(RowProblem::Sample(format!("found {}; expected {expected}{hint}", found_keys(row))));
    };
    let asked = match *key {
        "messages" => chat(row, RowFormat::Messages, turns("messages", Speech::Role)?)?,
        "conversations" => chat(row, RowFormat::Conversations, turns("conversations", Speech::From)?)?,
        "instruction" => chat(row, RowFormat::Instruction, question(row)?.into())?,
        _ if row["prompt"].is_array() => chat(row, RowFormat::PromptCompletionTurns, turns("prompt", Speech::Role)?)?,
        _ => return Ok(Prompt::Text(filled(row, "prompt")?)),
    };
    unanswered(asked, key)
}

/// A chat up to its last answer, where it ends with one.
fn unanswered(mut chat: Chat, key: &str) -> Result<Prompt, RowProblem> {
    let messages = &mut chat.conversation.messages;
    while messages.pop_if(|last| last.role() == "assistant").is_some() {}
    if !messages.iter().any(|message| ["user", "tool"].contains(&message.role())) {
        return Err(RowProblem::Sample(format!("{key} has no turn of the user to answer")));
    }
    Ok(Prompt::Chat(chat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(row: &str) -> Result<Prompt, String> {
        let rows = parse_prompts("p.jsonl", row.as_bytes());
        rows.map(|mut rows| rows.remove(0).prompt).map_err(|error| error.to_string())
    }

    /// The roles and texts of what is asked.
    fn turns(row: &str) -> Vec<(String, String)> {
        let Prompt::Chat(chat) = one(row).expect("a prompt") else { panic!("a text") };
        let text = |turn: &bft_formats::Message| turn.get("content").and_then(Value::as_str).unwrap_or("").to_owned();
        chat.conversation.messages.iter().map(|turn| (turn.role().to_owned(), text(turn))).collect()
    }

    #[test]
    fn every_format_asks_what_is_before_its_answer() {
        let user = |text: &str| ("user".to_owned(), text.to_owned());
        assert_eq!(one(r#"{"prompt": "Why?", "completion": "So."}"#), Ok(Prompt::Text("Why?".into())));
        assert_eq!(turns(r#"{"prompt": [{"role": "user", "content": "Why?"}]}"#), [user("Why?")]);
        let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
        let chat = turns(&chat.replace('\n', ""));
        assert_eq!(chat, [user("a"), ("assistant".into(), "b".into()), user("c")]);
        assert_eq!(turns(r#"{"conversations": [{"from": "human", "value": "a"}]}"#), [user("a")]);
        assert_eq!(turns(r#"{"instruction": "Add.", "input": "1 2"}"#), [user("Add.\n\n1 2")]);
        let with_system = turns(r#"{"instruction": "Add.", "output": "3", "system": "Be short."}"#);
        assert_eq!(with_system, [("system".into(), "Be short.".into()), user("Add.")]);
    }

    #[test]
    fn a_row_keeps_its_keys_and_place() {
        let rows = parse_prompts("p.jsonl", b"\n{\"prompt\": \"a\", \"id\": 7}\n{\"prompt\": \"b\"}\n").expect("rows");
        assert_eq!((rows[0].row["id"].as_u64(), rows[0].origin.number()), (Some(7), 2));
        assert_eq!((rows.len(), rows[1].origin.to_string()), (2, "p.jsonl:3".to_owned()));
    }

    #[test]
    fn a_row_that_asks_nothing_is_named() {
        for (row, expected) in [
            (r#"{"text": "a"}"#, r#"p.jsonl:1: found key "text"; expected "prompt", or "messages""#),
            (r#"{"promt": "a"}"#, r#"did you mean "prompt" instead of "promt"?"#),
            (r#"{"prompt": ""}"#, "p.jsonl:1: prompt is empty"),
            (r#"{"prompt": 3}"#, "prompt is a number, expected a string"),
            (r#"{"messages": [{"role": "assistant", "content": "a"}]}"#, "messages has no turn of the user to answer"),
            (r#"{"prompt": "a", "image": "b.png"}"#, "bft reads text only"),
            ("{\"prompt\"", "the JSON stops in the middle"),
            ("", "p.jsonl is empty"),
        ] {
            let error = one(row).expect_err(row);
            assert!(error.contains(expected), "{error}");
        }
        // Nothing is trained: a pair of answers may stand beside the prompt.
        assert!(one(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#).is_ok());
    }
}
