//! Rotary embedding: one table of frequencies, and every way of stretching it.
//!
//! A kind of scaling is a variant of [`RopeScaling`], its spelling in `config.json` and in GGUF
//! metadata, and its frequencies, all here.

use serde_json::Value;

use super::ModelConfig;
use crate::gguf::Keys;
use crate::json::{Object, kind};
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
    /// LongRoPE (arXiv 2402.13753): a divisor for each frequency, others for texts that are longer
    /// than the original context; cosines and sines scaled.
    LongRope {
        /// `[dim / 2]` divisors for texts within the original context, all positive.
        short: Vec<f32>,
        /// `[dim / 2]` divisors for longer ones, all positive.
        long: Vec<f32>,
        /// What cosines and sines are multiplied by, whatever the text's length.
        attention_factor: f64,
        /// Context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// Dynamic NTK: the base would grow with texts that are longer than the context. No text here
    /// is, so that this is plain rotary embedding.
    Dynamic {
        /// How fast the base would grow.
        factor: f32,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` stores Llama 3's scaling.
    Divisors(
        /// `[dim / 2]`, all positive.
        Vec<f32>,
    ),
}

const JSON_TYPES: &str = "supported rope types are default, linear, dynamic, llama3, yarn and longrope";
const GGUF_TYPES: &str = "supported rope types are none, linear, yarn, longrope and Llama 3's rope_freqs.weight";

/// What a GGUF file's tensors divide rotary frequencies by.
#[derive(Default)]
pub(crate) struct Divisors {
    /// `rope_freqs.weight`
    pub plain: Option<Vec<f32>>,
    /// `rope_factors_short.weight` and `rope_factors_long.weight`
    pub short_and_long: Option<(Vec<f32>, Vec<f32>)>,
}

/// How the scaling is named to people, after the base: nothing, or a part of a sentence.
impl std::fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => write!(f, ", linear scaling by {factor}"),
            Self::Llama3 { factor, .. } => write!(f, ", llama3 scaling by {factor}"),
            Self::Yarn { factor, .. } => write!(f, ", yarn scaling by {factor}"),
            Self::LongRope { original_max_position_embeddings: original, .. } => {
                write!(f, ", longrope scaling with other divisors beyond {original} tokens")
            }
            Self::Dynamic { factor } => write!(f, ", dynamic scaling by {factor} beyond the context"),
            Self::Divisors(_) => f.write_str(", a divisor for each frequency"),
        }
    }
}

impl Rope {
    /// Positions per radian `[dim / 2]` before any scaling: theta^(2i / dim).
    fn wavelengths(&self) -> impl Iterator<Item = f32> {
        (0..self.dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        })
    }

    /// Inverse frequencies `[dim / 2]`, radians per position, with the scaling applied; where
    /// [`Self::beyond`] has others for longer texts, those of texts within the original context.
    ///
    /// `inv_freq[i] = theta^(-2i / dim)`, rounded where transformers rounds.
    pub fn inv_freq(&self) -> Vec<f32> {
        let wavelengths = self.wavelengths();
        let plain = self.wavelengths().map(|w| 1.0 / w);
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain.collect(),
            RopeScaling::LongRope { short, .. } => self.divided(short),
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

    /// The tokens up to which a text rotates by [`Self::inv_freq`], and the inverse frequencies
    /// `[dim / 2]` of longer ones, where these are others.
    pub fn beyond(&self) -> Option<(usize, Vec<f32>)> {
        match &self.scaling {
            RopeScaling::LongRope { long, original_max_position_embeddings: original, .. } => {
                Some((*original, self.divided(long)))
            }
            _ => None,
        }
    }

    fn divided(&self, divisors: &[f32]) -> Vec<f32> {
        self.wavelengths().zip(divisors).map(|(w, d)| 1.0 / (d * w)).collect()
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
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }

    /// Checks the base and the lists; `file` names the configuration in messages.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let (theta, half) = (self.theta, self.dim / 2);
        if theta <= 1.0 || !theta.is_finite() {
            return Err(FormatError::malformed(file, format!("rope_theta is {theta}, expected a number above 1")));
        }
        if let RopeScaling::Yarn { original_max_position_embeddings: 0, .. }
        | RopeScaling::LongRope { original_max_position_embeddings: 0, .. } = &self.scaling
        {
            return Err(FormatError::malformed(file, "rope scaling stretches a context of 0 tokens, expected some"));
        }
        let factor = self.attention_factor();
        if !(factor > 0.0 && factor.is_finite()) {
            let problem = format!("the attention factor of rope scaling is {factor}, expected a positive number");
            return Err(FormatError::malformed(file, problem));
        }
        let divisors = match &self.scaling {
            RopeScaling::LongRope { short, long, .. } => vec![short, long],
            RopeScaling::Divisors(divisors) => vec![divisors],
            _ => Vec::new(),
        };
        let bad = |d: &&Vec<f32>| d.len() != half || d.iter().any(|&x| !(x > 0.0 && x.is_finite()));
        match divisors.into_iter().find(bad) {
            Some(d) => {
                let problem = format!("{} rope divisors, expected {half} positive numbers", d.len());
                Err(FormatError::malformed(file, problem))
            }
            None => Ok(()),
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
        let dim = match partial.filter(|&part| part != 1.0) {
            None => config.head_dim,
            Some(part) if !config.architecture.family().obeys.contains(&"partial_rotary_factor") => {
                return Err(FormatError::unsupported(
                    o.file,
                    format!("partial_rotary_factor {part}"),
                    format!("the heads of a {} model rotate in full", config.architecture),
                ));
            }
            // As transformers cuts it.
            Some(part) => match (config.head_dim as f64 * part) as usize {
                dim if dim > 0 && dim < config.head_dim && dim.is_multiple_of(2) => dim,
                _ => {
                    let problem = format!(
                        "partial_rotary_factor is {part}, expected an even number of a head's {} numbers to rotate",
                        config.head_dim
                    );
                    return Err(FormatError::malformed(o.file, problem));
                }
            },
        };
        let rope = Self { theta, dim, scaling: RopeScaling::None };
        rope.validate(o.file)?;
        let parameters = scaling.map(|inner| Parameters { outer: o, inner, config });
        let scaling = parameters.map_or(Ok(RopeScaling::None), |parameters| RopeScaling::from_json(&parameters))?;
        Ok(Self { scaling, ..rope })
    }

    /// From a GGUF file's metadata and its `divisors`.
    pub(super) fn from_gguf(keys: &Keys, dim: usize, divisors: Divisors) -> Result<Self> {
        let theta = keys.f64("rope.freq_base")?.unwrap_or(10_000.0);
        if theta <= 1.0 {
            let problem = format!("{}.rope.freq_base is {theta}, expected a number above 1", keys.prefix);
            return Err(FormatError::malformed(keys.file, problem));
        }
        Ok(Self { theta, dim, scaling: RopeScaling::from_gguf(keys, divisors)? })
    }
}

/// One object of rope parameters in the configuration `outer` of a model of this `config`.
struct Parameters<'a> {
    outer: &'a Object<'a>,
    inner: &'a Object<'a>,
    config: &'a ModelConfig,
}

impl Parameters<'_> {
    fn positive(&self, key: &str) -> Result<f32> {
        let value = self.inner.required(&format!("rope scaling's {key}"), self.inner.f64(key)?)?;
        if value > 0.0 {
            return Ok(value as f32);
        }
        let problem = format!("rope scaling's {key} is {value}, expected a positive number");
        Err(FormatError::malformed(self.outer.file, problem))
    }

    fn optional(&self, key: &str) -> Result<Option<f32>> {
        if self.inner.get(key).is_some() { self.positive(key).map(Some) } else { Ok(None) }
    }

    /// The context length before stretching.
    fn original(&self) -> Result<usize> {
        let key = "original_max_position_embeddings";
        let outer = self.outer.usize(key)?.or(self.config.architecture.family().default_original_context);
        match (self.inner.usize(key)?, outer) {
            // transformers takes the outer one, other programs the inner.
            (Some(inner), Some(outer)) if inner != outer => {
                let what = format!("{key} {outer} beside {inner} in the scaling of rope");
                Err(FormatError::unsupported(self.outer.file, what, "keep one of them"))
            }
            (inner, outer) => Ok(inner.or(outer).unwrap_or(self.config.max_position_embeddings)),
        }
    }

    fn divisors(&self, key: &str) -> Result<Vec<f32>> {
        let value = self.inner.required(&format!("rope scaling's {key}"), self.inner.get(key))?;
        let numbers = value.as_array().map(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect());
        numbers.flatten().ok_or_else(|| {
            let problem = format!("rope scaling's {key} is {}, expected a list of numbers", kind(value));
            FormatError::malformed(self.outer.file, problem)
        })
    }

    fn llama3(&self) -> Result<RopeScaling> {
        let original = self.original()?;
        let (low, high) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
        if low >= high || original == 0 {
            return Err(FormatError::malformed(
                self.outer.file,
                format!(
                    "rope scaling has low_freq_factor {low}, high_freq_factor {high} and \
                     original_max_position_embeddings {original}, expected low < high and a positive length"
                ),
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.positive("factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        })
    }

    fn yarn(&self) -> Result<RopeScaling> {
        let stretch = self.positive("factor")?;
        let attention_factor = match (self.optional("mscale")?, self.optional("mscale_all_dim")?) {
            (Some(mscale), Some(all)) => mscale_of(stretch, mscale) / mscale_of(stretch, all),
            _ => mscale_of(stretch, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor: stretch,
            attention_factor: self.optional("attention_factor")?.map_or(attention_factor, f64::from),
            beta_fast: self.optional("beta_fast")?.map_or(32.0, f64::from),
            beta_slow: self.optional("beta_slow")?.map_or(1.0, f64::from),
            truncate: self.inner.bool("truncate")?.unwrap_or(true),
            original_max_position_embeddings: self.original()?,
        })
    }

    fn longrope(&self) -> Result<RopeScaling> {
        let original = self.original()?;
        let context = self.config.max_position_embeddings as f64;
        let stretch = self.optional("factor")?.map_or(context / original.max(1) as f64, f64::from);
        let attention_factor = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() };
        Ok(RopeScaling::LongRope {
            short: self.divisors("short_factor")?,
            long: self.divisors("long_factor")?,
            attention_factor: self.optional("attention_factor")?.map_or(attention_factor, f64::from),
            original_max_position_embeddings: original,
        })
    }
}

impl RopeScaling {
    fn from_json(p: &Parameters) -> Result<Self> {
        let unsupported = |what: &str, advice: String| Err(FormatError::unsupported(p.outer.file, what, advice));
        let family = p.config.architecture.family();
        if p.inner.map.values().any(Value::is_object) {
            let advice = format!("the layers of a {} model have one set of them", family.name);
            return unsupported("rope_parameters that differ from layer to layer", advice);
        }
        if p.inner.get("mrope_section").is_some() {
            return unsupported("rope type \"mrope\"", JSON_TYPES.to_string());
        }
        let kind = p.inner.str("rope_type")?.or(p.inner.str("type")?).unwrap_or("default");
        match family.rope_aliases.iter().find(|(alias, _)| *alias == kind).map_or(kind, |(_, name)| name) {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: p.positive("factor")? }),
            "dynamic" => Ok(Self::Dynamic { factor: p.positive("factor")? }),
            "llama3" => p.llama3(),
            "yarn" => p.yarn(),
            "longrope" => p.longrope(),
            other => unsupported(&format!("rope type {other:?}"), JSON_TYPES.to_string()),
        }
    }

    fn from_gguf(keys: &Keys, divisors: Divisors) -> Result<Self> {
        let unsupported = |what: String| Err(FormatError::unsupported(keys.file, what, GGUF_TYPES));
        if keys.get("rope.dimension_sections").is_some() {
            return unsupported("rope type \"mrope\"".to_string());
        }
        let factor = keys.f64("rope.scaling.factor")?.or(keys.f64("rope.scale_linear")?);
        let kind = match keys.get("rope.scaling.type").map(|v| (v, v.as_str())) {
            // Before types had names, the factor alone meant linear.
            None => "linear",
            Some((_, Some(name))) => name,
            Some((value, None)) => return Err(keys.wrong("rope.scaling.type", value, "a string")),
        };
        let linear = factor.filter(|&f| ["linear", "longrope"].contains(&kind) && f != 1.0 && f != 0.0);
        if let Some(factor) = linear.filter(|&f| f < 0.0) {
            let problem = format!("{}.rope.scaling.factor is {factor}, expected a positive number", keys.prefix);
            return Err(FormatError::malformed(keys.file, problem));
        }
        let Divisors { plain, short_and_long } = divisors;
        if short_and_long.is_none() {
            keys.neutral("rope.scaling.attn_factor", 1.0)?;
        }
        match (kind, linear, plain, short_and_long) {
            ("linear" | "longrope", None, None, Some(both)) => Self::longrope_from_gguf(keys, both),
            ("yarn", _, None, None) => Self::yarn_from_gguf(keys, factor),
            ("none" | "linear", None, None, None) => Ok(Self::None),
            ("linear", Some(factor), None, None) => Ok(Self::Linear { factor: factor as f32 }),
            ("none" | "linear", None, Some(divisors), None) if divisors.iter().all(|&d| d == 1.0) => Ok(Self::None),
            ("none" | "linear", None, Some(divisors), None) => Ok(Self::Divisors(divisors)),
            ("linear", Some(factor), Some(_), None) => {
                unsupported(format!("linear rope scaling by {factor} together with rope_freqs.weight"))
            }
            (_, Some(factor), _, Some(_)) => {
                unsupported(format!("rope scaling by {factor} together with rope_factors_long.weight"))
            }
            (_, _, _, Some(_)) => unsupported(format!("rope type {kind:?} together with rope_factors_long.weight")),
            ("longrope", ..) => Err(FormatError::missing(
                keys.file,
                "tensor rope_factors_long.weight",
                "convert the model again with a current llama.cpp",
            )),
            _ => unsupported(format!("rope type {kind:?}")),
        }
    }

    /// As llama.cpp takes it: the file says the attention factor.
    fn longrope_from_gguf(keys: &Keys, (short, long): (Vec<f32>, Vec<f32>)) -> Result<Self> {
        Ok(Self::LongRope {
            short,
            long,
            attention_factor: keys.f64("rope.scaling.attn_factor")?.unwrap_or(1.0),
            original_max_position_embeddings: original_context(keys)?,
        })
    }

    /// As llama.cpp takes it: the attention factor follows from the stretch.
    fn yarn_from_gguf(keys: &Keys, factor: Option<f64>) -> Result<Self> {
        for (key, neutral) in [("ext_factor", 1.0), ("attn_factor", 1.0), ("log_multiplier", 0.0)] {
            keys.neutral(&format!("rope.scaling.yarn_{key}"), neutral)?;
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
        Ok(Self::Yarn {
            factor,
            attention_factor: mscale_of(factor, 1.0),
            beta_fast: optional("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: optional("rope.scaling.yarn_beta_slow", 1.0)?,
            truncate: true,
            original_max_position_embeddings: original_context(keys)?,
        })
    }
}

/// The context length before stretching in a GGUF file.
fn original_context(keys: &Keys) -> Result<usize> {
    match keys.usize("rope.scaling.original_context_length")? {
        Some(n) => Ok(n),
        None => keys.required("context_length"),
    }
}

/// YaRN's attention factor for a stretch of the context.
fn mscale_of(factor: f32, mscale: f32) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0 }
}
