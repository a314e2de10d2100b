//! What `bft embed` reads: lines of text, or JSONL rows with `text` or `input_ids` and perhaps an `id`.

use std::path::Path;

use serde_json::Value;

use crate::embed_output::RowId;
use crate::error::CliError;

/// One input, as tokens.
#[derive(Debug)]
pub struct InputRow {
    /// Where it came from.
    pub row: RowId,
    /// Its tokens; never empty.
    pub tokens: Vec<u32>,
}

/// What turns rows into tokens.
pub struct Limits<'a> {
    /// Token ids of a text.
    pub encode: &'a dyn Fn(&str) -> Result<Vec<u32>, String>,
    /// Ids of `input_ids` rows are below this.
    pub vocab_size: usize,
    /// Longest row in tokens.
    pub max_length: usize,
    /// Cut longer rows instead of stopping.
    pub truncate: bool,
}

/// Reads the file.
///
/// # Errors
/// A file that cannot be read, a row that is neither text nor tokens, an empty row, a row too long.
pub fn read(path: &Path, limits: &Limits) -> Result<Vec<InputRow>, CliError> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| CliError::failed(format!("--input {shown}: cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        CliError::failed(format!(
            "{shown}, line {line}: not UTF-8 text; save the file as UTF-8"
        ))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let json = is_json(path, text);
    let mut rows = Vec::new();
    let mut cut = 0;
    for (index, content) in text.lines().enumerate() {
        if content.trim().is_empty() {
            continue;
        }
        let place = Place {
            file: path,
            line: index + 1,
        };
        let mut row = if json {
            json_row(&place, content, limits)?
        } else {
            InputRow {
                row: RowId {
                    id: None,
                    line: index + 1,
                },
                tokens: encode(&place, content, limits)?,
            }
        };
        if row.tokens.is_empty() {
            return Err(
                place.wrong("found no tokens, expected some text; fill the row or remove it")
            );
        }
        if row.tokens.len() > limits.max_length {
            if !limits.truncate {
                return Err(place.wrong(&format!(
                    "found {} tokens, expected at most {}; give --truncate to cut long rows, or a larger --max-length if the model allows it",
                    row.tokens.len(),
                    limits.max_length
                )));
            }
            row.tokens.truncate(limits.max_length);
            cut += 1;
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(CliError::failed(format!(
            "{shown}: found no rows, expected lines of text or JSONL rows with text or input_ids"
        )));
    }
    if cut > 0 {
        crate::ui::note(&format!(
            "{cut} of {} rows were cut to {} tokens",
            rows.len(),
            limits.max_length
        ));
    }
    Ok(rows)
}

/// By ending, else by the first line: plain text hardly begins with a JSON object.
fn is_json(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl" | "ndjson" | "json") => true,
        Some("txt") => false,
        _ => {
            let first = text.lines().find(|line| !line.trim().is_empty());
            first.is_some_and(|line| serde_json::from_str::<serde_json::Map<_, _>>(line).is_ok())
        }
    }
}

struct Place<'a> {
    file: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn wrong(&self, what: &str) -> CliError {
        CliError::failed(format!(
            "{}, line {}: {what}",
            self.file.display(),
            self.line
        ))
    }
}

fn encode(place: &Place, text: &str, limits: &Limits) -> Result<Vec<u32>, CliError> {
    (limits.encode)(text).map_err(|problem| place.wrong(&problem))
}

fn json_row(place: &Place, content: &str, limits: &Limits) -> Result<InputRow, CliError> {
    let value: Value = serde_json::from_str(content).map_err(|error| {
        place.wrong(&format!("not JSON: {error}; write one JSON object a line"))
    })?;
    let Value::Object(object) = value else {
        return Err(place.wrong("found no JSON object, expected one with text or input_ids"));
    };
    let row = RowId {
        id: object.get("id").filter(|id| !id.is_null()).cloned(),
        line: place.line,
    };
    let tokens = match (object.get("text"), object.get("input_ids")) {
        (Some(_), Some(_)) => {
            return Err(place.wrong("found both text and input_ids, expected one of them"));
        }
        (Some(Value::String(text)), None) => encode(place, text, limits)?,
        (Some(_), None) => return Err(place.wrong("key text: expected a string")),
        (None, Some(ids)) => token_ids(place, ids, limits.vocab_size)?,
        (None, None) => {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            return Err(place.wrong(&format!(
                "found keys {}; expected text or input_ids",
                if keys.is_empty() {
                    "none".to_owned()
                } else {
                    keys.join(", ")
                }
            )));
        }
    };
    Ok(InputRow { row, tokens })
}

fn token_ids(place: &Place, value: &Value, vocab_size: usize) -> Result<Vec<u32>, CliError> {
    let wrong = |found: &str| {
        place.wrong(&format!(
            "key input_ids: found {found}, expected a list of whole numbers below {vocab_size}, the model's vocabulary"
        ))
    };
    let list = value.as_array().ok_or_else(|| wrong("no list"))?;
    list.iter()
        .map(|id| {
            id.as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| (*id as usize) < vocab_size)
                .ok_or_else(|| wrong(&id.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str, truncate: bool) -> Result<Vec<InputRow>, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        let encode = |text: &str| match text {
            "refused" => Err("the tokenizer refuses this".to_owned()),
            text => Ok(text.bytes().map(u32::from).collect()),
        };
        let limits = Limits {
            encode: &encode,
            vocab_size: 100,
            max_length: 4,
            truncate,
        };
        read(&path, &limits).map_err(|error| error.to_string())
    }

    #[test]
    fn token_rows_keep_ids_and_line_numbers() {
        let text = "{\"id\": 7, \"input_ids\": [1, 2]}\n\n{\"input_ids\": [99]}\n";
        let rows = read_text("a.jsonl", text, false).expect("valid rows");
        assert_eq!(rows[0].row.text(), "7");
        assert_eq!(rows[0].tokens, [1, 2]);
        assert_eq!(rows[1].row.text(), "3");
    }

    #[test]
    fn plain_lines_are_texts_and_a_first_line_of_json_means_jsonl() {
        let rows = read_text("genes.txt", "ab\n{}\n", false).expect("texts");
        assert_eq!(rows[0].tokens, [97, 98]);
        assert_eq!(rows[1].tokens, [123, 125]);
        assert_eq!(rows[1].row.text(), "2");
        let rows = read_text("genes", "{\"text\": \"ab\"}\n", false).expect("rows");
        assert_eq!(rows[0].tokens, [97, 98]);
    }

    #[test]
    fn long_rows_are_cut_only_on_request() {
        let text = "{\"input_ids\": [1, 2, 3, 4, 5]}";
        let error = read_text("a.jsonl", text, false).expect_err("too long");
        assert!(
            error.contains("line 1") && error.contains("--truncate"),
            "{error}"
        );
        let rows = read_text("a.jsonl", text, true).expect("cut");
        assert_eq!(rows[0].tokens, [1, 2, 3, 4]);
    }

    #[test]
    fn bad_rows_name_their_line_and_keys() {
        let good = "{\"input_ids\": [1]}\n";
        let cases = [
            ("{\"input_ids\": [100]}", "found 100"),
            ("{\"input_ids\": []}", "no tokens"),
            ("{\"input_ids\": 3}", "no list"),
            ("{\"input_ids\": [-1]}", "found -1"),
            ("{\"txt\": \"a\", \"id\": 1}", "found keys txt, id"),
            (
                "{\"text\": \"a\", \"input_ids\": [1]}",
                "both text and input_ids",
            ),
            ("{\"text\": 1}", "expected a string"),
            ("{\"text\": \"refused\"}", "the tokenizer refuses this"),
            ("[1]", "no JSON object"),
            ("{", "not JSON"),
        ];
        for (line, expected) in cases {
            let error = read_text("a.jsonl", &format!("{good}{line}\n"), false).expect_err(line);
            assert!(
                error.contains(expected) && error.contains("line 2"),
                "{line}: {error}"
            );
        }
        assert!(
            read_text("a.jsonl", "\n\n", false)
                .expect_err("empty")
                .contains("no rows")
        );
    }
}
