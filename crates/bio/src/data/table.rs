//! Delimited text: comma, tab or semicolon, told by the first line.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{BioError, Result, read_text};
use crate::genes::resolver::says_missing;

/// A file's cells, with the line each row began on (from 1).
#[derive(Debug)]
pub struct Table {
    /// Rows of cells, blank lines and `#` comments left out.
    pub rows: Vec<(usize, Vec<String>)>,
    /// How many lines were left out for a `#` at their beginning.
    pub comments: usize,
}

impl Table {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text, delimiter(&text)).map_err(|problem| BioError::file(path, problem))
    }

    /// Parses text; rows may differ in length.
    pub fn parse(text: &str, delimiter: u8) -> std::result::Result<Self, String> {
        // A spreadsheet's #N/A is a cell, not a comment.
        let is_comment = |line: &str| {
            line.starts_with('#') && !says_missing(line.split(char::from(delimiter)).next().unwrap_or_default().trim())
        };
        let comments = text.lines().filter(|line| is_comment(line)).count();
        let text = if comments == 0 {
            Cow::Borrowed(text)
        } else {
            // Empty in their place, so that lines keep their numbers.
            let kept: Vec<&str> = text.lines().map(|line| if is_comment(line) { "" } else { line }).collect();
            Cow::Owned(kept.join("\n"))
        };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| error.to_string())?;
            let line = record.position().map_or(0, |place| place.line() as usize);
            let cells: Vec<String> = record.iter().map(str::to_owned).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                rows.push((line, cells));
            }
        }
        Ok(Self { rows, comments })
    }

    /// The place of a column that the fetched files name in their first row.
    pub fn column(&self, path: &Path, name: &str) -> Result<usize> {
        let header = self.rows.first().map(|(_, row)| row.as_slice()).unwrap_or_default();
        let place = header.iter().position(|cell| cell == name);
        place.ok_or_else(|| BioError::file(path, format!("has no column {name}; run `bft bio fetch`")))
    }

    /// What was left out, in words, where something was.
    pub fn note(&self) -> Option<String> {
        (self.comments > 0).then(|| format!("lines left out as comments, because they begin with #: {}", self.comments))
    }
}

/// The delimiter that the first line with any has most of; tab for plain lists.
pub fn delimiter(text: &str) -> u8 {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let count = |byte: u8| first.map_or(0, |line| line.bytes().filter(|b| *b == byte).count());
    let best = [b'\t', b',', b';'].into_iter().max_by_key(|byte| count(*byte));
    best.filter(|byte| count(*byte) > 0).unwrap_or(b'\t')
}
