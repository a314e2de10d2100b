//! A template's source as the engine takes it: what Jinja and transformers' extension of it do that
//! the engine does not.

use std::ops::Range;

/// Variables that hold the marks around what a `{% generation %}` block prints, or nothing.
pub(super) const MARKS: [&str; 2] = ["bft_generation_begins", "bft_generation_ends"];

/// The function around what a `for` goes over: Python does not go over None, the engine does.
pub(super) const EACH: &str = "bft_each";

/// The source to compile, and whether it has `{% generation %}` blocks. No line moves.
///
/// Line ends become `\n`, as Jinja makes them, in text and strings alike. A `{% generation %}`
/// block becomes a plain block with a variable at either end: white space is cut by the first tag
/// on the left side and by the last one on the right side, as the one tag in their place did;
/// `with` keeps assignments inside, as there. What `for` goes over is passed through [`EACH`].
pub(super) fn prepare(source: &str) -> (String, bool) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + 64);
    let mut marked = false;
    let mut raw = false;
    let mut rest = source.as_str();
    while let Some(start) = next_tag(rest) {
        let close = match &rest[start..start + 2] {
            "{%" => "%}",
            "{{" => "}}",
            _ => "#}",
        };
        let end = match close {
            _ if raw && close != "%}" => Some(2),
            "#}" => rest[start + 2..].find(close).map(|length| length + 4),
            _ => closing(&rest[start + 2..], close).map(|length| length + 2),
        };
        let Some(length) = end else { break };
        out.push_str(&rest[..start]);
        let tag = &rest[start..start + length];
        let (left, inside, right) = trimmed(tag);
        match inside.split_whitespace().next() {
            _ if close != "%}" => out.push_str(tag),
            Some("endraw") => {
                raw = false;
                out.push_str(tag);
            }
            _ if raw => out.push_str(tag),
            Some("raw") => {
                raw = true;
                out.push_str(tag);
            }
            Some("generation") => {
                marked = true;
                out.push_str(&format!("{{%{left} if true %}}{{{{ {} }}}}{{% with {right}", MARKS[0]));
            }
            Some("endgeneration") => {
                out.push_str(&format!("{{%{left} endwith %}}{{{{ {} }}}}{{% endif {right}", MARKS[1]));
            }
            Some("for") => match iterated(tag) {
                Some(Range { start, end }) => {
                    out.push_str(&format!("{}{EACH}(({})){}", &tag[..start], &tag[start..end], &tag[end..]));
                }
                None => out.push_str(tag),
            },
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    (out, marked)
}

fn next_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'%' | b'{' | b'#'))
}

/// What a block's tag holds between its white-space marks, and these.
fn trimmed(tag: &str) -> (&str, &str, &str) {
    let inside = &tag[2..];
    let left = if inside.starts_with(['-', '+']) { 1 } else { 0 };
    let right = if inside.len() > left && inside.ends_with(['-', '+']) { 1 } else { 0 };
    let end = inside.len() - right;
    (&inside[..left], &inside[left..end], &inside[end..])
}

/// Bytes before the `close` of a tag: not in a string, nor in brackets.
fn closing(text: &str, close: &str) -> Option<usize> {
    let mut found = None;
    outside(text, |at, depth| {
        if depth == 0 && text[at..].starts_with(close) {
            found = Some(at);
        }
        found.is_none()
    });
    found
}

/// Where the expression that a `for` tag goes over stands in it: between `in` and `if`, `recursive`
/// or the end.
fn iterated(tag: &str) -> Option<Range<usize>> {
    let end = tag.trim_end_matches(['-', '+']).trim_end().len();
    let tag = &tag[..end];
    let mut range: Option<Range<usize>> = None;
    outside(tag, |at, depth| {
        let word = |word: &str| {
            let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            depth == 1
                && tag[at..].starts_with(word)
                && apart(tag[..at].chars().next_back())
                && apart(tag[at + word.len()..].chars().next())
        };
        match &mut range {
            None if word("in") => range = Some(at + 2..end),
            Some(range) if word("if") || word("recursive") => {
                range.end = at;
                return false;
            }
            _ => {}
        }
        true
    });
    let range = range?;
    let start = range.start + (tag[range.start..].len() - tag[range.start..].trim_start().len());
    let end = range.start + tag[range.clone()].trim_end().len();
    (start < end).then_some(start..end)
}

/// Calls `see` with the place of every character outside strings and the number of brackets open
/// there; until it says no.
fn outside(text: &str, mut see: impl FnMut(usize, usize) -> bool) {
    let mut depth = 0_usize;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        if !see(at, depth) {
            return;
        }
        match c {
            '"' | '\'' => {
                while let Some((_, inner)) = characters.next() {
                    if inner == '\\' {
                        characters.next();
                    } else if inner == c {
                        break;
                    }
                }
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_blocks_are_changed() {
        let same = [
            "it's {{ '{% generation %}' }} {# {% generation %} {% for x in y %} #} isn't",
            "{% raw %}{% generation %}{{ '{#' }}{% for x in y %}{% endraw %}",
            "{{ {'a': {'b': '}}'}} }} {% set x = '%} {% generation %}' %}",
            "{% for %} {% for x of y %} {% forx in y %} {{ unclosed {% generation %}",
        ];
        for source in same {
            assert_eq!(prepare(source), (source.to_owned(), false));
        }
        assert_eq!(prepare("a\r\nb\rc").0, "a\nb\nc");
    }

    #[test]
    fn loops_go_through_the_check() {
        let loops = [
            ("{% for x in y %}", "{% for x in bft_each((y)) %}"),
            ("{%- for a, b in m.items() if a in b -%}", "{%- for a, b in bft_each((m.items())) if a in b -%}"),
            ("{% for x in (y if z else []) recursive %}", "{% for x in bft_each(((y if z else []))) recursive %}"),
            ("{%for x in\n 1, 2%}", "{%for x in\n bft_each((1, 2))%}"),
            ("{% for index in ' in ' if iffy %}", "{% for index in bft_each((' in ')) if iffy %}"),
        ];
        for (source, expected) in loops {
            assert_eq!(prepare(source), (expected.to_owned(), false));
        }
    }

    #[test]
    fn marks_keep_the_white_space_of_their_tag() {
        let (source, marked) = prepare("{%- generation -%}x{%+ endgeneration %}");
        assert!(marked);
        let begins = "{%- if true %}{{ bft_generation_begins }}{% with -%}";
        let ends = "{%+ endwith %}{{ bft_generation_ends }}{% endif %}";
        assert_eq!(source, format!("{begins}x{ends}"));
    }
}
