//! Parquet: columns of texts, numbers, lists and structs to rows.

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::unpack::{FREE, RATIO, too_much};

/// What such a file begins and ends with.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Bytes that a row costs where nothing is in it: a file says in few bytes that millions are empty.
const ROW: u64 = 256;
/// What to do with rows that are many times what the file holds.
const ADVICE: &str = "save its rows as JSONL and give that";

/// Rows of a Parquet file.
pub(super) struct Table {
    rows: RowIter<'static>,
    /// Names of the file's columns.
    pub columns: Vec<String>,
    /// Those of them that are not read.
    pub left_out: Vec<String>,
    /// Bytes that values may still come to. A file says in few bytes that a value is repeated
    /// often.
    left: u64,
}

impl Table {
    /// Opens a file of which the columns are read that `wanted` says.
    ///
    /// # Errors
    /// What is wrong with the file, or with a column that is wanted.
    pub fn open(bytes: Bytes, wanted: impl Fn(&str) -> bool) -> Result<Self, String> {
        let left = FREE + RATIO * bytes.len() as u64;
        let reader = guarded(|| SerializedFileReader::new(bytes))?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema();
        let columns: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
        if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)) {
            return Err(format!("it has the column \"{}\" twice", twice.1));
        }
        let (read, left_out): (Vec<_>, Vec<_>) = schema.get_fields().iter().cloned().partition(|f| wanted(f.name()));
        for field in &read {
            if let Some((path, found)) = unclear(field, field.name()) {
                return Err(format!(
                    "column \"{path}\" is {found}, which is read neither as text nor as numbers, lists or structs of \
                     them: write it as text, or leave the column out"
                ));
            }
        }
        for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let path = column.column_path();
            if path.parts().first().is_some_and(|name| wanted(name)) && !unpacks(column.compression()) {
                return Err(format!(
                    "column \"{}\" is compressed with {}, which is not unpacked here: write the file with snappy, the usual \
                     choice",
                    path.string(),
                    column.compression()
                ));
            }
        }
        let left_out = left_out.iter().map(|field| field.name().to_owned()).collect();
        if read.is_empty() {
            // What is missing is said of the names that the first row has.
            let rows = RowIter::from_file_into(Box::new(reader));
            return Ok(Self { rows, columns, left_out, left });
        }
        let projection = Type::group_type_builder(schema.name()).with_fields(read).build();
        let rows = guarded(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection?)))?;
        Ok(Self { rows, columns, left_out, left })
    }

    fn row(&mut self, row: Row) -> Result<Map<String, Value>, String> {
        let mut values = Map::new();
        self.left = self.left.checked_sub(ROW).ok_or_else(|| too_much(ADVICE))?;
        for (name, field) in row.into_columns() {
            // A column has a place for every row; where nothing is in it, a row of JSON has no key.
            match self.value(field)? {
                Value::Null => {}
                value => {
                    values.insert(name, value);
                }
            }
        }
        Ok(values)
    }

    /// A value as JSON.
    fn value(&mut self, field: Field) -> Result<Value, String> {
        let bytes = 8 + if let Field::Str(text) = &field { text.len() as u64 } else { 0 };
        self.left = self.left.checked_sub(bytes).ok_or_else(|| too_much(ADVICE))?;
        Ok(match field {
            Field::Null => Value::Null,
            Field::Bool(truth) => truth.into(),
            Field::Byte(number) => number.into(),
            Field::Short(number) => number.into(),
            Field::Int(number) => number.into(),
            Field::Long(number) => number.into(),
            Field::UByte(number) => number.into(),
            Field::UShort(number) => number.into(),
            Field::UInt(number) => number.into(),
            Field::ULong(number) => number.into(),
            // Where a number is missing, pandas writes NaN.
            Field::Float(number) => Number::from_f64(number.into()).map_or(Value::Null, Value::Number),
            Field::Double(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
            Field::Str(text) => text.into(),
            Field::Group(row) => {
                let entries = row.into_columns().into_iter().map(|(name, field)| Ok((name, self.value(field)?)));
                Value::Object(entries.collect::<Result<_, String>>()?)
            }
            Field::ListInternal(list) => {
                list.elements().iter().map(|field| self.value(field.clone())).collect::<Result<_, String>>()?
            }
            Field::MapInternal(map) => {
                let entries = map.entries().iter().map(|(key, value)| match key {
                    Field::Str(key) => Ok((key.clone(), self.value(value.clone())?)),
                    _ => Err("it holds a map whose keys are no texts".to_owned()),
                });
                Value::Object(entries.collect::<Result<_, String>>()?)
            }
            _ => return Err("a value is of another type than its column".to_owned()),
        })
    }
}

impl Iterator for Table {
    type Item = Result<Map<String, Value>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match guarded(|| self.rows.next().transpose()) {
            Ok(row) => row?,
            Err(problem) => return Some(Err(problem)),
        };
        Some(self.row(row))
    }
}

/// What a damaged file makes the reader give up on is an error like another.
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    match bft_formats::guard::guarded(read) {
        Ok(result) => result.map_err(|problem| damaged(&problem)),
        Err(panic) => Err(damaged(&panic)),
    }
}

fn damaged(problem: &dyn std::fmt::Display) -> String {
    let problem = problem.to_string();
    let problem = problem.strip_prefix("Parquet error: ").unwrap_or(&problem).trim_end_matches('.');
    let problem: String = problem.escape_debug().take(200).collect();
    format!("it cannot be read ({problem}): is it damaged or cut off?")
}

fn unpacks(compression: Compression) -> bool {
    match compression {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => true,
        Compression::LZ4 | Compression::LZ4_RAW => true,
        Compression::ZSTD(_) => cfg!(not(target_arch = "wasm32")),
        Compression::BROTLI(_) | Compression::LZO => false,
    }
}

/// The first part of a column that has no plain form in JSON: its path and its type.
fn unclear(field: &Type, path: &str) -> Option<(String, String)> {
    let info = field.get_basic_info();
    if info.has_repetition() && info.repetition() == Repetition::REPEATED {
        return Some((path.to_owned(), "a repeated field outside a list".to_owned()));
    }
    if field.is_primitive() {
        return unclear_value(field).map(|found| (path.to_owned(), found));
    }
    let children = field.get_fields();
    let below = |field: &Type| unclear(field, &format!("{path}.{}", field.name()));
    match info.converted_type() {
        ConvertedType::LIST => match element(children) {
            Some(element)
                if element.is_primitive() && element.get_basic_info().repetition() == Repetition::REPEATED =>
            {
                unclear_value(element).map(|found| (path.to_owned(), found))
            }
            Some(element)
                if element.is_primitive() || element.get_basic_info().repetition() != Repetition::REPEATED =>
            {
                below(element)
            }
            Some(element) => element.get_fields().iter().find_map(|field| below(field)),
            None => Some((path.to_owned(), "a list of an unknown shape".to_owned())),
        },
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => match children {
            [entries] if entries.is_group() => match entries.get_fields() {
                [key, value] if key.is_primitive() && key.get_basic_info().converted_type() == ConvertedType::UTF8 => {
                    below(value)
                }
                _ => Some((path.to_owned(), "a map whose keys are no texts".to_owned())),
            },
            _ => Some((path.to_owned(), "a map of an unknown shape".to_owned())),
        },
        ConvertedType::NONE if !children.is_empty() => children.iter().find_map(|field| below(field)),
        other => Some((path.to_owned(), format!("a group of type {other}"))),
    }
}

/// What a list's elements are, in either of the shapes that writers give lists.
fn element(children: &[std::sync::Arc<Type>]) -> Option<&Type> {
    let [repeated] = children else { return None };
    if !repeated.get_basic_info().has_repetition() || repeated.get_basic_info().repetition() != Repetition::REPEATED {
        return None;
    }
    match repeated.is_group().then(|| repeated.get_fields()) {
        None => Some(repeated),
        Some([]) => None,
        Some([only]) if repeated.name() != "array" && !repeated.name().ends_with("_tuple") => Some(only),
        Some(_) => Some(repeated),
    }
}

/// The type of a value that has no plain form in JSON.
fn unclear_value(field: &Type) -> Option<String> {
    let converted = field.get_basic_info().converted_type();
    // Nanoseconds have a logical type alone.
    let plain = converted == ConvertedType::NONE && field.get_basic_info().logical_type_ref().is_none();
    let is_clear = match field.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::INT32 | Physical::INT64 => plain || is_integer(converted),
        Physical::BYTE_ARRAY => {
            matches!(converted, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON)
        }
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => false,
    };
    let name = match (converted, field.get_physical_type()) {
        (ConvertedType::NONE, Physical::BYTE_ARRAY) => "bytes (BYTE_ARRAY)".to_owned(),
        (ConvertedType::NONE, physical) => match field.get_basic_info().logical_type_ref() {
            Some(logical) => format!("{logical:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned(),
            None => physical.to_string(),
        },
        (converted, _) => converted.to_string(),
    };
    (!is_clear).then_some(name)
}

fn is_integer(converted: ConvertedType) -> bool {
    use ConvertedType::{INT_8, INT_16, INT_32, INT_64, UINT_8, UINT_16, UINT_32, UINT_64};
    matches!(converted, INT_8 | INT_16 | INT_32 | INT_64 | UINT_8 | UINT_16 | UINT_32 | UINT_64)
}
