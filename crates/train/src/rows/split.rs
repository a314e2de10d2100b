//! Cuts a data file's bytes into records without parsing them: lines of JSONL, or the elements of
//! one JSON array.
//!
//! Cutting first keeps a line number with every record, so that a record that does not parse is
//! named exactly and the next one can still be read.

use super::Place;
use super::parquet::MAGIC;
use super::table::delimiter;

/// One record's bytes and where they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// Line of the file that the record starts on, from 1.
    pub line: usize,
    /// Index in the array, from 0; `None` for a line of JSONL.
    pub element: Option<usize>,
    /// The record, without the white space around it.
    pub bytes: &'a [u8],
}

impl Record<'_> {
    /// Where in its file it is.
    pub fn place(&self) -> Place {
        match self.element {
            None => Place::Line(self.line),
            Some(index) => Place::Element { line: self.line, index },
        }
    }
}

/// Why a file cannot be cut further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SplitError {
    /// The file ends inside an array element.
    Truncated { line: usize, element: usize },
    /// The file ends after an element, with no `]`.
    Unclosed { line: usize },
    /// Something follows the closing `]`.
    Trailing { line: usize },
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Drops the byte-order mark that some editors write before UTF-8.
pub(crate) fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BOM).unwrap_or(bytes)
}

/// What a data file holds.
pub(crate) enum Content {
    /// JSON, if rows at all.
    Json,
    /// Delimiter-separated text.
    Table(u8),
    Parquet,
    Utf16,
    /// Something else, and what to do with it.
    Other(&'static str, &'static str),
}

/// Tells what a file holds: by how it begins, and tables by their name.
pub(crate) fn content(name: &str, bytes: &[u8]) -> Content {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Content::Utf16;
    }
    if is_parquet(bytes) {
        return Content::Parquet;
    }
    let begins = strip_bom(bytes).trim_ascii_start().first();
    match (other_than_rows(bytes), delimiter(name, bytes)) {
        (Some((found, advice)), _) => Content::Other(found, advice),
        (None, Some(delimiter)) if !matches!(begins, Some(b'{' | b'[')) => Content::Table(delimiter),
        (None, None) => no_json(bytes).map_or(Content::Json, |(found, advice)| Content::Other(found, advice)),
        _ => Content::Json,
    }
}

/// Whether a file is Parquet, and no text that begins with the same letters.
fn is_parquet(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) && !is_text(bytes)
}

/// A text may begin with the letters of a mark, but has no such bytes soon after.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(64).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}

/// How files that are no text begin, what they are, and what to do with them.
const PACKED: [(&[u8], &str, &str); 10] = [
    (b"ARROW1", "an Arrow file", "write its rows as JSONL"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "write its rows as JSONL"),
    (b"\x1f\x8b", "compressed with gzip twice", "unpack it once, with gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd twice", "unpack it once, with unzstd"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it first, with unxz"),
    (b"BZh", "compressed with bzip2", "unpack it first, with bunzip2"),
    (b"PK\x03\x04", "a ZIP archive or an XLSX table", "unpack it, or save the table's rows as JSONL"),
    (b"\xd0\xcf\x11\xe0", "a table in Excel's old format", "save its rows as JSONL"),
    (b"\x89HDF\r\n\x1a\n", "HDF5", "write its rows as JSONL"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows as JSONL"),
];
const TABLE: &str = "name it .csv or .tsv to have it read as a table, whose first line names the columns";

/// What a file is that is no text, and what to do with it: told by how it begins, also where a
/// browser has read its bytes as text.
pub(crate) fn packed(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins =
        |magic: &[u8]| bytes.starts_with(magic) || bytes.starts_with(String::from_utf8_lossy(magic).as_bytes());
    let (_, found, advice) = PACKED.iter().find(|(magic, ..)| !is_text(bytes) && begins(magic))?;
    Some((found, advice))
}

/// What a file is that surely holds no rows, and what to do with it, told by how it begins.
fn other_than_rows(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let bytes = strip_bom(bytes);
    if bytes.starts_with(b"version https://git-lfs") {
        return Some(("a pointer of Git LFS", "fetch the file itself, with git lfs pull"));
    }
    if bytes.starts_with(b"<") {
        return Some(("HTML or XML", "a page may have been saved in place of the file"));
    }
    packed(bytes)
}

/// What a file is none of whose first lines begins as a row of JSON does.
fn no_json(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let bytes = strip_bom(bytes);
    let first = lines(bytes).next()?.bytes;
    if lines(bytes).take(3).any(|line| matches!(line.bytes.first(), Some(b'{' | b'['))) {
        return None;
    }
    let has = |mark| first.contains(&mark);
    Some(match () {
        // JSON, if no row: its own error says more.
        () if serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok() => return None,
        () if has(b'\t') => ("a table of values between tabs (TSV)", TABLE),
        () if has(b',') || has(b';') => ("a table (CSV) or plain text", TABLE),
        () => ("plain text", "write one object a line, such as {\"text\": …}"),
    })
}

/// Whether the first thing in the file is a `[`.
pub(crate) fn is_array(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'[')
}

/// Records of a whole file: array elements where the file starts with `[`, lines that are not blank
/// otherwise.
pub(crate) fn records(bytes: &[u8]) -> Box<dyn Iterator<Item = Result<Record<'_>, SplitError>> + '_> {
    let bytes = strip_bom(bytes);
    if is_array(bytes) { Box::new(Elements::new(bytes)) } else { Box::new(lines(bytes).map(Ok)) }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    bytes
        .split(|&b| b == b'\n')
        .enumerate()
        .map(|(i, line)| Record { line: i + 1, element: None, bytes: line.trim_ascii() })
        .filter(|record| !record.bytes.is_empty())
}

/// Where the walk through an array is.
#[derive(PartialEq, Eq)]
enum Walk {
    Elements,
    AfterBracket,
    Done,
}

/// Walks the elements of a JSON array by counting brackets outside strings.
struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    element: usize,
    walk: Walk,
}

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut elements = Self { bytes, at: 0, line: 1, element: 0, walk: Walk::Elements };
        elements.skip_space();
        elements.at += 1; // the `[` that `is_array` saw
        elements
    }

    fn skip_space(&mut self) {
        while let Some(b) = self.bytes.get(self.at).filter(|b| b.is_ascii_whitespace()) {
            self.line += usize::from(*b == b'\n');
            self.at += 1;
        }
    }

    /// Moves to the `,` or `]` that ends the element at hand and returns it; `None` at the end of
    /// the file.
    fn skip_element(&mut self) -> Option<u8> {
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        while let Some(&b) = self.bytes.get(self.at) {
            match b {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b',' | b']' if depth == 0 => return Some(b),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.line += usize::from(b == b'\n');
            self.at += 1;
        }
        None
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Record<'a>, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_space();
        let (start, line) = (self.at, self.line);
        let next = self.bytes.get(start).copied();
        if self.walk == Walk::Elements && self.element == 0 && next == Some(b']') {
            self.at += 1;
            self.walk = Walk::AfterBracket;
            return self.next();
        }
        match self.walk {
            Walk::Done => None,
            Walk::AfterBracket => {
                self.walk = Walk::Done;
                next.map(|_| Err(SplitError::Trailing { line }))
            }
            Walk::Elements => match self.skip_element() {
                None => {
                    self.walk = Walk::Done;
                    Some(Err(match next {
                        None => SplitError::Unclosed { line },
                        Some(_) => SplitError::Truncated { line, element: self.element },
                    }))
                }
                Some(end) => {
                    let bytes = self.bytes[start..self.at].trim_ascii();
                    let record = Record { line, element: Some(self.element), bytes };
                    self.element += 1;
                    self.at += 1;
                    if end == b']' {
                        self.walk = Walk::AfterBracket;
                    }
                    Some(Ok(record))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, element, text.
    type Cut<'a> = (usize, Option<usize>, &'a str);

    fn cut(text: &str) -> Vec<Result<Cut<'_>, SplitError>> {
        records(text.as_bytes())
            .map(|r| r.map(|r| (r.line, r.element, std::str::from_utf8(r.bytes).unwrap())))
            .collect()
    }

    #[test]
    fn lines_keep_their_numbers_past_blank_lines_crlf_and_a_bom() {
        let text = "\u{feff}{\"a\":1}\r\n\r\n  {\"b\":2}  \r\n{\"c\":3}";
        assert_eq!(cut(text), [Ok((1, None, "{\"a\":1}")), Ok((3, None, "{\"b\":2}")), Ok((4, None, "{\"c\":3}"))]);
    }

    #[test]
    fn array_elements_keep_index_and_line_whatever_their_strings_hold() {
        let text = "\n[\n {\"a\": \"],}\\\"[\"},\n\n {\"b\": [1, {\"c\": []}],\n \"d\": 2}\n]\n";
        assert_eq!(
            cut(text),
            [Ok((3, Some(0), "{\"a\": \"],}\\\"[\"}")), Ok((5, Some(1), "{\"b\": [1, {\"c\": []}],\n \"d\": 2}")),]
        );
    }

    #[test]
    fn a_damaged_array_says_where_it_stops() {
        assert_eq!(cut("[]"), []);
        assert_eq!(
            cut("[\n{},\n{\"a\": "),
            [Ok((2, Some(0), "{}")), Err(SplitError::Truncated { line: 3, element: 1 })]
        );
        assert_eq!(cut("[{},\n"), [Ok((1, Some(0), "{}")), Err(SplitError::Unclosed { line: 2 })]);
        assert_eq!(cut("[{}]\n{}"), [Ok((1, Some(0), "{}")), Err(SplitError::Trailing { line: 2 })]);
        // A trailing comma leaves an empty element, which the parser refuses.
        assert_eq!(cut("[{},]"), [Ok((1, Some(0), "{}")), Ok((1, Some(1), ""))]);
    }
}
