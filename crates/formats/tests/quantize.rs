//! Weights that are quantised as they load: as ggml quantises them, block for block.
#![allow(clippy::unwrap_used)]

mod common;

use bft_formats::{Architecture, DType, Model, Quantization, Tensor, dequantize_row, quantize_row};
use common::{assert_says, config_of, message, tiny_folder, tiny_gguf};
use serde_json::{Value, json};

fn reference() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/quantize.json")).unwrap()
}

/// The numbers of tests/fixtures/quantize.py.
fn numbers() -> Vec<f32> {
    let mut state = 20_261_128_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut values: Vec<f32> = (0..64 * 256).map(|_| uniform() + uniform() + uniform()).collect();
    for (i, block) in values.chunks_mut(256).enumerate() {
        block.iter_mut().for_each(|x| *x *= 2f32.powi(i as i32 % 16 - 8));
        match i {
            56 => block.iter_mut().for_each(|x| *x = x.abs()),
            57 => block.iter_mut().for_each(|x| *x = -x.abs()),
            58 => block.fill(0.75),
            59 => block.fill(-0.75),
            60 => block.fill(0.0),
            61 => block[1..].fill(0.0),
            62 => block.iter_mut().step_by(32).for_each(|x| *x *= 64.0),
            63 => block[32..].fill(0.0),
            _ => {}
        }
    }
    values
}

fn blocks(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0xff; dtype.row_bytes(values.len())];
    assert!(quantize_row(dtype, values, &mut blocks));
    blocks
}

#[test]
fn every_quantiser_makes_the_blocks_that_ggml_makes() {
    let (reference, values) = (reference(), numbers());
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bft_formats::sha256_bytes(&bytes), reference["numbers_sha256"].as_str().unwrap(), "other numbers");
    for dtype in DType::quantizers() {
        let expected = &reference["numbers"][dtype.name()];
        let blocks = blocks(dtype, &values);
        let mut back = vec![0.0; values.len()];
        dequantize_row(dtype, &blocks, &mut back);
        let squares = values.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2));
        let rmse = (squares.sum::<f64>() / values.len() as f64).sqrt();
        let sha256 = bft_formats::sha256_bytes(&blocks);
        assert_eq!(sha256, expected["sha256"].as_str().unwrap(), "{dtype}: rmse {rmse}, ggml's {}", expected["rmse"]);
    }
}

#[test]
fn what_cannot_be_made_is_not_made() {
    assert!(!quantize_row(DType::Q6_K, &[0.0; 256], &mut [0; 210]));
    assert_eq!("q4_k".parse::<Quantization>().map(Quantization::dtype), Ok(DType::Q4_K));
    let error = "q6_k".parse::<Quantization>().unwrap_err();
    assert_says(&error, &["\"q6_k\"", "q8_0, q4_0, q5_0, q4_k"]);
}

fn quantized(mut model: Model, to: &str) -> bft_formats::Result<Model> {
    model.quantize(to.parse().unwrap())?;
    Ok(model)
}

#[test]
fn a_model_s_matrices_become_blocks_as_they_are_read() {
    let plain = Model::from_folder("tiny", tiny_folder(Architecture::Llama)).unwrap();
    let model = quantized(plain.clone(), "q4_0").unwrap();
    assert_eq!(model.notes, ["quantised as they load, the matrices are 14 in Q4_0, 1 in Q8_0 (the head)"]);
    let mut bytes = 0;
    for (name, tensor) in &model.tensors {
        let values = plain.tensors[name].to_f32().unwrap();
        let dtype = match &tensor.shape[..] {
            [_] => DType::F32,
            _ if name == "model.embed_tokens.weight" => DType::Q8_0,
            _ => DType::Q4_0,
        };
        assert_eq!((tensor.dtype, tensor.is_converted()), (dtype, dtype != DType::F32), "{name}");
        if dtype != DType::F32 {
            bytes += tensor.byte_len() as u64;
            assert_eq!(tensor.bytes().unwrap()[..], blocks(dtype, &values)[..], "{name}");
            let row = dtype.row_bytes(tensor.cols());
            assert_eq!(tensor.read_rows(3..5).unwrap()[..], tensor.bytes().unwrap()[3 * row..5 * row], "{name}");
        }
    }
    assert_eq!(model.converted_bytes(), bytes);
    // The weights' own identity stays; what decides beside them changes.
    assert_eq!(model.sha256().unwrap(), plain.sha256().unwrap());
    assert_ne!(model.settings_sha256().unwrap(), plain.settings_sha256().unwrap());
}

#[test]
fn a_plain_gguf_is_quantised_with_its_rows_in_order() {
    let plain = Model::from_gguf("m.gguf", tiny_gguf("llama").bytes()).unwrap();
    let model = quantized(plain.clone(), "q8_0").unwrap();
    let name = "model.layers.1.self_attn.q_proj.weight";
    let values = plain.tensors[name].to_f32().unwrap();
    assert_eq!(model.tensors[name].bytes().unwrap()[..], blocks(DType::Q8_0, &values)[..]);
    assert_eq!(model.tensors[name].read_rows(5..6).unwrap()[..], blocks(DType::Q8_0, &values[5 * 32..6 * 32])[..]);
}

#[test]
fn rows_that_are_no_whole_blocks_become_others_and_it_is_said() {
    let model = Model::from_folder("tiny", tiny_folder(Architecture::Llama)).unwrap();
    let model = quantized(model, "q4_k").unwrap();
    let said = &model.notes[0];
    assert_says(
        said,
        &["12 in Q5_0 (rows of 32 are not whole", "2 in Q5_0 (rows of 64 are not whole blocks of 256)", "1 in Q8_0"],
    );

    let config = config_of(Architecture::Llama, json!({"hidden_size": 48, "head_dim": 12}));
    let tensors = config.tensor_shapes().into_iter().map(|(name, shape)| {
        let values = vec![0.5; shape.iter().product()];
        (name.clone(), Tensor::from_f32(name, shape, &values).unwrap())
    });
    let model = Model::from_parts("odd", config.clone(), tensors.collect(), None, None).unwrap();
    let model = quantized(model, "q8_0").unwrap();
    assert_says(&model.notes[0], &["13 in F32 as before (rows of 48 are not whole blocks of 32)", "2 in Q8_0"]);
    assert_eq!(model.tensors["model.layers.0.mlp.up_proj.weight"].dtype, DType::F32);
}

#[test]
fn what_is_quantised_already_and_what_no_block_holds_is_refused() {
    let mut g = tiny_gguf("llama");
    g.tensor("blk.0.attn_v.weight", &[16, 32], 8, vec![0; 16 * 34]);
    let error = message(quantized(Model::from_gguf("m.gguf", g.bytes()).unwrap(), "q4_0"));
    assert_says(&error, &["m.gguf", "quantising to q4_0", "v_proj.weight is Q8_0", "as it is"]);

    for broken in [f32::NAN, f32::INFINITY, 7e4] {
        let mut g = tiny_gguf("llama");
        let mut values = vec![0.5; 64 * 32];
        values[40 * 32 + 3] = broken;
        g.f32_tensor("blk.1.ffn_up.weight", &[64, 32], &values);
        let model = quantized(Model::from_gguf("m.gguf", g.bytes()).unwrap(), "q4_0").unwrap();
        let error = message(model.tensors["model.layers.1.mlp.up_proj.weight"].bytes());
        assert_says(&error, &["model.layers.1.mlp.up_proj.weight", "row 40 holds", "at most 65504"]);
    }
}
