//! Delimited text: comma, tab or semicolon, told by the first line.

use std::path::Path;

use crate::error::{BioError, Result, read_text};

/// A file's cells, with the line each row began on (from 1).
#[derive(Debug)]
pub struct Table {
    /// Rows of cells, blank lines and `#` comments left out.
    pub rows: Vec<(usize, Vec<String>)>,
}

impl Table {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text, delimiter(&text)).map_err(|problem| BioError::file(path, problem))
    }

    /// Parses text; rows may differ in length.
    pub fn parse(text: &str, delimiter: u8) -> std::result::Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
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
        Ok(Self { rows })
    }
}

/// The delimiter that the first line with any has most of; tab for plain lists.
pub fn delimiter(text: &str) -> u8 {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let count = |byte: u8| first.map_or(0, |line| line.bytes().filter(|b| *b == byte).count());
    let best = [b'\t', b',', b';'].into_iter().max_by_key(|byte| count(*byte));
    best.filter(|byte| count(*byte) > 0).unwrap_or(b'\t')
}
