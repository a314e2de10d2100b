//! Rows as the objects that they are, whatever their keys.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::read::{Records, array_error};
use super::table::read_cells;
use super::{Columns, DataError, Origin, Place, RowError, RowProblem, parse_object, split, unpack};

/// Rows that cannot be used, where none is skipped.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The file holds no rows.
    #[error(transparent)]
    File(#[from] DataError),
    /// One of its rows.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// A row with all its keys.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectRow {
    /// What it is called, in a file that is one JSON object of rows.
    pub name: Option<String>,
    /// Its keys, those of `Columns` under the names that they stand for.
    pub row: Map<String, Value>,
    /// Where it was.
    pub origin: Origin,
}

/// Reads a file of rows: JSON lines, a JSON array, one JSON object whose values are the rows, CSV,
/// TSV or Parquet, as they are or packed with gzip or zstd. `file` is a name for messages.
///
/// # Errors
/// Names the row that is no object, or the column that no row has.
pub fn parse_objects(file: &str, bytes: &[u8], columns: &Columns) -> Result<Vec<ObjectRow>, RowsError> {
    let bytes = unpacked(file, bytes)?;
    let name: Arc<str> = file.into();
    let mut rows: Vec<ObjectRow> = Vec::new();
    if let Some(named) = named_rows(&bytes) {
        let origin = |index| Origin { file: name.clone(), place: Place::Row(index + 1) };
        let named = named.into_iter().enumerate();
        rows.extend(named.map(|(i, (name, row))| ObjectRow { name: Some(name), row, origin: origin(i) }));
    } else {
        each_object(file, bytes, |origin, row| match row {
            Ok(row) => {
                rows.push(ObjectRow { name: None, row, origin });
                Ok(())
            }
            Err(problem) => Err(RowsError::from(RowError { origin, problem: Box::new(problem) })),
        })?;
    }
    if rows.is_empty() {
        return Err(DataError::Empty { file: file.into() }.into());
    }
    if !columns.is_empty() {
        let mut names = Map::new();
        for key in rows.iter().flat_map(|row| row.row.keys()) {
            if !names.contains_key(key) {
                names.insert(key.clone(), Value::Null);
            }
        }
        if let Some(problem) = columns.missing(&names) {
            return Err(DataError::Columns { at: file.into(), problem: problem.into() }.into());
        }
        rows.iter_mut().for_each(|row| columns.rename(&mut row.row, &mut Default::default()));
    }
    Ok(rows)
}

/// The bytes of a file, unpacked if they are packed.
pub(super) fn unpacked<'b>(file: &str, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>, DataError> {
    unpack::unpack(bytes.into())
        .map_err(|problem| DataError::Unpack { file: file.into(), problem: problem.to_string() })
}

/// The rows of a file that is one JSON object whose values are all objects, over one line or many;
/// `None` where it is something else.
fn named_rows(bytes: &[u8]) -> Option<Vec<(String, Map<String, Value>)>> {
    let bytes = split::strip_bom(bytes).trim_ascii();
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let rows: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let object = |(name, row)| if let Value::Object(row) = row { Some((name, row)) } else { None };
    rows.into_iter().map(object).collect::<Option<Vec<_>>>().filter(|rows| !rows.is_empty())
}

/// Goes through the rows of an unpacked file.
pub(super) fn each_object<E: From<DataError>>(
    file: &str,
    bytes: Cow<'_, [u8]>,
    mut hear: impl FnMut(Origin, Result<Map<String, Value>, RowProblem>) -> Result<(), E>,
) -> Result<(), E> {
    let name: Arc<str> = file.into();
    let origin = |place| Origin { file: name.clone(), place };
    match split::content(unpack::unpacked_name(file), &bytes) {
        split::Content::Utf16 => Err(DataError::Utf16 { file: file.into() }.into()),
        split::Content::Other(found, advice) => Err(DataError::NotRows { file: file.into(), found, advice }.into()),
        split::Content::Json => split::records(&bytes).try_for_each(|record| {
            let record = record.map_err(|error| array_error(file, &error))?;
            hear(origin(record.place()), parse_object(record.bytes))
        }),
        table => {
            let table = Records::open(file, &table, bytes.into_owned(), |_| true)?;
            table.into_iter().flat_map(|table| table.rows).try_for_each(|record| {
                let (place, row) = record?;
                let read = |mut row: Map<String, Value>| read_cells(&mut row).map(|()| row);
                hear(origin(place), row.and_then(read))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, text: &str, pairs: &[&str]) -> Result<Vec<ObjectRow>, String> {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        parse_objects(file, text.as_bytes(), &Columns::new(&pairs)).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_are_objects_whatever_holds_them() {
        let a = |file, text| -> Vec<_> {
            read(file, text, &[]).unwrap().into_iter().map(|row| row.row["a"].clone()).collect()
        };
        assert_eq!(a("d.jsonl", "{\"a\": \"1\"}\n{\"a\": \"2\"}\n"), ["1", "2"]);
        assert_eq!(a("d.json", "[{\"a\": \"1\"}, {\"a\": \"2\"}]"), ["1", "2"]);
        assert_eq!(a("d.csv", "a,b\n1,x\n2,y\n"), ["1", "2"]);
        let named = read("d.json", "{\n \"x\": {\"a\": \"1\"},\n \"y\": {\"a\": \"2\"}\n}\n", &[]).unwrap();
        assert_eq!((named[1].name.as_deref(), &named[1].row["a"]), (Some("y"), &Value::from("2")));
        assert_eq!(named[1].origin.to_string(), "d.json (row 2)");
        // A row whose values are no objects is a row.
        assert_eq!(read("d.jsonl", "{\"a\": \"1\"}", &[]).unwrap()[0].name, None);
    }

    #[test]
    fn columns_stand_for_keys_and_those_that_no_row_has_are_named() {
        let rows = read("d.jsonl", "{\"q\": 1}\n{\"q\": 2, \"s\": 3}\n", &["question=q", "subject=s"]).unwrap();
        assert_eq!((rows[0].row.len(), &rows[1].row["subject"]), (1, &Value::from(3)));
        let error = read("d.csv", "quest,b\n1,2\n", &["question=qest"]).unwrap_err();
        assert!(error.starts_with("d.csv: there is no \"qest\", which --columns question=qest asks for"), "{error}");
        assert!(error.contains("did you mean \"quest\"?"), "{error}");
        for (text, said) in
            [("", "d.jsonl is empty"), ("3\n", "d.jsonl:1: expected an object"), ("{\"a\": ", "stops in the middle")]
        {
            assert!(read("d.jsonl", text, &[]).unwrap_err().contains(said), "{text}");
        }
    }
}
