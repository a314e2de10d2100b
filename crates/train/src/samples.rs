//! Rows to samples: token ids, labels and where they came from; what is too long, empty or bad is
//! counted and named.

use std::collections::BTreeSet;

use bft_formats::{Conversation, FormatError, Message, Model, REASONING};
use serde_json::{Map, Value};

use crate::event::Note;
use crate::rows::{
    Chat, DataError, DataFile, KeyList, MASKED, Origin, Row, RowContent, RowError, RowFormat, RowProblem, Rows,
    nearest_optional,
};
use crate::text::{ChatSamples, LabelledTokens, TextEncoder, TextError};

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
        trained_tokens(&self.labels)
    }
}

fn trained_tokens(labels: &[i32]) -> usize {
    labels.iter().skip(1).filter(|l| **l != MASKED).count()
}

/// How rows become samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampleOptions {
    /// Longest sample, in tokens; `None` is [`DEFAULT_MAX_LENGTH`] or the model's context,
    /// whichever is shorter.
    pub max_length: Option<usize>,
    /// Cut longer samples instead of refusing them.
    pub truncate: bool,
    /// Leave out, and count, rows that cannot be used, longer ones included.
    pub skip_bad_rows: bool,
    /// Variables that the chat template is given, such as `enable_thinking`.
    pub template_vars: Map<String, Value>,
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
    /// The file's name as the user gave it; of several, the first one's and how many more.
    pub file: String,
    /// The files.
    pub files: Vec<DataFile>,
    /// The format of its rows.
    pub format: RowFormat,
    /// Rows in the file, skipped ones included.
    pub rows: usize,
    /// Rows that cannot be used, left out on request.
    pub skipped: Vec<RowError>,
    /// Rows without a single trained token, left out.
    pub untrained: Vec<Origin>,
    /// Of these, rows whose every trained token was cut off on request.
    pub cut_away: usize,
    /// Samples that were cut on request.
    pub truncated: usize,
    /// Keys of the rows that were read past.
    pub ignored: KeyList,
    /// Keys of turns and rows that the chat template was given and does not name.
    pub unread: KeyList,
    /// Whether the chat template's own marks say what is trained.
    pub marked: bool,
    /// Answers that became samples of their own, because the template renders earlier turns
    /// otherwise than the last.
    pub alone: usize,
    /// Answers that are trained with what the template writes before them.
    pub headers: usize,
    /// Trained answers without an end-of-turn token.
    pub endless: usize,
    /// End-of-turn tokens that were trained and that the model does not name as end tokens: id and
    /// text.
    pub new_ends: Vec<(u32, String)>,
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
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum SamplesError {
    /// The file itself.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model's tokenizer or template cannot serve this format.
    #[error("data file {file} has {format} rows: {source}")]
    Model { file: String, format: RowFormat, source: TextError },
    /// Template variables for rows that meet no template.
    #[error("template-vars are given, but data file {file} has {format} rows, which go through no chat template")]
    NoTemplate { file: String, format: RowFormat },
    /// The model's own files.
    #[error(transparent)]
    Format(FormatError),
    /// A limit that makes no sense.
    #[error("max-length is {found}: expected 2 to {context}, the model's context in tokens")]
    MaxLength { found: usize, context: usize },
    /// Samples above the limit.
    #[error(
        "{count} of {rows} samples are longer than max-length {limit}: {examples}; raise --max-length (the model's context is {context}), or cut them with --truncate"
    )]
    TooLong { count: usize, rows: usize, limit: usize, context: usize, examples: String },
    /// No trained token at all.
    #[error("data file {file} has nothing to train on: none of its {rows} rows has a trained token ({reason})")]
    NothingToTrain { file: String, rows: usize, reason: &'static str },
}

/// Turns one row's content into the labelled tokens of its samples.
pub fn labelled_tokens(text: &TextEncoder<'_>, content: &RowContent) -> Result<ChatSamples, TextError> {
    let one = |tokens| ChatSamples { samples: vec![tokens], ..ChatSamples::default() };
    match content {
        RowContent::Chat(chat) => text.row_samples(chat),
        RowContent::PromptCompletion { prompt, completion } => text.completion_sample(prompt, completion).map(one),
        RowContent::Text(words) => text.text_sample(words).map(one),
        RowContent::Tokens { input_ids, labels } => {
            text.check_ids("input_ids", input_ids.iter().copied().enumerate())?;
            let unmasked = labels.iter().enumerate().filter(|(_, l)| **l != MASKED);
            text.check_ids("labels", unmasked.map(|(i, l)| (i, *l as u32)))?;
            Ok(one(LabelledTokens { tokens: input_ids.clone(), labels: labels.clone() }))
        }
    }
}

impl DataReport {
    fn new(file: String, files: Vec<DataFile>, format: RowFormat, skipped: Vec<RowError>) -> Self {
        Self {
            file,
            files,
            format,
            rows: 0,
            skipped,
            untrained: Vec::new(),
            cut_away: 0,
            truncated: 0,
            ignored: KeyList::default(),
            unread: KeyList::default(),
            marked: false,
            alone: 0,
            headers: 0,
            endless: 0,
            new_ends: Vec::new(),
            samples: 0,
            tokens: 0,
            trained_tokens: 0,
            longest: 0,
        }
    }

    /// What the user should know about what was left out, cut, or made of the rows.
    pub fn notes(&self) -> Vec<Note> {
        const SHOWN: usize = 3;
        let mut notes = Vec::new();
        if let Some(first) = self.skipped.first() {
            notes.push(Note::RowsSkipped { count: self.skipped.len(), first: first.to_string() });
        }
        if !self.untrained.is_empty() {
            let count = self.untrained.len();
            let mut first: Vec<String> = self.untrained.iter().take(SHOWN).map(ToString::to_string).collect();
            if count > SHOWN {
                first.push("…".into());
            }
            notes.push(Note::RowsUntrained { count, cut: self.cut_away, first: first.join(", ") });
        }
        if !self.ignored.names().is_empty() {
            let with_hint = |key: &String| match nearest_optional(key, self.format) {
                Some(near) => format!("{key} (did you mean {near}?)"),
                None => key.clone(),
            };
            notes.push(Note::KeysIgnored { keys: self.ignored.names().iter().map(with_hint).collect() });
        }
        if !self.unread.names().is_empty() {
            notes.push(Note::KeysUnread { keys: self.unread.names().to_vec() });
        }
        let count_of = |count: usize, note: fn(usize) -> Note| (count > 0).then(|| note(count));
        notes.extend(self.marked.then_some(Note::MarkedAnswers));
        notes.extend(count_of(self.alone, |count| Note::AnswersAlone { count }));
        notes.extend(count_of(self.headers, |count| Note::HeadersTrained { count }));
        notes.extend(count_of(self.endless, |count| Note::Endless { count }));
        if !self.new_ends.is_empty() {
            notes.push(Note::NewEnds { tokens: self.new_ends.iter().map(|(_, token)| token.clone()).collect() });
        }
        if self.truncated > 0 {
            notes.push(Note::Truncated { count: self.truncated, of: self.samples });
        }
        notes
    }
}

/// Turns a file's rows into samples for `model`.
pub fn make_samples(model: &Model, rows: Rows, options: &SampleOptions) -> Result<Samples, SamplesError> {
    let limit = options.limit(model)?;
    let failed = |source| SamplesError::Model { file: rows.file.to_string(), format: rows.format, source };
    let text = TextEncoder::new(model).with_template_vars(&options.template_vars).map_err(failed)?;
    if !options.template_vars.is_empty() && !rows.format.is_chat() {
        return Err(SamplesError::NoTemplate { file: rows.file.to_string(), format: rows.format });
    }
    let mut report = DataReport::new(rows.file.to_string(), rows.files, rows.format, rows.skipped);
    report.rows = rows.rows.len() + report.skipped.len();
    report.ignored = rows.ignored;
    let mut making = Making {
        text,
        options,
        limit,
        report,
        readers: Readers::default(),
        samples: Vec::with_capacity(rows.rows.len()),
        too_long: TooLong::default(),
        ends: BTreeSet::new(),
    };
    for row in rows.rows {
        making.add(row)?;
    }
    making.finish(model)
}

/// The samples of a file while its rows are read.
struct Making<'m> {
    text: TextEncoder<'m>,
    options: &'m SampleOptions,
    limit: usize,
    report: DataReport,
    readers: Readers,
    samples: Vec<Sample>,
    too_long: TooLong,
    /// Tokens that trained answers end with.
    ends: BTreeSet<u32>,
}

impl Making<'_> {
    /// Makes samples of a row, or says what is wrong with it.
    fn add(&mut self, Row { origin, content }: Row) -> Result<(), SamplesError> {
        let Self { text, report, .. } = self;
        if let RowContent::Chat(chat) = &content {
            self.readers.look(text, chat, &mut report.unread);
        }
        let labelled = match labelled_tokens(text, &content) {
            Ok(labelled) => labelled,
            Err(source) if !source.is_about_the_row() => {
                return Err(SamplesError::Model { file: report.file.clone(), format: report.format, source });
            }
            Err(source) => {
                let error = bad_row(origin, source.to_string());
                if !self.options.skip_bad_rows {
                    return Err(SamplesError::Data(DataError::Row(error)));
                }
                report.skipped.push(error);
                return Ok(());
            }
        };
        let longest = labelled.samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0);
        if longest <= self.limit || self.options.truncate {
            self.keep(origin, labelled);
        } else if self.options.skip_bad_rows {
            let problem = format!("the sample has {longest} tokens, more than max-length {}", self.limit);
            report.skipped.push(bad_row(origin, problem));
        } else {
            self.too_long.note(&origin, longest);
        }
        Ok(())
    }

    /// Cuts and counts the samples of a row.
    fn keep(&mut self, origin: Origin, labelled: ChatSamples) {
        let Self { report, limit, .. } = self;
        let (before, mut cut) = (self.samples.len(), 0);
        for LabelledTokens { mut tokens, mut labels } in labelled.samples {
            let trained = trained_tokens(&labels);
            let is_cut = tokens.len() > *limit;
            tokens.truncate(*limit);
            labels.truncate(*limit);
            let sample = Sample { tokens, labels, origin: origin.clone() };
            match sample.trained() {
                0 => cut += usize::from(trained > 0),
                trained => {
                    report.samples += 1;
                    report.truncated += usize::from(is_cut);
                    report.tokens += sample.tokens.len();
                    report.trained_tokens += trained;
                    report.longest = report.longest.max(sample.tokens.len());
                    self.samples.push(sample);
                }
            }
        }
        if self.samples.len() == before {
            report.untrained.push(origin);
            report.cut_away += usize::from(cut > 0);
            return;
        }
        report.marked |= labelled.marked;
        report.alone += labelled.alone;
        report.headers += labelled.headers;
        report.endless += labelled.endless;
        self.ends.extend(labelled.ends);
    }

    fn finish(self, model: &Model) -> Result<Samples, SamplesError> {
        let Self { mut report, samples, too_long, ends, limit, .. } = self;
        let named = |id: &u32| model.config.eos_token_ids.contains(id);
        let piece = |id: u32| (id, model.tokenizer.as_ref().map_or_else(|| id.to_string(), |t| t.piece(id)));
        report.new_ends = ends.into_iter().filter(|id| !named(id)).map(piece).collect();
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
}

fn bad_row(origin: Origin, problem: String) -> RowError {
    RowError { origin, problem: Box::new(RowProblem::Sample(problem)) }
}

fn nothing_to_train(mut report: DataReport) -> SamplesError {
    if report.untrained.is_empty() && !report.skipped.is_empty() {
        let (file, count) = (report.file, report.skipped.len());
        return SamplesError::Data(DataError::AllSkipped { file, count, first: report.skipped.swap_remove(0) });
    }
    let reason = match (report.cut_away, report.format) {
        (1.., _) => "after cutting them to max-length",
        (_, RowFormat::Tokens) => "their labels are -100 everywhere after the first token",
        (_, format) if format.is_chat() => "they have no assistant turn that is to be trained",
        _ => "they are a single token long",
    };
    SamplesError::NothingToTrain { file: report.file, rows: report.rows, reason }
}

/// Which names the chat template has been seen to know.
#[derive(Default)]
struct Readers(BTreeSet<String>);

impl Readers {
    /// Lists what a chat gives the template that it does not name.
    fn look(&mut self, text: &TextEncoder<'_>, chat: &Chat, unread: &mut KeyList) {
        let Conversation { messages, tools, documents, variables } = &chat.conversation;
        let lists = [("tools", tools.is_some()), ("documents", documents.is_some())];
        let lists = lists.into_iter().filter_map(|(name, is_there)| is_there.then_some(name));
        let keys = messages.iter().flat_map(Message::keys).filter(|key| !["role", "content", "thinking"].contains(key));
        for name in lists.chain(variables.keys().map(String::as_str)).chain(keys) {
            if !self.0.contains(name) {
                self.0.insert(name.to_owned());
                // A turn's reasoning goes by several names at once, of which a template reads one.
                let others = if REASONING.contains(&name) { &REASONING[..] } else { &[] };
                if !others.iter().chain([&name]).any(|name| text.template_names(name)) {
                    unread.add(name);
                }
            }
        }
    }
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
