//! The pieces of Python that chat templates call: `json.dumps` and `strftime`.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, Output, State, filters};

use super::limits::{DEEPEST_VALUE, LONGEST_TEXT, Meter, failed, kept, kept_in_namespace};
use super::methods::is_space;

/// How `json.dumps` writes.
struct Json {
    /// Put before a line once for each level; `None` for no line breaks.
    indent: Option<String>,
    comma: String,
    colon: String,
    ascii: bool,
    sorted: bool,
}

/// The filter `tojson` as transformers has it: `json.dumps(value, ensure_ascii=False, indent=None,
/// separators=None, sort_keys=False)`, HTML unescaped.
pub(super) fn to_json(value: &Value, options: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    type Options = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let options = options.into_values();
    let (ascii, indent, separators, sorted, named): Options = from_args(&options)?;
    let option = |given: Option<Value>, name: &str| match given {
        None => named.get::<Option<Value>>(name).map(|value| value.filter(|value| !value.is_none())),
        given => Ok(given.filter(|value| !value.is_none())),
    };
    let ascii = option(ascii, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let sorted = option(sorted, "sort_keys")?.is_some_and(|value| value.is_true());
    let indent = match option(indent, "indent")? {
        None => None,
        Some(value) => match (value.as_str(), value.as_i64()) {
            (Some(text), _) if text.len() <= 16 => Some(text.to_owned()),
            (_, Some(width)) if width <= 16 => Some(" ".repeat(usize::try_from(width).unwrap_or(0))),
            _ => return Err(failed("tojson indents by at most 16 spaces or characters")),
        },
    };
    let [comma, colon] = match option(separators, "separators")? {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some(value) => {
            let both: Vec<Value> = value.try_iter()?.collect();
            match both.iter().map(Value::as_str).collect::<Vec<_>>()[..] {
                [Some(comma), Some(colon)] => [comma, colon].map(str::to_owned),
                _ => return Err(failed("tojson's separators are not two strings")),
            }
        }
    };
    named.assert_all_used()?;
    let mut out = String::new();
    Json { indent, comma, colon, ascii, sorted }.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        check_size(depth, out)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => write_string(value.as_str().unwrap_or_default(), self.ascii, out),
            ValueKind::Seq => {
                out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.separate(empty, depth + 1, out);
                    empty = false;
                    self.write(&item, depth + 1, out)?;
                }
                self.close(empty, depth, ']', out);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.separate(i == 0, depth + 1, out);
                    match key.kind() {
                        ValueKind::String => self.write(key, depth, out)?,
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                            out.push('"');
                            self.write(key, depth, out)?;
                            out.push('"');
                        }
                        other => return Err(failed(format!("tojson: a key is a {other}, expected a string"))),
                    }
                    out.push_str(&self.colon);
                    self.write(&value.get_item(key)?, depth + 1, out)?;
                }
                self.close(keys.is_empty(), depth, '}', out);
            }
            other => return Err(failed(format!("tojson cannot write a value of type {other}"))),
        }
        Ok(())
    }

    fn separate(&self, first: bool, depth: usize, out: &mut String) {
        out.push_str(if first { "" } else { &self.comma });
        self.line(depth, out);
    }

    fn close(&self, empty: bool, depth: usize, bracket: char, out: &mut String) {
        if !empty {
            self.line(depth, out);
        }
        out.push(bracket);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }
}

fn check_size(depth: usize, out: &str) -> Result<(), Error> {
    if depth > DEEPEST_VALUE || out.len() > LONGEST_TEXT {
        return Err(failed(format!(
            "a value deeper than {DEEPEST_VALUE} levels or longer than {LONGEST_TEXT} bytes as text"
        )));
    }
    Ok(())
}

/// The digits that Python prints of a number.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_digits(float),
        _ => value.to_string(),
    }
}

/// `repr` of a float: the fewest digits that read back as the same, with an exponent below 1e-4 and
/// from 1e16 on.
fn float_digits(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() {
            "NaN"
        } else if float > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        exponent if (-4..16).contains(&exponent) || float == 0.0 => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { format!("{plain}.0") }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// Prints a value of `{{ … }}`.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match own_text(value)? {
        Some(text) => out.write_str(&text).map_err(|_| failed("the text cannot be written")),
        None => minijinja::escape_formatter(out, state, value),
    }
}

/// The filter `string`.
pub(super) fn string(state: &State, value: &Value) -> Result<Value, Error> {
    let own = own_text(value)?;
    // The engine's filter also charges for what a value costs.
    let engines = filters::string(state, value)?;
    Ok(own.map_or(engines, Value::from))
}

/// Python's `str` of a value where the engine writes it otherwise: floats, and what may hold such
/// or odd characters.
fn own_text(value: &Value) -> Result<Option<String>, Error> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    if !is_float && !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        return Ok(None);
    }
    let mut out = String::new();
    write_repr(value, 0, &mut out)?;
    Ok(Some(out))
}

/// Python's `repr`.
fn write_repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    check_size(depth, out)?;
    match value.kind() {
        ValueKind::Number if !value.is_integer() => out.push_str(&match number(value).as_str() {
            "NaN" => "nan".to_owned(),
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            digits => digits.to_owned(),
        }),
        ValueKind::String => {
            out.push_str(if value.is_safe() { "Markup(" } else { "" });
            write_quoted(value.as_str().unwrap_or_default(), out);
            out.push_str(if value.is_safe() { ")" } else { "" });
        }
        ValueKind::Seq => {
            let tuple = value.downcast_object_ref::<Tuple>().is_some();
            out.push(if tuple { '(' } else { '[' });
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, out)?;
            }
            out.push_str(if tuple && value.len() == Some(1) { "," } else { "" });
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string as Python's `repr` has it: in single quotes where it can be, with what is not printable
/// escaped.
fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match u32::from(c) {
                code @ 0..0x100 => format!("\\x{code:02x}"),
                code @ 0x100..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// What Python prints of a string as it is: no control and format characters, no separator but the
/// space, nothing private and no non-character.
fn is_printable(c: char) -> bool {
    let format = matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}');
    let private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..);
    let nothing = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    c == ' ' || !(c.is_control() || c.is_whitespace() || format || private || nothing)
}

/// The filters `escape` and `e`, which spell the five characters as Jinja does.
pub(super) fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = text_of(state, value)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;")))
}

/// A value as the engine prints it, which is paid for as it is written.
pub(super) fn text_of(state: &State, value: &Value) -> Result<String, Error> {
    struct Paid<'m, 's, 'a, 'b>(String, &'m mut Meter<'s, 'a, 'b>);
    impl Write for Paid<'_, '_, '_, '_> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            self.1.pay(part.len()).map_err(|_| std::fmt::Error)?;
            self.0.push_str(part);
            if self.0.len() > LONGEST_TEXT { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut paid = Paid(String::new(), &mut Meter::new(state));
    match write!(paid, "{value}") {
        Ok(()) => Ok(paid.0),
        Err(_) => Err(failed(format!("a text longer than {LONGEST_TEXT} bytes, or than the fuel that is left"))),
    }
}

/// The filter `trim`.
pub(super) fn trim(state: &State, value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = value.as_str().map_or_else(|| text_of(state, value).map(Cow::Owned), |text| Ok(Cow::Borrowed(text)))?;
    let trimmed = text.trim_matches(cut);
    Ok(if value.is_safe() { Value::from_safe_string(trimmed.to_owned()) } else { Value::from(trimmed) })
}

/// The test `iterable`: not none, which the engine goes over as if it were empty.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The test `sequence`: what has a length and items, in Python strings and dicts, too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// A value to go over, unless it is none.
pub(super) fn each(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_none() { Err(failed("none has no items to go over")) } else { kept(state, value) }
}

/// The function `raise_exception`.
pub(super) fn raise(state: &State, message: &Value) -> Result<Value, Error> {
    Err(failed(text_of(state, message)?))
}

/// The function `namespace`, which keeps what it is given as `set` does.
pub(super) fn namespace(state: &mut State, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut args = args.into_values();
    if let [defaults] = &mut args[..]
        && defaults.kind() == ValueKind::Map
    {
        let keys: Vec<Value> = defaults.try_iter()?.collect();
        let kept = |key: Value| Ok((key.clone(), kept_in_namespace(state, defaults.get_item(&key)?)?));
        let pairs: Vec<(Value, Value)> = keys.into_iter().map(kept).collect::<Result<_, Error>>()?;
        *defaults = Value::from_pairs(pairs);
    }
    Value::from_function(minijinja::functions::namespace).call(state, &args)
}

/// Filters that go over a value, as they are in the engine but for none.
pub(super) fn add_filters_of_items(environment: &mut Environment) {
    let filters: [(&str, Value); 10] = [
        ("list", Value::from_function(filters::list)),
        ("join", Value::from_function(filters::join)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("sum", Value::from_function(filters::sum)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("groupby", Value::from_function(filters::groupby)),
    ];
    for (name, filter) in filters {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            if args.first().is_some_and(Value::is_none) {
                return Err(failed("none has no items to go over"));
            }
            filter.call(state, &args)
        });
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

/// The function `strftime_now`: Python's `datetime.now().strftime(format)`, the time on the wall
/// where the program or the browser runs.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, chrono::Local::now().naive_local())
}

/// The same at a given local time, in seconds since 1970.
pub(super) fn strftime_at(format: &str, seconds: i64) -> Result<String, Error> {
    let now = chrono::DateTime::from_timestamp(seconds, 0);
    strftime(format, now.unwrap_or_default().naive_utc())
}

fn strftime(format: &str, now: chrono::NaiveDateTime) -> Result<String, Error> {
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = String::from('%');
        directive.extend(letters.next());
        // The C library's own: no padding, spaces or zeros.
        if directive.ends_with(['-', '_', '0']) {
            directive.extend(letters.next());
        }
        let known = match directive.chars().next_back() {
            // A time without a zone has none to print.
            Some('z' | 'Z') => directive.len() == 2,
            Some('f') => directive.len() == 2 && write!(out, "{}", now.format("%6f")).is_ok(),
            Some(letter) if directive.len() > 1 && "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%".contains(letter) => {
                write!(out, "{}", now.format(&directive)).is_ok()
            }
            _ => false,
        };
        if !known {
            return Err(failed(format!("strftime_now does not know {directive} of {format:?}")));
        }
    }
    Ok(out)
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
        for unknown in ["%", "%-", "%-B", "%_%", "%-z", "%0f", "%s", "%3f", "%+", "%-é"] {
            assert!(strftime(unknown, at(0)).is_err(), "{unknown}");
        }
    }

    #[test]
    fn json_is_pythons() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, 2.5, {}], "a": "<é>\n", "c": null, "d": []}"#).unwrap();
        let value = Value::from(minijinja::value::Serde(&value));
        let write = |indent: Option<&str>, ascii| {
            let (indent, [comma, colon]) = (indent.map(str::to_owned), [", ", ": "].map(str::to_owned));
            let mut out = String::new();
            Json { indent, comma, colon, ascii, sorted: false }.write(&value, 0, &mut out).unwrap();
            out
        };
        assert_eq!(write(None, false), r#"{"b": [1, 2.5, {}], "a": "<é>\n", "c": null, "d": []}"#);
        assert!(write(None, true).contains(r#""<\u00e9>\n""#));
        assert!(write(Some("  "), false).starts_with("{\n  \"b\": [\n    1, \n    2.5, \n    {}\n  ], "));
    }

    #[test]
    fn floats_are_pythons() {
        let digits = [1e-4, 1e-5, 1.5e-7, 1e15, 1e16, 123_456.75, -0.0, 1e300, f64::NEG_INFINITY].map(float_digits);
        let expected =
            ["0.0001", "1e-05", "1.5e-07", "1000000000000000.0", "1e+16", "123456.75", "-0.0", "1e+300", "-Infinity"];
        assert_eq!(digits, expected);
    }
}
