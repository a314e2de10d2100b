//! Files that `bft embed` writes, chosen by the output's ending: `.jsonl`, `.npy`, `.safetensors`,
//! `.parquet`.
//!
//! Each is written beside its place and renamed, so that a reader never sees half of one.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::suggest::did_you_mean;

/// One vector per input row.
#[derive(Debug, Default)]
pub struct Embeddings {
    /// Where each row came from: its own `id`, if it had one, and its line number (from 1) in the
    /// input.
    pub rows: Vec<RowId>,
    /// Length of a vector.
    pub width: usize,
    /// `[rows, width]`, row-major.
    pub values: Vec<f32>,
}

/// What names a row.
#[derive(Debug, Clone)]
pub struct RowId {
    /// The row's `id` field, as it stood there.
    pub id: Option<Value>,
    /// Line of the input file, from 1.
    pub line: usize,
}

impl RowId {
    /// The id as text; the line number where the row has none.
    pub fn text(&self) -> String {
        match &self.id {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => self.line.to_string(),
        }
    }
}

/// A kind of output file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// One `{"embedding": […]}` a line, with the row's `id`.
    Jsonl,
    /// A NumPy array `[rows, width]`.
    Npy,
    /// Tensor `embeddings` `[rows, width]`; the ids as a JSON list in the metadata.
    Safetensors,
    /// Columns `id` (text) and `embedding` (list of float).
    Parquet,
}

const ENDINGS: [(&str, OutputKind); 4] = [
    ("jsonl", OutputKind::Jsonl),
    ("npy", OutputKind::Npy),
    ("safetensors", OutputKind::Safetensors),
    ("parquet", OutputKind::Parquet),
];

impl OutputKind {
    /// The kind that `path`'s ending asks for.
    pub fn of(path: &Path) -> Result<Self, CliError> {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        if let Some((_, kind)) = ENDINGS.iter().find(|(known, _)| *known == ending) {
            return Ok(*kind);
        }
        let guess = did_you_mean(&ending, ENDINGS.map(|(known, _)| known), |known| format!(".{known}"));
        Err(CliError::usage(format!(
            "--output {}: the ending chooses the format and must be .jsonl, .npy, .safetensors or .parquet{guess}",
            path.display()
        )))
    }
}

impl Embeddings {
    /// Writes the file; it appears whole or not at all.
    pub fn write(&self, path: &Path, kind: OutputKind) -> Result<(), CliError> {
        bft_formats::write_atomic(path, |out| match kind {
            OutputKind::Jsonl => self.jsonl(out),
            OutputKind::Npy => bft_formats::npy::write(out, self.width, &self.values),
            OutputKind::Safetensors => self.safetensors(out),
            OutputKind::Parquet => self.parquet(out),
        })
        .map_err(CliError::failed)
    }

    fn vectors(&self) -> impl Iterator<Item = (&RowId, &[f32])> {
        self.rows.iter().zip(self.values.chunks_exact(self.width.max(1)))
    }

    fn jsonl(&self, out: &mut dyn Write) -> io::Result<()> {
        for (row, vector) in self.vectors() {
            let mut object = Map::new();
            if let Some(id) = &row.id {
                object.insert("id".to_owned(), id.clone());
            }
            object.insert("embedding".to_owned(), json!(vector));
            serde_json::to_writer(&mut *out, &object)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn safetensors(&self, out: &mut dyn Write) -> io::Result<()> {
        use safetensors::tensor::{Dtype, TensorView, serialize};
        let bytes: Vec<u8> = self.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = vec![self.rows.len(), self.width];
        let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(io::Error::other)?;
        let ids: Vec<String> = self.rows.iter().map(RowId::text).collect();
        let metadata = HashMap::from([("ids".to_owned(), json!(ids).to_string())]);
        let file = serialize([("embeddings", view)], Some(metadata)).map_err(io::Error::other)?;
        out.write_all(&file)
    }

    fn parquet(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.parquet_bytes().map_err(io::Error::other)?)
    }

    fn parquet_bytes(&self) -> Result<Vec<u8>, ParquetError> {
        const SCHEMA: &str = "message schema {
            REQUIRED BYTE_ARRAY id (STRING);
            REQUIRED GROUP embedding (LIST) { REPEATED GROUP list { REQUIRED FLOAT element; } }
        }";
        /// Keeps a group's list well within what a page's counters hold.
        const ROWS_A_GROUP: usize = 16_384;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_created_by(format!("bft {}", env!("CARGO_PKG_VERSION")))
            .build();
        let mut writer =
            SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(SCHEMA)?), Arc::new(properties))?;
        let width = self.width.max(1);
        for (rows, values) in self.rows.chunks(ROWS_A_GROUP).zip(self.values.chunks(ROWS_A_GROUP * width)) {
            let ids: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.text().into_bytes())).collect();
            // A value is present (1); it starts a new list (0) or goes on with one (1).
            let present = vec![1i16; values.len()];
            let continued: Vec<i16> = (0..values.len()).map(|index| i16::from(index % width != 0)).collect();
            let mut group = writer.next_row_group()?;
            if let Some(mut column) = group.next_column()? {
                column.typed::<ByteArrayType>().write_batch(&ids, None, None)?;
                column.close()?;
            }
            if let Some(mut column) = group.next_column()? {
                column.typed::<FloatType>().write_batch(values, Some(&present), Some(&continued))?;
                column.close()?;
            }
            group.close()?;
        }
        writer.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Embeddings {
        Embeddings {
            rows: vec![
                RowId { id: Some(json!("TP53")), line: 1 },
                RowId { id: Some(json!(672)), line: 2 },
                RowId { id: None, line: 4 },
            ],
            width: 2,
            values: vec![1.0, -2.5, 3.0, 4.0, 0.1, 1e-8],
        }
    }

    fn written(name: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        let kind = OutputKind::of(&path).expect("a known ending");
        three().write(&path, kind).expect("written");
        std::fs::read(path).expect("a file")
    }

    #[test]
    fn jsonl_holds_vectors_exactly_and_ids_as_given() {
        let text = String::from_utf8(written("out.jsonl")).expect("text");
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(rows[0]["id"], json!("TP53"));
        assert_eq!(rows[1]["id"], json!(672));
        assert!(rows[2].get("id").is_none());
        let numbers: Vec<f32> = serde_json::from_value(rows[2]["embedding"].clone()).expect("numbers");
        assert_eq!(numbers, [0.1, 1e-8]);
    }

    #[test]
    fn npy_holds_every_row() {
        assert_eq!(bft_formats::npy::read(&written("out.npy")), Ok(([3, 2], three().values)));
    }

    #[test]
    fn safetensors_holds_ids_in_its_metadata() {
        let bytes = written("out.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        assert_eq!(file.tensor("embeddings").expect("the tensor").shape(), [3, 2]);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        let metadata = header.metadata().clone().expect("metadata");
        assert_eq!(metadata["ids"], r#"["TP53","672","4"]"#);
    }

    #[test]
    fn parquet_reads_back() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        use parquet::record::Field;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out.parquet");
        three().write(&path, OutputKind::Parquet).expect("written");
        let file = std::fs::File::open(path).expect("a file");
        let reader = SerializedFileReader::new(file).expect("parquet");
        let mut rows = Vec::new();
        for row in reader.get_row_iter(None).expect("rows") {
            let row = row.expect("a row");
            let columns: Vec<Field> = row.into_columns().into_iter().map(|(_, field)| field).collect();
            let Field::Str(id) = &columns[0] else { panic!("id is {:?}", columns[0]) };
            let Field::ListInternal(list) = &columns[1] else { panic!("no list") };
            let values: Vec<f32> = list
                .elements()
                .iter()
                .map(|field| match field {
                    Field::Float(value) => *value,
                    other => panic!("not a float: {other:?}"),
                })
                .collect();
            rows.push((id.clone(), values));
        }
        assert_eq!(rows[0], ("TP53".to_owned(), vec![1.0, -2.5]));
        assert_eq!(rows[1], ("672".to_owned(), vec![3.0, 4.0]));
        assert_eq!(rows[2], ("4".to_owned(), vec![0.1, 1e-8]));
    }

    #[test]
    fn an_unknown_ending_names_the_nearest() {
        let error = OutputKind::of(Path::new("out.parqet")).expect_err("no such ending");
        assert!(error.to_string().contains("did you mean .parquet?"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
