//! Single products at a model's sizes, in every weight format.

use std::time::Instant;

use bft_core::device::{Device, Matrix, Recording};
use bft_core::ops::linear;
use bft_formats::{Bytes, DType, ModelConfig, Tensor};
use serde_json::{Value, json};

use crate::error::CliError;

/// x·Wᵀ
pub const PRODUCT: &str = "product";
/// dy·W
pub const INPUT_GRADIENT: &str = "input gradient";

/// One kernel at one size.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// [`PRODUCT`] or [`INPUT_GRADIENT`].
    pub kernel: &'static str,
    /// Format of the weight.
    pub dtype: DType,
    /// Tokens, outputs, inputs.
    pub size: [usize; 3],
    /// Median of the rounds.
    pub seconds: f64,
}

impl Measured {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        let [tokens, rows, cols] = self.size;
        2.0 * (tokens * rows * cols) as f64
    }

    /// Billions of multiplications and additions a second.
    pub fn gflops(&self) -> f64 {
        self.flops() / self.seconds.max(1e-12) / 1e9
    }

    /// The columns of [`Self::row`].
    pub fn heading() -> String {
        format!("{:<15} {:<6} {:>22} {:>10} {:>10}", "kernel", "format", "tokens × out × in", "ms", "GFLOP/s")
    }

    /// A line for people.
    pub fn row(&self) -> String {
        let [tokens, rows, cols] = self.size;
        format!(
            "{:<15} {:<6} {:>22} {:>10.3} {:>10.1}",
            self.kernel,
            self.dtype.name(),
            format!("{tokens} × {rows} × {cols}"),
            self.seconds * 1e3,
            self.gflops()
        )
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

const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];

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
        for dtype in DTYPES.into_iter().filter(|dtype| dtype.checked_row_bytes(cols).is_some()) {
            for kernel in [PRODUCT, INPUT_GRADIENT] {
                heard(&product(device, kernel, dtype, [tokens, rows, cols], rounds)?)?;
            }
        }
    }
    Ok(())
}

/// A product with operands of its own, to be run again and again.
#[derive(Debug)]
pub struct Product {
    kernel: &'static str,
    dtype: DType,
    size: [usize; 3],
    recording: Recording,
}

impl Product {
    /// Takes operands to the device: tokens, outputs and inputs are `size`.
    pub fn new(device: &Device, kernel: &'static str, dtype: DType, size: [usize; 3]) -> Result<Self, CliError> {
        let [tokens, rows, cols] = size;
        let weight = device.upload_weight(&weight(dtype, rows, cols)?).map_err(CliError::failed)?;
        let values = |count: usize| (0..count).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect::<Vec<f32>>();
        let upload = |label, count| device.upload_f32(label, &values(count));
        let x = upload("x", tokens * cols).map_err(CliError::failed)?;
        let y = upload("y", tokens * rows).map_err(CliError::failed)?;
        let mut recording = Recording::new();
        let matrix = Matrix::frozen(&weight);
        if kernel == PRODUCT {
            linear::forward(&mut recording, &x.view(), &matrix, &y.view(), 1.0, false);
        } else {
            linear::backward(&mut recording, &y.view(), &matrix, &x.view(), 1.0, false);
        }
        Ok(Self { kernel, dtype, size, recording })
    }

    /// Runs it, and waits for its end.
    pub fn run(&self, device: &Device) -> Result<Measured, CliError> {
        let started = Instant::now();
        device.run(&self.recording).map_err(CliError::failed)?;
        pollster::block_on(device.wait()).map_err(CliError::failed)?;
        Ok(Measured {
            kernel: self.kernel,
            dtype: self.dtype,
            size: self.size,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

fn product(
    device: &Device,
    kernel: &'static str,
    dtype: DType,
    size: [usize; 3],
    rounds: usize,
) -> Result<Measured, CliError> {
    let product = Product::new(device, kernel, dtype, size)?;
    // It compiles and warms up.
    let mut measured = product.run(device)?;
    let times = (0..rounds).map(|_| Ok(product.run(device)?.seconds));
    measured.seconds = super::median(&mut times.collect::<Result<Vec<f64>, CliError>>()?);
    Ok(measured)
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
            let values = weight(dtype, 4, 64).expect("whole blocks").to_f32().unwrap();
            assert!(values.iter().all(|value| value.is_finite() && value.abs() <= 16.0), "{dtype}");
            assert!(values.iter().any(|value| *value != values[0]), "{dtype}");
        }
    }
}
