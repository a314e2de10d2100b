//! Keys and values of texts in progress. Each block has a region of rows for each of some slots,
//! and a slot holds one text.
//!
//! Position p of the text in slot s lies in row s·span + p mod span. Where a layer has a window,
//! its span is that window and as many tokens as a pass takes at once; else the longest text.

use bft_formats::ModelConfig;

use super::ModelError;
use super::batch::MOST_TOKENS;
use crate::device::{Device, DeviceError, Elem, Recording, View};
use crate::ops::attention::{self, Cached, PREFILL_FROM, Shape};
use crate::ops::gather;

/// What a span is a multiple of: keys of a position are a multiple of 4 numbers, and a slot's view
/// starts aligned.
const ROUND: usize = View::ALIGN / 4;

/// The cache of every block.
#[derive(Debug)]
pub(crate) struct Cache {
    /// The spans that layers have, each once.
    spans: Vec<usize>,
    layers: Vec<Layer>,
    /// `[N, 2]` slot and position of each new token.
    places: View,
    /// `[N]` for each span, the row of each new token.
    rows: Vec<View>,
}

/// Of one block: `[slots · span, K·D]` each.
#[derive(Debug)]
struct Layer {
    keys: View,
    values: View,
    /// Which of the spans it has.
    span: usize,
}

/// What a cache is planned for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Texts at a time.
    pub slots: usize,
    /// The longest text, in tokens.
    pub max_length: usize,
    /// Tokens that a pass takes, at most.
    pub tokens: usize,
}

/// The tokens of a pass, in the cache.
#[derive(Debug)]
pub(crate) struct NewTokens {
    /// `[N, 2]` slot and position of each.
    places: View,
    /// `[N]` for each span, the row of each.
    rows: Vec<View>,
    /// Slot and first position where all are of one text, one after the other.
    run: Option<(usize, usize)>,
}

impl Cache {
    pub fn new(device: &Device, config: &ModelConfig, size: Size) -> Result<Self, ModelError> {
        let Size { slots, max_length, tokens } = size;
        let all_rows = slots.saturating_mul(max_length.next_multiple_of(ROUND));
        if all_rows > MOST_TOKENS {
            return Err(ModelError::TooMany { what: "tokens in all texts", found: all_rows, most: MOST_TOKENS });
        }
        let cols = config.num_key_value_heads * config.head_dim;
        let mut spans = Vec::new();
        let mut layers = Vec::new();
        for layer in &config.layers {
            let seen = layer.window.map_or(max_length, |window| max_length.min(window.saturating_add(tokens)));
            let rows = seen.max(1).next_multiple_of(ROUND);
            let span = spans.iter().position(|span| *span == rows).unwrap_or(spans.len());
            if span == spans.len() {
                spans.push(rows);
            }
            let zeros = |label: &str| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, slots * rows * cols)?.view());
            layers.push(Layer { keys: zeros("key cache")?, values: zeros("value cache")?, span });
        }
        let ids = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::U32, len)?.view());
        Ok(Self {
            rows: spans.iter().map(|_| ids("cache rows", tokens)).collect::<Result<_, _>>()?,
            places: ids("slots and positions", tokens * 2)?,
            spans,
            layers,
        })
    }

    /// Tells the device where new tokens go: (slot, position) of each.
    pub fn place(&self, device: &Device, places: &[[u32; 2]]) -> Result<NewTokens, DeviceError> {
        let put = |view: &View, ids: &[u32]| {
            let view = view.first(ids.len());
            device.write_u32(&view, ids)?;
            Ok::<_, DeviceError>(view)
        };
        let rows_of = |span: usize| -> Vec<u32> {
            let row = |[slot, position]: &[u32; 2]| slot * span as u32 + position % span as u32;
            places.iter().map(row).collect()
        };
        let [slot, past] = places[0];
        let follows = |(place, position): (&[u32; 2], u32)| *place == [slot, position];
        Ok(NewTokens {
            places: put(&self.places, places.as_flattened())?,
            rows: self
                .rows
                .iter()
                .zip(&self.spans)
                .map(|(view, span)| put(view, &rows_of(*span)))
                .collect::<Result<_, _>>()?,
            run: places.iter().zip(past..).all(follows).then_some((slot as usize, past as usize)),
        })
    }

    /// Adds the new tokens' k and v `[N, K·D]` to a layer's cache, and writes the attention `o` `[N,
    /// Q·D]` of their q to it.
    pub fn attend(&self, rec: &mut Recording, layer: usize, new: &NewTokens, [q, k, v, o]: [&View; 4], shape: Shape) {
        let Layer { keys, values, span: which } = &self.layers[layer];
        let (span, rows, cols) = (self.spans[*which], &new.rows[*which], shape.kv_heads * shape.head_dim);
        gather::backward(rec, rows, k, keys, cols);
        gather::backward(rec, rows, v, values, cols);
        match new.run {
            Some((slot, past)) if rows.len() >= PREFILL_FROM => {
                let region = slot * span * cols..(slot + 1) * span * cols;
                let (keys, values) = (keys.slice(region.clone()), values.slice(region));
                attention::prefill(rec, q, Cached { keys: &keys, values: &values, span }, o, past, shape);
            }
            _ => attention::decode(rec, q, Cached { keys, values, span }, &new.places, o, shape),
        }
    }
}
