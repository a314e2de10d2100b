//! Methods of Python's strings, lists and dicts that the engine lacks or does otherwise.

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, State};

use super::limits::{Meter, SLOT, failed};
use super::python::text_of;

/// The widest that a template may pad a text to.
const WIDEST: usize = 4096;

/// Calls a method of a value, as Python does.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str(), method) {
        (ValueKind::String, Some(text), _) => {
            // To look through a text is quicker than to make one.
            Meter::new(state).pay(text.len() / 8)?;
            if let Some(result) = of_string(state, text, method, args) {
                return result;
            }
        }
        (ValueKind::Seq, _, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let position = value.try_iter()?.position(|item| item == *wanted);
            return position.map(Value::from).ok_or_else(|| failed(format!("a {} is not in the list", wanted.kind())));
        }
        (ValueKind::Seq | ValueKind::Map, _, "copy") => {
            let () = from_args(args)?;
            return Ok(value.clone());
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn of_string(state: &State, text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "strip" | "lstrip" | "rstrip" => strip(text, method, args),
        "split" => split(state, text, args, false),
        "rsplit" => split(state, text, args, true),
        "splitlines" => split_lines(state, text, args),
        "partition" | "rpartition" => partition(text, args, method == "rpartition"),
        "startswith" | "endswith" => affix(text, args, method == "startswith"),
        "find" | "index" => find(text, args, method == "index", |text, wanted| text.find(wanted)),
        "rfind" | "rindex" => find(text, args, method == "rindex", |text, wanted| text.rfind(wanted)),
        "count" => count(text, args),
        "join" => join(state, text, args),
        "replace" => replace(state, text, args),
        "format" => format(state, text, args),
        "removeprefix" => {
            from_args(args).map(|(prefix,): (&str,)| Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            from_args(args).map(|(suffix,): (&str,)| Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "title" => from_args(args).map(|()| Value::from(title(text))),
        "swapcase" => from_args(args).map(|()| Value::from(swap_case(text))),
        "center" | "ljust" | "rjust" => pad(text, method, args),
        "zfill" => fill(text, args),
        _ => return None,
    })
}

/// What Python takes for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match method {
        "strip" => text.trim_matches(cut),
        "lstrip" => text.trim_start_matches(cut),
        _ => text.trim_end_matches(cut),
    }))
}

fn split(state: &State, text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        None if named.has("sep") => named.get::<Option<&str>>("sep")?,
        separator => separator,
    };
    let most = match most {
        None if named.has("maxsplit") => named.get::<i64>("maxsplit")?,
        most => most.unwrap_or(-1),
    };
    named.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut meter = Meter::new(state);
    let mut parts: Vec<&str> = Vec::new();
    match separator {
        Some("") => return Err(failed("empty separator")),
        Some(separator) if from_right => {
            for part in text.rsplitn(most.saturating_add(1), separator) {
                meter.pay(SLOT)?;
                parts.push(part);
            }
            parts.reverse();
        }
        Some(separator) => {
            for part in text.splitn(most.saturating_add(1), separator) {
                meter.pay(SLOT)?;
                parts.push(part);
            }
        }
        None if from_right => {
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                meter.pay(SLOT)?;
                let start = rest.rfind(is_space).filter(|_| parts.len() < most);
                let after = start.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                parts.push(&rest[after..]);
                rest = start.map_or("", |at| rest[..at].trim_end_matches(is_space));
            }
            parts.reverse();
        }
        None => {
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                meter.pay(SLOT)?;
                let end = rest.find(is_space).filter(|_| parts.len() < most);
                parts.push(&rest[..end.unwrap_or(rest.len())]);
                rest = end.map_or("", |at| rest[at..].trim_start_matches(is_space));
            }
        }
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Lines end where Python says; the engine knows `\n` and `\r\n` only.
fn split_lines(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = keep.or(named.get("keepends")?).unwrap_or(false);
    named.assert_all_used()?;
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut meter = Meter::new(state);
    let mut lines: Vec<&str> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        meter.pay(SLOT)?;
        let at = rest.find(ends).unwrap_or(rest.len());
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(if keep { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    Ok(lines.into_iter().map(Value::from).collect())
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    let parts = match (from_right, text.split_once(separator), text.rsplit_once(separator)) {
        (false, Some((before, after)), _) | (true, _, Some((before, after))) => [before, separator, after],
        (false, ..) => [text, "", ""],
        (true, ..) => ["", "", text],
    };
    Ok(Value::from_object(Tuple::new(parts.map(Value::from).to_vec())))
}

/// The characters `start..end` of a text, either of which may count from its end, and how many
/// stand before them.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = text.chars().count() as i64;
    let place = |at: Option<i64>, default| match at.unwrap_or(default) {
        at if at < 0 => (at + length).max(0),
        at => at,
    };
    let (start, end) = (place(start, 0), place(end, length).min(length));
    if start > end {
        return None;
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Some((start as usize, &text[byte(start)..byte(end)]))
}

fn affix(text: &str, args: &[Value], at_start: bool) -> Result<Value, Error> {
    let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let wanted: Vec<Value> = match wanted.kind() {
        ValueKind::Seq => wanted.try_iter()?.collect(),
        _ => vec![wanted.clone()],
    };
    let part = part(text, start, end);
    let mut found = false;
    for affix in &wanted {
        let affix = affix.as_str().ok_or_else(|| failed(format!("expected a string, found {}", affix.kind())))?;
        found |= part.is_some_and(|(_, text)| if at_start { text.starts_with(affix) } else { text.ends_with(affix) });
    }
    Ok(Value::from(found))
}

fn find(text: &str, args: &[Value], must: bool, search: fn(&str, &str) -> Option<usize>) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let found = part(text, start, end)
        .and_then(|(before, text)| search(text, wanted).map(|at| before + text[..at].chars().count()));
    match found {
        Some(at) => Ok(Value::from(at)),
        None if must => Err(failed("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn count(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    Ok(Value::from(part(text, start, end).map_or(0, |(_, text)| text.matches(wanted).count())))
}

fn join(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    if items.is_none() {
        return Err(failed("cannot join none"));
    }
    let mut meter = Meter::new(state);
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let item =
            item.as_str().ok_or_else(|| failed(format!("item {i} to join is a {}, not a string", item.kind())))?;
        meter.pay(SLOT + text.len() + item.len())?;
        out.push_str(if i > 0 { text } else { "" });
        out.push_str(item);
    }
    Ok(Value::from(out))
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let grown = text.matches(old).count().min(most).saturating_mul(new.len().saturating_sub(old.len()));
    Meter::new(state).pay(grown)?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// The engine's own, where no width in it is larger than a text may be padded to; a text may name
/// each value any number of times.
fn format(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let mut meter = Meter::new(state);
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let digits = numbers.map(|digits| digits.trim_start_matches('0').len()).max().unwrap_or(0);
    if digits > 4 {
        return Err(failed(format!("a width of more than {WIDEST}")));
    }
    let fields = text.matches('{').count();
    meter.pay(fields.saturating_mul(10_usize.pow(digits as u32)))?;
    for value in args {
        let bytes = text_of(state, value)?.len();
        meter.pay(bytes.saturating_mul(fields))?;
    }
    minijinja::formatting::format(FormatStyle::StrFormat, text, args).map(Value::from)
}

/// A capital after everything that is no letter, an apostrophe, too; the filter of this name splits
/// at spaces.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

fn missing_to(text: &str, width: i64) -> Result<usize, Error> {
    match usize::try_from(width).unwrap_or(0) {
        width if width > WIDEST => Err(failed(format!("a width of {width}, more than {WIDEST}"))),
        width => Ok(width.saturating_sub(text.chars().count())),
    }
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, filler): (i64, Option<char>) = from_args(args)?;
    let missing = missing_to(text, width)?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python's own rule for what does not divide.
        _ => missing / 2 + (missing & width as usize & 1),
    };
    let filled = |n: usize| filler.unwrap_or(' ').to_string().repeat(n);
    Ok(Value::from(format!("{}{text}{}", filled(left), filled(missing - left))))
}

fn fill(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (i64,) = from_args(args)?;
    let digits = text.trim_start_matches(['-', '+']);
    let (sign, digits) =
        if text.len() - digits.len() <= 1 { text.split_at(text.len() - digits.len()) } else { text.split_at(1) };
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing_to(text, width)?))))
}
