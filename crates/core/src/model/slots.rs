//! Several texts written at once: each has a slot of the KV cache, prompts are read one at a time,
//! and one pass draws the next token of as many texts as there are.
//!
//! Texts come and go while others are written: a slot is cleared and takes the next one.

use super::ModelError;
use super::batch::{Batch, BatchViews, every_class};
use super::block::Pass;
use super::cache::{Cache, NewTokens, Size};
use super::head;
use super::runner::Runner;
use crate::device::{Elem, Recording, View};

/// Texts being written, one in each slot.
#[derive(Debug)]
pub struct Slots<'r, 'a> {
    runner: &'r Runner<'a>,
    cache: Cache,
    /// `[slots, V]`, as [`head::logits`] lays them out.
    logits: View,
    /// Tokens so far in each slot.
    past: Vec<usize>,
    /// Those tokens, where they may have to be taken again.
    texts: Vec<Vec<u32>>,
}

/// Where a new token goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    slot: usize,
    position: usize,
    /// Tokens of its text, with all that are taken with it.
    total: usize,
}

impl<'r, 'a> Slots<'r, 'a> {
    pub(super) fn new(runner: &'r Runner<'a>, count: usize) -> Result<Self, ModelError> {
        let (options, config) = (runner.options, &runner.weights.config);
        let most = options.capacity.tokens.min(options.capacity.trained.max(1));
        if !(1..=most).contains(&count) {
            return Err(ModelError::Batch(format!("{count} texts at once, the run was planned for {most}")));
        }
        let size = Size { slots: count, max_length: options.max_length, tokens: options.capacity.tokens };
        let cache = Cache::new(runner.device, config, size)?;
        let logits = runner.device.alloc("next logits", Elem::F32, count * runner.weights.head.rows())?.view();
        Ok(Self { runner, cache, logits, past: vec![0; count], texts: vec![Vec::new(); count] })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.past.len()
    }

    /// Tokens so far of the text in a slot; 0 where there is no such slot.
    #[must_use]
    pub fn length(&self, slot: usize) -> usize {
        self.past.get(slot).copied().unwrap_or(0)
    }

    /// Forgets the text in a slot.
    pub fn clear(&mut self, slot: usize) {
        if let (Some(past), Some(text)) = (self.past.get_mut(slot), self.texts.get_mut(slot)) {
            *past = 0;
            text.clear();
        }
    }

    /// Takes the next tokens of one text, such as its prompt, and gives the logits `[V]` of the
    /// token after them.
    ///
    /// # Errors
    /// Where there is no such slot, the text would outgrow the plan, an id is not in the vocabulary,
    /// or the device fails.
    pub async fn read(&mut self, slot: usize, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.check(slot, tokens.len())?;
        if tokens.is_empty() {
            return Err(ModelError::Batch("it holds no tokens".into()));
        }
        let total = self.past[slot] + tokens.len();
        if self.turns_long(slot, tokens.len()) {
            // The keys of a text that has just become long rotate otherwise, all of them.
            let text = [&self.texts[slot], tokens].concat();
            self.clear(slot);
            self.extend(slot, &text, total)?;
        } else {
            self.extend(slot, tokens, total)?;
            if self.runner.long.is_some_and(|long| !long.long(total)) {
                self.texts[slot].extend(tokens);
            }
        }
        self.take_logits(1).await
    }

    /// Whether a text's tokens so far are short and so many more make it long.
    fn turns_long(&self, slot: usize, more: usize) -> bool {
        let past = self.past[slot];
        self.runner.long.is_some_and(|long| !long.long(past) && long.long(past + more))
    }

    /// Takes tokens of a text of `total` in pieces as long as the plan has room for.
    fn extend(&mut self, slot: usize, tokens: &[u32], total: usize) -> Result<(), ModelError> {
        for piece in tokens.chunks(self.runner.options.capacity.tokens) {
            let places: Vec<_> =
                (self.past[slot]..).take(piece.len()).map(|position| Place { slot, position, total }).collect();
            let rec = self.record(piece, &places, &[piece.len() as u32 - 1])?;
            self.runner.device.run(&rec)?;
            self.past[slot] += piece.len();
        }
        Ok(())
    }

    /// Takes one token more in each of these slots, all different, and gives the logits `[B, V]` of
    /// the tokens after them, in the same order. On a CPU each text's logits are the same to the
    /// bit whatever the others are, as long as there are no more than
    /// [`crate::cpu::FEW_ROWS`].
    ///
    /// # Errors
    /// As [`Self::read`], and where a slot is named twice or none is.
    pub async fn step(&mut self, next: &[(usize, u32)]) -> Result<Vec<f32>, ModelError> {
        for (i, (slot, _)) in next.iter().enumerate() {
            self.check(*slot, 1)?;
            if next[..i].iter().any(|(other, _)| other == slot) {
                return Err(ModelError::Batch(format!("two tokens at once for the text in slot {slot}")));
            }
        }
        let (alone, together): (Vec<_>, Vec<_>) = next.iter().partition(|(slot, _)| self.turns_long(*slot, 1));
        if alone.is_empty() {
            return self.step_together(next).await;
        }
        let mut logits = vec![Vec::new(); self.count()];
        for (slot, token) in alone {
            logits[slot] = self.read(slot, &[token]).await?;
        }
        if !together.is_empty() {
            let rows = self.step_together(&together).await?;
            for ((slot, _), row) in together.iter().zip(rows.chunks_exact(rows.len() / together.len())) {
                logits[*slot] = row.to_vec();
            }
        }
        Ok(next.iter().flat_map(|(slot, _)| std::mem::take(&mut logits[*slot])).collect())
    }

    /// As [`Self::step`], of texts whose keys stay as they are.
    async fn step_together(&mut self, next: &[(usize, u32)]) -> Result<Vec<f32>, ModelError> {
        let tokens: Vec<u32> = next.iter().map(|(_, token)| *token).collect();
        let place = |slot: usize| Place { slot, position: self.past[slot], total: self.past[slot] + 1 };
        let places: Vec<_> = next.iter().map(|(slot, _)| place(*slot)).collect();
        let rows: Vec<u32> = (0..next.len() as u32).collect();
        let rec = self.record(&tokens, &places, &rows)?;
        self.runner.device.run(&rec)?;
        for (slot, token) in next {
            self.past[*slot] += 1;
            if self.runner.long.is_some_and(|long| !long.long(self.past[*slot])) {
                self.texts[*slot].push(*token);
            }
        }
        self.take_logits(next.len()).await
    }

    /// Before the first tokens: where the device is to measure (see
    /// [`crate::device::Device::measure_when_preparing`]), finds the fastest kernels for pieces of a
    /// prompt and for numbers of texts up to the planned ones.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&self) -> Result<(), ModelError> {
        let (device, options) = (self.runner.device, self.runner.options);
        if device.measures() {
            for tokens in every_class(1, options.capacity.tokens.min(options.max_length)) {
                let place = |position| Place { slot: 0, position, total: tokens };
                let places: Vec<_> = (0..tokens).map(place).collect();
                let rec = self.record(&vec![0; tokens], &places, &[tokens as u32 - 1])?;
                device.measure_choices(&rec).await?;
            }
            for texts in every_class(2, self.count()) {
                let rows: Vec<u32> = (0..texts as u32).collect();
                let places: Vec<_> = (0..texts).map(|slot| Place { slot, position: 0, total: 1 }).collect();
                let rec = self.record(&vec![0; texts], &places, &rows)?;
                device.measure_choices(&rec).await?;
            }
        }
        Ok(())
    }

    /// Checks that a slot has room for more tokens.
    fn check(&self, slot: usize, more: usize) -> Result<(), ModelError> {
        let Some(past) = self.past.get(slot) else {
            return Err(ModelError::Batch(format!("slot {slot}, the run was planned for {} texts", self.count())));
        };
        let max_length = self.runner.options.max_length;
        if past.saturating_add(more) > max_length {
            let text = format!("{more} tokens after {past}, the text was planned for {max_length}");
            return Err(ModelError::Batch(text));
        }
        Ok(())
    }

    /// Uploads new tokens and records the pass from them to the logits after `rows` of them.
    fn record(&self, tokens: &[u32], places: &[Place], rows: &[u32]) -> Result<Recording, ModelError> {
        let runner = self.runner;
        let batch = Batch::untrained(tokens.to_vec(), vec![0, tokens.len() as u32]);
        batch.check(runner.options.capacity, runner.weights.config.vocab_size)?;
        let (ids, new) = self.upload(&batch, places, rows)?;
        let mut rec = Recording::new();
        let pass: Pass<'_> = runner.cached_pass(&ids, &self.cache, &new);
        let out = pass.forward(&mut rec);
        head::logits(&mut rec, &runner.weights, &runner.head, &ids, &out, &self.logits);
        Ok(rec)
    }

    fn upload(&self, batch: &Batch, places: &[Place], rows: &[u32]) -> Result<(BatchViews, NewTokens), ModelError> {
        let runner = self.runner;
        let mut ids = runner.ids.upload(runner.device, batch)?;
        let in_texts: Vec<_> = places.iter().map(|place| (place.position as u32, place.total)).collect();
        runner.ids.place(runner.device, &ids, &in_texts)?;
        ids.trained = runner.ids.trained_rows(runner.device, rows)?;
        let in_cache: Vec<_> = places.iter().map(|place| [place.slot as u32, place.position as u32]).collect();
        Ok((ids, self.cache.place(runner.device, &in_cache)?))
    }

    /// `[rows, V]`
    async fn take_logits(&self, rows: usize) -> Result<Vec<f32>, ModelError> {
        let weights = &self.runner.weights;
        let values = self.runner.device.read_f32(&self.logits.first(rows * weights.head.rows())).await?;
        Ok(head::rows_of_logits(weights, values, rows))
    }
}

/// One text being written: its tokens so far live in a KV cache.
#[derive(Debug)]
pub struct Generation<'r, 'a>(pub(super) Slots<'r, 'a>);

impl Generation<'_, '_> {
    /// Tokens so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.length(0)
    }

    /// Whether no token was taken yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins another text.
    pub fn clear(&mut self) {
        self.0.clear(0);
    }

    /// Takes the next tokens, a prompt or one drawn token, and gives the logits `[V]` of the token
    /// after them.
    ///
    /// # Errors
    /// Where the text would outgrow the plan, an id is not in the vocabulary, or the device fails.
    pub async fn next(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.0.read(0, tokens).await
    }

    /// As [`Slots::prepare`].
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&self) -> Result<(), ModelError> {
        self.0.prepare().await
    }
}
