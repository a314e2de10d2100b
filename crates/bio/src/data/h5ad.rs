//! AnnData files (`.h5ad`): columns of `obs` and `var`, and rows of a matrix, dense or sparse, a
//! block at a time.

mod write;

use std::path::{Path, PathBuf};

use half::f16;
use hdf5_pure::{AttrValue, DType, Dataset, Datatype, DatatypeByteOrder, File, Group};

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
        let file = File::open_streaming(path).map_err(|error| damaged(path, error))?;
        let (said, there) = (file.superblock().eof_address, file.file_size());
        if there < said {
            return Err(BioError::file(
                path,
                format!("is cut short: it has {there} bytes, expected {said}; copy it again"),
            ));
        }
        let found = Self { file, path: path.to_path_buf() };
        for frame in ["obs", "var"] {
            if found.file.group(frame).is_err() {
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

    fn group(&self, place: &str) -> Result<Group> {
        self.file.group(place).map_err(|error| damaged(&self.path, error))
    }

    /// A data set, if its compression is one that can be undone.
    fn dataset(&self, place: &str) -> Result<Dataset> {
        let data = self.file.dataset(place).map_err(|error| damaged(&self.path, error))?;
        let foreign = data.filter_pipeline().into_iter().find_map(|filter| Some((filter.id, filter_name(filter.id)?)));
        if let Some((id, name)) = foreign {
            return Err(self.problem(format!(
                "{place} is compressed with {name} (HDF5 filter {id}), expected gzip, lzf or none: write the file again, in Python: import anndata, hdf5plugin; anndata.read_h5ad(\"in.h5ad\").write_h5ad(\"out.h5ad\", compression=\"gzip\")"
            )));
        }
        Ok(data)
    }

    /// So many rows of a data set of numbers.
    fn numbers(&self, data: &Dataset, from: u64, count: u64) -> Result<Vec<f32>> {
        let problem = |error| damaged(&self.path, error);
        let Datatype::FloatingPoint { size: 2, byte_order, .. } = data.datatype().map_err(problem)? else {
            return data.read_f32_rows(from, count).map_err(problem);
        };
        let raw = data.read_raw_rows(from, count).map_err(problem)?;
        let number = |pair: &[u8]| match byte_order {
            DatatypeByteOrder::BigEndian => f16::from_be_bytes([pair[0], pair[1]]),
            _ => f16::from_le_bytes([pair[0], pair[1]]),
        };
        Ok(raw.chunks_exact(2).map(|pair| number(pair).to_f32()).collect())
    }

    /// Whether there is such a group or data set.
    pub fn has(&self, place: &str) -> bool {
        self.file.dataset(place).is_ok() || self.file.group(place).is_ok()
    }

    /// Names of a table's columns, sorted.
    pub fn columns(&self, frame: &str) -> Result<Vec<String>> {
        let group = self.group(frame)?;
        let problem = |error| damaged(&self.path, error);
        let mut names = group.datasets().map_err(problem)?;
        names.extend(group.groups().map_err(problem)?);
        names.sort();
        Ok(names)
    }

    /// Names of a table's rows.
    pub fn index(&self, frame: &str) -> Result<Vec<String>> {
        let attributes = self.group(frame)?.attrs().map_err(|error| damaged(&self.path, error))?;
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
        if let Ok(group) = self.file.group(&place) {
            return self.categories(&group, &place);
        }
        if self.file.dataset(&place).is_err() {
            let known = self.columns(frame)?;
            return Err(self.problem(format!("{frame} has no column `{name}`; it has {}", known.join(", "))));
        }
        let codes = self.text(&place)?;
        // Before anndata 0.7.? categories lay in a group beside their codes.
        let legacy = format!("{frame}/__categories/{name}");
        if self.file.dataset(&legacy).is_ok() {
            let codes: Vec<i64> = codes.iter().map(|code| code.parse().unwrap_or(i64::MAX)).collect();
            return self.named(&place, &self.text(&legacy)?, &codes);
        }
        Ok(codes)
    }

    fn categories(&self, group: &Group, place: &str) -> Result<Vec<String>> {
        if group.dataset("codes").is_err() {
            return self.masked(group, place);
        }
        let names = format!("{place}/categories");
        let categories = match self.file.group(&names) {
            Ok(group) => self.masked(&group, &names)?,
            Err(_) => self.text(&names)?,
        };
        let codes = self.dataset(&format!("{place}/codes"))?;
        let codes = codes.read_i64().map_err(|error| damaged(&self.path, error))?;
        self.named(place, &categories, &codes)
    }

    /// Text and whole numbers as anndata 0.12 may write them: values beside a mask of those that
    /// are missing.
    fn masked(&self, group: &Group, place: &str) -> Result<Vec<String>> {
        let mut values = self.text(&format!("{place}/values"))?;
        let mask = group.dataset("mask").and_then(|mask| mask.read_u8());
        let mask = mask.map_err(|error| damaged(&self.path, error))?;
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
        let problem = |error| damaged(&self.path, error);
        let data = self.dataset(place)?;
        match data.dtype().map_err(problem)? {
            DType::F32 | DType::F64 => Ok(data.read_f64().map_err(problem)?.iter().map(ToString::to_string).collect()),
            DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                Ok(data.read_i64().map_err(problem)?.iter().map(ToString::to_string).collect())
            }
            _ => data.read_string().map_err(|error| {
                self.problem(format!("{place} cannot be read as text ({error}); expected text, categories or numbers"))
            }),
        }
    }

    /// The matrix at a place.
    pub fn matrix(&self, place: &str) -> Result<Matrix> {
        let problem = |error| damaged(&self.path, error);
        if let Ok(data) = self.file.dataset(place) {
            let shape = data.shape().map_err(problem)?;
            let [rows, columns] = shape.as_slice() else {
                return Err(self.problem(format!("{place} has {} dimensions, expected cells × genes", shape.len())));
            };
            return Ok(Matrix {
                place: place.to_owned(),
                rows: *rows as usize,
                columns: *columns as usize,
                layout: Layout::Dense,
            });
        }
        let group = self.file.group(place).map_err(|_| self.problem(format!("has no matrix {place}")))?;
        let attributes = group.attrs().map_err(problem)?;
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
            Some(AttrValue::I64Array(shape)) => shape.iter().map(|n| *n as usize).collect(),
            Some(AttrValue::I32Array(shape)) => shape.iter().map(|n| *n as usize).collect(),
            Some(AttrValue::U64Array(shape)) => shape.iter().map(|n| *n as usize).collect(),
            _ => Vec::new(),
        };
        let [rows, columns] = shape.as_slice() else {
            return Err(self.problem(format!("{place} does not say its shape")));
        };
        Ok(Matrix { place: place.to_owned(), rows: *rows, columns: *columns, layout })
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
        let data = self.dataset(&matrix.place)?;
        let block = (BLOCK / matrix.columns.max(1)).max(1);
        for start in (0..matrix.rows).step_by(block) {
            let count = block.min(matrix.rows - start);
            let values = self.numbers(&data, start as u64, count as u64)?;
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
        let problem = |error| damaged(&self.path, error);
        let part = |name: &str| self.dataset(&format!("{}/{name}", matrix.place));
        let (data, indices) = (part("data")?, part("indices")?);
        let bounds = part("indptr")?.read_i64().map_err(problem)?;
        let stored = data.shape().map_err(problem)?.first().map_or(0, |n| *n as i64);
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
                (self.numbers(&data, from, count)?, indices.read_i64_rows(from, count).map_err(problem)?)
            };
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

fn damaged(path: &Path, error: hdf5_pure::Error) -> BioError {
    BioError::file(path, format!("cannot be read ({error}); it may be damaged or cut short, write or copy it again"))
}
