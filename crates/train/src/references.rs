//! Rows as questions with an answer that a model's own is compared with.

use bft_formats::Message;
use serde_json::Value;

use crate::rows::{Chat, Origin, RowContent, RowError, RowFormat, RowProblem, Rows};
use crate::text::{TextEncoder, TextError};

/// What a row asks and how it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Token ids of what stands before the answer.
    pub prompt: Vec<u32>,
    /// The answer's text.
    pub answer: String,
    /// Where the row was.
    pub origin: Origin,
}

/// Why rows have no answers to compare with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum ReferenceError {
    /// Rows of texts or token ids, in which nothing is an answer.
    #[error(
        "{file} has {format} rows, in which no answer stands apart from a question: use prompt/completion or chat rows"
    )]
    Format { file: String, format: RowFormat },
    /// A row without an answer, or one that the tokenizer or the template refuses.
    #[error("{0} (--skip-bad-rows leaves such rows out)")]
    Row(RowError),
    /// Every row was bad and skipped.
    #[error("{file} has no row with a question and an answer: all {count} were skipped, the first because {first}")]
    AllSkipped { file: String, count: usize, first: RowError },
}

/// The rows' prompts, of fewer than `context` tokens each, and answers: of a chat, its last answer
/// that is trained and the turns before it. With `skip`, rows that cannot be used are left out and
/// listed.
///
/// # Errors
/// Names the row that cannot be used.
pub fn references(
    text: &TextEncoder<'_>,
    rows: &Rows,
    context: usize,
    skip: bool,
) -> Result<(Vec<Reference>, Vec<RowError>), ReferenceError> {
    if matches!(rows.format, RowFormat::Text | RowFormat::Tokens) {
        return Err(ReferenceError::Format { file: rows.file.to_string(), format: rows.format });
    }
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for row in &rows.rows {
        let origin = row.origin.clone();
        match reference(text, &row.content, context) {
            Ok((prompt, answer)) => found.push(Reference { prompt, answer, origin }),
            Err(problem) => {
                let error = RowError { origin, problem: Box::new(RowProblem::Sample(problem)) };
                if !skip {
                    return Err(ReferenceError::Row(error));
                }
                skipped.push(error);
            }
        }
    }
    match skipped.first() {
        Some(first) if found.is_empty() => {
            let (count, first) = (skipped.len(), first.clone());
            Err(ReferenceError::AllSkipped { file: rows.file.to_string(), count, first })
        }
        _ => Ok((found, skipped)),
    }
}

fn reference(text: &TextEncoder<'_>, content: &RowContent, context: usize) -> Result<(Vec<u32>, String), String> {
    let said = |problem: TextError| problem.to_string();
    let (prompt, answer) = match content {
        RowContent::PromptCompletion { prompt, completion } => (text.prompt(prompt).map_err(said)?, completion.clone()),
        RowContent::Chat(chat) => {
            let turn = chat.trained_turns().last().ok_or("the row has no answer to compare with")?;
            let answer = words(&chat.conversation.messages[turn])
                .ok_or_else(|| format!("messages[{turn}] has no text to compare an answer with"))?;
            let mut asked = Chat { masked: Default::default(), ..chat.clone() };
            asked.conversation.messages.truncate(turn);
            (text.row_prompt(&asked).map_err(said)?, answer)
        }
        RowContent::Text(_) | RowContent::Tokens { .. } => return Err("the row has no answer apart".into()),
    };
    match prompt.len() {
        0 => Err("the prompt has no tokens; give some text".into()),
        found if found >= context => {
            Err(format!("the prompt has {found} tokens, expected fewer than {context}, the model's context"))
        }
        _ => Ok((prompt, answer)),
    }
}

/// The text of a turn, whose parts are joined.
fn words(turn: &Message) -> Option<String> {
    match turn.get("content")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
        _ => None,
    }
    .filter(|text| !text.trim().is_empty())
}
