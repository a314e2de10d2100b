//! Texts to vectors, a packed batch at a time: whatever the file's size, memory holds one batch.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use bft_core::{Batch, EncoderRunner, Pooling, Runner};
use serde_json::{Map, Value};

use crate::engine::{EngineError, check_finite};
use crate::rows::{
    Columns, Content, DataError, Origin, Records, RowError, RowProblem, content_of, found_keys, kind, packed,
    parse_object, read_cells, token_ids, unpacked, unpacked_name, utf8,
};
use crate::text::{TextEncoder, TextError};

/// What gives whole samples vectors: core's `Runner`.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Embedder {
    /// `[S, H]` vectors of a batch's samples.
    async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, EngineError>;
}

impl Embedder for Runner<'_> {
    async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, EngineError> {
        Runner::embed(self, batch, pooling).await.map_err(Into::into)
    }
}

impl Embedder for EncoderRunner<'_> {
    async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, EngineError> {
        EncoderRunner::embed(self, batch, pooling).await.map_err(Into::into)
    }
}

/// What is to be embedded.
#[derive(Debug, Clone, PartialEq)]
pub enum EmbedContent {
    /// A text, for the model's tokenizer.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// One row of input.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedRow {
    /// What is to be embedded.
    pub content: EmbedContent,
    /// The row's `id`, whatever JSON it is.
    pub id: Option<Value>,
    /// Where it was.
    pub origin: Origin,
}

/// How an input file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputKind {
    Lines,
    Rows,
}

/// Why an input cannot be embedded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum EmbedError {
    /// The input cannot be read.
    #[error("cannot read {file}: {source}")]
    Read { file: Arc<str>, source: io::Error },
    /// A table that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Nothing in it.
    #[error("{file} is empty: expected lines of text, or JSON rows with \"text\" or \"input_ids\"")]
    Empty { file: Arc<str> },
    /// A key for a column to stand for that embedding has no use for.
    #[error("--columns {key}=… names a key of rows to train on: embed reads \"text\", \"input_ids\" and \"id\"")]
    NoKey { key: String },
    /// Something else than text.
    #[error("{file} is {found}, neither lines of text nor JSON rows: {advice}")]
    NoText { file: Arc<str>, found: &'static str, advice: &'static str },
    /// One JSON array instead of rows.
    #[error("{file} is a JSON array: expected lines of text, or one JSON row a line")]
    Array { file: Arc<str> },
    /// A row that cannot be read, or is too long.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The model cannot take texts.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The device.
    #[error(transparent)]
    Engine(EngineError),
    /// What becomes of the vectors.
    #[error("cannot write embeddings: {0}")]
    Write(io::Error),
}

/// Reads rows one by one, unpacked where they are packed with gzip or zstd.
///
/// A name that ends in `.jsonl` or `.json`, or a first line that is a JSON object, makes the lines
/// JSON rows with `text` or `input_ids` and an optional `id`. Parquet, and what is named `.csv` or
/// `.tsv`, is a table with these columns, which memory holds whole. Everything else is a text a
/// line.
pub struct EmbedInput<'r> {
    reader: Box<dyn BufRead + 'r>,
    file: Arc<str>,
    columns: Columns,
    kind: Option<InputKind>,
    table: Option<Records>,
    line: usize,
    /// A blank line of text that only matters if text follows.
    blank: Option<usize>,
    buffer: Vec<u8>,
}

impl<'r> EmbedInput<'r> {
    /// Reads from `reader`; `file` is its name. Where `columns` stand for keys, texts that are no
    /// rows are refused.
    pub fn open(file: &str, reader: impl BufRead + 'r, columns: Columns) -> Result<Self, EmbedError> {
        if let Some(key) = columns.keys().find(|key| !KEYS.contains(key)) {
            return Err(EmbedError::NoKey { key: key.to_owned() });
        }
        let failed = |source| EmbedError::Read { file: file.into(), source };
        let name = unpacked_name(file);
        let mut reader = unpacked(reader).map_err(failed)?;
        // Enough to tell what it is; a pipe may give less at a time.
        let mut start = Vec::new();
        reader.by_ref().take(4096).read_to_end(&mut start).map_err(failed)?;
        let content = content_of(name, &start);
        let mut reader: Box<dyn BufRead + 'r> = Box::new(io::Cursor::new(start).chain(reader));
        let mut table = None;
        if matches!(content, Content::Table(_) | Content::Parquet) {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(failed)?;
            let wanted = |column: &str| columns.reads(column, |key| KEYS.contains(&key));
            table = Records::open(file, &content, bytes, wanted)?;
            let table = table.as_ref().ok_or_else(|| EmbedError::Empty { file: file.into() })?;
            let names = table.columns.iter().map(|name| (name.clone(), Value::Null)).collect();
            if let Some(problem) = columns.missing(&names) {
                return Err(DataError::Columns { at: table.at.clone(), problem: problem.into() }.into());
            }
        }
        let named_rows = [".jsonl", ".json"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        let kind = (named_rows || !columns.is_empty()).then_some(InputKind::Rows);
        Ok(Self { reader, file: file.into(), columns, kind, table, line: 0, blank: None, buffer: Vec::new() })
    }

    /// The next row of a table.
    fn next_of_table(&mut self) -> Option<Result<EmbedRow, EmbedError>> {
        let (place, row) = match self.table.as_mut()?.rows.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error.into())),
        };
        let origin = Origin { file: self.file.clone(), place };
        let row = row.and_then(|mut row| {
            self.columns.rename(&mut row, &mut Default::default());
            read_cells(&mut row)?;
            row_content(row)
        });
        Some(match row {
            Ok((content, id)) => Ok(EmbedRow { content, id, origin }),
            Err(problem) => Err(RowError { origin, problem: Box::new(problem) }.into()),
        })
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::line(&self.file, line)
    }

    fn row_error(&self, line: usize, problem: RowProblem) -> EmbedError {
        EmbedError::Row(RowError { origin: self.origin(line), problem: Box::new(problem) })
    }

    /// Reads the next line into the buffer, without its end; `false` at the end of the input.
    fn read_line(&mut self) -> Result<bool, EmbedError> {
        self.buffer.clear();
        let read = self.reader.read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|source| EmbedError::Read { file: self.file.clone(), source })?;
        self.line += 1;
        if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        while matches!(self.buffer.last(), Some(b'\n' | b'\r')) {
            self.buffer.pop();
        }
        Ok(read > 0)
    }

    /// The line in the buffer as a row of JSON.
    fn parse_row(&self) -> Result<(EmbedContent, Option<Value>), RowProblem> {
        let mut row = parse_object(self.buffer.trim_ascii())?;
        if let Some(problem) = self.columns.missing(&row) {
            return Err(problem);
        }
        self.columns.rename(&mut row, &mut Default::default());
        row_content(row)
    }

    fn parse(&mut self) -> Result<EmbedRow, EmbedError> {
        let line = self.line;
        let kind = match self.kind {
            Some(kind) => kind,
            None => *self.kind.insert(match parse_object(self.buffer.trim_ascii()) {
                Ok(_) => InputKind::Rows,
                Err(_) => InputKind::Lines,
            }),
        };
        let parsed = match kind {
            InputKind::Rows => {
                if self.buffer.trim_ascii_start().first() == Some(&b'[') {
                    return Err(EmbedError::Array { file: self.file.clone() });
                }
                self.parse_row()
            }
            InputKind::Lines if self.buffer.contains(&b'\r') => {
                let words = "the line holds carriage returns: save the file with line ends of today (LF or CRLF)";
                Err(RowProblem::Sample(words.into()))
            }
            InputKind::Lines if line == 1 && is_array(&self.buffer) => {
                return Err(EmbedError::Array { file: self.file.clone() });
            }
            InputKind::Lines => utf8(&self.buffer).map(|text| (EmbedContent::Text(text.to_owned()), None)),
        };
        let (content, id) = parsed.map_err(|problem| self.row_error(line, problem))?;
        Ok(EmbedRow { content, id, origin: self.origin(line) })
    }
}

impl Iterator for EmbedInput<'_> {
    type Item = Result<EmbedRow, EmbedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.table.is_some() {
            return self.next_of_table();
        }
        loop {
            match self.read_line() {
                Err(error) => return Some(Err(error)),
                Ok(false) if self.kind.is_none() => {
                    // Nothing but blank lines.
                    self.kind = Some(InputKind::Lines);
                    return Some(Err(EmbedError::Empty { file: self.file.clone() }));
                }
                Ok(false) => return None,
                Ok(true) => {}
            }
            if let Some((found, advice)) = packed(&self.buffer).filter(|_| self.line == 1) {
                return Some(Err(EmbedError::NoText { file: self.file.clone(), found, advice }));
            }
            if !self.buffer.trim_ascii().is_empty() {
                // Between rows blank lines mean nothing, before the first one, too.
                let is_row = self.kind.is_none() && parse_object(self.buffer.trim_ascii()).is_ok();
                if let Some(blank) = self.blank.take().filter(|_| !is_row) {
                    // Vectors are told apart by their place, so a line must not go missing
                    // silently.
                    let path = "the line".into();
                    return Some(Err(self.row_error(blank, RowProblem::Empty { path })));
                }
                return Some(self.parse());
            }
            if self.kind != Some(InputKind::Rows) {
                self.blank.get_or_insert(self.line);
            }
        }
    }
}

/// Whether a line is a whole JSON array, and not a text that begins with a bracket.
fn is_array(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'[') && serde_json::from_slice::<Vec<Value>>(line).is_ok()
}

/// Keys of a row that are read.
const KEYS: [&str; 4] = ["text", "input_ids", "attention_mask", "id"];

fn row_content(mut row: Map<String, Value>) -> Result<(EmbedContent, Option<Value>), RowProblem> {
    if let Some(mask) = row.get("attention_mask").filter(|mask| !mask.is_null()) {
        let seen = |entry: &Value| entry.as_u64() == Some(1);
        if !mask.as_array().is_some_and(|mask| mask.iter().all(seen)) {
            let words = "attention_mask hides tokens: leave padding out of input_ids, and the mask with it";
            return Err(RowProblem::Sample(words.into()));
        }
    }
    let content = match (row.get("input_ids"), row.get("text")) {
        (Some(ids), _) => EmbedContent::Tokens(token_ids(ids, "input_ids")?),
        (None, Some(Value::String(text))) => EmbedContent::Text(text.clone()),
        (None, Some(other)) => {
            let (path, found) = ("text".into(), kind(other).into());
            return Err(RowProblem::Type { path, found, expected: "a string" });
        }
        (None, None) => {
            let found = found_keys(&row);
            let advice = "expected \"text\" or \"input_ids\"; --columns text=NAME names another";
            return Err(RowProblem::Sample(format!("found {found}; {advice}")));
        }
    };
    Ok((content, row.remove("id")))
}

/// How rows are embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedOptions {
    /// Most tokens in a packed batch; a longer row goes alone.
    pub batch_tokens: usize,
    /// Most rows in a packed batch.
    pub batch_rows: usize,
    /// Longest row in tokens, at most the model's context.
    pub max_length: usize,
    /// Cut longer rows instead of stopping.
    pub truncate: bool,
    /// How a text's hidden states become one vector.
    pub pooling: Pooling,
    /// Scale every vector to length 1.
    pub normalize: bool,
    /// Put before every text.
    pub prompt: String,
}

/// Counts of an embedding run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EmbedReport {
    /// Rows embedded.
    pub rows: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Rows that were cut.
    pub truncated: usize,
}

/// Embeds every row, in order; `sink` gets each row with its vector, `[H]`. `model` is what the
/// rows' texts are for, of either kind.
pub async fn embed_rows<'m>(
    model: impl Into<TextEncoder<'m>>,
    engine: &mut impl Embedder,
    rows: impl Iterator<Item = Result<EmbedRow, EmbedError>>,
    options: &EmbedOptions,
    mut sink: impl FnMut(&EmbedRow, &[f32]) -> io::Result<()>,
) -> Result<EmbedReport, EmbedError> {
    let text = model.into();
    let mut report = EmbedReport::default();
    let mut batch = EmbedBatch::default();
    for row in rows {
        let row = row?;
        let (ids, cut) = row_ids(&text, &row, options)?;
        report.truncated += usize::from(cut);
        let full = batch.tokens.len() + ids.len() > options.batch_tokens || batch.rows.len() >= options.batch_rows;
        if full && !batch.rows.is_empty() {
            batch.run(engine, options, &mut report, &mut sink).await?;
        }
        batch.push(row, &ids);
    }
    if !batch.rows.is_empty() {
        batch.run(engine, options, &mut report, &mut sink).await?;
    }
    Ok(report)
}

/// Reads rows to their end and embeds none: whoever will embed them all learns first whether one
/// cannot be.
pub fn check_rows<'m>(
    model: impl Into<TextEncoder<'m>>,
    mut rows: impl Iterator<Item = Result<EmbedRow, EmbedError>>,
    options: &EmbedOptions,
) -> Result<(), EmbedError> {
    let text = model.into();
    rows.try_for_each(|row| row_ids(&text, &row?, options).map(|_| ()))
}

/// A row's ids, as many as may be embedded, and whether they were cut.
fn row_ids(text: &TextEncoder<'_>, row: &EmbedRow, options: &EmbedOptions) -> Result<(Vec<u32>, bool), EmbedError> {
    let (ids, cut) = ids_of(text, row, options)?;
    let problem = |problem| Err(RowError { origin: row.origin.clone(), problem: Box::new(problem) }.into());
    let (found, most) = (ids.len(), options.max_length);
    if found == 0 {
        return problem(RowProblem::Empty { path: "the text".into() });
    }
    if found > most {
        let words = format!("the text has {found} tokens, at most {most} are allowed: cut it with --truncate");
        return problem(RowProblem::Sample(words));
    }
    Ok((ids, cut))
}

fn ids_of(text: &TextEncoder<'_>, row: &EmbedRow, options: &EmbedOptions) -> Result<(Vec<u32>, bool), EmbedError> {
    let longest = if options.truncate { options.max_length } else { usize::MAX };
    let ids = match &row.content {
        EmbedContent::Text(words) if options.prompt.is_empty() => text.whole_text_within(words, longest),
        EmbedContent::Text(words) => text.whole_text_within(&format!("{}{words}", options.prompt), longest),
        EmbedContent::Tokens(_) if !options.prompt.is_empty() => {
            let words = "input_ids cannot be given the prompt that goes before every text: give texts, or no prompt";
            let problem = Box::new(RowProblem::Sample(words.into()));
            return Err(EmbedError::Row(RowError { origin: row.origin.clone(), problem }));
        }
        EmbedContent::Tokens(ids) => text
            .check_ids("input_ids", ids.iter().copied().enumerate())
            .map(|()| (ids[..ids.len().min(longest)].to_vec(), ids.len() > longest)),
    };
    ids.map_err(|error| {
        if !error.is_about_the_row() {
            return EmbedError::Text(error);
        }
        let problem = Box::new(RowProblem::Sample(error.to_string()));
        EmbedError::Row(RowError { origin: row.origin.clone(), problem })
    })
}

#[derive(Default)]
struct EmbedBatch {
    rows: Vec<EmbedRow>,
    tokens: Vec<u32>,
    segments: Vec<u32>,
}

impl EmbedBatch {
    fn push(&mut self, row: EmbedRow, ids: &[u32]) {
        self.segments.push(self.tokens.len() as u32);
        self.tokens.extend_from_slice(ids);
        self.rows.push(row);
    }

    async fn run(
        &mut self,
        engine: &mut impl Embedder,
        options: &EmbedOptions,
        report: &mut EmbedReport,
        sink: &mut impl FnMut(&EmbedRow, &[f32]) -> io::Result<()>,
    ) -> Result<(), EmbedError> {
        self.segments.push(self.tokens.len() as u32);
        let (tokens, segments) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.segments));
        report.tokens += tokens.len();
        let batch = Batch::untrained(tokens, segments);
        let mut vectors = engine.embed(&batch, options.pooling).await.map_err(EmbedError::Engine)?;
        let width = vectors.len() / self.rows.len();
        if width == 0 || vectors.len() != width * self.rows.len() {
            let words = format!("the device gave {} values for {} rows", vectors.len(), self.rows.len());
            return Err(EmbedError::Engine(words.into()));
        }
        for (row, vector) in self.rows.iter().zip(vectors.chunks_exact_mut(width)) {
            check_finite(vector, &row.origin).map_err(EmbedError::Engine)?;
            if options.normalize {
                scale_to_one(vector);
            }
            sink(row, vector).map_err(EmbedError::Write)?;
        }
        report.rows += self.rows.len();
        *self = Self::default();
        Ok(())
    }
}

/// Scales a vector to length 1; a zero vector stays.
fn scale_to_one(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

#[cfg(test)]
#[path = "embed/tests.rs"]
mod tests;
