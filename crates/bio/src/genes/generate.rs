//! Short answers of a language model at temperature 0.

use std::path::Path;

use bft_core::device::Device;
use bft_core::sample::{Sampler, Sampling};
use bft_core::{Capacity, Runner, RunnerOptions};
use bft_formats::{Adapter, Message, Model, Tokenizer};
use bft_train::TextEncoder;

use crate::error::{BioError, Result};

/// A model that answers.
pub struct Answerer<'d> {
    model: &'d Model,
    runner: Runner<'d>,
    tokenizer: &'d Tokenizer,
    stops: Vec<u32>,
    longest: usize,
}

/// Prompt and answer together, in tokens.
const LONGEST: usize = 2048;

/// Opens a model and its adapter.
pub fn open(path: &Path, adapter: Option<&Path>) -> Result<(Model, Option<Adapter>)> {
    let model = Model::open(path)?;
    let adapter = adapter.map(|path| Adapter::load(path, &model.config)).transpose()?;
    Ok((model, adapter))
}

impl<'d> Answerer<'d> {
    /// Takes the model to the device.
    pub fn new(device: &'d Device, model: &'d Model, adapter: Option<&Adapter>) -> Result<Self> {
        let longest = LONGEST.min(model.config.max_position_embeddings);
        let options = RunnerOptions {
            capacity: Capacity { tokens: 512.min(longest), trained: 1, samples: 1 },
            max_length: longest,
        };
        let runner = Runner::new(device, model, adapter, options).map_err(BioError::model)?;
        let tokenizer = TextEncoder::new(model).tokenizer().map_err(BioError::model)?;
        let mut stops = model.config.eos_token_ids.clone();
        stops.extend(tokenizer.eos_token().and_then(|token| tokenizer.token_to_id(token)));
        stops.extend(adapter.iter().flat_map(|adapter| &adapter.config.end_token_ids));
        Ok(Self { model, runner, tokenizer, stops, longest })
    }

    /// The likeliest answer to a question, which begins with `opening`; the opening is not repeated
    /// in what is returned.
    pub fn answer(&self, question: &str, opening: &str, most_tokens: usize) -> Result<String> {
        let text = TextEncoder::new(self.model);
        let mut prompt = if self.model.chat_template.is_some() {
            text.chat_prompt(&vec![Message::new("user", question)].into())
        } else {
            text.prompt(&format!("{question}\n"))
        }
        .map_err(BioError::model)?;
        if !opening.is_empty() {
            prompt.extend(self.tokenizer.encode(opening, false)?);
        }
        let room = self.longest.saturating_sub(most_tokens);
        if prompt.len() >= room {
            return Err(BioError::model(format!(
                "a prompt has {} tokens, {} takes {room} with the answer: give fewer genes",
                prompt.len(),
                self.model.name
            )));
        }
        let mut generation = self.runner.generation().map_err(BioError::model)?;
        let mut greedy = Sampler::new(Sampling::default());
        let mut decoder = self.tokenizer.stream();
        let mut answer = String::new();
        let mut unread = prompt;
        for _ in 0..most_tokens {
            let logits = pollster::block_on(generation.next(&unread)).map_err(BioError::model)?;
            let token = greedy.pick(&logits).map_err(BioError::model)?;
            if self.stops.contains(&token) {
                break;
            }
            answer.extend(decoder.push(token)?);
            unread = vec![token];
        }
        answer.extend(decoder.finish()?);
        Ok(answer.trim().to_owned())
    }
}
