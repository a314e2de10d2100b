//! Rows to samples: token ids, labels and where they came from; what is too long, empty or bad is counted and named.

use bft_formats::Model;

use crate::rows::{DataError, MASKED, Origin, RowContent, RowError, RowFormat, RowProblem, Rows};
use crate::text::{LabelledTokens, TextEncoder, TextError};

/// Longest sample where nobody says otherwise and the model's context allows it, in tokens.
pub const DEFAULT_MAX_LENGTH: usize = 2048;

/// One sample: `tokens[t]` has `labels[t]`, and position t predicts token t + 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Token ids; at least one.
    pub tokens: Vec<u32>,
    /// A token id or [`MASKED`], one for each token. The first never counts: nothing predicts it.
    pub labels: Vec<i32>,
    /// The row it came from.
    pub origin: Origin,
}

impl Sample {
    /// n_b: tokens that are predicted and not masked.
    pub fn trained(&self) -> usize {
        self.labels.iter().skip(1).filter(|l| **l != MASKED).count()
    }
}

/// How rows become samples.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleOptions {
    /// Longest sample, in tokens; `None` is [`DEFAULT_MAX_LENGTH`] or the model's context, whichever is shorter.
    pub max_length: Option<usize>,
    /// Cut longer samples instead of refusing them.
    pub truncate: bool,
    /// Leave out, and count, rows that cannot be used, longer ones included.
    pub skip_bad_rows: bool,
}

impl SampleOptions {
    /// The limit that holds for `model`.
    ///
    /// # Errors
    /// [`SamplesError::MaxLength`] for a limit of fewer than 2 tokens or above the model's context.
    pub fn limit(&self, model: &Model) -> Result<usize, SamplesError> {
        let context = model.config.max_position_embeddings;
        match self.max_length {
            None => Ok(DEFAULT_MAX_LENGTH.min(context)),
            Some(found) if found < 2 || found > context => Err(SamplesError::MaxLength { found, context }),
            Some(limit) => Ok(limit),
        }
    }
}

/// The samples of one file and what became of its rows.
#[derive(Debug, Clone)]
pub struct Samples {
    /// What can be trained on, in file order.
    pub samples: Vec<Sample>,
    /// What was counted on the way.
    pub report: DataReport,
}

/// Counts of one data file.
#[derive(Debug, Clone, PartialEq)]
pub struct DataReport {
    /// The file's name as the user gave it.
    pub file: String,
    /// The format of its rows.
    pub format: RowFormat,
    /// Rows in the file, skipped ones included.
    pub rows: usize,
    /// Rows that cannot be used, left out on request.
    pub skipped: Vec<RowError>,
    /// Rows without a single trained token, left out.
    pub untrained: Vec<Origin>,
    /// Samples that were cut on request.
    pub truncated: usize,
    /// Samples left.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Their trained tokens.
    pub trained_tokens: usize,
    /// Tokens of the longest.
    pub longest: usize,
}

/// Why a file gives no samples.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// The file itself.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model's tokenizer or template cannot serve this format.
    #[error("data file {file} has {format} rows: {source}")]
    Model {
        /// The file.
        file: String,
        /// Its format.
        format: RowFormat,
        /// Why.
        source: TextError,
    },
    /// A limit that makes no sense.
    #[error("max-length is {found}: expected 2 to {context}, the model's context in tokens")]
    MaxLength {
        /// What was asked for.
        found: usize,
        /// The model's context.
        context: usize,
    },
    /// Samples above the limit.
    #[error(
        "{count} of {rows} samples are longer than max-length {limit}: {examples}; raise --max-length (the model's context is {context}), or cut them with --truncate"
    )]
    TooLong {
        /// How many.
        count: usize,
        /// Of how many.
        rows: usize,
        /// The limit, in tokens.
        limit: usize,
        /// The model's context, in tokens.
        context: usize,
        /// The first few, ready to read.
        examples: String,
    },
    /// No trained token at all.
    #[error("data file {file} has nothing to train on: none of its {rows} rows has a trained token ({reason})")]
    NothingToTrain {
        /// The file.
        file: String,
        /// Rows looked at.
        rows: usize,
        /// What such rows lack, by format.
        reason: &'static str,
    },
}

/// Turns one row's content into labelled tokens.
pub fn labelled_tokens(text: &TextEncoder<'_>, content: &RowContent) -> Result<LabelledTokens, TextError> {
    match content {
        RowContent::Chat(messages) => text.chat_sample(messages),
        RowContent::PromptCompletion { prompt, completion } => text.completion_sample(prompt, completion),
        RowContent::Text(words) => text.text_sample(words),
        RowContent::Tokens { input_ids, labels } => {
            text.check_ids("input_ids", input_ids.iter().copied().enumerate())?;
            let unmasked = labels.iter().enumerate().filter(|(_, l)| **l != MASKED);
            text.check_ids("labels", unmasked.map(|(i, l)| (i, *l as u32)))?;
            Ok(LabelledTokens { tokens: input_ids.clone(), labels: labels.clone() })
        }
    }
}

/// Turns a file's rows into samples for `model`.
pub fn make_samples(model: &Model, rows: Rows, options: &SampleOptions) -> Result<Samples, SamplesError> {
    let limit = options.limit(model)?;
    let text = TextEncoder::new(model);
    let mut report = DataReport {
        file: rows.file.to_string(),
        format: rows.format,
        rows: rows.rows.len() + rows.skipped.len(),
        skipped: rows.skipped,
        untrained: Vec::new(),
        truncated: 0,
        samples: 0,
        tokens: 0,
        trained_tokens: 0,
        longest: 0,
    };
    let mut samples = Vec::with_capacity(rows.rows.len());
    let mut too_long = TooLong::default();
    for row in rows.rows {
        let origin = row.origin;
        let LabelledTokens { mut tokens, mut labels } = match labelled_tokens(&text, &row.content) {
            Ok(labelled) => labelled,
            Err(source) if !source.is_about_the_row() => {
                return Err(SamplesError::Model { file: report.file, format: report.format, source });
            }
            Err(source) => {
                let error = bad_row(origin, source.to_string());
                if !options.skip_bad_rows {
                    return Err(SamplesError::Data(DataError::Row(error)));
                }
                report.skipped.push(error);
                continue;
            }
        };
        if tokens.len() > limit {
            if options.truncate {
                report.truncated += 1;
                tokens.truncate(limit);
                labels.truncate(limit);
            } else if options.skip_bad_rows {
                let problem = format!("the sample has {} tokens, more than max-length {limit}", tokens.len());
                report.skipped.push(bad_row(origin, problem));
                continue;
            } else {
                too_long.note(&origin, tokens.len());
                continue;
            }
        }
        let sample = Sample { tokens, labels, origin };
        match sample.trained() {
            0 => report.untrained.push(sample.origin),
            trained => {
                report.samples += 1;
                report.tokens += sample.tokens.len();
                report.trained_tokens += trained;
                report.longest = report.longest.max(sample.tokens.len());
                samples.push(sample);
            }
        }
    }
    if too_long.count > 0 {
        return Err(SamplesError::TooLong {
            count: too_long.count,
            rows: report.rows,
            limit,
            context: model.config.max_position_embeddings,
            examples: too_long.examples(),
        });
    }
    if samples.is_empty() {
        return Err(nothing_to_train(report));
    }
    Ok(Samples { samples, report })
}

fn bad_row(origin: Origin, problem: String) -> RowError {
    RowError { origin, problem: Box::new(RowProblem::Sample(problem)) }
}

fn nothing_to_train(mut report: DataReport) -> SamplesError {
    if report.untrained.is_empty() && !report.skipped.is_empty() {
        let (file, count) = (report.file, report.skipped.len());
        return SamplesError::Data(DataError::AllSkipped { file, count, first: report.skipped.swap_remove(0) });
    }
    let reason = match (report.truncated, report.format) {
        (1.., _) => "after cutting them to max-length",
        (_, RowFormat::Tokens) => "their labels are -100 everywhere after the first token",
        (_, RowFormat::Messages | RowFormat::Conversations) => "they have no assistant turn",
        _ => "they are a single token long",
    };
    SamplesError::NothingToTrain { file: report.file, rows: report.rows, reason }
}

#[derive(Default)]
struct TooLong {
    count: usize,
    first: Vec<(Origin, usize)>,
    longest: usize,
}

impl TooLong {
    const SHOWN: usize = 3;

    fn note(&mut self, origin: &Origin, length: usize) {
        self.count += 1;
        self.longest = self.longest.max(length);
        if self.first.len() < Self::SHOWN {
            self.first.push((origin.clone(), length));
        }
    }

    fn examples(&self) -> String {
        let mut shown: Vec<String> =
            self.first.iter().map(|(origin, length)| format!("{origin} ({length} tokens)")).collect();
        if self.count > Self::SHOWN {
            shown.push(format!("… the longest has {}", self.longest));
        }
        shown.join(", ")
    }
}

#[cfg(test)]
#[path = "samples/tests.rs"]
mod tests;
