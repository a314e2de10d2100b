//! Training and generation through every format of frozen weights: what a model of their
//! dequantised numbers gives, on the CPU and on a GPU. That a plain model gives what PyTorch and
//! PEFT give is `parity.rs`'s to show.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bft_core::device::Device;
use bft_core::{Batch, Capacity, Checkpoint, LossConfig, Runner, RunnerOptions, StepTotals, Tuner, TunerOptions};
use bft_formats::{Adapter, AdapterConfig, DType, LINEAR_MODULES, LoraPair, Model, ModelConfig, Random, Tensor};
use bft_tests::fixture::relative_norm;
use pollster::block_on;

const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 512;
const KEYS: usize = 128;
const VOCAB: usize = 300;
const TOKENS: usize = 41;

/// A block of a Llama whose rows are whole blocks of every format.
fn config() -> ModelConfig {
    let json = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
    });
    ModelConfig::from_json("config.json", json.to_string().as_bytes()).unwrap()
}

/// The model with its matrices in `dtype`, and the same numbers in f32.
fn models(dtype: DType) -> [Model; 2] {
    let mut random = Random::from_text(dtype.name());
    let mut tensors: [BTreeMap<String, Tensor>; 2] = Default::default();
    let block = "model.layers.0";
    let matrices = [
        ("model.embed_tokens".to_owned(), VOCAB, HIDDEN),
        (format!("{block}.self_attn.q_proj"), HIDDEN, HIDDEN),
        (format!("{block}.self_attn.k_proj"), KEYS, HIDDEN),
        (format!("{block}.self_attn.v_proj"), KEYS, HIDDEN),
        (format!("{block}.self_attn.o_proj"), HIDDEN, HIDDEN),
        (format!("{block}.mlp.gate_proj"), INTERMEDIATE, HIDDEN),
        (format!("{block}.mlp.up_proj"), INTERMEDIATE, HIDDEN),
        (format!("{block}.mlp.down_proj"), HIDDEN, INTERMEDIATE),
    ];
    for (name, rows, cols) in matrices {
        let (name, bytes) = (format!("{name}.weight"), dtype.random(rows * cols, &mut || random.bits()));
        let tensor = Tensor::new(&name, dtype, vec![rows, cols], bytes).unwrap();
        let plain = Tensor::from_f32(&name, vec![rows, cols], &tensor.to_f32().unwrap()).unwrap();
        tensors[0].insert(name.clone(), tensor);
        tensors[1].insert(name, plain);
    }
    // Small ones keep sums over 256 inputs, and so the softmax, from saturating.
    for (name, size) in [("model.norm", 0.02), ("input_layernorm", 0.1), ("post_attention_layernorm", 0.1)] {
        let name = if name == "model.norm" { format!("{name}.weight") } else { format!("{block}.{name}.weight") };
        let norm = Tensor::from_f32(&name, vec![HIDDEN], &random.floats(HIDDEN, 0.5 * size, size)).unwrap();
        tensors.iter_mut().for_each(|tensors| drop(tensors.insert(name.clone(), norm.clone())));
    }
    tensors.map(|tensors| Model::from_parts(dtype.name(), config(), tensors, None, None).unwrap())
}

fn adapter(config: &ModelConfig, use_dora: bool) -> Adapter {
    let mut random = Random::new(5);
    let modules = LINEAR_MODULES.map(str::to_owned).to_vec();
    let pair = |module: &String| {
        let [rows, cols] = config.linear_shape(module).unwrap();
        let (a, b) = (random.floats(4 * cols, -0.05, 0.05), random.floats(rows * 4, -0.05, 0.05));
        let module = ModelConfig::linear_name(0, module);
        let magnitude = use_dora.then(|| random.floats(rows, 0.5, 1.5));
        LoraPair { module, rank: 4, scaling: 2.0, in_features: cols, out_features: rows, a, b, magnitude }
    };
    let pairs = modules.iter().map(pair).collect();
    Adapter { config: AdapterConfig { use_dora, ..AdapterConfig::new(4, 8.0, modules, 0.0) }, pairs }
}

/// NLL, gradients of all factors, and logits of a text taken in two pieces and then token by token.
fn results(device: &Device, model: &Model, use_dora: bool) -> [Vec<f32>; 3] {
    let adapter = adapter(&model.config, use_dora);
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 37 % VOCAB as u32).collect();
    let mut batch = Batch::untrained(tokens.clone(), vec![0, 19, TOKENS as u32]);
    batch.trained = (0..18).chain(19..TOKENS as u32 - 1).collect();
    batch.labels = batch.trained.iter().map(|at| tokens[*at as usize + 1]).collect();
    batch.trained_segments = vec![0, 18, batch.trained.len() as u32];
    let capacity = Capacity { tokens: TOKENS, trained: batch.trained.len(), samples: 2 };
    let options = TunerOptions {
        capacity,
        max_length: 64,
        checkpoint: Checkpoint::Off,
        seed: 0,
        frozen_half: false,
        anchored: false,
    };
    let mut tuner = Tuner::new(device, model, &adapter, options).unwrap();
    let totals = StepTotals { samples: 2, tokens: batch.trained.len() };
    tuner.accumulate(&batch, totals, &LossConfig::default()).unwrap();
    let sums = block_on(tuner.totals()).unwrap();
    let gradients = block_on(tuner.gradients()).unwrap();
    let gradients = gradients.pairs.iter().flat_map(|pair| pair.tensors().flat_map(|(_, _, values)| values.to_vec()));
    let gradients = gradients.collect();

    let runner = Runner::new(device, model, Some(&adapter), RunnerOptions { capacity, max_length: 64 }).unwrap();
    let mut text = runner.generation().unwrap();
    let mut logits = Vec::new();
    for piece in [&tokens[..20], &tokens[20..25], &tokens[25..26], &tokens[26..27]] {
        logits.extend(block_on(text.next(piece)).unwrap());
    }
    [vec![(sums[1] / sums[2]) as f32], gradients, logits]
}

#[test]
fn every_format_trains_and_generates_as_its_numbers_do() {
    let devices: Vec<Device> = [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten().collect();
    let with_dora = [(DType::Q4_K, true), (DType::BF16, true)];
    for (dtype, use_dora) in DType::ALL.iter().map(|dtype| (*dtype, false)).chain(with_dora) {
        let [model, plain] = models(dtype);
        let expected = results(&Device::cpu(), &plain, use_dora);
        assert!(expected.iter().all(|values| values.iter().any(|x| *x != 0.0 && x.is_finite())), "{dtype}");
        for device in &devices {
            let found = results(device, &model, use_dora);
            for ((what, found), expected) in ["NLL", "gradients", "logits"].iter().zip(&found).zip(&expected) {
                let error = relative_norm(found, expected);
                let on = &device.info().name;
                assert!(error < 1e-5, "{what} through {dtype} on {on}: relative error {error:.1e}");
            }
        }
    }
}

/// To the bit: a format's blocks are the same, whoever made them.
#[test]
fn a_base_that_is_quantised_as_it_loads_trains_as_a_file_of_its_blocks_does() {
    let devices: Vec<Device> = [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten().collect();
    for dtype in DType::quantizers() {
        let [_, mut model] = models(DType::BF16);
        model.quantize(dtype.name().to_lowercase().parse().unwrap()).unwrap();
        let tensors = model.tensors.iter().map(|(name, tensor)| {
            let bytes = tensor.bytes().unwrap().to_vec();
            (name.clone(), Tensor::new(name, tensor.dtype, tensor.shape.clone(), bytes).unwrap())
        });
        let tensors: BTreeMap<String, Tensor> = tensors.collect();
        assert_eq!(tensors["model.layers.0.mlp.up_proj.weight"].dtype, dtype);
        let file = Model::from_parts("file", config(), tensors, None, None).unwrap();
        for device in &devices {
            assert!(
                results(device, &model, false) == results(device, &file, false),
                "{dtype} on {}",
                device.info().name
            );
        }
    }
}
