//! Anybody's vectors: Parquet, `.npy` with an index, TSV or CSV or word2vec text, JSONL.

use std::fs::File;
use std::path::Path;

use bft_formats::guard::guarded;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::table::{Table, delimiter};
use super::{FREE, RATIO};
use crate::error::{BioError, Result, cannot_read, read_text};

/// Bytes that a row of nothing takes in memory.
const ROW: u64 = 64;

/// Names and their vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedVectors {
    /// A gene's name as the file has it.
    pub names: Vec<String>,
    /// Numbers in a vector.
    pub width: usize,
    /// `[names, width]`, row-major.
    pub values: Vec<f32>,
}

impl NamedVectors {
    /// Reads a file; its ending tells the format.
    ///
    /// # Errors
    /// An unknown ending, vectors of different lengths, numbers that are not finite, a file that is
    /// cut short.
    pub fn read(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let rows = match ending.as_str() {
            "parquet" => parquet_rows(path),
            "npy" => npy_rows(path),
            "jsonl" => jsonl_rows(path),
            "tsv" | "csv" | "txt" | "vec" => text_rows(path),
            _ => Err(BioError::file(
                path,
                "expected vectors as .parquet, .npy (with a .tsv index), .tsv, .csv, .txt (word2vec) or .jsonl; a pickle must be saved as one of these",
            )),
        }?;
        Self::check(path, rows)
    }

    fn check(path: &Path, rows: Vec<(String, Vec<f32>)>) -> Result<Self> {
        let Some((_, first)) = rows.first() else {
            return Err(BioError::file(path, "holds no vectors"));
        };
        let width = first.len();
        let mut found = Self { names: Vec::new(), width, values: Vec::new() };
        for (row, (name, vector)) in rows.into_iter().enumerate() {
            let place = format!("vector {} ({name})", row + 1);
            if vector.len() != width || width == 0 {
                let length = vector.len();
                return Err(BioError::file(
                    path,
                    format!("{place} has {length} numbers, expected {width} as the first"),
                ));
            }
            if let Some(bad) = vector.iter().position(|value| !value.is_finite()) {
                return Err(BioError::file(path, format!("{place}: number {} is not finite", bad + 1)));
            }
            found.names.push(name);
            found.values.extend(vector);
        }
        Ok(found)
    }
}

fn parquet_rows(path: &Path) -> Result<Vec<(String, Vec<f32>)>> {
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let size = file.metadata().map_err(|error| cannot_read(path, &error))?.len();
    let mut left = FREE + RATIO * size;
    let reader = parsed(path, || SerializedFileReader::new(file))?;
    let mut iter = parsed(path, || reader.get_row_iter(None))?;
    let mut rows = Vec::new();
    while let Some(row) = parsed(path, || iter.next().transpose())? {
        let (mut name, mut vector) = (None, None);
        for (_, field) in row.get_column_iter() {
            match field {
                Field::Str(text) if name.is_none() => name = Some(text.clone()),
                Field::ListInternal(list) if vector.is_none() => {
                    vector = Some(list.elements().iter().filter_map(number).collect());
                }
                _ => {}
            }
        }
        match (name, vector) {
            (Some(name), Some(vector)) => {
                let vector: Vec<f32> = vector;
                let bytes = ROW + name.len() as u64 + 4 * vector.len() as u64;
                left = left.checked_sub(bytes).ok_or_else(|| {
                    BioError::file(path, format!("holds more than {RATIO} times its own {size} bytes; save it anew"))
                })?;
                rows.push((name, vector));
            }
            _ => {
                return Err(BioError::file(
                    path,
                    "expected a text column with the genes and a list column with the vectors",
                ));
            }
        }
    }
    Ok(rows)
}

/// Has the library read something of a Parquet file; whatever it fails with is said of the file.
fn parsed<T>(path: &Path, parse: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let damaged = |error: &dyn std::fmt::Display| BioError::file(path, format!("is no readable Parquet file: {error}"));
    match guarded(parse) {
        Ok(result) => result.map_err(|error| damaged(&error)),
        Err(panic) => Err(damaged(&panic)),
    }
}

fn number(field: &Field) -> Option<f32> {
    match field {
        Field::Float(value) => Some(*value),
        Field::Double(value) => Some(*value as f32),
        _ => None,
    }
}

fn npy_rows(path: &Path) -> Result<Vec<(String, Vec<f32>)>> {
    let bytes = std::fs::read(path).map_err(|error| cannot_read(path, &error))?;
    let (shape, values) = bft_formats::npy::read(&bytes).map_err(|problem| BioError::file(path, problem))?;
    let index = path.with_extension("tsv");
    if !index.exists() {
        return Err(BioError::file(
            path,
            format!("has no index: expected the genes, one a line, in {}", index.display()),
        ));
    }
    let mut names: Vec<String> =
        Table::read(&index)?.rows.into_iter().filter_map(|(_, row)| row.into_iter().next()).collect();
    if names.len().checked_sub(1) == Some(shape[0]) {
        names.remove(0);
    }
    if names.len() != shape[0] {
        return Err(BioError::file(
            &index,
            format!("has {} genes, expected {} as {} has vectors", names.len(), shape[0], path.display()),
        ));
    }
    Ok(names.into_iter().zip(values.chunks(shape[1].max(1)).map(<[f32]>::to_vec)).collect())
}

fn jsonl_rows(path: &Path) -> Result<Vec<(String, Vec<f32>)>> {
    let text = read_text(path)?;
    let mut rows = Vec::new();
    for (line, row) in text.lines().enumerate().filter(|(_, row)| !row.trim().is_empty()) {
        let bad = |problem: String| BioError::file(path, format!("line {}: {problem}", line + 1));
        let value: Value = serde_json::from_str(row).map_err(|error| bad(error.to_string()))?;
        let name = ["id", "gene", "symbol"].iter().find_map(|key| value.get(key)?.as_str());
        let vector = ["embedding", "vector"].iter().find_map(|key| value.get(key)?.as_array());
        let (Some(name), Some(vector)) = (name, vector) else {
            return Err(bad("expected \"id\" (a text) and \"embedding\" (a list of numbers)".to_owned()));
        };
        let vector: Option<Vec<f32>> = vector.iter().map(|value| Some(value.as_f64()? as f32)).collect();
        let vector = vector.ok_or_else(|| bad("\"embedding\" holds something that is no number".to_owned()))?;
        rows.push((name.to_owned(), vector));
    }
    Ok(rows)
}

fn text_rows(path: &Path) -> Result<Vec<(String, Vec<f32>)>> {
    let text = read_text(path)?;
    let spaced = !text.lines().next().unwrap_or("").contains(['\t', ',', ';']);
    let by = if spaced { b' ' } else { delimiter(&text) };
    let table = Table::parse(&text, by).map_err(|problem| BioError::file(path, problem))?;
    let mut rows = Vec::new();
    for (index, (line, mut cells)) in table.rows.into_iter().enumerate() {
        while cells.last().is_some_and(String::is_empty) {
            cells.pop();
        }
        let parsed: std::result::Result<Vec<f32>, usize> =
            cells.iter().enumerate().skip(1).map(|(column, cell)| cell.parse::<f32>().map_err(|_| column)).collect();
        match parsed {
            // word2vec text begins with two counts.
            Ok(vector) if index == 0 && vector.len() == 1 && cells[0].parse::<usize>().is_ok() => {}
            Ok(vector) => rows.push((cells.swap_remove(0), vector)),
            Err(_) if index == 0 => {}
            Err(column) => {
                let found = &cells[column];
                return Err(BioError::file(
                    path,
                    format!("line {line}, column {}: found '{found}', expected a number", column + 1),
                ));
            }
        }
    }
    Ok(rows)
}
