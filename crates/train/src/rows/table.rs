//! Tables: delimiter-separated text (CSV, TSV), a row a record under a header; and what cells hold.

use std::collections::HashSet;

use bytes::Bytes;
use bytes::buf::{Buf, Reader};
use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::fields::VERDICTS;
use super::split::strip_bom;
use super::{Place, RowProblem, utf8};

/// Keys whose values are lists or objects; tables that know texts alone hold their JSON.
const JSON: [&str; 7] =
    ["messages", "conversations", "input_ids", "labels", "attention_mask", "history", "chat_template_kwargs"];

/// Reads values that stand as texts in a table's cells for what they are.
pub(crate) fn read_cells(row: &mut Map<String, Value>) -> Result<(), RowProblem> {
    for (key, value) in row {
        let Value::String(text) = &*value else { continue };
        if JSON.contains(&key.as_str()) && text.trim_start().starts_with(['[', '{']) {
            *value = serde_json::from_str(text).map_err(|problem| {
                let hint = if serde_json::from_str::<Value>(&text.replace('\'', "\"")).is_ok() || text.contains("{'") {
                    " (is it Python's notation? json.dumps writes JSON)"
                } else {
                    ""
                };
                RowProblem::Cell { path: key.clone(), problem: problem.to_string(), hint }
            })?;
        } else if VERDICTS.contains(&key.as_str()) {
            match text.to_ascii_lowercase().as_str() {
                "true" => *value = true.into(),
                "false" => *value = false.into(),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Why a table cannot be read further.
#[derive(Debug)]
pub(super) struct TableError {
    pub line: usize,
    pub problem: String,
}

/// A delimiter-separated file whose header is read.
pub(super) struct Table {
    reader: csv::Reader<Reader<Bytes>>,
    bytes: Bytes,
    delimiter: u8,
    record: ByteRecord,
    /// Bytes of which the lines are counted, and how many lines these end.
    counted: usize,
    lines: usize,
    /// Line of the header, from 1.
    pub header_line: usize,
    /// Names of the columns.
    pub columns: Vec<String>,
}

/// The delimiter of a table with this name and first line; `None` where the name is none of a
/// table's.
pub(super) fn delimiter(name: &str, bytes: &[u8]) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    let ends = |end: &str| name.ends_with(end);
    if ends(".tsv") || ends(".tab") {
        return Some(b'\t');
    }
    let header = strip_bom(bytes).split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty());
    let has = |delimiter: &u8| header.is_some_and(|header| header.contains(delimiter));
    // Where a comma parts whole and fraction, spreadsheets write semicolons.
    let found = || [b',', b';', b'\t'].into_iter().find(has).unwrap_or(b',');
    ends(".csv").then(|| declared(strip_bom(bytes)).unwrap_or_else(found))
}

/// The delimiter that a first line such as `sep=;` names, which is for spreadsheets and no header.
fn declared(bytes: &[u8]) -> Option<u8> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    match line.strip_suffix(b"\r").unwrap_or(line).strip_prefix(b"sep=")? {
        [delimiter] if delimiter.is_ascii_punctuation() || *delimiter == b'\t' => Some(*delimiter),
        _ => None,
    }
}

impl Table {
    /// Reads the header; `None` where there is nothing in the file.
    pub fn open(bytes: Bytes, delimiter: u8) -> Result<Option<Self>, TableError> {
        let bytes = bytes.slice_ref(strip_bom(&bytes));
        let is_declared = declared(&bytes) == Some(delimiter);
        let mut reader = ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).delimiter(delimiter).from_reader(bytes.clone().reader());
        let record = ByteRecord::new();
        let mut table =
            Self { reader, bytes, delimiter, record, counted: 0, lines: 0, header_line: 0, columns: Vec::new() };
        if is_declared {
            table.read()?;
        }
        let Some((line, raw)) = table.read()? else { return Ok(None) };
        let fail = |problem: String| TableError { line, problem };
        utf8(&raw).and_then(|_| table.check(&raw)).map_err(|problem| fail(problem.to_string()))?;
        let mut seen = HashSet::new();
        for (index, cell) in table.record.iter().enumerate() {
            let name = String::from_utf8_lossy(cell).trim().to_owned();
            // As pandas writes the numbers of its rows.
            let name = if name.is_empty() { format!("column {}", index + 1) } else { name };
            if !seen.insert(name.clone()) {
                return Err(fail(format!("the header names the column \"{name}\" twice")));
            }
            table.columns.push(name);
        }
        table.header_line = line;
        Ok(Some(table))
    }

    /// The next record's first line and bytes.
    fn read(&mut self) -> Result<Option<(usize, Bytes)>, TableError> {
        loop {
            let start = self.reader.position().byte() as usize;
            let read = self.reader.read_byte_record(&mut self.record);
            let end = self.reader.position().byte() as usize;
            let raw = self.bytes.slice(start.min(end)..end.min(self.bytes.len()));
            let blank = raw.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
            self.count_to(start + blank);
            let line = self.lines + 1;
            match read {
                Err(problem) => return Err(TableError { line, problem: problem.to_string() }),
                Ok(false) => return Ok(None),
                // What a spreadsheet leaves where a row was.
                Ok(true) if self.record.iter().all(|cell| cell.trim_ascii().is_empty()) => {}
                Ok(true) => {
                    if let Some(at) = unclosed(&raw[blank..], self.delimiter) {
                        self.count_to(start + blank + at);
                        let problem =
                            "a cell begins with a quote that nothing ends: close it, or double the quotes inside"
                                .into();
                        return Err(TableError { line: self.lines + 1, problem });
                    }
                    return Ok(Some((line, raw.slice(blank..))));
                }
            }
        }
    }

    fn count_to(&mut self, byte: usize) {
        self.lines += self.bytes[self.counted..byte].iter().filter(|b| **b == b'\n').count();
        self.counted = byte;
    }

    /// Checks that quotes stand around cells alone.
    fn check(&self, raw: &[u8]) -> Result<(), RowProblem> {
        match Quotes::new(raw, self.delimiter).find(|quoted| !quoted.whole) {
            Some(quoted) => Err(RowProblem::Quote { column: quoted.end + 1 }),
            None => Ok(()),
        }
    }

    /// The record at hand as an object; empty cells are no keys.
    fn row(&self, raw: &[u8]) -> Result<Map<String, Value>, RowProblem> {
        utf8(raw)?;
        self.check(raw)?;
        let (cells, columns) = (self.record.len(), self.columns.len());
        if cells != columns {
            return Err(RowProblem::Ragged { cells, columns });
        }
        let text = |cell: &[u8]| Value::String(String::from_utf8_lossy(cell).into_owned());
        let filled = self.columns.iter().zip(&self.record).filter(|(_, cell)| !cell.is_empty());
        Ok(filled.map(|(column, cell)| (column.clone(), text(cell))).collect())
    }
}

impl Iterator for Table {
    type Item = Result<(Place, Result<Map<String, Value>, RowProblem>), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (line, raw) = match self.read() {
            Ok(record) => record?,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok((Place::Line(line), self.row(&raw))))
    }
}

/// A cell that begins with a quote.
struct Quoted {
    start: usize,
    end: usize,
    /// Whether another quote ends it.
    closed: bool,
    /// Whether its end is also the cell's.
    whole: bool,
}

/// Quoted cells of a record. The reader takes what stands behind a closing quote, and the end of
/// the file for one, without a word.
struct Quotes<'a> {
    raw: &'a [u8],
    delimiter: u8,
    at: usize,
}

impl<'a> Quotes<'a> {
    fn new(raw: &'a [u8], delimiter: u8) -> Self {
        Self { raw, delimiter, at: 0 }
    }

    fn ends_cell(&self, at: usize) -> bool {
        self.raw.get(at).is_none_or(|b| *b == self.delimiter || matches!(b, b'\n' | b'\r'))
    }
}

impl Iterator for Quotes<'_> {
    type Item = Quoted;

    fn next(&mut self) -> Option<Quoted> {
        while self.raw.get(self.at)? != &b'"' {
            while !self.ends_cell(self.at) {
                self.at += 1;
            }
            self.at += 1;
        }
        let start = self.at;
        let mut end = start + 1;
        while let Some(b) = self.raw.get(end) {
            match (b, self.raw.get(end + 1)) {
                (b'"', Some(b'"')) => end += 2,
                (b'"', _) => {
                    self.at = end + 1;
                    return Some(Quoted { start, end: end + 1, closed: true, whole: self.ends_cell(end + 1) });
                }
                _ => end += 1,
            }
        }
        self.at = self.raw.len();
        Some(Quoted { start, end, closed: false, whole: true })
    }
}

/// Where a quote stands that nothing closes.
fn unclosed(raw: &[u8], delimiter: u8) -> Option<usize> {
    Quotes::new(raw, delimiter).find(|quoted| !quoted.closed).map(|quoted| quoted.start)
}

#[cfg(test)]
mod tests {
    use crate::rows::{RowContent, RowOptions, Rows, parse_rows};

    fn read(name: &str, text: &str) -> Result<Rows, String> {
        parse_rows(name, text.as_bytes(), &RowOptions::default()).map_err(|error| error.to_string())
    }

    fn texts(name: &str, text: &str) -> Vec<String> {
        let text_of = |content| match content {
            RowContent::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        };
        read(name, text).unwrap().rows.into_iter().map(|row| text_of(row.content)).collect()
    }

    #[test]
    fn cells_hold_whatever_quotes_keep_together() {
        let text = "\u{feff} id ,text\r\n1,\"a \"\"b\"\",\n c\"\r\n,\r\n\r\n2, d \" e\r\n";
        assert_eq!(texts("d.csv", text), ["a \"b\",\n c", " d \" e"]);
        assert_eq!(texts("d.tsv", "text\tn\na, b\t1\n"), ["a, b"]);
        assert_eq!(texts("d.csv", "text;n\n\"a; b\";1\n"), ["a; b"]);
        assert_eq!(texts("d.CSV", "text\na; b\n"), ["a; b"]);
        assert_eq!(texts("d.csv", "\u{feff}sep=;\r\ntext;n\r\na, b;1\r\n"), ["a, b"]);
        assert_eq!(texts("d.csv", "sep=|\ntext|n\na, b; c|1\n"), ["a, b; c"]);
        // The name is a table's, but not what stands in it.
        assert_eq!(texts("d.csv", "{\"text\": \"a\"}\n"), ["a"]);
        assert_eq!(read("d.csv", ",text,\n0,a,\n").unwrap().ignored.names(), ["column 1"]);
    }

    #[test]
    fn a_header_costs_time_in_proportion_to_its_columns() {
        let names: Vec<String> = (0..200_000).map(|column| format!("a_column_of_many_{column:06}")).collect();
        let started = std::time::Instant::now();
        let row = format!("text,{}\na{}\n", names.join(","), ",".repeat(names.len()));
        assert_eq!(texts("d.csv", &row), ["a"]);
        let error = read("d.csv", &format!("{},a_column_of_many_199999\n", names.join(","))).unwrap_err();
        assert!(error.ends_with("the header names the column \"a_column_of_many_199999\" twice"));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn an_empty_cell_is_no_key() {
        let rows = read("d.csv", "instruction,input,output,system\ndo,,done,\ndo,it,done,Be brief.\n").unwrap();
        let turns = |row: usize| match &rows.rows[row].content {
            RowContent::Chat(chat) => chat.conversation.messages.len(),
            other => panic!("not a chat: {other:?}"),
        };
        assert_eq!((turns(0), turns(1)), (2, 3));
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said_with_its_line() {
        let cases = [
            ("text,n\na,1\nb\n", "d.csv:3: found 1 cells, expected 2 as the header has"),
            ("text,n\na,b,1\n", "d.csv:2: found 3 cells, expected 2 as the header has"),
            ("text,n\n\"a\nb\",1\n\n\"c,2\nd,3\n", "d.csv:5: a cell begins with a quote that nothing ends"),
            ("text,n\nx,\"a\"\"\nd,3\n", "d.csv:2: a cell begins with a quote that nothing ends"),
            ("text,n\na,1\n\"b\" c,2\n", "d.csv:3: text follows a closing quote at byte 4"),
            ("text,text\na,b\n", "d.csv:1: the header names the column \"text\" twice"),
            ("What is TP53?,A gene\n", "d.csv:1: found keys \"What is TP53?\", \"A gene\"; expected \"messages\", or"),
            ("promt,completion\na,b\n", "did you misspell it as \"promt\"?"),
            ("prompt,chosen,rejected\na,b,c\n", "d.csv:1: chosen belongs to a preference pair"),
            ("prompt,completion,label\na,b,True\n", "d.csv:2: label says whether an answer is a good one (KTO"),
            ("text\n", "data file d.csv is empty"),
            ("", "data file d.csv is empty"),
            ("messages\n\"[{'role': 'user', 'content': 'a'}]\"\n", "(is it Python's notation? json.dumps writes JSON)"),
            ("text,n\na,1\n,2\n", "d.csv:3: the cell under \"text\" is empty, and every row needs one"),
            ("prompt,completion\nq,a\n,a\n", "d.csv:3: the cell under \"prompt\" is empty"),
            ("sep=;\ntext;n\na;1\n;2\n", "d.csv:4: the cell under \"text\" is empty"),
            ("sep=;;\ntext;n\n", "d.csv:1: found keys \"sep=\", \"column 2\", \"column 3\""),
            ("messages\nhello\n", "d.csv:2: messages is a string, expected"),
        ];
        for (text, expected) in cases {
            let error = read("d.csv", text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let latin = parse_rows("d.csv", &b"text\na\xe9\n"[..], &RowOptions::default()).unwrap_err().to_string();
        assert!(latin.starts_with("d.csv:2: byte 0xe9 at column 2 is not UTF-8"), "{latin}");
        let skipping = RowOptions { skip_bad_rows: true, ..RowOptions::default() };
        let rows = parse_rows("d.csv", &b"text,n\na\nb,1\n\"c\"d,2\n\xff,3\n"[..], &skipping).unwrap();
        assert_eq!((rows.rows.len(), rows.skipped.len()), (1, 3));
    }
}
