//! Rotary embedding: one table of frequencies, and every way of stretching it.
//!
//! A kind of scaling is a variant of [`RopeScaling`], its spelling in `config.json` and in GGUF
//! metadata, and its frequencies, all here.

use serde_json::Value;

use super::ModelConfig;
use crate::gguf::Keys;
use crate::json::Object;
use crate::{FormatError, Result};

/// A table of rotary frequencies, shared by the layers that name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies, above 1.
    pub theta: f64,
    /// Numbers of a head that rotate, even.
    pub dim: usize,
    /// Stretching of the frequencies.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    #[default]
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a smooth ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are divided in full.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071): frequencies that turn less than `beta_slow` times in the original
    /// context divided by `factor`, those that turn more than `beta_fast` times kept, a ramp
    /// between; cosines and sines scaled.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Turns from which on a frequency is kept.
        beta_fast: f64,
        /// Turns up to which a frequency is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole indices of frequencies.
        truncate: bool,
        /// Context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` stores Llama 3's scaling.
    Divisors(
        /// `[dim / 2]`, all positive.
        Vec<f32>,
    ),
}

const JSON_TYPES: &str = "supported rope types are default, linear, llama3 and yarn";
const GGUF_TYPES: &str = "supported rope types are none, linear, yarn and Llama 3's rope_freqs.weight";

/// How the scaling is named to people, after the base: nothing, or a part of a sentence.
impl std::fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => write!(f, ", linear scaling by {factor}"),
            Self::Llama3 { factor, .. } => write!(f, ", llama3 scaling by {factor}"),
            Self::Yarn { factor, .. } => write!(f, ", yarn scaling by {factor}"),
            Self::Divisors(_) => f.write_str(", a divisor for each frequency"),
        }
    }
}

impl Rope {
    /// Inverse frequencies `[dim / 2]`, radians per position, with the scaling applied.
    ///
    /// `inv_freq[i] = theta^(-2i / dim)`, rounded where transformers rounds.
    pub fn inv_freq(&self) -> Vec<f32> {
        let wavelengths = (0..self.dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        });
        let plain = wavelengths.clone().map(|w| 1.0 / w);
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f32;
                let (low, high) = (original / low_freq_factor, original / high_freq_factor);
                plain
                    .map(|f| {
                        let wavelength = 2.0 * std::f32::consts::PI / f;
                        if wavelength > low {
                            f / factor
                        } else if wavelength < high {
                            f
                        } else {
                            let smooth =
                                (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    })
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                original_max_position_embeddings: original,
                ..
            } => {
                let (low, high) = self.yarn_ramp(*original as f64, *beta_fast, *beta_slow, *truncate);
                let ramp = |i: usize| ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let stretched = wavelengths.enumerate().map(|(i, w)| {
                    let kept = 1.0 - ramp(i);
                    1.0 / (factor * w) * (1.0 - kept) + 1.0 / w * kept
                });
                stretched.collect()
            }
        }
    }

    /// The indices of frequencies between which YaRN goes from keeping to dividing.
    fn yarn_ramp(&self, original: f64, beta_fast: f64, beta_slow: f64, truncate: bool) -> (f64, f64) {
        let dim = self.dim as f64;
        let index = |turns: f64| dim * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (index(beta_fast), index(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Checks the base and the lists; `file` names the configuration in messages.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let (theta, half) = (self.theta, self.dim / 2);
        if theta <= 1.0 || !theta.is_finite() {
            return Err(FormatError::malformed(file, format!("rope_theta is {theta}, expected a number above 1")));
        }
        match &self.scaling {
            RopeScaling::Yarn { original_max_position_embeddings: 0, .. } => {
                Err(FormatError::malformed(file, "rope scaling stretches a context of 0 tokens, expected some"))
            }
            RopeScaling::Divisors(d) if d.len() != half || d.iter().any(|&x| !(x > 0.0 && x.is_finite())) => Err(
                FormatError::malformed(file, format!("{} rope divisors, expected {half} positive numbers", d.len())),
            ),
            _ => Ok(()),
        }
    }

    /// From `rope_parameters`, or from `rope_theta` and `rope_scaling`, for whole heads; theta is
    /// `default` where the file does not say.
    pub(super) fn from_json(o: &Object, default: f64, config: &ModelConfig) -> Result<Self> {
        Self::refuse_both(o)?;
        let scaling = match o.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => o.object("rope_scaling")?,
        };
        let mut theta = o.f64("rope_theta")?;
        let mut partial = o.f64("partial_rotary_factor")?;
        if let Some(parameters) = &scaling {
            theta = parameters.f64("rope_theta")?.or(theta);
            partial = parameters.f64("partial_rotary_factor")?.or(partial);
        }
        Self::from_parameters(o, scaling.as_ref(), theta.unwrap_or(default), partial, config)
    }

    /// transformers obeys the older key where both are there, and loses what the newer one says of
    /// theta.
    pub(super) fn refuse_both(o: &Object) -> Result<()> {
        match (o.get("rope_parameters"), o.get("rope_scaling")) {
            (Some(new), Some(old)) if new != old => Err(FormatError::unsupported(
                o.file,
                "rope_scaling beside rope_parameters that differ from it",
                "keep one of them, with rope_theta in it",
            )),
            _ => Ok(()),
        }
    }

    /// From one object of `rope_parameters` in the configuration `o`, and the base and the part of
    /// a head that rotates.
    pub(super) fn from_parameters(
        o: &Object,
        scaling: Option<&Object>,
        theta: f64,
        partial: Option<f64>,
        config: &ModelConfig,
    ) -> Result<Self> {
        if let Some(factor) = partial.filter(|&f| f != 1.0) {
            return Err(FormatError::unsupported(
                o.file,
                format!("partial_rotary_factor {factor}"),
                "only heads that rotate in full are implemented",
            ));
        }
        let rope = Self { theta, dim: config.head_dim, scaling: RopeScaling::None };
        rope.validate(o.file)?;
        let context = config.max_position_embeddings;
        let scaling = scaling.map_or(Ok(RopeScaling::None), |s| RopeScaling::from_json(o, s, context))?;
        Ok(Self { scaling, ..rope })
    }

    /// From a GGUF file's metadata and, where it has them, its `divisors`.
    pub(super) fn from_gguf(keys: &Keys, dim: usize, divisors: Option<Vec<f32>>) -> Result<Self> {
        let theta = keys.f64("rope.freq_base")?.unwrap_or(10_000.0);
        if theta <= 1.0 {
            let problem = format!("{}.rope.freq_base is {theta}, expected a number above 1", keys.prefix);
            return Err(FormatError::malformed(keys.file, problem));
        }
        Ok(Self { theta, dim, scaling: RopeScaling::from_gguf(keys, divisors)? })
    }
}

impl RopeScaling {
    /// From `s`, the parameters in the configuration `o`.
    fn from_json(o: &Object, s: &Object, context: usize) -> Result<Self> {
        if s.map.values().any(Value::is_object) {
            return Err(FormatError::unsupported(
                o.file,
                "rope_parameters that differ from layer to layer",
                "one set of rope parameters for all layers is expected",
            ));
        }
        if s.get("mrope_section").is_some() {
            return Err(FormatError::unsupported(o.file, "rope type \"mrope\"", JSON_TYPES));
        }
        let factor = |key: &str| -> Result<f32> {
            let value = s.required(&format!("rope scaling's {key}"), s.f64(key)?)?;
            if value > 0.0 {
                return Ok(value as f32);
            }
            let problem = format!("rope scaling's {key} is {value}, expected a positive number");
            Err(FormatError::malformed(o.file, problem))
        };
        let original = || -> Result<usize> {
            let key = "original_max_position_embeddings";
            match (s.usize(key)?, o.usize(key)?) {
                // transformers takes the outer one, other programs the inner.
                (Some(inner), Some(outer)) if inner != outer => {
                    let what = format!("{key} {outer} beside {inner} in the scaling of rope");
                    Err(FormatError::unsupported(o.file, what, "keep one of them"))
                }
                (inner, outer) => Ok(inner.or(outer).unwrap_or(context)),
            }
        };
        Ok(match s.str("rope_type")?.or(s.str("type")?).unwrap_or("default") {
            "default" => Self::None,
            "linear" => Self::Linear { factor: factor("factor")? },
            "llama3" => {
                let original = original()?;
                let (low, high) = (factor("low_freq_factor")?, factor("high_freq_factor")?);
                if low >= high || original == 0 {
                    return Err(FormatError::malformed(
                        o.file,
                        format!(
                            "rope scaling has low_freq_factor {low}, high_freq_factor {high} and \
                             original_max_position_embeddings {original}, expected low < high and a positive length"
                        ),
                    ));
                }
                Self::Llama3 {
                    factor: factor("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                }
            }
            "yarn" => {
                let stretch = factor("factor")?;
                let optional = |key: &str| if s.get(key).is_some() { factor(key).map(Some) } else { Ok(None) };
                let attention_factor = match (optional("mscale")?, optional("mscale_all_dim")?) {
                    (Some(mscale), Some(all)) => mscale_of(stretch, mscale) / mscale_of(stretch, all),
                    _ => mscale_of(stretch, 1.0),
                };
                Self::Yarn {
                    factor: stretch,
                    attention_factor: optional("attention_factor")?.map_or(attention_factor, f64::from),
                    beta_fast: optional("beta_fast")?.map_or(32.0, f64::from),
                    beta_slow: optional("beta_slow")?.map_or(1.0, f64::from),
                    truncate: s.bool("truncate")?.unwrap_or(true),
                    original_max_position_embeddings: original()?,
                }
            }
            other => return Err(FormatError::unsupported(o.file, format!("rope type {other:?}"), JSON_TYPES)),
        })
    }

    fn from_gguf(keys: &Keys, divisors: Option<Vec<f32>>) -> Result<Self> {
        let unsupported = |what: String| Err(FormatError::unsupported(keys.file, what, GGUF_TYPES));
        if keys.get("rope.dimension_sections").is_some() {
            return unsupported("rope type \"mrope\"".to_string());
        }
        let factor = keys.f64("rope.scaling.factor")?.or(keys.f64("rope.scale_linear")?);
        let linear = match keys.get("rope.scaling.type").map(|v| (v, v.as_str())) {
            // Before types had names, the factor alone meant linear.
            None => factor,
            Some((_, Some("none"))) => None,
            Some((_, Some("linear"))) => Some(factor.unwrap_or(1.0)),
            Some((_, Some("yarn"))) if divisors.is_none() => return Self::yarn_from_gguf(keys, factor),
            Some((_, Some(other))) => return unsupported(format!("rope type {other:?}")),
            Some((value, None)) => return Err(keys.wrong("rope.scaling.type", value, "a string")),
        };
        let linear = linear.filter(|&f| f != 1.0 && f != 0.0);
        if let Some(factor) = linear.filter(|&f| f < 0.0) {
            let problem = format!("{}.rope.scaling.factor is {factor}, expected a positive number", keys.prefix);
            return Err(FormatError::malformed(keys.file, problem));
        }
        match (linear, divisors) {
            (None, None) => Ok(Self::None),
            (Some(factor), None) => Ok(Self::Linear { factor: factor as f32 }),
            (None, Some(divisors)) if divisors.iter().all(|&d| d == 1.0) => Ok(Self::None),
            (None, Some(divisors)) => Ok(Self::Divisors(divisors)),
            (Some(factor), Some(_)) => {
                unsupported(format!("linear rope scaling by {factor} together with rope_freqs.weight"))
            }
        }
    }

    /// As llama.cpp takes it: the attention factor follows from the stretch.
    fn yarn_from_gguf(keys: &Keys, factor: Option<f64>) -> Result<Self> {
        for (key, neutral) in [("ext_factor", 1.0), ("attn_factor", 1.0), ("log_multiplier", 0.0)] {
            let key = format!("rope.scaling.yarn_{key}");
            if let Some(value) = keys.f64(&key)?.filter(|&value| value != neutral) {
                let what = format!("{}.{key} {value}", keys.prefix);
                return Err(FormatError::unsupported(keys.file, what, "a model without it is needed"));
            }
        }
        let positive = |key: &str, value: Option<f64>, default: f64| match value.unwrap_or(default) {
            value if value > 0.0 => Ok(value),
            value => {
                let problem = format!("{}.{key} is {value}, expected a positive number", keys.prefix);
                Err(FormatError::malformed(keys.file, problem))
            }
        };
        let optional = |key: &str, default: f64| positive(key, keys.f64(key)?, default);
        let factor = positive("rope.scaling.factor", factor, 1.0)? as f32;
        let original = match keys.usize("rope.scaling.original_context_length")? {
            Some(n) => n,
            None => keys.required("context_length")?,
        };
        Ok(Self::Yarn {
            factor,
            attention_factor: mscale_of(factor, 1.0),
            beta_fast: optional("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: optional("rope.scaling.yarn_beta_slow", 1.0)?,
            truncate: true,
            original_max_position_embeddings: original,
        })
    }
}

/// YaRN's attention factor for a stretch of the context.
fn mscale_of(factor: f32, mscale: f32) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0 }
}
