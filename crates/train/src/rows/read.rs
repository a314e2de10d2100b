//! A data file's bytes to rows, whatever they are packed and written in.

use std::borrow::Cow;
use std::sync::Arc;

use bft_formats::sha256_bytes;
use serde_json::{Map, Value};

use super::choose::{Cap, Choice};
use super::columns::Columns;
use super::table::TableError;
use super::{
    DataError, DataFile, KeyList, Origin, Place, Row, RowError, RowFormat, RowProblem, Rows, fields, parquet,
    parse_object, split, table, unpack,
};

/// How data files are read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowOptions {
    /// List rows that cannot be read in [`Rows::skipped`] instead of failing. A file that is
    /// damaged or of a second format fails all the same, because what follows cannot be trusted.
    pub skip_bad_rows: bool,
    /// Columns that stand for keys.
    pub columns: Columns,
    /// Keep no more rows than these, however many there are.
    pub cap: Option<Cap>,
}

/// Reads a data file's bytes: JSON lines, a JSON array, CSV, TSV or Parquet, as they are or packed
/// with gzip or zstd.
///
/// `file` is a name for messages, whose ending also tells CSV and TSV; all else tells itself.
pub fn parse_rows<'b>(file: &str, bytes: impl Into<Cow<'b, [u8]>>, options: &RowOptions) -> Result<Rows, DataError> {
    let mut choice = Choice::new(options.cap);
    let (mut rows, _) = parse_file(file, bytes.into(), options, &mut choice)?;
    (rows.rows, rows.left_out) = choice.finish();
    Ok(rows)
}

/// Reads a data file, whose rows go into `choice`; also where its first row is.
fn parse_file(
    file: &str,
    bytes: Cow<'_, [u8]>,
    options: &RowOptions,
    choice: &mut Choice,
) -> Result<(Rows, Origin), DataError> {
    let sha256 = sha256_bytes(&bytes);
    let bytes = unpack::unpack(bytes);
    let bytes = bytes.map_err(|problem| DataError::Unpack { file: file.into(), problem: problem.to_string() })?;
    let mut reading = Reading::new(file, options, choice);
    match split::content(unpack::unpacked_name(file), &bytes) {
        split::Content::Utf16 => return Err(DataError::Utf16 { file: file.into() }),
        split::Content::Other(found, advice) => return Err(DataError::NotRows { file: file.into(), found, advice }),
        split::Content::Json => reading.json(&bytes)?,
        table => match Records::open(file, &table, bytes.into_owned(), |column| options.columns.read(column))? {
            Some(table) => reading.table(table)?,
            None => return Err(DataError::Empty { file: file.into() }),
        },
    }
    reading.finish(sha256)
}

/// Reads data files one after another. See [`parse_rows`].
///
/// # Errors
/// What is wrong with one of them; [`DataError::Mixed`] where their formats differ.
#[cfg(not(target_arch = "wasm32"))]
pub fn read_rows(paths: &[std::path::PathBuf], options: &RowOptions) -> Result<Rows, DataError> {
    let mut all: Option<(Rows, Origin)> = None;
    let mut choice = Choice::new(options.cap);
    for path in paths {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| DataError::Read { file: file.clone(), source })?;
        let (rows, origin) = parse_file(&file, bytes.into(), options, &mut choice)?;
        match &mut all {
            None => all = Some((rows, origin)),
            Some((all, first)) if all.format != rows.format => {
                let (first, found, format) = (first.clone(), rows.format, all.format);
                return Err(DataError::Mixed { origin, found, first, format });
            }
            Some((all, _)) => all.append(rows),
        }
    }
    let (mut rows, _) = all.ok_or_else(|| DataError::Empty { file: "(none)".into() })?;
    (rows.rows, rows.left_out) = choice.finish();
    Ok(rows)
}

/// A row of a table: where it is, and its cells by their columns.
type TableRow = (Place, Result<Map<String, Value>, RowProblem>);

/// A table whose columns are known, and whose rows are still to be read.
pub(crate) struct Records {
    /// Where the names of its columns are, for messages.
    pub at: String,
    pub columns: Vec<String>,
    /// Those of them that are not read.
    pub left_out: Vec<String>,
    pub rows: Box<dyn Iterator<Item = Result<TableRow, DataError>>>,
}

impl Records {
    /// Opens a file that holds a table, of which the columns are read that `wanted` says; `None`
    /// where it holds another thing, or nothing.
    pub fn open(
        file: &str,
        content: &split::Content,
        bytes: Vec<u8>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>, DataError> {
        let name = file.to_owned();
        match *content {
            split::Content::Table(delimiter) => {
                let damaged =
                    move |TableError { line, problem }| DataError::Table { file: name.clone(), line, problem };
                let Some(table) = table::Table::open(bytes.into(), delimiter).map_err(&damaged)? else {
                    return Ok(None);
                };
                let (at, columns) = (format!("{file}:{}", table.header_line), table.columns.clone());
                let rows = Box::new(table.map(move |row| row.map_err(&damaged)));
                Ok(Some(Self { at, columns, left_out: Vec::new(), rows }))
            }
            split::Content::Parquet => {
                let failed = move |problem| DataError::Parquet { file: name.clone(), problem };
                let table = parquet::Table::open(bytes.into(), wanted).map_err(&failed)?;
                let (columns, left_out) = (table.columns.clone(), table.left_out.clone());
                let rows = table.enumerate().map(move |(index, row)| match row {
                    Ok(row) => Ok((Place::Row(index + 1), Ok(row))),
                    Err(problem) => Err(failed(problem)),
                });
                Ok(Some(Self { at: file.to_owned(), columns, left_out, rows: Box::new(rows) }))
            }
            _ => Ok(None),
        }
    }
}

/// Rows of a file while they are read.
struct Reading<'o> {
    file: &'o str,
    choice: &'o mut Choice,
    /// How many went there.
    good: usize,
    name: Arc<str>,
    options: &'o RowOptions,
    first: Option<(RowFormat, Origin)>,
    /// Keys of the first row, and the columns that stand for keys and that no row has had.
    first_keys: Option<Map<String, Value>>,
    unseen: Columns,
    /// Names of the columns, of a table.
    names: Vec<String>,
    skipped: Vec<RowError>,
    ignored: KeyList,
}

impl<'o> Reading<'o> {
    fn new(file: &'o str, options: &'o RowOptions, choice: &'o mut Choice) -> Self {
        Self {
            file,
            choice,
            good: 0,
            name: file.into(),
            options,
            first: None,
            first_keys: None,
            unseen: options.columns.clone(),
            names: Vec::new(),
            skipped: Vec::new(),
            ignored: KeyList::default(),
        }
    }

    fn json(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        for record in split::records(bytes) {
            let record = record.map_err(|e| array_error(self.file, &e))?;
            let row = parse_object(record.bytes).and_then(|row| self.renamed(row));
            self.add(record.place(), row)?;
        }
        match (&self.first_keys, self.good == 0) {
            (Some(keys), false) => match self.unseen.missing(keys) {
                Some(problem) => Err(DataError::Columns { at: self.file.into(), problem: problem.into() }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// A row of JSON under the keys that its own stand for.
    fn renamed(&mut self, mut row: Map<String, Value>) -> Result<Map<String, Value>, RowProblem> {
        let columns = &self.options.columns;
        if columns.is_empty() {
            return Ok(row);
        }
        self.unseen.retain(|column| !row.contains_key(column));
        let missing = columns.missing(&row);
        if self.first_keys.is_none() {
            self.first_keys = Some(row.clone());
        }
        columns.rename(&mut row, &mut self.ignored);
        // An optional one may be left out; that another is missing is better said by its own name.
        match missing.filter(|_| fields::content(&row, columns).is_err()) {
            Some(problem) => Err(problem),
            None => Ok(row),
        }
    }

    fn table(&mut self, table: Records) -> Result<(), DataError> {
        let checked = fields::check_names(&table.columns, &self.options.columns);
        checked.map_err(|problem| DataError::Columns { at: table.at, problem: problem.into() })?;
        table.left_out.iter().for_each(|column| self.ignored.add(column));
        self.names = table.columns;
        for record in table.rows {
            let (place, row) = record?;
            self.add_cells(place, row)?;
        }
        Ok(())
    }

    /// Adds a row of a table.
    fn add_cells(&mut self, place: Place, row: Result<Map<String, Value>, RowProblem>) -> Result<(), DataError> {
        let row = row.and_then(|mut row| {
            self.options.columns.rename(&mut row, &mut self.ignored);
            table::read_cells(&mut row)?;
            Ok(row)
        });
        self.add(place, row)
    }

    /// Adds a row, or says what is wrong with it.
    fn add(&mut self, place: Place, row: Result<Map<String, Value>, RowProblem>) -> Result<(), DataError> {
        let origin = Origin { file: self.name.clone(), place };
        let columns = &self.options.columns;
        let content = |row: Map<String, Value>| match fields::content(&row, columns) {
            Ok(content) => Ok((row, content)),
            Err(problem @ (RowProblem::Keys { .. } | RowProblem::MissingKey { .. })) => {
                Err(fields::empty_cell(&row, &self.names, columns).unwrap_or(problem))
            }
            Err(problem) => Err(problem),
        };
        match row.and_then(content) {
            Ok((row, (format, content))) => {
                fields::ignored(&row, format).for_each(|key| self.ignored.add(key));
                let (expected, first) = self.first.get_or_insert_with(|| (format, origin.clone()));
                if *expected != format {
                    let (first, expected) = (first.clone(), *expected);
                    return Err(DataError::Mixed { origin, found: format, first, format: expected });
                }
                self.choice.add(Row { content, origin });
                self.good += 1;
                Ok(())
            }
            Err(problem) => {
                let error = RowError { origin, problem: Box::new(problem) };
                if !self.options.skip_bad_rows {
                    return Err(DataError::Row(error));
                }
                self.skipped.push(error);
                Ok(())
            }
        }
    }

    /// What is known of the file, whose rows are in the choice, and where its first row is.
    fn finish(self, sha256: String) -> Result<(Rows, Origin), DataError> {
        let Self { file, name, first, good, skipped, ignored, .. } = self;
        match (first, skipped.first()) {
            (Some((format, first)), _) => {
                let files = vec![DataFile { file: file.into(), sha256, rows: good + skipped.len() }];
                Ok((Rows { file: name, files, format, rows: Vec::new(), left_out: 0, skipped, ignored }, first))
            }
            (None, Some(error)) => {
                Err(DataError::AllSkipped { file: file.into(), count: skipped.len(), first: error.clone() })
            }
            (None, None) => Err(DataError::Empty { file: file.into() }),
        }
    }
}

impl Rows {
    /// Adds what is known of another file with rows of the same format.
    #[cfg(not(target_arch = "wasm32"))] // A tab hands over its files as one.
    fn append(&mut self, other: Self) {
        self.skipped.extend(other.skipped);
        self.ignored.merge(other.ignored);
        self.files.extend(other.files);
        let more = self.files.len() - 1;
        self.file = format!("{} and {more} more file{}", self.files[0].file, if more == 1 { "" } else { "s" }).into();
    }

    /// See [`sha256_of`].
    pub fn sha256(&self) -> String {
        sha256_of(&self.files)
    }
}

/// SHA-256 of a file's bytes; of several files, of the list of theirs.
pub(crate) fn sha256_of(files: &[DataFile]) -> String {
    match files {
        [only] => only.sha256.clone(),
        several => {
            let hashes: Vec<&str> = several.iter().map(|file| file.sha256.as_str()).collect();
            sha256_bytes(hashes.join("\n").as_bytes())
        }
    }
}

pub(super) fn array_error(file: &str, error: &split::SplitError) -> DataError {
    use split::SplitError;
    let (line, problem) = match error {
        SplitError::Truncated { line, element } => {
            (*line, format!("the file ends inside element [{element}], which starts here: is it truncated?"))
        }
        SplitError::Unclosed { line } => (*line, "the file ends before the array's `]`: is it truncated?".into()),
        SplitError::Trailing { line } => {
            (*line, "text after the array's `]`: expected one JSON array, or one object a line".into())
        }
    };
    DataError::Array { file: file.into(), line, problem }
}
