//! What becomes of a model's logits where its numbers are written in another format.

use std::fmt;

use bft_core::Runner;
use bft_core::device::{Device, DeviceRequest};
use bft_formats::{Adapter, Model};
use pollster::block_on;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::open;
use crate::ui;

/// What is read where the user names no text.
const TEXT: &str = "The gene TP53 encodes p53, a protein that binds DNA and guards the genome: where a cell's DNA is \
    damaged, p53 halts its division until the damage is mended, or has the cell die. Mutations that disable it are \
    found in half of all human cancers. Its own level is held low by MDM2, which marks it for destruction; signals of \
    stress part the two, and p53 accumulates within minutes.";

/// More tokens tell no more of a format, and cost a pass of the model each.
const MOST_TOKENS: usize = 128;

/// How far the logits of two models lie apart.
#[derive(Debug, Default)]
pub struct Change {
    tokens: usize,
    /// Largest difference of two logits.
    largest: f32,
    /// Mean difference of two logits.
    mean: f64,
    /// Tokens behind which both hold the same next one likeliest.
    same: usize,
}

impl Change {
    /// As an object for programs.
    pub fn json(&self) -> Value {
        json!({"tokens": self.tokens, "largest": self.largest, "mean": self.mean, "same_likeliest": self.same})
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "logits against base + adapter, {} tokens of text: largest change {:.2e}, mean {:.2e}; the likeliest next \
             token is the same behind {} of them",
            self.tokens, self.largest, self.mean, self.same
        )
    }
}

/// What changes are measured with: opened before anything is written, for what is wrong with it is
/// to be said before the work.
pub struct Ruler {
    device: open::OpenDevice,
    ids: Vec<u32>,
}

impl Ruler {
    /// Nothing where the base has no tokenizer.
    pub fn open(device: &DeviceRequest, base: &Model, text: Option<&str>) -> Result<Option<Self>, CliError> {
        let Some(tokenizer) = &base.tokenizer else {
            ui::note("the base has no tokenizer: what becomes of its logits is not measured");
            return Ok(None);
        };
        let mut ids = tokenizer.encode(text.unwrap_or(TEXT), true).map_err(CliError::failed)?;
        ids.truncate(MOST_TOKENS.min(base.config.max_position_embeddings));
        if ids.is_empty() {
            return Err(CliError::failed("--text: holds no token; give a text of a few sentences"));
        }
        Ok(Some(Self { device: open::device(device)?, ids }))
    }

    /// Compares what was exported with the model and adapter that it was made of, one model in
    /// memory at a time.
    pub fn measure(&self, (model, adapter): (&Model, &Adapter), exported: &Model) -> Result<Change, CliError> {
        let Self { device, ids } = self;
        let before = logits(device, model, Some(adapter), ids)?;
        let after = logits(device, exported, None, ids)?;
        let mut change = Change { tokens: ids.len(), ..Change::default() };
        for (before, after) in before.iter().zip(&after) {
            let apart = before.iter().zip(after).map(|(a, b)| (a - b).abs());
            change.largest = apart.clone().fold(change.largest, f32::max);
            change.mean += apart.map(f64::from).sum::<f64>() / (before.len() * ids.len()) as f64;
            change.same += usize::from(likeliest(before) == likeliest(after));
        }
        Ok(change)
    }
}

/// The logits behind every token.
fn logits(device: &Device, model: &Model, adapter: Option<&Adapter>, ids: &[u32]) -> Result<Vec<Vec<f32>>, CliError> {
    let runner = Runner::new(device, model, adapter, open::generation(1, ids.len(), 1)).map_err(CliError::failed)?;
    let mut text = runner.generation().map_err(CliError::failed)?;
    ids.iter().map(|id| block_on(text.next(&[*id])).map_err(CliError::failed)).collect()
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}
