//! Embedding texts in a tab, and which of them are alike.

use std::cell::Cell;
use std::rc::Rc;

use bft_core::{Batch, Pooling, Runner};
use bft_train::{
    BatchBounds, Control, EmbedContent, EmbedRow, Embedder, EngineError, Origin, SampleOptions, TextEncoder,
    embed_rows, similar,
};
use js_sys::{Float32Array, Reflect};
use wasm_bindgen::prelude::*;
use web_time::Instant;

use crate::contract::{EmbedOptions, EngineEvent, Neighbour, Neighbours, Work};
use crate::failure::{Answer, Failure};
use crate::host::{Turns, from_js, to_js};
use crate::session::{Ready, Session};
use crate::vectors::Vectors;

/// Tokens and texts of a batch at most: small enough that a page on a slow device stays lively.
const BATCH_TOKENS: usize = 512;
const BATCH_ROWS: usize = 16;

/// Neighbours of each text.
const NEIGHBOURS: usize = 10;

#[wasm_bindgen]
impl Session {
    /// Vectors of texts, kept for [`Session::vectors_file`]; answers with their map and neighbours.
    pub async fn embed(&self, options: JsValue) -> Result<JsValue, JsValue> {
        let options: EmbedOptions = from_js(&options)?;
        let started = Instant::now();
        let (vectors, tokens) = self.embed_texts(options).await?;
        let centred = similar::centred(&vectors.values, vectors.width);
        let map = similar::map(&centred, vectors.width);
        let near = similar::neighbours(&centred, vectors.width, NEIGHBOURS).into_iter();
        let neighbour = |(index, cosine)| Neighbour { index, cosine };
        let answer = to_js(&Neighbours {
            ids: &vectors.ids,
            width: vectors.width,
            explained: map.explained,
            neighbours: near.map(|near| near.into_iter().map(neighbour).collect()).collect(),
            tokens,
            seconds: started.elapsed().as_secs_f64(),
        });
        let points = Float32Array::from(map.points.as_slice());
        Reflect::set(&answer, &"map".into(), &points)?;
        self.state.borrow_mut().vectors = Some(vectors);
        Ok(answer)
    }
}

impl Session {
    async fn embed_texts(&self, options: EmbedOptions) -> Answer<(Vectors, usize)> {
        let Ready { device, model, base } = self.ready()?;
        let adapter = self.state.borrow().adapter.clone();
        let adapter = adapter.as_ref().filter(|_| options.adapter);
        let ids = options.ids.unwrap_or_else(|| options.texts.clone());
        if ids.len() != options.texts.len() {
            return Err(Failure::input(format!(
                "{} names for {} texts: expected one each",
                ids.len(),
                options.texts.len()
            )));
        }
        if ids.is_empty() {
            return Err(Failure::input("there are no texts: give one a line"));
        }
        let encoder = TextEncoder::new(&model);
        let steps = model.sentence().map_err(Failure::input)?;
        let prompt =
            steps.and_then(|steps| steps.prompts.get(steps.default_prompt.as_ref()?)).map_or("", String::as_str);
        let mut rows = Vec::new();
        let (mut longest, mut tokens) = (0, 0);
        for (index, text) in options.texts.iter().enumerate() {
            let ids = encoder.whole_text(&format!("{prompt}{text}")).map_err(Failure::input)?;
            longest = longest.max(ids.len());
            tokens += ids.len();
            rows.push(EmbedRow {
                content: EmbedContent::Tokens(ids),
                id: None,
                origin: Origin::line(&"texts".into(), index + 1),
            });
        }
        let max_length = SampleOptions::default().limit(&model).map_err(Failure::input)?;
        let embed_options = bft_train::EmbedOptions {
            batch_tokens: BATCH_TOKENS,
            batch_rows: BATCH_ROWS,
            max_length,
            truncate: false,
            pooling: options.pooling,
            normalize: options.normalize,
            prompt: String::new(),
        };
        let bounds = BatchBounds {
            tokens: tokens.min(BATCH_TOKENS).max(longest.min(max_length)),
            trained: 0,
            samples: BATCH_ROWS,
        };
        let runner_options = bft_core::RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
        let adapter = adapter.map(|named| &named.adapter);
        let turns = Turns { host: &self.host, device: Rc::clone(&device) };
        let mut engine = Paced { runner: Runner::on(&device, &base, adapter, runner_options)?, turns: &turns };
        let total = rows.len();
        let done = Cell::new(0usize);
        let mut values = Vec::with_capacity(total * model.config.hidden_size);
        let rows = rows.into_iter().map(Ok);
        let report = embed_rows(&*model, &mut engine, rows, &embed_options, |_, vector| {
            values.extend_from_slice(vector);
            done.set(done.get() + 1);
            if done.get().is_multiple_of(BATCH_ROWS) || done.get() == total {
                self.host.tell(&EngineEvent::Progress {
                    what: Work::Embed,
                    done: done.get() as u64,
                    total: total as u64,
                });
            }
            Ok(())
        })
        .await;
        if turns.stopping() {
            return Err(Failure::cancelled());
        }
        let vectors = Vectors { ids, width: model.config.hidden_size, values };
        Ok((vectors, report?.tokens))
    }
}

/// A runner that gives the page its turn between batches.
struct Paced<'r, 'd> {
    runner: Runner<'d>,
    turns: &'r Turns<'r>,
}

impl Embedder for Paced<'_, '_> {
    async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, EngineError> {
        self.turns.turn().await;
        if self.turns.stopping() {
            return Err("stopped".into());
        }
        Embedder::embed(&mut self.runner, batch, pooling).await
    }
}
