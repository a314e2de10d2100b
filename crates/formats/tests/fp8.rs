//! Models with FP8 weights: what transformers makes of them, and how others are refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::{Architecture, Bytes, DType, Model, ModelConfig, Quantization};
use common::{assert_says, config_json, message, put};
use serde_json::{Map, Value, json};

type Files = BTreeMap<String, Bytes>;

/// The cases of tests/fixtures/fp8.py.
fn cases() -> Map<String, Value> {
    serde_json::from_str(include_str!("../../../tests/fixtures/fp8.json")).unwrap()
}

fn files(case: &Value) -> Files {
    let hex = case["weights"].as_str().unwrap();
    let weights = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap());
    let mut files = Files::new();
    put(&mut files, "config.json", case["config"].to_string());
    put(&mut files, "model.safetensors", weights.collect::<Vec<u8>>());
    files
}

fn open(case: &Value) -> bft_formats::Result<Model> {
    Model::from_folder("tiny", files(case))
}

#[test]
fn weights_are_those_that_transformers_loads() {
    let cases = cases();
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let model = open(&case).unwrap();
        for (tensor, sha256) in case["sha256"].as_object().unwrap() {
            let tensor = &model.tensors[tensor];
            assert_eq!(tensor.dtype, DType::BF16);
            let values = tensor.to_f32().unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|x| (x + 0.0).to_le_bytes()).collect();
            assert_eq!(bft_formats::sha256_bytes(&bytes), sha256.as_str().unwrap(), "{name}: {}", tensor.name);
            let row = &tensor.read_rows(7..8).unwrap()[..];
            assert_eq!(*row, tensor.bytes().unwrap()[7 * row.len()..8 * row.len()], "{name}, a row alone");
        }
        assert_says(&model.notes[0], &["7 matrices in FP8 become BF16", "twice the memory of the file"]);
        let says_unused = model.notes.iter().any(|note| note.contains("7 scales of activations are not used"));
        assert_eq!(says_unused, name == "matrices", "{:?}", model.notes);
    }
}

#[test]
fn they_may_be_quantised_in_one_go() {
    let cases = cases();
    let mut model = open(&cases["compressed_rows"]).unwrap();
    let plain = model.clone();
    model.quantize("q8_0".parse::<Quantization>().unwrap()).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    assert_eq!(model.tensors[name].dtype, DType::Q8_0);
    let (found, expected) = (model.tensors[name].to_f32().unwrap(), plain.tensors[name].to_f32().unwrap());
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < most / 100.0));
}

/// A model whose `up_proj` is FP8, all ones but for the scales `s` of this shape.
fn blocks_of(size: Value, shape: &[usize], scales: &[f32]) -> bft_formats::Result<Model> {
    let mut files = common::tiny_folder(Architecture::Llama);
    let quantization = json!({"quant_method": "fp8", "weight_block_size": size});
    let config = config_json(Architecture::Llama, json!({"quantization_config": quantization}));
    put(&mut files, "config.json", config);
    let tensors = common::tiny_tensors(&common::tiny_config(Architecture::Llama));
    let name = "model.layers.0.mlp.up_proj.weight";
    let scales: Vec<u8> = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
    let ones = vec![0x38; 64 * 32];
    let plain: Vec<_> = tensors.values().filter(|t| t.name != name).map(|t| (t, t.bytes().unwrap())).collect();
    use safetensors::tensor::{Dtype, TensorView};
    let mut views: Vec<(String, TensorView<'_>)> = plain
        .iter()
        .map(|(t, bytes)| (t.name.clone(), TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap()))
        .collect();
    views.push((name.into(), TensorView::new(Dtype::F8_E4M3, vec![64, 32], &ones).unwrap()));
    if !shape.is_empty() {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &scales).unwrap();
        views.push((format!("{name}_scale_inv"), view));
    }
    put(&mut files, "model.safetensors", safetensors::serialize(views, None).unwrap());
    Model::from_folder("tiny", files)
}

#[test]
fn blocks_at_the_edges_are_cut() {
    let model = blocks_of(json!([48, 20]), &[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let values = model.tensors["model.layers.0.mlp.up_proj.weight"].to_f32().unwrap();
    for (i, value) in values.iter().enumerate() {
        let (row, col) = (i / 32, i % 32);
        assert_eq!(*value, (1 + 2 * (row / 48) + col / 20) as f32, "{row}, {col}");
    }
    // Left out, a block is what transformers takes.
    let value = blocks_of(json!([128, 128]), &[1, 1], &[0.5]).unwrap();
    assert_eq!(value.tensors["model.layers.0.mlp.up_proj.weight"].to_f32().unwrap(), [0.5; 64 * 32]);
}

#[test]
fn scales_that_are_missing_or_of_another_model_are_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    let missing = message(blocks_of(json!([16, 16]), &[], &[]));
    assert_says(&missing, &[&format!("tensor {name}_scale_inv is missing"), "FP8"]);
    let shape = message(blocks_of(json!([16, 16]), &[2, 4], &[1.0; 8]));
    assert_says(&shape, &[&format!("{name}_scale_inv"), "F32 [2, 4]", "[4, 2]", "16 × 16"]);
    let scalar = message(blocks_of(Value::Null, &[2], &[1.0; 2]));
    assert_says(&scalar, &["F32 [2]", "[1, 1]", "64 × 32"]);
    let nan = blocks_of(json!([128, 128]), &[1, 1], &[f32::NAN]).unwrap();
    assert_says(&message(nan.tensors[name].bytes()), &[name, "row 0 holds NaN"]);
    let size = message(blocks_of(json!([0, 16]), &[1, 1], &[1.0]));
    assert_says(&size, &["config.json", "weight_block_size is [0,16]", "rows and columns"]);
}

#[test]
fn what_is_quantised_in_other_ways_is_refused_by_name() {
    let refusal = |quantization: Value| {
        let json = config_json(Architecture::Llama, json!({"quantization_config": quantization}));
        message(ModelConfig::from_json("config.json", json.as_bytes()))
    };
    for method in ["gptq", "awq", "bitsandbytes", "mxfp4"] {
        assert_says(&refusal(json!({"quant_method": method})), &["quantization_config", method, "quantised GGUF"]);
    }
    assert_says(&refusal(json!({})), &["unnamed"]);
    let compressed = |changes: Value| {
        let mut config = cases()["compressed_rows"]["config"]["quantization_config"].clone();
        for (path, value) in changes.as_object().unwrap() {
            *config.pointer_mut(path).unwrap() = value.clone();
        }
        refusal(config)
    };
    assert_says(&compressed(json!({"/format": "pack-quantized"})), &["compressed-tensors", "\"pack-quantized\""]);
    assert_says(&compressed(json!({"/kv_cache_scheme": {"num_bits": 8}})), &["kv_cache_scheme"]);
    let weights = "/config_groups/group_0/weights";
    assert_says(&compressed(json!({format!("{weights}/num_bits"): 4})), &["weights of 4 bits, float"]);
    assert_says(&compressed(json!({format!("{weights}/type"): "int"})), &["weights of 8 bits, int"]);
    assert_says(&compressed(json!({format!("{weights}/symmetric"): false})), &["not symmetric"]);
    assert_says(&compressed(json!({format!("{weights}/strategy"): "group"})), &["strategy \"group\""]);
    assert_says(&compressed(json!({"/config_groups": {}})), &["config_groups is missing"]);
}
