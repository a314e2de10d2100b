//! AnnData files (`.h5ad`): columns of `obs` and `var`, and rows of a matrix, dense or sparse, a
//! block at a time.

mod write;

use std::path::{Path, PathBuf};

use bft_formats::guard::guarded;
use half::f16;
use hdf5_pure::{AttrValue, DType, Dataset, Datatype, DatatypeByteOrder, File, Group};

use super::{FREE, RATIO};
use crate::error::{BioError, Result, cannot_read};

pub use write::write_obsm;

/// An open file.
pub struct H5ad {
    file: File,
    path: PathBuf,
}

/// A matrix of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Its path in the file, `X` or `raw/X`.
    pub place: String,
    /// Cells.
    pub rows: usize,
    /// Genes.
    pub columns: usize,
    /// How it is stored.
    pub layout: Layout,
}

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Every number.
    Dense,
    /// Rows one after another.
    Csr,
    /// Columns one after another.
    Csc,
}

/// Takes a row's number and its cells.
type Visit<'v> = &'v mut dyn FnMut(usize, &[(u32, f32)]) -> Result<()>;

/// Numbers read at a time.
const BLOCK: usize = 1 << 22;

/// [`RATIO`] for what is read a block at a time: gzip makes at most 1,032 bytes of one.
const DENSE_RATIO: u64 = 1100;
/// Bytes that a text, or an empty row, takes in memory.
const TEXT: u64 = 24;

impl H5ad {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that is no HDF5, is cut short, or holds no `obs` and `var`.
    pub fn open(path: &Path) -> Result<Self> {
        let known = hdf5_pure::is_hdf5(path).map_err(|error| cannot_read(path, &error))?;
        if !known {
            return Err(BioError::file(path, "is no HDF5 file; expected an AnnData file (.h5ad)"));
        }
        let file = read(path, || File::open_streaming(path))?;
        let (said, there) = (file.superblock().eof_address, file.file_size());
        if there < said {
            return Err(BioError::file(
                path,
                format!("is cut short: it has {there} bytes, expected {said}; copy it again"),
            ));
        }
        let found = Self { file, path: path.to_path_buf() };
        for frame in ["obs", "var"] {
            if found.group(frame).is_err() {
                return Err(found.problem(format!(
                    "has no table `{frame}`; expected an AnnData file (written by anndata 0.7 or newer)"
                )));
            }
        }
        Ok(found)
    }

    /// Something is wrong with this file.
    pub fn problem(&self, problem: impl std::fmt::Display) -> BioError {
        BioError::file(&self.path, problem)
    }

    /// Has the library read something of this file.
    fn read<T>(&self, parse: impl FnOnce() -> std::result::Result<T, hdf5_pure::Error>) -> Result<T> {
        read(&self.path, parse)
    }

    fn group(&self, place: &str) -> Result<Group> {
        self.read(|| self.file.group(place))
    }

    /// The data set at a place, whatever is in it.
    fn found(&self, place: &str) -> Result<Dataset> {
        self.read(|| self.file.dataset(place))
    }

    /// A data set to read from: its compression can be undone, and it says to hold no more than a
    /// file of this size can.
    fn dataset(&self, place: &str) -> Result<Dataset> {
        self.dataset_within(place, RATIO)
    }

    fn dataset_within(&self, place: &str, ratio: u64) -> Result<Dataset> {
        let data = self.found(place)?;
        let filters = self.read(|| Ok(data.filter_pipeline()))?;
        let foreign = filters.into_iter().find_map(|filter| Some((filter.id, filter_name(filter.id)?)));
        if let Some((id, name)) = foreign {
            return Err(self.problem(format!(
                "{place} is compressed with {name} (HDF5 filter {id}), expected gzip, lzf or none: write the file again, in Python: import anndata, hdf5plugin; anndata.read_h5ad(\"in.h5ad\").write_h5ad(\"out.h5ad\", compression=\"gzip\")"
            )));
        }
        // Whole numbers are read as 8 bytes.
        let size = self.read(|| data.element_size())?.max(8);
        let (shape, chunk) = (self.read(|| data.shape())?, self.read(|| data.chunk_shape())?);
        self.check_size(place, &shape, size, ratio)?;
        self.check_size(&format!("a chunk of {place}"), &chunk.unwrap_or_default(), size, RATIO)?;
        Ok(data)
    }

    /// Refuses what is many times larger than the file.
    fn check_size(&self, what: &str, shape: &[u64], size: u64, ratio: u64) -> Result<()> {
        let most = FREE + ratio * self.file.file_size();
        let bytes = shape.iter().try_fold(size, |bytes, length| bytes.checked_mul(*length));
        if bytes.is_none_or(|bytes| bytes > most) {
            let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
            return Err(self.problem(format!(
                "{what} says to hold {} values of {size} bytes, more than a file of {} bytes can; the file is damaged, write it again",
                shape.join(" × "),
                self.file.file_size()
            )));
        }
        Ok(())
    }

    /// So many rows of a data set of numbers.
    fn numbers(&self, data: &Dataset, from: u64, count: u64) -> Result<Vec<f32>> {
        let Datatype::FloatingPoint { size: 2, byte_order, .. } = self.read(|| data.datatype())? else {
            return self.read(|| data.read_f32_rows(from, count));
        };
        let raw = self.read(|| data.read_raw_rows(from, count))?;
        let number = |pair: &[u8]| match byte_order {
            DatatypeByteOrder::BigEndian => f16::from_be_bytes([pair[0], pair[1]]),
            _ => f16::from_le_bytes([pair[0], pair[1]]),
        };
        Ok(raw.chunks_exact(2).map(|pair| number(pair).to_f32()).collect())
    }

    /// Whether there is such a group or data set.
    pub fn has(&self, place: &str) -> bool {
        self.found(place).is_ok() || self.group(place).is_ok()
    }

    /// Names of a table's columns, sorted.
    pub fn columns(&self, frame: &str) -> Result<Vec<String>> {
        let group = self.group(frame)?;
        let mut names = self.read(|| group.datasets())?;
        names.extend(self.read(|| group.groups())?);
        names.sort();
        Ok(names)
    }

    /// Names of a table's rows.
    pub fn index(&self, frame: &str) -> Result<Vec<String>> {
        let group = self.group(frame)?;
        let attributes = self.read(|| group.attrs())?;
        let name = match attributes.get("_index") {
            Some(AttrValue::VarLenString(name) | AttrValue::String(name) | AttrValue::AsciiString(name)) => {
                name.clone()
            }
            _ => "_index".to_owned(),
        };
        self.column(frame, &name)
    }

    /// A column as text; categories by their names. What has no value is empty.
    ///
    /// # Errors
    /// No such column; the message names those that there are.
    pub fn column(&self, frame: &str, name: &str) -> Result<Vec<String>> {
        let place = format!("{frame}/{name}");
        if self.group(&place).is_ok() {
            return self.categories(&place);
        }
        if self.found(&place).is_err() {
            let known = self.columns(frame)?;
            return Err(self.problem(format!("{frame} has no column `{name}`; it has {}", known.join(", "))));
        }
        let codes = self.text(&place)?;
        // Before anndata 0.7.? categories lay in a group beside their codes.
        let legacy = format!("{frame}/__categories/{name}");
        if self.found(&legacy).is_ok() {
            let codes: Vec<i64> = codes.iter().map(|code| code.parse().unwrap_or(i64::MAX)).collect();
            return self.named(&place, &self.text(&legacy)?, &codes);
        }
        Ok(codes)
    }

    fn categories(&self, place: &str) -> Result<Vec<String>> {
        let codes = format!("{place}/codes");
        if self.found(&codes).is_err() {
            return self.masked(place);
        }
        let names = format!("{place}/categories");
        let categories = if self.group(&names).is_ok() { self.masked(&names)? } else { self.text(&names)? };
        let codes = self.dataset(&codes)?;
        let codes = self.read(|| codes.read_i64())?;
        self.named(place, &categories, &codes)
    }

    /// Text and whole numbers as anndata 0.12 may write them: values beside a mask of those that
    /// are missing.
    fn masked(&self, place: &str) -> Result<Vec<String>> {
        let mut values = self.text(&format!("{place}/values"))?;
        let mask = self.dataset(&format!("{place}/mask"))?;
        let mask = self.read(|| mask.read_u8())?;
        values.iter_mut().zip(mask).filter(|(_, missing)| *missing != 0).for_each(|(value, _)| value.clear());
        Ok(values)
    }

    /// Categories by their codes; -1 says that there is none.
    fn named(&self, place: &str, categories: &[String], codes: &[i64]) -> Result<Vec<String>> {
        let name = |code: &i64| match usize::try_from(*code) {
            Err(_) => Ok(String::new()),
            Ok(index) => categories.get(index).cloned().ok_or_else(|| {
                self.problem(format!(
                    "{place}: code {code} of {} categories; the file is damaged, write it again",
                    categories.len()
                ))
            }),
        };
        codes.iter().map(name).collect()
    }

    fn text(&self, place: &str) -> Result<Vec<String>> {
        let data = self.dataset(place)?;
        let shape = self.read(|| data.shape())?;
        self.check_size(place, &shape, TEXT, RATIO)?;
        match self.read(|| data.dtype())? {
            DType::F32 | DType::F64 => Ok(self.read(|| data.read_f64())?.iter().map(ToString::to_string).collect()),
            DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                Ok(self.read(|| data.read_i64())?.iter().map(ToString::to_string).collect())
            }
            _ => self.read(|| Ok(data.read_string()))?.map_err(|error| {
                self.problem(format!("{place} cannot be read as text ({error}); expected text, categories or numbers"))
            }),
        }
    }

    /// The matrix at a place.
    pub fn matrix(&self, place: &str) -> Result<Matrix> {
        if let Ok(data) = self.found(place) {
            let shape = self.read(|| data.shape())?;
            let [rows, columns] = shape.as_slice() else {
                return Err(self.problem(format!("{place} has {} dimensions, expected cells × genes", shape.len())));
            };
            return self.sized(place, *rows, *columns, Layout::Dense);
        }
        let group = self.group(place).map_err(|_| self.problem(format!("has no matrix {place}")))?;
        let attributes = self.read(|| group.attrs())?;
        let word = |key: &str| match attributes.get(key) {
            Some(AttrValue::VarLenString(text) | AttrValue::String(text) | AttrValue::AsciiString(text)) => {
                Some(text.clone())
            }
            _ => None,
        };
        let layout = match word("encoding-type").or_else(|| word("h5sparse_format")).as_deref() {
            Some("csr_matrix" | "csr") => Layout::Csr,
            Some("csc_matrix" | "csc") => Layout::Csc,
            other => {
                return Err(self.problem(format!(
                    "{place} is stored as {}, expected dense, csr_matrix or csc_matrix",
                    other.unwrap_or("something without an encoding-type")
                )));
            }
        };
        let shape = match attributes.get("shape").or_else(|| attributes.get("h5sparse_shape")) {
            // A negative number becomes one that is too large.
            Some(AttrValue::I64Array(shape)) => shape.iter().map(|n| *n as u64).collect(),
            Some(AttrValue::I32Array(shape)) => shape.iter().map(|n| *n as u64).collect(),
            Some(AttrValue::U64Array(shape)) => shape.clone(),
            _ => Vec::new(),
        };
        let [rows, columns] = shape.as_slice() else {
            return Err(self.problem(format!("{place} does not say its shape")));
        };
        self.sized(place, *rows, *columns, layout)
    }

    /// A matrix of a shape that there can be: each cell and gene has a name, at the least.
    fn sized(&self, place: &str, rows: u64, columns: u64, layout: Layout) -> Result<Matrix> {
        self.check_size(&format!("a column of {place}"), &[rows], TEXT, RATIO)?;
        self.check_size(&format!("a row of {place}"), &[columns], TEXT, RATIO)?;
        Ok(Matrix { place: place.to_owned(), rows: rows as usize, columns: columns as usize, layout })
    }

    /// Visits every row's numbers that are not 0, by column; a block of rows is in memory at a time
    /// (all of a CSC matrix).
    ///
    /// # Errors
    /// A number that is not finite, indices outside the matrix, a file that is cut short.
    pub fn rows(&self, matrix: &Matrix, mut visit: impl FnMut(usize, &[(u32, f32)])) -> Result<()> {
        let mut check = |row: usize, cells: &[(u32, f32)]| {
            if let Some((column, _)) = cells.iter().find(|(_, value)| !value.is_finite()) {
                return Err(self.problem(format!(
                    "{}, row {row}, column {column}: not a finite number; fill or remove such cells first",
                    matrix.place
                )));
            }
            visit(row, cells);
            Ok(())
        };
        match matrix.layout {
            Layout::Dense => self.dense_rows(matrix, &mut check),
            Layout::Csr => self.compressed(matrix, matrix.rows, matrix.columns, &mut check),
            Layout::Csc => {
                let mut rows: Vec<Vec<(u32, f32)>> = vec![Vec::new(); matrix.rows];
                self.compressed(matrix, matrix.columns, matrix.rows, &mut |column, cells| {
                    for (row, value) in cells {
                        rows[*row as usize].push((column as u32, *value));
                    }
                    Ok(())
                })?;
                rows.iter().enumerate().try_for_each(|(row, cells)| check(row, cells))
            }
        }
    }

    fn dense_rows(&self, matrix: &Matrix, visit: Visit<'_>) -> Result<()> {
        let data = self.dataset_within(&matrix.place, DENSE_RATIO)?;
        let block = (BLOCK / matrix.columns.max(1)).max(1);
        for start in (0..matrix.rows).step_by(block) {
            let count = block.min(matrix.rows - start);
            let values = self.numbers(&data, start as u64, count as u64)?;
            if values.len() != count * matrix.columns {
                return Err(self.problem(format!("{} is cut short; the file is damaged, write it again", matrix.place)));
            }
            for (offset, row) in values.chunks(matrix.columns.max(1)).enumerate() {
                let cells: Vec<(u32, f32)> = row
                    .iter()
                    .enumerate()
                    .filter(|(_, value)| **value != 0.0)
                    .map(|(column, value)| (column as u32, *value))
                    .collect();
                visit(start + offset, &cells)?;
            }
        }
        Ok(())
    }

    /// Rows of a CSR matrix, columns of a CSC one.
    fn compressed(&self, matrix: &Matrix, majors: usize, minors: usize, visit: Visit<'_>) -> Result<()> {
        let part = |name: &str| self.dataset(&format!("{}/{name}", matrix.place));
        let (data, indices, bounds) = (part("data")?, part("indices")?, part("indptr")?);
        let bounds = self.read(|| bounds.read_i64())?;
        let length = |data: &Dataset| self.read(|| data.shape()).map(|shape| shape.first().map_or(0, |n| *n as i64));
        let (stored, indexed) = (length(&data)?, length(&indices)?);
        if stored != indexed {
            return Err(self.problem(format!(
                "{}: {stored} values with {indexed} indices, expected as many; the file is damaged, write it again",
                matrix.place
            )));
        }
        let broken = bounds.len() != majors + 1
            || bounds.first() != Some(&0)
            || bounds.last() != Some(&stored)
            || bounds.windows(2).any(|pair| pair[0] > pair[1]);
        if broken {
            return Err(self.problem(format!(
                "{}/indptr does not fit the matrix; the file is damaged, write it again",
                matrix.place
            )));
        }
        let mut first = 0;
        while first < majors {
            let mut end = first + 1;
            while end < majors && (bounds[end + 1] - bounds[first]) as usize <= BLOCK {
                end += 1;
            }
            let (from, count) = (bounds[first] as u64, (bounds[end] - bounds[first]) as u64);
            let (values, minor) = if count == 0 {
                (Vec::new(), Vec::new())
            } else {
                (self.numbers(&data, from, count)?, self.read(|| indices.read_i64_rows(from, count))?)
            };
            if values.len() as u64 != count || minor.len() as u64 != count {
                return Err(self.problem(format!("{} is cut short; the file is damaged, write it again", matrix.place)));
            }
            for major in first..end {
                let range = (bounds[major] - bounds[first]) as usize..(bounds[major + 1] - bounds[first]) as usize;
                let mut cells = Vec::with_capacity(range.len());
                for (index, value) in minor[range.clone()].iter().zip(&values[range]) {
                    if !(0..minors as i64).contains(index) {
                        return Err(self.problem(format!(
                            "{}: index {index} of {minors}; the file is damaged, write it again",
                            matrix.place
                        )));
                    }
                    if *value != 0.0 {
                        cells.push((*index as u32, *value));
                    }
                }
                visit(major, &cells)?;
            }
            first = end;
        }
        Ok(())
    }
}

/// What a matrix's numbers look like, gathered while its rows are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    whole: bool,
    least: f32,
    most: f32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { whole: true, least: 0.0, most: 0.0 }
    }
}

impl Scale {
    /// Takes a row's numbers into account.
    pub(crate) fn see(&mut self, cells: &[(u32, f32)]) {
        for (_, value) in cells {
            self.whole &= value.fract() == 0.0;
            self.least = self.least.min(*value);
            self.most = self.most.max(*value);
        }
    }

    /// What is not as logarithms of normalised counts are, where something is not.
    pub(crate) fn note(&self, place: &str) -> Option<String> {
        // The logarithm of a count of a million is 14, to base 2 it is 20.
        const LARGEST_LOG: f32 = 30.0;
        let found = if self.least < 0.0 {
            format!("negative numbers, down to {}: scaled values", self.least)
        } else if self.whole && self.most > 0.0 {
            format!("whole numbers alone, up to {}: raw counts", self.most)
        } else if self.most > LARGEST_LOG {
            format!("numbers up to {}: no logarithms", self.most)
        } else {
            return None;
        };
        Some(format!(
            "{place} holds {found}, it seems; log-normalised expression is expected (scanpy: sc.pp.normalize_total, sc.pp.log1p), and the measures mean something else without it"
        ))
    }
}

/// Filters that compress and cannot be undone here. HDF5's own and lzf can.
fn filter_name(id: u16) -> Option<&'static str> {
    match id {
        1 | 2 | 3 | 6 | 32_000 => None,
        4 => Some("szip"),
        5 => Some("n-bit packing"),
        307 => Some("bzip2"),
        32_001 => Some("blosc"),
        32_004 => Some("lz4"),
        32_008 => Some("bitshuffle"),
        32_013 => Some("zfp"),
        32_015 => Some("zstd"),
        32_026 => Some("blosc2"),
        _ => Some("a filter that is not HDF5's own"),
    }
}

/// Has the library read something of a file; whatever it fails with is said of the file.
fn read<T>(path: &Path, parse: impl FnOnce() -> std::result::Result<T, hdf5_pure::Error>) -> Result<T> {
    let damaged = |error: &dyn std::fmt::Display| {
        let problem = format!("cannot be read ({error}); it may be damaged or cut short, write or copy it again");
        BioError::file(path, problem)
    };
    match guarded(parse) {
        Ok(result) => result.map_err(|error| damaged(&error)),
        Err(panic) => Err(damaged(&panic)),
    }
}
