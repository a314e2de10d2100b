//! Many answers at once, by continuous batching: a prompt is read into a free slot while others are
//! being answered, every pass draws one token of each, and a slot whose answer ends takes the next
//! prompt.
//!
//! A text's seed and tokens are its own, so that what it says does not depend on its neighbours.

use std::collections::BTreeMap;

use bft_core::sample::{Sampler, Sampling};
use bft_core::{ModelError, Runner, Slots};
use bft_formats::{Model, Random, Tokenizer};
use web_time::Instant;

use crate::control::Control;
use crate::writer::{Answer, Ends, Finish, SamplingConfig, WriteError, Written};

/// Texts in progress on a device. Requests may be added and removed between any two steps.
#[derive(Debug)]
pub struct BatchWriter<'r, 'd> {
    slots: Slots<'r, 'd>,
    /// What is written in each slot.
    texts: Vec<Option<Text>>,
    tokenizer: &'r Tokenizer,
    ends: Ends,
    sampling: Sampling,
}

#[derive(Debug)]
struct Text {
    id: u64,
    sampler: Sampler,
    answer: Answer,
}

impl<'r, 'd> BatchWriter<'r, 'd> {
    /// Room for `count` texts at a time of at most `max_length` tokens each, which is what `runner`
    /// was planned for.
    ///
    /// # Errors
    /// Where the runner was not planned for as many, or the device has no room for the cache.
    pub fn new(
        runner: &'r Runner<'d>,
        count: usize,
        model: &Model,
        tokenizer: &'r Tokenizer,
        sampling: &SamplingConfig,
        max_length: usize,
    ) -> Result<Self, WriteError> {
        Ok(Self {
            slots: runner.slots(count)?,
            texts: (0..count).map(|_| None).collect(),
            tokenizer,
            ends: Ends::new(model, tokenizer, sampling.max_new_tokens, max_length),
            sampling: sampling.sampling(),
        })
    }

    /// Ends texts at these tokens, too: those that an adapter was trained to end with.
    pub fn with_end_tokens(mut self, ids: &[u32]) -> Self {
        self.ends.add(ids);
        self
    }

    /// Before the first text: where the device is to measure (see
    /// [`bft_core::device::Device::measure_when_preparing`]), finds the fastest kernels.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&self) -> Result<(), WriteError> {
        Ok(self.slots.prepare().await?)
    }

    /// Whether another text can be added now.
    pub fn has_room(&self) -> bool {
        self.texts.iter().any(Option::is_none)
    }

    /// Whether no text is in progress.
    pub fn is_idle(&self) -> bool {
        self.texts.iter().all(Option::is_none)
    }

    /// Reads a prompt into a free slot and draws its answer's first token. Gives the answer where
    /// that is all of it; else [`Self::step`] goes on with it. `id` is what the caller knows the
    /// text by, and `piece` gets its text as soon as it is whole.
    ///
    /// # Errors
    /// Where no slot is free, the prompt is empty or too long, or the device fails.
    pub async fn add(
        &mut self,
        id: u64,
        prompt: &[u32],
        seed: u64,
        mut piece: impl FnMut(u64, &str),
    ) -> Result<Option<Written>, WriteError> {
        let of = |problem: WriteError| WriteError::Of { id, problem: problem.into() };
        let Some(slot) = self.texts.iter().position(Option::is_none) else {
            let full = format!("{} texts at once, and another", self.slots.count());
            return Err(of(ModelError::Batch(full).into()));
        };
        self.ends.check(prompt).map_err(of)?;
        let begun = Instant::now();
        self.slots.clear(slot);
        let logits = self.slots.read(slot, prompt).await.map_err(|problem| of(problem.into()))?;
        let mut text = Text {
            id,
            sampler: Sampler::new(Sampling { seed, ..self.sampling }),
            answer: Answer::new(self.tokenizer, prompt.len(), prompt.len(), begun),
        };
        match text.answer.draw(&mut text.sampler, &logits, &self.ends, |new| piece(id, new)).map_err(of)? {
            Some(finish) => text.answer.finish(finish, |rest| piece(id, rest)).map(Some).map_err(of),
            None => {
                self.texts[slot] = Some(text);
                Ok(None)
            }
        }
    }

    /// Draws one token more of every text in progress; gives those that ended with it, whose slots
    /// are free then.
    ///
    /// # Errors
    /// Where the device fails or gives logits that are no numbers.
    pub async fn step(&mut self, mut piece: impl FnMut(u64, &str)) -> Result<Vec<(u64, Written)>, WriteError> {
        let last = |(slot, text): (usize, &Option<Text>)| Some((slot, text.as_ref()?.answer.last()?));
        let next: Vec<(usize, u32)> = self.texts.iter().enumerate().filter_map(last).collect();
        if next.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.slots.step(&next).await?;
        let mut ended = Vec::new();
        for ((slot, _), logits) in next.iter().zip(logits.chunks_exact(logits.len() / next.len())) {
            let Some(text) = &mut self.texts[*slot] else { continue };
            let id = text.id;
            let of = |problem: WriteError| WriteError::Of { id, problem: problem.into() };
            let drawn = text.answer.draw(&mut text.sampler, logits, &self.ends, |new| piece(id, new)).map_err(of)?;
            if let (Some(finish), Some(text)) = (drawn, self.texts[*slot].take_if(|_| drawn.is_some())) {
                ended.push((id, text.answer.finish(finish, |rest| piece(id, rest)).map_err(of)?));
            }
        }
        Ok(ended)
    }

    /// Takes a text out before its end and frees its slot; gives what there is of it.
    ///
    /// # Errors
    /// Where its tokens are no text.
    pub fn remove(&mut self, id: u64) -> Result<Option<Written>, WriteError> {
        let found = self.texts.iter_mut().find(|text| text.as_ref().is_some_and(|text| text.id == id));
        found.and_then(Option::take).map(|text| text.answer.finish(Finish::Cancelled, |_| {})).transpose()
    }
}

/// Answers prompts, which have ascending ids, with as many in progress as there is room for. `sink`
/// gets each answer in the order of the prompts, as soon as those before it are there. Returns
/// whether all were answered, and not stopped.
///
/// # Errors
/// Those of [`BatchWriter`] and of `sink`.
pub async fn write_answers<E: From<WriteError>>(
    writer: &mut BatchWriter<'_, '_>,
    prompts: impl IntoIterator<Item = (u64, Vec<u32>)>,
    seed: u64,
    control: &impl Control,
    mut sink: impl FnMut(u64, Written) -> Result<(), E>,
) -> Result<bool, E> {
    let mut prompts = prompts.into_iter().peekable();
    // Prompts that were begun and whose answers are not given yet, with those that are there.
    let mut begun: BTreeMap<u64, Option<Written>> = BTreeMap::new();
    loop {
        control.turn().await;
        if control.stopping() {
            return Ok(false);
        }
        while writer.has_room()
            && let Some((id, prompt)) = prompts.next()
        {
            let whole = writer.add(id, &prompt, seed_of(seed, id), |_, _| {}).await?;
            begun.insert(id, whole);
            give(&mut begun, &mut sink)?;
            if control.stopping() {
                return Ok(false);
            }
        }
        for (id, written) in writer.step(|_, _| {}).await? {
            begun.insert(id, Some(written));
        }
        give(&mut begun, &mut sink)?;
        if writer.is_idle() && prompts.peek().is_none() {
            return Ok(true);
        }
    }
}

/// Gives away the answers before the first that is not there yet.
fn give<E>(
    begun: &mut BTreeMap<u64, Option<Written>>,
    sink: &mut impl FnMut(u64, Written) -> Result<(), E>,
) -> Result<(), E> {
    while let Some(first) = begun.first_entry().filter(|first| first.get().is_some()) {
        let (id, written) = first.remove_entry();
        written.map_or(Ok(()), |written| sink(id, written))?;
    }
    Ok(())
}

/// The seed of one of many texts.
fn seed_of(seed: u64, id: u64) -> u64 {
    Random::stream(seed, &format!("text {id}")).bits()
}
