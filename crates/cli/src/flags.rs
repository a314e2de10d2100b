//! Flags that several verbs share, and the parsers of their values.

use std::path::PathBuf;

use bft_core::device::{Device, DeviceRequest, Precision};
use bft_core::{LossConfig, LossKind};
use bft_formats::LINEAR_MODULES;
use bft_train::SampleOptions;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use crate::suggest::did_you_mean;
use crate::ui;

/// Where a verb runs, and the file that may hold its flags.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// auto (a real GPU if there is one, else the CPU), cpu, gpu, or gpu:N as `bft devices` counts
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device, help_heading = "Run")]
    pub device: DeviceRequest,
    /// A TOML file with flags of this verb (rank = 16); the command line wins
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
}

/// Which kernels a GPU takes.
#[derive(Debug, Clone, Args)]
pub struct KernelFlags {
    /// Measure on a software GPU driver, too, which kernels are fastest; real GPUs are measured once without being asked
    #[arg(long, help_heading = "Run")]
    pub measure_kernels: bool,
    /// How exact a GPU's products are: f16 lets those of the forward pass be in half precision where that is measured to be faster
    #[arg(long, value_enum, default_value_t = PrecisionFlag::F32, help_heading = "Run")]
    pub precision: PrecisionFlag,
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionFlag {
    /// as the CPU
    F32,
    /// products in half precision, what they add up to and gradients in f32
    F16,
}

impl From<PrecisionFlag> for Precision {
    fn from(flag: PrecisionFlag) -> Self {
        match flag {
            PrecisionFlag::F32 => Precision::F32,
            PrecisionFlag::F16 => Precision::F16,
        }
    }
}

impl KernelFlags {
    /// Tells the device how exact to be and whether to measure what was not measured before. One of several processes measures
    /// nothing: each would find other kernels, and others again when the run is repeated.
    pub fn apply(&self, device: &Device, alone: bool) {
        if !device.is_gpu() && (self.measure_kernels || self.precision != PrecisionFlag::F32) {
            ui::note("--precision and --measure-kernels are for GPUs: nothing here follows them");
        }
        let measures = self.measure_kernels || !device.is_software();
        device.set_precision(self.precision.into());
        device.measure_when_preparing(alone && measures);
    }
}

/// How rows become samples.
#[derive(Debug, Clone, Args)]
pub struct DataFlags {
    /// Longest sample in tokens [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Data")]
    pub max_length: Option<usize>,
    /// Cut samples longer than --max-length instead of stopping
    #[arg(long, help_heading = "Data")]
    pub truncate: bool,
    /// Leave out rows that cannot be read, and count them, instead of stopping
    #[arg(long, help_heading = "Data")]
    pub skip_bad_rows: bool,
    #[command(flatten)]
    pub template: TemplateFlags,
}

/// What the chat template is told beside the conversation.
#[derive(Debug, Clone, Args)]
pub struct TemplateFlags {
    /// A variable of the chat template, such as enable_thinking=false; more than once for several, or all as a JSON object
    #[arg(long, value_name = "NAME=VALUE", value_parser = template_vars, help_heading = "Text")]
    pub template_vars: Vec<TemplateVars>,
}

/// Variables of one `--template-vars`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateVars(Map<String, Value>);

impl TemplateFlags {
    /// All variables; of two with one name the later holds.
    pub fn variables(&self) -> Map<String, Value> {
        self.template_vars.iter().flat_map(|vars| vars.0.clone()).collect()
    }
}

fn template_vars(text: &str) -> Result<TemplateVars, String> {
    bft_formats::parse_variables(text).map(TemplateVars)
}

impl DataFlags {
    /// As bft-train takes them.
    pub fn options(&self) -> SampleOptions {
        SampleOptions {
            max_length: self.max_length,
            truncate: self.truncate,
            skip_bad_rows: self.skip_bad_rows,
            template_vars: self.template.variables(),
        }
    }
}

/// The two numbers of the BFT losses.
#[derive(Debug, Clone, Copy, Args)]
pub struct GroupFlags {
    /// Tokens in a confidence window of bft and bft-v3
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(1), help_heading = "Loss")]
    pub group_size: usize,
    /// Exponent on a sample's confidence in bft
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = not_negative, help_heading = "Loss")]
    pub gamma: f64,
}

/// The shape of the LoRA adapter.
#[derive(Debug, Clone, Args)]
pub struct LoraFlags {
    /// Rank of the LoRA matrices
    #[arg(long, value_name = "RANK", default_value_t = 16, value_parser = at_least(1), help_heading = "Adapter")]
    pub rank: usize,
    /// LoRA's alpha; the adapter is scaled by alpha / rank [default: 2 * rank]
    #[arg(long, value_name = "NUMBER", value_parser = positive, help_heading = "Adapter")]
    pub alpha: Option<f64>,
    /// all-linear, or a comma list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
    #[arg(long, value_name = "MODULES", default_value = "all-linear", value_delimiter = ',', value_parser = target_module, help_heading = "Adapter")]
    pub target_modules: Vec<String>,
    /// Chance that LoRA's input is dropped in training
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0, value_parser = chance, help_heading = "Adapter")]
    pub lora_dropout: f64,
}

/// `--loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    /// cross-entropy, every token alike
    Sft,
    /// each token weighted by its own probability
    Dft,
    /// balanced: tokens by probability, samples by one minus their least confident window
    Bft,
    /// balanced, third version: tokens by probability over their window's mean
    BftV3,
}

impl Loss {
    /// All four, in the order they are printed.
    pub const ALL: [Loss; 4] = [Loss::Sft, Loss::Dft, Loss::Bft, Loss::BftV3];

    /// The loss with its numbers, as core takes it.
    pub fn config(self, group: GroupFlags) -> LossConfig {
        LossConfig { kind: self.kind(), group_size: group.group_size, gamma: group.gamma as f32 }
    }

    /// Core's name for it.
    pub fn kind(self) -> LossKind {
        match self {
            Loss::Sft => LossKind::Sft,
            Loss::Dft => LossKind::Dft,
            Loss::Bft => LossKind::Bft,
            Loss::BftV3 => LossKind::BftV3,
        }
    }
}

/// A whole number no smaller than `least`. The upper bound keeps products of two of them countable.
pub fn at_least(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=u64::from(u32::MAX))
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Devices count in f32.
        Ok(value) if (value as f32).is_finite() => Ok(value),
        Ok(_) => Err("expected a finite number, at most 3.4e38".to_owned()),
        Err(_) => Err("expected a number such as 0.1 or 2e-4".to_owned()),
    }
}

/// A finite number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value > 0.0 => Ok(value),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// A finite number, 0 or above.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value >= 0.0 => Ok(value),
        _ => Err("expected 0 or a number above".to_owned()),
    }
}

/// A number from 0 up to, not including, 1.
pub fn chance(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 up to, not including, 1".to_owned()),
    }
}

/// A number above 0 and at most 1.
pub fn share(text: &str) -> Result<f64, String> {
    match number(text)? {
        value if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("expected a number above 0 and at most 1".to_owned()),
    }
}

fn target_module(text: &str) -> Result<String, String> {
    let known = || LINEAR_MODULES.into_iter().chain(["all-linear"]);
    let name = text.trim();
    if known().any(|module| module == name) {
        Ok(name.to_owned())
    } else {
        let guess = did_you_mean(name, known(), str::to_owned);
        Err(format!("no such module{guess} (known: all-linear, {})", LINEAR_MODULES.join(", ")))
    }
}

/// A device's name.
pub fn device(text: &str) -> Result<DeviceRequest, String> {
    text.parse::<DeviceRequest>().map_err(|_| {
        let guess = did_you_mean(text, ["auto", "cpu", "gpu", "gpu:0"], str::to_owned);
        format!("expected auto, cpu, gpu or gpu:N{guess}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert!(positive("0").is_err());
        assert!(positive("nan").is_err());
        assert!(positive("inf").is_err());
        assert!(positive("1e39").is_err());
        assert!(not_negative("-1").is_err());
        assert_eq!(not_negative("0"), Ok(0.0));
        assert!(chance("1").is_err());
        assert_eq!(chance("0.5"), Ok(0.5));
        assert!(share("0").is_err());
        assert_eq!(share("1"), Ok(1.0));
    }

    #[test]
    fn a_mistyped_module_names_the_nearest() {
        let error = target_module("q_porj").expect_err("no such module");
        assert!(error.contains("did you mean q_proj?"), "{error}");
    }
}
