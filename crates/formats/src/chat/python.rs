//! The pieces of Python that chat templates call: `json.dumps` and `strftime`.

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

/// The function `strftime_now`: the current time, in UTC, in C's format letters.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let now =
        seconds_since_epoch().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "strftime_now needs a clock"))?;
    strftime(format, now)
}

#[cfg(not(target_arch = "wasm32"))]
fn seconds_since_epoch() -> Option<u64> {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// The standard library has no clock on this target.
#[cfg(target_arch = "wasm32")]
fn seconds_since_epoch() -> Option<u64> {
    None
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// The epoch was a Thursday.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (year, month, day, day_of_year) = civil(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let half_day = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut letter = letters.next();
        // glibc's "no padding".
        let bare = letter == Some('-');
        if bare {
            letter = letters.next();
        }
        let two = |n: u64| {
            if bare { n.to_string() } else { format!("{n:02}") }
        };
        let text = match letter {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month as u64),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two(half_day),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('j') => format!("{day_of_year:03}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('B') => month_name.to_string(),
            Some('b' | 'h') => month_name[..3].to_string(),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            other => {
                let letter = other.map_or_else(String::new, String::from);
                let message = format!("strftime_now does not know %{letter}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month, day of the month and day of the year of a day since 1970, all but the year from 1.
fn civil(mut days: u64) -> (u64, usize, u64, u64) {
    let mut year = 1970;
    let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = days + 1;
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_pythons() {
        // datetime.fromtimestamp(1709210096, UTC), a leap day.
        let format = "%d %b %Y %A %j %H:%M:%S %I%p %-d %y %B %F %%";
        assert_eq!(
            strftime(format, 1_709_210_096).unwrap(),
            "29 Feb 2024 Thursday 060 12:34:56 12PM 29 24 February 2024-02-29 %"
        );
        assert_eq!(strftime("%a %d %B %Y", 1_798_761_599).unwrap(), "Thu 31 December 2026");
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
        assert!(strftime("%", 0).is_err());
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
