//! Many prompts, answered as many at once as memory takes.

use std::sync::atomic::AtomicBool;

use bft_core::device::Device;
use bft_core::{Base, Runner};
use bft_formats::{Adapter, Model};
use bft_train::{BatchWriter, Origin, SamplingConfig, TextEncoder, WriteError, Written, write_answers};

use crate::error::CliError;
use crate::memory;
use crate::open;
use crate::ui::{self, bytes};

/// Answers that are written at once where nothing else is said: more win little on a CPU.
const BATCH_SIZE: usize = 16;

/// What answers are made with.
pub struct Answering<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub adapter: Option<&'a Adapter>,
    pub text: &'a TextEncoder<'a>,
    pub sampling: &'a SamplingConfig,
}

/// How many texts are written at once, and how long they may be.
#[derive(Clone, Copy)]
pub struct Planned {
    pub texts: usize,
    /// Tokens of the longest prompt, and of the longest text.
    prompt: usize,
    longest: usize,
}

/// A failure of the writing or of what becomes of it.
enum Failure {
    Write(Box<WriteError>),
    Keep(CliError),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Write(error.into())
    }
}

impl Answering<'_> {
    /// Plans `count` texts whose prompts have up to `prompt` tokens: as many at once as `asked` says,
    /// or as memory takes.
    ///
    /// # Errors
    /// Where memory does not take so many.
    pub fn plan(&self, prompt: usize, count: usize, asked: Option<usize>) -> Result<Planned, CliError> {
        let context = self.model.config.max_position_embeddings;
        let longest = context.min(prompt.saturating_add(self.sampling.max_new_tokens));
        let of = |texts| Planned { texts, prompt, longest };
        let mut texts = asked.unwrap_or(BATCH_SIZE).min(count);
        let Some(most) = memory::available_bytes().filter(|_| !self.device.is_gpu()) else { return Ok(of(texts)) };
        loop {
            let needed = self.needed(of(texts))?;
            if needed <= most {
                return Ok(of(texts));
            }
            let problem = format!(
                "{texts} texts of up to {longest} tokens need about {} of memory beside the model, this machine has {}",
                bytes(needed),
                bytes(most)
            );
            if asked.is_some() || texts == 1 {
                let advice = "use a smaller --batch-size or --max-new-tokens, or shorter prompts";
                return Err(CliError::failed(format!("{problem}: {advice}")));
            }
            texts /= 2;
            ui::note(&format!("{problem}: {texts} are written at once"));
        }
    }

    /// Bytes that a device is asked for beside the model.
    fn needed(&self, Planned { texts, prompt, longest }: Planned) -> Result<u64, CliError> {
        let counting = Device::planning();
        let base = Base::load(&counting, self.model).map_err(CliError::failed)?;
        let of_model = counting.allocated_bytes();
        let options = open::generation(prompt, longest, texts);
        let runner = Runner::on(&counting, &base, self.adapter, options).map_err(CliError::failed)?;
        runner.slots(texts).map_err(CliError::failed)?;
        Ok(counting.allocated_bytes() - of_model)
    }

    /// Answers prompts, which have ascending numbers; `sink` gets each answer in their order. Whether
    /// all were answered, and not stopped. `origin` is where a prompt came from.
    ///
    /// # Errors
    /// Those of the device, with the prompt's origin, and of `sink`.
    pub fn run<'o>(
        &self,
        base: &Base,
        Planned { texts, prompt, longest }: Planned,
        prompts: impl IntoIterator<Item = (u64, Vec<u32>)>,
        origin: impl Fn(u64) -> &'o Origin,
        stop: &AtomicBool,
        mut sink: impl FnMut(u64, Written) -> Result<(), CliError>,
    ) -> Result<bool, CliError> {
        let options = open::generation(prompt, longest, texts);
        let runner = Runner::on(self.device, base, self.adapter, options).map_err(CliError::failed)?;
        let tokenizer = self.text.tokenizer().map_err(CliError::failed)?;
        let writer = BatchWriter::new(&runner, texts, self.model, tokenizer, self.sampling, longest);
        let ends = self.adapter.map_or(&[][..], |adapter| &adapter.config.end_token_ids);
        let mut writer = writer.map_err(CliError::failed)?.with_end_tokens(ends);
        pollster::block_on(writer.prepare()).map_err(CliError::failed)?;
        let keep = |row, written| sink(row, written).map_err(Failure::Keep);
        let written = write_answers(&mut writer, prompts, self.sampling.seed, stop, keep);
        pollster::block_on(written).map_err(|failure| match failure {
            Failure::Keep(error) => error,
            Failure::Write(error) => match *error {
                WriteError::Of { id, problem } => CliError::failed(format!("{}: {problem}", origin(id))),
                error => CliError::failed(error),
            },
        })
    }
}
