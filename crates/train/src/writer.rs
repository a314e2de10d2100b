//! Writing text with a model: prompt in, tokens out, until it ends.

use bft_core::sample::{SampleError, Sampler, Sampling};
use bft_core::{Generation, ModelError, Runner};
use bft_formats::{FormatError, Model, StreamDecoder, Tokenizer};
use web_time::Instant;

use crate::control::Control;
use crate::setting::{Range, settings};

settings! {
    /// How tokens are chosen and when a text ends. A field's comment is what `--help` says about
    /// it.
    pub struct SamplingConfig {
        /// Stop after this many new tokens
        #[setting(heading: "Sampling", value_name: "TOKENS", range: Range::From(1))]
        pub max_new_tokens: usize = 256,
        /// 0 takes the likeliest token; higher is more varied
        #[setting(heading: "Sampling", value_name: "NUMBER", range: Range::NotNegative)]
        pub temperature: f32 = Sampling::default().temperature,
        /// Keep the fewest tokens whose probabilities reach this sum; 1 = off
        #[setting(heading: "Sampling", value_name: "SHARE", range: Range::Share)]
        pub top_p: f32 = Sampling::default().top_p,
        /// Keep this many likeliest tokens; 0 = off
        #[setting(heading: "Sampling", value_name: "TOKENS", range: Range::From(0))]
        pub top_k: usize = Sampling::default().top_k,
        /// Keep tokens at least this many times as likely as the likeliest; 0 = off
        #[setting(heading: "Sampling", value_name: "SHARE", range: Range::Chance)]
        pub min_p: f32 = Sampling::default().min_p,
        /// Seed of the random choice
        #[setting(heading: "Sampling", value_name: "NUMBER")]
        pub seed: u64 = Sampling::default().seed,
    }
}

impl SamplingConfig {
    /// As the sampler takes them.
    pub fn sampling(&self) -> Sampling {
        let Self { temperature, top_p, top_k, min_p, seed, .. } = *self;
        Sampling { temperature, top_k, top_p, min_p, seed }
    }
}

/// Why a text ended.
#[cfg_attr(feature = "ts", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model said so.
    Stop,
    /// There was no room for more.
    Length,
    /// Whoever asked for it had enough.
    Cancelled,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The new text alone.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt that had to be read.
    pub prompt_tokens: usize,
    /// Time to the first token, in seconds.
    pub prompt_seconds: f64,
    /// Time for all others, in seconds.
    pub seconds: f64,
}

/// Why a text cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing to go on from.
    #[error("the prompt has no tokens; give some text")]
    Empty,
    /// No room for an answer.
    #[error("the text has {found} tokens, expected fewer than {limit}: shorten it")]
    TooLong {
        /// Tokens of the text.
        found: usize,
        /// What the runner was planned for.
        limit: usize,
    },
    /// The device.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// How tokens are chosen, or logits that are not finite.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// Tokens that are no text.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// One of several texts.
    #[error("text {id}: {problem}")]
    Of {
        /// What it was called.
        id: u64,
        /// What is wrong with it.
        problem: Box<WriteError>,
    },
}

/// How texts end.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    stops: Vec<u32>,
    max_new_tokens: usize,
    /// Prompt and answer together may not be longer.
    max_length: usize,
}

impl Ends {
    pub fn new(model: &Model, tokenizer: &Tokenizer, max_new_tokens: usize, max_length: usize) -> Self {
        let mut stops = model.config.eos_token_ids.clone();
        // Chat models end a turn with the tokenizer's token, which the model's configuration need
        // not name.
        stops.extend(tokenizer.eos_token().and_then(|token| tokenizer.token_to_id(token)));
        Self { stops, max_new_tokens, max_length }
    }

    /// Ends texts at these tokens, too.
    pub fn add(&mut self, ids: &[u32]) {
        self.stops.extend(ids);
    }

    /// Checks that a prompt has tokens, and leaves room for more.
    pub fn check(&self, prompt: &[u32]) -> Result<(), WriteError> {
        if prompt.is_empty() {
            return Err(WriteError::Empty);
        }
        if prompt.len() >= self.max_length {
            return Err(WriteError::TooLong { found: prompt.len(), limit: self.max_length });
        }
        Ok(())
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    decoder: StreamDecoder,
    text: String,
    tokens: Vec<u32>,
    /// Tokens of the whole text before it, and of these those that had to be read.
    before: usize,
    read: usize,
    prompt_seconds: f64,
    /// When its first token was there to be drawn.
    started: Instant,
}

impl Answer {
    /// An answer to a prompt of `before` tokens, of which `read` were read since `begun`.
    pub fn new(tokenizer: &Tokenizer, before: usize, read: usize, begun: Instant) -> Self {
        Self {
            decoder: tokenizer.stream(),
            text: String::new(),
            tokens: Vec::new(),
            before,
            read,
            prompt_seconds: begun.elapsed().as_secs_f64(),
            started: Instant::now(),
        }
    }

    /// Draws the next token from its logits; says why the answer ends where it does. `piece` gets
    /// text as soon as it is whole.
    pub fn draw(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        ends: &Ends,
        mut piece: impl FnMut(&str),
    ) -> Result<Option<Finish>, WriteError> {
        let token = sampler.pick(logits)?;
        if ends.stops.contains(&token) {
            return Ok(Some(Finish::Stop));
        }
        self.tokens.push(token);
        if let Some(new) = self.decoder.push(token)? {
            piece(&new);
            self.text.push_str(&new);
        }
        let full = self.tokens.len() == ends.max_new_tokens || self.before + self.tokens.len() >= ends.max_length;
        Ok(full.then_some(Finish::Length))
    }

    /// The token drawn last.
    pub fn last(&self) -> Option<u32> {
        self.tokens.last().copied()
    }

    /// The answer as it is now.
    pub fn finish(mut self, finish: Finish, mut piece: impl FnMut(&str)) -> Result<Written, WriteError> {
        if let Some(rest) = self.decoder.finish()? {
            piece(&rest);
            self.text.push_str(&rest);
        }
        Ok(Written {
            text: self.text,
            tokens: self.tokens,
            finish,
            prompt_tokens: self.read,
            prompt_seconds: self.prompt_seconds,
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}

/// A conversation or text in progress on a device.
#[derive(Debug)]
pub struct TextWriter<'r, 'd> {
    generation: Generation<'r, 'd>,
    /// Tokens in the KV cache.
    cached: Vec<u32>,
    tokenizer: &'r Tokenizer,
    ends: Ends,
    sampler: Sampler,
}

impl<'r, 'd> TextWriter<'r, 'd> {
    /// An empty text. `max_length` is what `runner` was planned for.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn new(
        runner: &'r Runner<'d>,
        model: &'r Model,
        tokenizer: &'r Tokenizer,
        sampling: &SamplingConfig,
        max_length: usize,
    ) -> Result<Self, WriteError> {
        Ok(TextWriter {
            generation: runner.generation()?,
            cached: Vec::new(),
            tokenizer,
            ends: Ends::new(model, tokenizer, sampling.max_new_tokens, max_length),
            sampler: Sampler::new(sampling.sampling()),
        })
    }

    /// Ends texts at these tokens, too: those that an adapter was trained to end with.
    pub fn with_end_tokens(mut self, ids: &[u32]) -> Self {
        self.ends.add(ids);
        self
    }

    /// Before the first text: where the device is to measure (see
    /// [`bft_core::device::Device::measure_when_preparing`]), finds the fastest kernels for prompts
    /// of every size up to the planned one.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&self) -> Result<(), WriteError> {
        Ok(self.generation.prepare().await?)
    }

    /// Goes on from `prompt`, the whole text so far; `piece` gets text as soon as it is whole.
    ///
    /// # Errors
    /// Where the prompt is empty or too long, or the device fails.
    pub async fn go_on(
        &mut self,
        prompt: &[u32],
        control: &impl Control,
        mut piece: impl FnMut(&str),
    ) -> Result<Written, WriteError> {
        self.ends.check(prompt)?;
        // A conversation goes on where it was; only a text that differs is read again.
        if !(prompt.len() > self.cached.len() && prompt.starts_with(&self.cached)) {
            self.generation.clear();
            self.cached.clear();
        }
        let begun = Instant::now();
        let unread = &prompt[self.cached.len()..];
        let mut logits = self.read(unread).await?;
        let mut answer = Answer::new(self.tokenizer, prompt.len(), unread.len(), begun);
        let finish = loop {
            if let Some(finish) = answer.draw(&mut self.sampler, &logits, &self.ends, &mut piece)? {
                break finish;
            }
            control.turn().await;
            if control.stopping() {
                break Finish::Cancelled;
            }
            let last = answer.last();
            logits = self.read(last.as_slice()).await?;
        };
        answer.finish(finish, piece)
    }

    /// Reads tokens into the cache; gives the logits after them.
    async fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, WriteError> {
        let logits = self.generation.next(tokens).await?;
        self.cached.extend_from_slice(tokens);
        Ok(logits)
    }
}
