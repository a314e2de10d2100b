//! Storage formats mean what llama.cpp says they mean.
#![allow(clippy::unwrap_used)]

mod common;

use bft_formats::{Bytes, DType, Tensor, dequantize_row};
use common::{Random, message};
use half::{bf16, f16};

fn dequantize(dtype: DType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n];
    dequantize_row(dtype, bytes, &mut out);
    out
}

#[test]
fn nibbles_lie_sixteen_apart() {
    // Byte j: element j low, element j + 16 high.
    let nibbles: Vec<u8> = (0..16).map(|j| j | (15 - j) << 4).collect();
    let d = f16::from_f32(0.5).to_le_bytes();
    let m = f16::from_f32(-3.0).to_le_bytes();
    let q4_1 = dequantize(DType::Q4_1, &[&d, &m, &nibbles[..]].concat(), 32);
    let q4_0 = dequantize(DType::Q4_0, &[&d, &nibbles[..]].concat(), 32);
    for j in 0..16 {
        assert_eq!(q4_1[j], 0.5 * j as f32 - 3.0);
        assert_eq!(q4_1[j + 16], 0.5 * (15 - j) as f32 - 3.0);
        assert_eq!(q4_0[j], 0.5 * (j as f32 - 8.0));
        assert_eq!(q4_0[j + 16], 0.5 * (7.0 - j as f32));
    }
}

#[test]
fn q8_0_is_signed() {
    let quants: Vec<u8> = (0..32).map(|i| (i * 8) as u8).collect();
    let d = f16::from_f32(0.25).to_le_bytes();
    let values = dequantize(DType::Q8_0, &[&d, &quants[..]].concat(), 32);
    for (i, value) in values.iter().enumerate() {
        assert_eq!(*value, 0.25 * f32::from((i * 8) as u8 as i8));
    }
    assert_eq!(values[16], -32.0);
}

/// llama.cpp's reference quantisers, to make blocks from values.
fn quantize(dtype: DType, values: &[f32]) -> Vec<u8> {
    let block = |v: &[f32]| -> Vec<u8> {
        let largest = v.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        let nibbles = |q: &dyn Fn(f32) -> u8| -> Vec<u8> { (0..16).map(|j| q(v[j]) | q(v[j + 16]) << 4).collect() };
        match dtype {
            DType::F32 => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::F16 => v.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            DType::BF16 => v.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            DType::Q8_0 => {
                let d = largest.abs() / 127.0;
                let quants = v.iter().map(|x| (x / d).round() as i8 as u8);
                f16::from_f32(d).to_le_bytes().into_iter().chain(quants).collect()
            }
            DType::Q4_0 => {
                let d = largest / -8.0;
                let q = |x: f32| ((x / d + 8.5) as u8).min(15);
                [&f16::from_f32(d).to_le_bytes()[..], &nibbles(&q)].concat()
            }
            DType::Q4_1 => {
                let low = v.iter().copied().fold(f32::MAX, f32::min);
                let high = v.iter().copied().fold(f32::MIN, f32::max);
                let d = (high - low) / 15.0;
                let q = |x: f32| (((x - low) / d + 0.5) as u8).min(15);
                let ends = [f16::from_f32(d).to_le_bytes(), f16::from_f32(low).to_le_bytes()];
                [&ends.concat()[..], &nibbles(&q)].concat()
            }
            other => unreachable!("{other} has no quantiser here"),
        }
    };
    values.chunks(32).flat_map(block).collect()
}

#[test]
fn a_round_trip_loses_no_more_than_the_format_must() {
    let mut random = Random::new(1);
    for round in 0..200 {
        let scale = 10f32.powi(round % 7 - 3);
        let values: Vec<f32> = (0..96).map(|_| scale * random.symmetric()).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1] {
            let bytes = quantize(dtype, &values);
            assert_eq!(bytes.len(), dtype.row_bytes(96));
            let back = dequantize(dtype, &bytes, 96);
            for (block, values) in values.chunks(32).enumerate() {
                let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                // Relative to the block's largest value: the rounding of the quants, and of the
                // half-precision scale on top.
                let bound = largest
                    * match dtype {
                        DType::F32 => 0.0,
                        DType::F16 => 1.0 / 2048.0,
                        DType::BF16 => 1.0 / 256.0,
                        DType::Q8_0 => 0.5 / 127.0 + 1.0 / 2048.0,
                        // The far end of the range is cut off by one step.
                        DType::Q4_0 => 1.0 / 8.0 + 1.0 / 2048.0,
                        DType::Q4_1 => 1.0 / 15.0 + 2.0 / 1024.0,
                        other => unreachable!("{other} was not quantised"),
                    }
                    // Half precision has no smaller steps than this.
                    + 130.0 * 6e-8;
                for (i, value) in values.iter().enumerate() {
                    let error = (back[block * 32 + i] - value).abs();
                    assert!(error <= bound, "{dtype}: {value} came back off by {error} > {bound}");
                }
            }
        }
    }
}

/// ggml's own reference, run by tests/fixtures/blocks.py.
#[test]
fn every_format_of_blocks_means_what_ggml_says() {
    let text = include_str!("../../../tests/fixtures/blocks.json");
    let cases: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    let blocks = DType::ALL.iter().filter(|dtype| dtype.block_len() > 1);
    assert!(blocks.clone().all(|dtype| cases.contains_key(dtype.name())), "a format without a reference");
    for (name, case) in &cases {
        let dtype = DType::from_ggml(case["id"].as_u64().unwrap() as u32).expect("a known format");
        assert_eq!(dtype.name(), name);
        let hex = case["blocks"].as_str().unwrap();
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
        let values = dequantize(dtype, &bytes, bytes.len() / dtype.block_bytes() * dtype.block_len());
        let first: Vec<f32> = case["first"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(values[..8], first, "{name}");
        let all: Vec<u8> = values.iter().flat_map(|x| (x + 0.0).to_le_bytes()).collect();
        assert_eq!(bft_formats::sha256_bytes(&all), case["sha256"].as_str().unwrap(), "{name}, beyond the first eight");
    }
}

#[test]
fn random_weights_are_small_finite_and_not_all_alike() {
    for &dtype in DType::ALL {
        let mut random = Random::new(7);
        let values = dequantize(dtype, &dtype.random(4096, &mut || random.bits()), 4096);
        assert!(values.iter().all(|value| value.is_finite() && value.abs() <= 3.0), "{dtype}: {values:?}");
        let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(largest > 0.2 && values.iter().any(|value| *value != values[0]), "{dtype}: {largest}");
    }
}

/// Blocks are regrouped there, in whole words.
#[test]
fn a_gpu_holds_a_q4_k_m_in_little_more_than_its_file_has() {
    for dtype in [DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q5_0, DType::Q8_0, DType::F32] {
        let (quants, scales) = dtype.gpu_words(64, 1024);
        let (held, file) = (4 * (quants + scales), 64 * dtype.row_bytes(1024));
        assert!(held as f64 <= 1.03 * file as f64, "{dtype}: {held} bytes held, {file} in the file");
    }
}

#[test]
fn a_tensor_knows_its_rows() {
    let rows = 3;
    let values: Vec<f32> = (0..rows * 64).map(|i| i as f32 / 64.0).collect();
    let data = quantize(DType::Q8_0, &values);
    let tensor = Tensor::new("w", DType::Q8_0, vec![3, 64], Bytes::from(data.clone())).unwrap();
    assert_eq!((tensor.rows(), tensor.cols(), tensor.elements()), (3, 64, 192));
    assert_eq!(*tensor.read_rows(1..2).unwrap(), data[68..136]);
    let all = tensor.to_f32().unwrap();
    assert_eq!(all[64..128], dequantize(DType::Q8_0, &tensor.read_rows(1..2).unwrap(), 64));

    let vector = Tensor::from_f32("b", vec![5], &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    assert_eq!((vector.rows(), vector.cols()), (1, 5));
    assert_eq!(vector.to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let make = |dtype, shape: Vec<usize>, bytes| message(Tensor::new("w", dtype, shape, Bytes::from(vec![0; bytes])));
    common::assert_says(&make(DType::Q4_1, vec![2, 48], 60), &["w:", "[2, 48]", "blocks of 32"]);
    common::assert_says(&make(DType::F32, vec![2, 3], 23), &["23 bytes", "expected 24"]);
    common::assert_says(&make(DType::F32, vec![usize::MAX, 8], 23), &["does not fit"]);
}

#[test]
fn slices_of_bytes_share_and_stay_inside() {
    let bytes = Bytes::from((0..100).collect::<Vec<u8>>());
    let middle = bytes.slice(10..20).unwrap();
    assert_eq!(&*middle, &(10..20).collect::<Vec<u8>>()[..]);
    assert_eq!(&*middle.slice(3..5).unwrap(), &[13, 14]);
    assert!(middle.slice(5..11).is_none(), "past the slice, though not past the buffer");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 7..6;
    assert!(bytes.slice(backwards).is_none());
    assert_eq!(bytes.slice(100..100).unwrap().len(), 0);
}
