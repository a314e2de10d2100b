//! Sentence encoders (BERT, arXiv 1810.04805, and what came after it), forward only, over packed
//! samples.
//!
//! x `[N, H]` is the norm of a token's embedding, with its position's and its type's where the
//! model has those. Each branch, o(attention(q, k, v)) and the feed-forward one, reads x and joins
//! it: a norm stands either over the sum, which is the new x, or over what is read of it.

use bft_formats::{
    Activation, EncoderConfig, EncoderLayer, EncoderModel, FeedForward, Gate, NormPlace, Pooling, Rope, Tensor,
};

use super::ModelError;
use super::batch::{Batch, BatchBuffers, BatchViews, Capacity, every_class};
use super::parts::absent;
use crate::device::{Device, DeviceError, Elem, Matrix, Recording, View, Weight};
use crate::ops::embedding::rows_per_binding;
use crate::ops::rope::{self, Rotation};
use crate::ops::{activation, add, attention, embedding, layer_norm, linear, pool, swiglu};

/// The norm behind a branch, with the bias of the branch's last layer.
#[derive(Debug)]
struct Norm {
    /// `[H]` each
    shift: View,
    weight: View,
    bias: View,
}

#[derive(Debug)]
struct Block {
    /// `[H, H]`
    query: Weight,
    /// `[H]`
    query_bias: Option<View>,
    /// `[H, H]`
    key: Weight,
    value: Weight,
    output: Weight,
    attention_norm: Norm,
    /// `[F, H]`
    up: Weight,
    inner: Inner,
    /// `[H, F]`
    down: Weight,
    norm: Norm,
}

/// What stands between the first and the last layer of a feed-forward branch.
#[derive(Debug)]
enum Inner {
    /// f of the first layer's output and bias `[F]`.
    Plain(Activation, View),
    /// f of the gate `[F, H]`, times the first layer's output.
    Gated(Gate, Weight),
}

/// What joins a token's embedding for its place.
#[derive(Debug)]
enum Places {
    /// A row of `[rows, H]`, of which the device binds so many at once.
    Learnt(Weight, usize),
    /// Nothing, as q and k rotate instead: `[N, H]` zeros.
    Zeros(View),
}

#[derive(Debug)]
struct Weights {
    config: EncoderConfig,
    /// `[V, H]`, and the rows of it that the device binds at once.
    words: (Weight, usize),
    places: Places,
    /// Cosines and sines `[positions, D]` of each of the configuration's ropes.
    ropes: Vec<View>,
    norm: Norm,
    blocks: Vec<Block>,
}

/// What weights are taken from, and where they go.
struct Loader<'a> {
    device: &'a Device,
    model: &'a EncoderModel,
}

impl Loader<'_> {
    fn tensor(&self, key: &str) -> Result<&Tensor, ModelError> {
        self.model.tensors.get(key).ok_or_else(|| absent(&self.model.name, key))
    }

    fn matrix(&self, key: &str) -> Result<Weight, ModelError> {
        Ok(self.device.upload_weight(self.tensor(key)?)?)
    }

    fn table(&self, key: &str) -> Result<(Weight, usize), ModelError> {
        let weight = self.matrix(key)?;
        let rows = rows_per_binding(self.device, &weight);
        Ok((weight, rows))
    }

    fn upload(&self, name: &str, values: &[f32]) -> Result<View, ModelError> {
        Ok(self.device.upload_f32(name, values)?.view())
    }

    /// A bias of so many numbers, zeros where the model has none.
    fn bias(&self, key: &str, width: usize, there: bool) -> Result<Vec<f32>, ModelError> {
        if there { Ok(self.tensor(&format!("{key}.bias"))?.to_f32()?) } else { Ok(vec![0.0; width]) }
    }

    fn norm(&self, key: &str, shift: &[f32]) -> Result<Norm, ModelError> {
        let config = &self.model.config;
        Ok(Norm {
            shift: self.upload("shift of a norm", shift)?,
            weight: self.upload(key, &self.tensor(&format!("{key}.weight"))?.to_f32()?)?,
            bias: self.upload(key, &self.bias(key, config.hidden_size, config.norm_bias)?)?,
        })
    }

    fn block(&self, index: usize) -> Result<Block, ModelError> {
        let config = &self.model.config;
        let (h, f, biased) = (config.hidden_size, config.intermediate_size, config.linear_bias);
        let key = |part: &str| format!("layers.{index}.{part}");
        let weight = |part: &str| self.matrix(&key(&format!("{part}.weight")));
        let bias = |part: &str, width: usize| self.bias(&key(part), width, biased);
        // A key's bias adds the same to all of a query's scores, which the softmax takes away. A
        // value's passes through attention, whose weights sum to 1, so it is added once, behind the
        // output.
        let mut shift = bias("output", h)?;
        if biased {
            shift = through(self.tensor(&key("output.weight"))?, &bias("value", h)?, shift)?;
        }
        let query_bias = || self.upload("bias of queries", &bias("query", h)?);
        let inner = match config.layers[index].feed_forward {
            FeedForward::Plain(kind) => Inner::Plain(kind, self.upload("bias of the first layer", &bias("up", f)?)?),
            FeedForward::Gated(kind) => Inner::Gated(kind, weight("gate")?),
        };
        Ok(Block {
            query: weight("query")?,
            query_bias: biased.then(query_bias).transpose()?,
            key: weight("key")?,
            value: weight("value")?,
            output: weight("output")?,
            attention_norm: self.norm(&key("attention_norm"), &shift)?,
            up: weight("up")?,
            inner,
            down: weight("down")?,
            norm: self.norm(&key("norm"), &bias("down", h)?)?,
        })
    }
}

impl Weights {
    /// For batches of `tokens` at most.
    fn load(device: &Device, model: &EncoderModel, tokens: usize) -> Result<Self, ModelError> {
        let (loader, config) = (Loader { device, model }, model.config.clone());
        // Every token of a single text is of type 0.
        let types = match config.type_vocab_size {
            Some(_) => loader.tensor("types")?.to_f32()?[..config.hidden_size].to_vec(),
            None => vec![0.0; config.hidden_size],
        };
        let longest = config.max_position_embeddings.min(tokens);
        let rope = |rope: &Rope| {
            let table = rope::table(&rope.inv_freq(), rope.attention_factor(), longest);
            loader.upload("cosines and sines", &table)
        };
        let places = match config.positions {
            Some(_) => {
                let (weight, rows) = loader.table("positions")?;
                Places::Learnt(weight, rows)
            }
            None => Places::Zeros(device.alloc("no positions", Elem::F32, tokens * config.hidden_size)?.view()),
        };
        Ok(Self {
            words: loader.table("words")?,
            places,
            ropes: config.ropes.iter().map(rope).collect::<Result<_, _>>()?,
            norm: loader.norm("norm", &types)?,
            blocks: (0..config.layers.len()).map(|index| loader.block(index)).collect::<Result<_, _>>()?,
            config,
        })
    }
}

/// W·x + bias
fn through(weight: &Tensor, x: &[f32], bias: Vec<f32>) -> Result<Vec<f32>, ModelError> {
    let dense = weight.to_f32()?;
    let rows = dense.chunks_exact(x.len()).zip(bias);
    let sums = rows.map(|(row, bias)| {
        let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        (products.sum::<f64>() + f64::from(bias)) as f32
    });
    Ok(sums.collect())
}

/// Every activation, planned for the largest batch.
#[derive(Debug)]
struct Buffers {
    /// `[N, H]` each: the stream before and behind a branch, what the branch reads where that is
    /// not the stream itself, what it makes of it, queries, keys, values, output of attention.
    x: View,
    joined: View,
    read: Option<View>,
    branch: View,
    q: View,
    k: View,
    v: View,
    o: View,
    /// `[N, Q]`
    lse: View,
    /// `[N, F]` each; `gate` is `up` where no branch has one.
    gate: View,
    up: View,
    act: View,
    /// `[S, H]`
    pooled: View,
}

impl Buffers {
    fn new(device: &Device, config: &EncoderConfig, capacity: Capacity) -> Result<Self, DeviceError> {
        let n = capacity.tokens;
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let zeros = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, len)?.view());
        let reads = config.norms == NormPlace::Reader;
        let gated = config.layers.iter().any(|layer| matches!(layer.feed_forward, FeedForward::Gated(_)));
        let up = zeros("feed-forward", n * f)?;
        Ok(Self {
            x: zeros("hidden states", n * h)?,
            joined: zeros("hidden states behind a branch", n * h)?,
            read: reads.then(|| zeros("normalised hidden states", n * h)).transpose()?,
            branch: zeros("branch", n * h)?,
            q: zeros("queries", n * h)?,
            k: zeros("keys", n * h)?,
            v: zeros("values", n * h)?,
            o: zeros("attention output", n * h)?,
            lse: zeros("attention log-sum-exp", n * config.num_attention_heads)?,
            gate: if gated { zeros("feed-forward gate", n * f)? } else { up.clone() },
            up,
            act: zeros("activation", n * f)?,
            pooled: zeros("vectors", capacity.samples * h)?,
        })
    }

    /// Those of the tokens, cut to n of them.
    fn first(&self, n: usize, config: &EncoderConfig) -> Self {
        let (h, f) = (n * config.hidden_size, n * config.intermediate_size);
        Self {
            x: self.x.first(h),
            joined: self.joined.first(h),
            read: self.read.as_ref().map(|view| view.first(h)),
            branch: self.branch.first(h),
            q: self.q.first(h),
            k: self.k.first(h),
            v: self.v.first(h),
            o: self.o.first(h),
            lse: self.lse.first(n * config.num_attention_heads),
            gate: self.gate.first(f),
            up: self.up.first(f),
            act: self.act.first(f),
            pooled: self.pooled.clone(),
        }
    }
}

/// A sentence encoder on a device, ready to run.
#[derive(Debug)]
pub struct EncoderRunner<'a> {
    device: &'a Device,
    weights: Weights,
    buffers: Buffers,
    ids: BatchBuffers,
    capacity: Capacity,
}

impl<'a> EncoderRunner<'a> {
    /// Takes the model to the device and plans for batches up to `capacity`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &'a Device, model: &EncoderModel, capacity: Capacity) -> Result<Self, ModelError> {
        Ok(Self {
            device,
            weights: Weights::load(device, model, capacity.tokens)?,
            buffers: Buffers::new(device, &model.config, capacity)?,
            ids: BatchBuffers::new(device, capacity, None)?,
            capacity,
        })
    }

    /// Before the first batch: where the device is to measure (see
    /// [`Device::measure_when_preparing`]), finds the fastest kernels for batches of every size up
    /// to the planned one.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&mut self) -> Result<(), ModelError> {
        if self.device.measures() {
            let longest = self.weights.config.max_position_embeddings;
            let most = self.capacity.tokens.min(self.capacity.samples * longest);
            for tokens in every_class(1, most) {
                let ids = self.upload(&Batch::largest(tokens, self.capacity, longest))?;
                let mut rec = Recording::new();
                self.forward(&mut rec, &ids);
                self.device.measure_choices(&rec).await?;
            }
        }
        Ok(())
    }

    /// `[N, H]` hidden states of the last block.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub async fn hidden_states(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let ids = self.upload(batch)?;
        let mut rec = Recording::new();
        let x = self.forward(&mut rec, &ids);
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&x).await?)
    }

    /// `[S, H]` a vector for each sample of a batch, from its hidden states.
    ///
    /// # Errors
    /// Where the batch does not fit the plan, a sample has no token, or the device fails.
    pub async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, ModelError> {
        batch.check_every_sample()?;
        let ids = self.upload(batch)?;
        let h = self.weights.config.hidden_size;
        let mut rec = Recording::new();
        let x = self.forward(&mut rec, &ids);
        let pooled = self.buffers.pooled.first((ids.segments.len() - 1) * h);
        pool::forward(&mut rec, &ids.segments, &x, &pooled, h, pooling);
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&pooled).await?)
    }

    fn upload(&self, batch: &Batch) -> Result<BatchViews, ModelError> {
        let config = &self.weights.config;
        batch.check(self.capacity, config.vocab_size)?;
        let most = config.max_position_embeddings;
        let mut lengths = batch.segments.windows(2).map(|bounds| bounds[1] - bounds[0]);
        if let Some(length) = lengths.find(|length| *length as usize > most) {
            return Err(ModelError::Batch(format!("a text of {length} tokens, the model has {most} positions")));
        }
        let places = match config.positions.and_then(|positions| positions.padding) {
            Some(padding) => batch.places_behind(padding),
            None => batch.places(),
        };
        Ok(self.ids.upload_at(self.device, batch, &places)?)
    }

    /// Records the whole pass; the hidden states.
    fn forward(&self, rec: &mut Recording, ids: &BatchViews) -> View {
        let Weights { config, words, places, norm, blocks, .. } = &self.weights;
        let b = self.buffers.first(ids.tokens.len(), config);
        embedding::forward(rec, &ids.tokens, &words.0, &b.branch, words.1);
        let place = match places {
            Places::Learnt(table, rows) => {
                embedding::forward(rec, &ids.positions, table, &b.o, *rows);
                b.o.clone()
            }
            Places::Zeros(zeros) => zeros.first(b.x.len()),
        };
        self.norm(rec, norm, &b.branch, &place, &b.x);
        let mut read = &b.x;
        for (layer, block) in config.layers.iter().zip(blocks) {
            self.attention(rec, (layer, block), ids, &b, read);
            read = self.join(rec, &block.attention_norm, &b, (&b.x, &b.joined));
            feed_forward(rec, block, &b, read);
            read = self.join(rec, &block.norm, &b, (&b.joined, &b.x));
        }
        read.clone()
    }

    /// y = norm(x + r + shift)
    fn norm(&self, rec: &mut Recording, norm: &Norm, x: &View, r: &View, y: &View) {
        layer_norm::forward(rec, x, r, &norm.shift, &norm.weight, &norm.bias, y, self.weights.config.layer_norm_eps);
    }

    /// Adds the branch to the stream `from`, giving the stream `to`; what the next branch reads.
    fn join<'b>(&self, rec: &mut Recording, norm: &Norm, b: &'b Buffers, (from, to): (&View, &'b View)) -> &'b View {
        match &b.read {
            None => {
                self.norm(rec, norm, &b.branch, from, to);
                to
            }
            Some(read) => {
                // No branch of these models ends in a bias, so the sum lacks none.
                add::residual(rec, &b.branch, from, to);
                self.norm(rec, norm, &b.branch, from, read);
                read
            }
        }
    }

    /// Writes the output of attention to the branch.
    fn attention(
        &self,
        rec: &mut Recording,
        (layer, block): (&EncoderLayer, &Block),
        ids: &BatchViews,
        b: &Buffers,
        read: &View,
    ) {
        let config = &self.weights.config;
        product(rec, read, &block.query, &b.q);
        if let Some(bias) = &block.query_bias {
            add::add_bias(rec, bias, &b.q);
        }
        product(rec, read, &block.key, &b.k);
        product(rec, read, &block.value, &b.v);
        if let Some(table) = layer.rope {
            let (dim, head_dim) = (config.ropes[table].dim, config.head_dim());
            let by = Rotation { rows: &ids.rope_rows, cos_sin: &self.weights.ropes[table], dim, head_dim };
            rope::forward(rec, by, &b.q);
            rope::forward(rec, by, &b.k);
        }
        let shape = attention::Shape {
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            causal: false,
            window: layer.window,
            scale: None,
            cap: None,
        };
        let tensors = attention::Tensors { q: &b.q, k: &b.k, v: &b.v, spans: &ids.spans, o: &b.o, lse: &b.lse };
        attention::forward(rec, tensors, shape);
        product(rec, &b.o, &block.output, &b.branch);
    }
}

/// Writes the output of the feed-forward layers to the branch.
fn feed_forward(rec: &mut Recording, block: &Block, b: &Buffers, read: &View) {
    product(rec, read, &block.up, &b.up);
    match &block.inner {
        Inner::Plain(kind, bias) => activation::forward(rec, &b.up, bias, &b.act, *kind),
        Inner::Gated(kind, gate) => {
            product(rec, read, gate, &b.gate);
            swiglu::forward(rec, *kind, &b.gate, &b.up, &b.act);
        }
    }
    product(rec, &b.act, &block.down, &b.branch);
}

/// y = x·Wᵀ
fn product(rec: &mut Recording, x: &View, w: &Weight, y: &View) {
    linear::forward(rec, x, &Matrix::frozen(w), y, 1.0, false);
}
