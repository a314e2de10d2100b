//! Writing text with a model: prompt in, tokens out, until it ends.

use std::time::Instant;

use bft_core::sample::{Sampler, Sampling};
use bft_core::{Generation, Runner};
use bft_formats::{Model, Tokenizer};

use crate::error::CliError;
use crate::generate::SamplingFlags;

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Stop,
    /// There was no room for more.
    Length,
}

impl Finish {
    /// The word of the JSON output.
    pub fn word(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
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

impl Written {
    /// One line about speed, for standard error.
    pub fn summary(&self) -> String {
        let end = match self.finish {
            Finish::Stop => "ended by the model",
            Finish::Length => "cut at the limit",
        };
        let count = self.tokens.len();
        if count < 2 {
            return format!("{count} tokens, {end}");
        }
        let speed = (count - 1) as f64 / self.seconds.max(1e-9);
        format!(
            "{count} tokens, {end}; {speed:.1} tokens/s after a prompt of {} tokens in {:.2} s",
            self.prompt_tokens, self.prompt_seconds
        )
    }
}

/// A conversation or text in progress on a device.
pub struct TextWriter<'r, 'd> {
    runner: &'r Runner<'d>,
    generation: Generation<'r, 'd>,
    /// Tokens in the KV cache.
    cached: Vec<u32>,
    /// Prompt and answer together may not be longer.
    max_length: usize,
    max_new_tokens: usize,
    tokenizer: &'r Tokenizer,
    stops: Vec<u32>,
    sampler: Sampler,
}

impl<'r, 'd> TextWriter<'r, 'd> {
    /// An empty text. `max_length` is what `runner` was planned for.
    pub fn new(
        runner: &'r Runner<'d>,
        model: &'r Model,
        tokenizer: &'r Tokenizer,
        flags: &SamplingFlags,
        max_length: usize,
    ) -> Result<Self, CliError> {
        let mut stops = model.config.eos_token_ids.clone();
        // Chat models end a turn with the tokenizer's token, which the model's configuration need not name.
        stops.extend(
            tokenizer
                .eos_token()
                .and_then(|token| tokenizer.token_to_id(token)),
        );
        Ok(TextWriter {
            generation: runner.generation().map_err(CliError::failed)?,
            runner,
            cached: Vec::new(),
            max_length,
            max_new_tokens: flags.max_new_tokens,
            tokenizer,
            stops,
            sampler: Sampler::new(Sampling {
                temperature: flags.temperature as f32,
                top_k: flags.top_k,
                top_p: flags.top_p as f32,
                min_p: flags.min_p as f32,
                seed: flags.seed,
            }),
        })
    }

    /// Goes on from `prompt`, the whole text so far; `piece` gets text as soon as it is whole.
    pub fn go_on(
        &mut self,
        prompt: &[u32],
        mut piece: impl FnMut(&str) -> Result<(), CliError>,
    ) -> Result<Written, CliError> {
        if prompt.is_empty() {
            return Err(CliError::failed("the prompt has no tokens; give some text"));
        }
        if prompt.len() >= self.max_length {
            return Err(CliError::failed(format!(
                "the text has {} tokens, expected fewer than {}: shorten it",
                prompt.len(),
                self.max_length
            )));
        }
        // A conversation goes on where it was; only a text that differs is read again.
        if !(prompt.len() > self.cached.len() && prompt.starts_with(&self.cached)) {
            self.generation = self.runner.generation().map_err(CliError::failed)?;
            self.cached.clear();
        }
        let started = Instant::now();
        let unread = &prompt[self.cached.len()..];
        let prompt_tokens = unread.len();
        let mut logits = self.read(unread)?;
        let prompt_seconds = started.elapsed().as_secs_f64();
        let mut decoder = self.tokenizer.stream();
        let mut text = String::new();
        let mut tokens = Vec::new();
        let started = Instant::now();
        let finish = loop {
            let token = self.sampler.pick(&logits).map_err(CliError::failed)?;
            if self.stops.contains(&token) {
                break Finish::Stop;
            }
            tokens.push(token);
            if let Some(new) = decoder.push(token).map_err(CliError::failed)? {
                piece(&new)?;
                text.push_str(&new);
            }
            if tokens.len() == self.max_new_tokens || self.cached.len() + 1 >= self.max_length {
                break Finish::Length;
            }
            logits = self.read(&[token])?;
        };
        if let Some(rest) = decoder.finish().map_err(CliError::failed)? {
            piece(&rest)?;
            text.push_str(&rest);
        }
        Ok(Written {
            text,
            tokens,
            finish,
            prompt_tokens,
            prompt_seconds,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Reads tokens into the cache; gives the logits after them.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, CliError> {
        let logits = pollster::block_on(self.generation.next(tokens)).map_err(CliError::failed)?;
        self.cached.extend_from_slice(tokens);
        Ok(logits)
    }
}
