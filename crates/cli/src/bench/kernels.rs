//! Single products at a model's sizes, in every weight format.

use std::time::Instant;

use bft_core::device::{Device, Elem, Matrix, Recording};
use bft_core::ops::linear;
use bft_formats::{Bytes, DType, ModelConfig, Tensor};
use serde_json::{Value, json};

use crate::error::CliError;

/// One kernel at one size.
#[derive(Debug)]
pub struct Measured {
    /// `product` (x·Wᵀ), `input gradient` (dy·W), or `weight gradient` of LoRA's factors.
    pub kernel: &'static str,
    /// Format of the weight.
    pub dtype: DType,
    /// Tokens, outputs, inputs.
    pub size: [usize; 3],
    /// Median of the rounds.
    pub seconds: f64,
}

impl Measured {
    /// Billions of multiplications and additions a second.
    pub fn gflops(&self) -> f64 {
        let [tokens, rows, cols] = self.size;
        2.0 * (tokens * rows * cols) as f64 / self.seconds.max(1e-12) / 1e9
    }

    /// For `--json`.
    pub fn as_value(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "dtype": self.dtype.name(),
            "tokens": self.size[0],
            "rows": self.size[1],
            "cols": self.size[2],
            "seconds": self.seconds,
            "gflops": self.gflops(),
        })
    }
}

/// SmolLM2-135M's linear layers, where no model is given.
const SMOLLM2: [(usize, usize); 3] = [(576, 576), (1536, 576), (576, 1536)];

const DTYPES: [DType; 6] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
];

/// Times every product; `heard` gets each as it is done.
pub fn measure(
    device: &Device,
    model: Option<&ModelConfig>,
    tokens: usize,
    rounds: usize,
    mut heard: impl FnMut(&Measured) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let sizes: Vec<(usize, usize)> = match model {
        Some(config) => ["q_proj", "gate_proj", "down_proj"]
            .iter()
            .filter_map(|module| config.linear_shape(module))
            .map(|[rows, cols]| (rows, cols))
            .collect(),
        None => SMOLLM2.to_vec(),
    };
    for (rows, cols) in sizes {
        for dtype in DTYPES
            .into_iter()
            .filter(|dtype| dtype.checked_row_bytes(cols).is_some())
        {
            for kernel in ["product", "input gradient"] {
                heard(&product(
                    device,
                    kernel,
                    dtype,
                    [tokens, rows, cols],
                    rounds,
                )?)?;
            }
        }
    }
    Ok(())
}

fn product(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    size: [usize; 3],
    rounds: usize,
) -> Result<Measured, CliError> {
    let [tokens, rows, cols] = size;
    let weight = device
        .upload_weight(&weight(dtype, rows, cols)?)
        .map_err(CliError::failed)?;
    let values = |count: usize| {
        (0..count)
            .map(|i| (i % 13) as f32 * 0.1 - 0.6)
            .collect::<Vec<f32>>()
    };
    let x = device
        .upload_f32("x", &values(tokens * cols))
        .map_err(CliError::failed)?;
    let y = device
        .alloc("y", Elem::F32, tokens * rows)
        .map_err(CliError::failed)?;
    let mut recording = Recording::new();
    let matrix = Matrix::frozen(&weight);
    if kernel == "product" {
        linear::forward(&mut recording, &x.view(), &matrix, &y.view(), 1.0, false);
    } else {
        linear::backward(&mut recording, &y.view(), &matrix, &x.view(), 1.0, false);
    }
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let started = Instant::now();
        device.run(&recording).map_err(CliError::failed)?;
        pollster::block_on(device.wait()).map_err(CliError::failed)?;
        // The first round compiles and warms up.
        if round > 0 {
            times.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(Measured {
        kernel,
        dtype,
        size,
        seconds: super::median(&mut times),
    })
}

/// A weight of that format with small finite values: 1/16 is the scale of every block.
fn weight(dtype: DType, rows: usize, cols: usize) -> Result<Tensor, CliError> {
    let mut bytes = vec![0u8; rows * dtype.row_bytes(cols)];
    for (index, block) in bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
        match dtype {
            DType::F32 => block.copy_from_slice(&((index % 11) as f32 * 0.1 - 0.5).to_le_bytes()),
            // The high byte alone: 1/16 and its like in half precision, 1/16 in bfloat16.
            DType::F16 => block.copy_from_slice(&[index as u8, 0x2c]),
            DType::BF16 => block.copy_from_slice(&[0x80 | (index as u8 & 0x7f), 0x3d]),
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
                for (at, byte) in block.iter_mut().enumerate() {
                    *byte = (index + at * 7) as u8;
                }
                block[..2].copy_from_slice(&[0, 0x2c]);
                if dtype == DType::Q4_1 {
                    block[2..4].copy_from_slice(&[0, 0xb0]);
                }
            }
        }
    }
    Tensor::new("bench", dtype, vec![rows, cols], Bytes::from(bytes)).map_err(CliError::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_small_finite_and_not_all_alike() {
        for dtype in DTYPES {
            let values = weight(dtype, 4, 64)
                .expect("whole blocks")
                .to_f32()
                .unwrap();
            assert!(
                values
                    .iter()
                    .all(|value| value.is_finite() && value.abs() <= 16.0),
                "{dtype}"
            );
            assert!(values.iter().any(|value| *value != values[0]), "{dtype}");
        }
    }
}
