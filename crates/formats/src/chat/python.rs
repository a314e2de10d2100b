//! The pieces of Python that chat templates call: `json.dumps` and `strftime`.

use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// The filter `tojson`: Python's `json.dumps(value, ensure_ascii=False, indent=…)`, HTML unescaped.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let _separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, format!("tojson cannot write the value: {e}")))?;
    if sort == Some(true) {
        json.sort_all_objects();
    }
    let mut out = String::new();
    write_json(&json, indent, 0, ascii == Some(true), &mut out);
    Ok(Value::from_safe_string(out))
}

/// Python puts a space after each comma and colon, or breaks lines when indenting.
fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, ascii: bool, out: &mut String) {
    use serde_json::Value as Json;
    let line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width.min(16) * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(out, depth + 1);
                write_json(item, indent, depth + 1, ascii, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(out, depth + 1);
                write_string(key, ascii, out);
                out.push_str(": ");
                write_json(item, indent, depth + 1, ascii, out);
            }
            line(out, depth);
            out.push('}');
        }
        Json::String(text) => write_string(text, ascii, out),
        scalar_or_empty => out.push_str(&scalar_or_empty.to_string()),
    }
}

fn write_string(text: &str, ascii: bool, out: &mut String) {
    let quoted = serde_json::Value::from(text).to_string();
    if !ascii {
        out.push_str(&quoted);
        return;
    }
    for c in quoted.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

/// The function `strftime_now`: Python's `datetime.now().strftime(format)`, the time on the wall where the program or
/// the browser runs.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, chrono::Local::now().naive_local())
}

fn strftime(format: &str, now: chrono::NaiveDateTime) -> Result<String, Error> {
    // A time without a zone has no zone to print.
    let format = format.replace("%Z", "").replace("%z", "");
    let items: Vec<Item> = StrftimeItems::new(&format).collect();
    if items.contains(&Item::Error) {
        let problem = format!("strftime_now does not know all of {format:?}");
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(now.format_with_items(items.into_iter()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_pythons() {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
        // datetime.fromtimestamp(1709210096, UTC), a leap day.
        let format = "%d %b %Y %A %j %H:%M:%S %I%p %-d %y %B %F %%%z%Z";
        assert_eq!(
            strftime(format, at(1_709_210_096)).unwrap(),
            "29 Feb 2024 Thursday 060 12:34:56 12PM 29 24 February 2024-02-29 %"
        );
        assert_eq!(strftime("%a %d %B %Y", at(1_798_761_599)).unwrap(), "Thu 31 December 2026");
        assert!(strftime("%Q", at(0)).unwrap_err().to_string().contains("%Q"));
        assert!(strftime("%", at(0)).is_err());
    }

    #[test]
    fn json_is_pythons() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, 2.5, {}], "a": "<é>\n", "c": null, "d": []}"#).unwrap();
        let write = |indent, ascii| {
            let mut out = String::new();
            write_json(&value, indent, 0, ascii, &mut out);
            out
        };
        assert_eq!(write(None, false), r#"{"b": [1, 2.5, {}], "a": "<é>\n", "c": null, "d": []}"#);
        assert!(write(None, true).contains(r#""<\u00e9>\n""#));
        assert!(write(Some(2), false).starts_with("{\n  \"b\": [\n    1,\n    2.5,\n    {}\n  ],"));
    }
}
