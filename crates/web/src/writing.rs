//! Generating text in a tab.

use std::rc::Rc;

use bft_core::{Capacity, Runner, RunnerOptions};
use bft_formats::Message;
use bft_train::{SamplingConfig, Settings, TextEncoder, TextWriter};
use serde_json::Map;
use wasm_bindgen::prelude::*;
use web_time::Instant;

use crate::contract::{AskOptions, EngineEvent, Generated, Who};
use crate::failure::Failure;
use crate::host::{Turns, from_js, to_js};
use crate::session::{Session, variables};

/// Prompts are read in pieces of this many tokens, which bounds memory and the time of a submit.
const PROMPT_PIECE: usize = 64;

#[wasm_bindgen]
impl Session {
    /// Writes on from a prompt, with the adapter or without; each piece of text is an event.
    pub async fn generate(&self, options: JsValue, tuned: bool) -> Result<JsValue, JsValue> {
        let options: AskOptions = from_js(&options)?;
        let started = Instant::now();
        let ready = self.ready()?;
        let adapter = self.state.borrow().adapter.clone();
        let adapter = adapter.as_ref().filter(|_| tuned);
        if tuned && adapter.is_none() {
            return Err(Failure::input("there is no adapter yet: tune one, or load one").into());
        }
        ready.model.require_head().map_err(Failure::input)?;
        let text = TextEncoder::new(&ready.model);
        // Variables belong to the template: without one there is nothing to tell them to.
        let vars = if options.chat_template { variables(options.template_vars.as_deref())? } else { Map::new() };
        let text = text.with_template_vars(&vars).map_err(Failure::input)?;
        let tokens = if options.chat_template {
            text.chat_prompt(&vec![Message::new("user", options.prompt)].into())
        } else {
            text.prompt(&options.prompt)
        };
        let tokens = tokens.map_err(Failure::input)?;
        let tokenizer = text.tokenizer().map_err(Failure::input)?;
        let context = ready.model.config.max_position_embeddings;
        let max_length = context.min(tokens.len().saturating_add(options.max_new_tokens));
        let runner_options = RunnerOptions {
            capacity: Capacity { tokens: tokens.len().clamp(1, PROMPT_PIECE), trained: 1, samples: 1 },
            max_length,
        };
        let adapter = adapter.map(|named| &named.adapter);
        let runner = Runner::on(&ready.device, &ready.base, adapter, runner_options).map_err(Failure::from)?;
        let sampling = SamplingConfig {
            max_new_tokens: options.max_new_tokens,
            temperature: options.temperature,
            top_p: options.top_p,
            seed: options.seed,
            ..SamplingConfig::default()
        };
        sampling.check_ranges().map_err(Failure::input)?;
        let turns = Turns { host: &self.host, device: Rc::clone(&ready.device) };
        let who = if tuned { Who::Tuned } else { Who::Base };
        let mut writer =
            TextWriter::new(&runner, &ready.model, tokenizer, &sampling, max_length).map_err(Failure::from)?;
        writer = writer.with_end_tokens(adapter.map_or(&[], |adapter| &adapter.config.end_token_ids));
        let written = writer
            .go_on(&tokens, &turns, |piece| {
                self.host.tell(&EngineEvent::Token { who, text: piece.to_owned() });
            })
            .await
            .map_err(Failure::from)?;
        Ok(to_js(&Generated {
            tokens: written.tokens.len(),
            text: written.text,
            finish_reason: written.finish,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }
}
