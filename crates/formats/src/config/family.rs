//! The list of decoder families. A family is a file and a line here; dispatch and every message
//! that names what is supported follow from the list.

use serde_json::{Map, Value};

use super::{Gate, ModelConfig};
use crate::Result;
use crate::error::listed;
use crate::gguf::Keys;
use crate::json::Object;

/// How a family writes its models down, and what it has of its own.
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// `model_type` of a model that sees, too, and has one of the family inside.
    pub inside: Option<&'static str>,
    /// transformers' class of its language models, as `config.json` names it.
    pub class: &'static str,
    /// `general.architecture` in GGUF files, where llama.cpp has one for the family.
    pub gguf: Option<&'static str>,
    /// Whether llama.cpp's converter pairs the rows of q and k that rotate together.
    pub interleaved: bool,
    /// What transformers takes for other sizes where they are absent, by their keys; those that are
    /// not here must be there.
    pub default_sizes: &'static [(&'static str, usize)],
    /// What transformers takes for `max_position_embeddings` where it is absent.
    pub default_context: usize,
    /// What transformers takes for `original_max_position_embeddings` where it is absent; the
    /// context for `None`.
    pub default_original_context: Option<usize>,
    /// Other names that the family has for types of rope.
    pub rope_aliases: &'static [(&'static str, &'static str)],
    /// What transformers takes for `head_dim` where it is absent; hidden_size / num_attention_heads
    /// for `None`.
    pub default_head_dim: Option<usize>,
    /// Whether an absent `num_key_value_heads` means one for each query head.
    pub default_kv_heads: bool,
    /// The key of `config.json` that names the function of the feed-forward gate, and what it is
    /// where it is absent.
    pub gate: (&'static str, Gate),
    /// Keys of `config.json` and of GGUF metadata that change what is computed and that the
    /// family's readers obey; of others see [`super::json`] and [`super::metadata`].
    pub obeys: &'static [&'static str],
    /// Reads what is the family's own from `config.json`, after what all have.
    pub json: fn(&Object, &mut ModelConfig) -> Result<()>,
    /// Reads what is the family's own from GGUF metadata, after what all have.
    pub metadata: fn(&Keys, &mut ModelConfig) -> Result<()>,
    /// Says what is the family's own in `config.json`, beside what all have.
    pub write_json: fn(&ModelConfig, &mut Map<String, Value>),
}

impl Family {
    /// What most families have, for a family to say what differs.
    pub const COMMON: Self = Self {
        name: "",
        class: "",
        inside: None,
        gguf: None,
        interleaved: false,
        default_sizes: &[],
        default_context: 32_768,
        default_original_context: None,
        rope_aliases: &[],
        default_head_dim: None,
        default_kv_heads: false,
        gate: ("hidden_act", Gate::Silu),
        obeys: &[],
        json: |_, _| Ok(()),
        metadata: |_, _| Ok(()),
        write_json: |_, _| {},
    };
}

/// Declares the families: a variant, its file, what it is.
macro_rules! families {
    ($($variant:ident, $file:ident, $about:literal;)*) => {
        /// A decoder family; what differs between them is spelled out in [`ModelConfig`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Architecture {
            $(#[doc = $about] $variant,)*
        }

        impl Architecture {
            /// Every family.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub(crate) const fn family(self) -> &'static Family {
                match self {
                    $(Self::$variant => &super::$file::FAMILY,)*
                }
            }
        }
    };
}

families! {
    Llama, llama, "Llama 2/3, SmolLM2, TinyLlama.";
    Mistral, mistral, "Mistral, with a sliding window or without.";
    Qwen2, qwen2, "Qwen2 and Qwen2.5: biases on q, k and v.";
    Qwen3, qwen3, "Qwen3: RMS norms on the q and k heads.";
    SmolLM3, smollm3, "SmolLM3: every fourth layer without rope.";
    Olmo2, olmo2, "OLMo 2: norms behind the branches, and of all heads together.";
    Granite, granite, "Granite 3, dense: multipliers of embedding, scores, branches and logits.";
    Phi3, phi3, "Phi-3, Phi-3.5 and Phi-4-mini: q, k and v in one module, gate and up in another.";
    Gemma2, gemma2, "Gemma 2: windows in every other layer, four norms a block, soft caps.";
    Gemma3, gemma3, "Gemma 3, text alone: windows, four norms a block, a rope for each kind of layer.";
}

impl Architecture {
    /// The `model_type` of `config.json`.
    pub const fn name(self) -> &'static str {
        self.family().name
    }

    /// The `general.architecture` of its GGUF files; Mistral's are of Llama's.
    pub(crate) const fn gguf_name(self) -> &'static str {
        match self.family().gguf {
            Some(name) => name,
            None => "llama",
        }
    }

    /// Whose `model_type` this is, be it of a model that has one of the family inside.
    pub(super) fn of_model_type(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.family().name == name || a.family().inside == Some(name))
    }

    /// Whose `general.architecture` this is.
    pub(super) fn of_gguf(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.family().gguf == Some(name))
    }

    /// `supported model types are …`, behind why the one of this name is not.
    pub(super) fn supported(instead_of: &str) -> String {
        let names = Self::ALL.iter().flat_map(|a| [Some(a.family().name), a.family().inside]).flatten();
        format!("{}supported model types are {}", reason(instead_of), listed(names))
    }

    /// `supported GGUF architectures are …`, behind why the one of this name is not.
    pub(super) fn supported_in_gguf(instead_of: &str) -> String {
        let names = Self::ALL.iter().filter_map(|a| a.family().gguf);
        format!("{}supported GGUF architectures are {}", reason(instead_of), listed(names))
    }
}

/// Why a family that people have is not in the list, by its name in either kind of file; nothing
/// where the name is not known.
fn reason(name: &str) -> &'static str {
    const DELTA: &[&str] = &["qwen3_next", "qwen3next", "qwen3_5", "qwen35"];
    const EXPERTS: &[&str] = &["mixtral", "gpt_oss", "gpt-oss", "deepseek_v2", "deepseek_v3", "deepseek2", "llama4"];
    const EMBEDDINGS: &[&str] = &["gemma3n", "gemma4"];
    let any = |names: &[&str]| names.iter().any(|known| name.starts_with(known));
    if any(DELTA) {
        "the gated delta nets of its layers are not implemented; "
    } else if any(EXPERTS) || name.contains("moe") {
        "mixtures of experts are not implemented; "
    } else if any(EMBEDDINGS) {
        "the embeddings that its layers have of their own are not implemented; "
    } else {
        ""
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
