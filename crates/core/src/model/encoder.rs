//! The encoder of BERT (arXiv 1810.04805), forward only, over packed samples.
//!
//! x `[N, H]` is the norm of a token's, its position's and its type's embedding. A block is
//! x → norm(x + o(attention(q, k, v))) → norm(+ down(f(up))), each norm behind its branch.

use bft_formats::{EncoderConfig, EncoderModel, Pooling, Tensor};

use super::ModelError;
use super::batch::{Batch, BatchBuffers, BatchViews, Capacity, every_class};
use super::weights::absent;
use crate::device::{Device, DeviceError, Elem, Matrix, Recording, View, Weight};
use crate::ops::embedding::rows_per_binding;
use crate::ops::{activation, add, attention, embedding, layer_norm, linear, pool};

/// A norm behind a branch, with the bias of the branch's last layer.
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
    query_bias: View,
    /// `[H, H]`
    key: Weight,
    value: Weight,
    output: Weight,
    attention_norm: Norm,
    /// `[F, H]`
    up: Weight,
    /// `[F]`
    up_bias: View,
    /// `[H, F]`
    down: Weight,
    norm: Norm,
}

#[derive(Debug)]
struct Weights {
    config: EncoderConfig,
    /// `[V, H]`, and the rows of it that the device binds at once.
    words: (Weight, usize),
    /// `[max_position_embeddings, H]` likewise.
    positions: (Weight, usize),
    norm: Norm,
    blocks: Vec<Block>,
}

impl Weights {
    fn load(device: &Device, model: &EncoderModel) -> Result<Self, ModelError> {
        let tensor = |name: &str| -> Result<&Tensor, ModelError> {
            model.tensors.get(name).ok_or_else(|| absent(&model.name, name))
        };
        let matrix = |name: &str| Ok::<_, ModelError>(device.upload_weight(tensor(name)?)?);
        let upload = |name: &str, values: &[f32]| Ok::<_, ModelError>(device.upload_f32(name, values)?.view());
        let vector = |name: &str| upload(name, &tensor(name)?.to_f32()?);
        let table = |name: &str| {
            let weight = matrix(name)?;
            let rows = rows_per_binding(device, &weight);
            Ok::<_, ModelError>((weight, rows))
        };
        let norm = |name: &str, shift: &[f32]| {
            Ok::<_, ModelError>(Norm {
                shift: upload("shift of a norm", shift)?,
                weight: vector(&format!("{name}.weight"))?,
                bias: vector(&format!("{name}.bias"))?,
            })
        };
        let block = |layer: usize| {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let weight = |part: &str| matrix(&name(&format!("{part}.weight")));
            let bias = |part: &str| tensor(&name(&format!("{part}.bias")));
            // A key's bias adds the same to all of a query's scores, which the softmax takes away.
            // A value's passes through attention, whose weights sum to 1, so it is added once,
            // behind the output.
            let output = tensor(&name("attention.output.dense.weight"))?;
            let output_bias = bias("attention.output.dense")?.to_f32()?;
            let shift = through(output, &bias("attention.self.value")?.to_f32()?, output_bias)?;
            Ok::<_, ModelError>(Block {
                query: weight("attention.self.query")?,
                query_bias: vector(&name("attention.self.query.bias"))?,
                key: weight("attention.self.key")?,
                value: weight("attention.self.value")?,
                output: weight("attention.output.dense")?,
                attention_norm: norm(&name("attention.output.LayerNorm"), &shift)?,
                up: weight("intermediate.dense")?,
                up_bias: vector(&name("intermediate.dense.bias"))?,
                down: weight("output.dense")?,
                norm: norm(&name("output.LayerNorm"), &bias("output.dense")?.to_f32()?)?,
            })
        };
        // Every token of a single text is of type 0.
        let types = tensor("embeddings.token_type_embeddings.weight")?.to_f32()?;
        Ok(Self {
            words: table("embeddings.word_embeddings.weight")?,
            positions: table("embeddings.position_embeddings.weight")?,
            norm: norm("embeddings.LayerNorm", &types[..model.config.hidden_size])?,
            blocks: (0..model.config.num_hidden_layers).map(block).collect::<Result<_, _>>()?,
            config: model.config.clone(),
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
    /// `[N, H]` each: the stream, what a branch makes of it, queries, keys, values, output of
    /// attention.
    x: View,
    branch: View,
    q: View,
    k: View,
    v: View,
    o: View,
    /// `[N, Q]`
    lse: View,
    /// `[N, F]` each
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
        Ok(Self {
            x: zeros("hidden states", n * h)?,
            branch: zeros("branch", n * h)?,
            q: zeros("queries", n * h)?,
            k: zeros("keys", n * h)?,
            v: zeros("values", n * h)?,
            o: zeros("attention output", n * h)?,
            lse: zeros("attention log-sum-exp", n * config.num_attention_heads)?,
            up: zeros("feed-forward", n * f)?,
            act: zeros("activation", n * f)?,
            pooled: zeros("vectors", capacity.samples * h)?,
        })
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
            weights: Weights::load(device, model)?,
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
        Ok(self.ids.upload(self.device, batch)?)
    }

    /// Records the whole pass; the hidden states.
    fn forward(&self, rec: &mut Recording, ids: &BatchViews) -> View {
        let Weights { config, words, positions, norm, blocks } = &self.weights;
        let n = ids.tokens.len();
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let rows = |planned: &View, cols: usize| planned.first(n * cols);
        let b = &self.buffers;
        let (x, branch) = (rows(&b.x, h), rows(&b.branch, h));
        let (q, k, v, o) = (rows(&b.q, h), rows(&b.k, h), rows(&b.v, h), rows(&b.o, h));
        let (up, act) = (rows(&b.up, f), rows(&b.act, f));
        let lse = rows(&b.lse, config.num_attention_heads);
        let shape = attention::Shape {
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            causal: false,
            window: None,
            scale: None,
            cap: None,
        };
        let product = |rec: &mut Recording, x: &View, w: &Weight, y: &View| {
            linear::forward(rec, x, &Matrix::frozen(w), y, 1.0, false);
        };
        let eps = config.layer_norm_eps;
        let norm_of = |rec: &mut Recording, x: &View, r: &View, norm: &Norm, y: &View| {
            layer_norm::forward(rec, x, r, &norm.shift, &norm.weight, &norm.bias, y, eps);
        };

        embedding::forward(rec, &ids.tokens, &words.0, &branch, words.1);
        embedding::forward(rec, &ids.positions, &positions.0, &o, positions.1);
        norm_of(rec, &branch, &o, norm, &x);
        for block in blocks {
            product(rec, &x, &block.query, &q);
            add::add_bias(rec, &block.query_bias, &q);
            product(rec, &x, &block.key, &k);
            product(rec, &x, &block.value, &v);
            let tensors = attention::Tensors { q: &q, k: &k, v: &v, spans: &ids.spans, o: &o, lse: &lse };
            attention::forward(rec, tensors, shape);
            product(rec, &o, &block.output, &branch);
            // q is free again, and takes the stream between the branches.
            norm_of(rec, &branch, &x, &block.attention_norm, &q);
            product(rec, &q, &block.up, &up);
            activation::forward(rec, &up, &block.up_bias, &act, config.activation);
            product(rec, &act, &block.down, &branch);
            norm_of(rec, &branch, &q, &block.norm, &x);
        }
        x
    }
}
