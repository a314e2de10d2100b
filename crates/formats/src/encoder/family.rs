//! The list of encoder families. A family is its readers and a line here; dispatch, tensor names
//! and every message that names what is supported follow from the list.

use super::EncoderConfig;
use crate::error::listed;
use crate::json::Object;
use crate::{FormatError, Result};

/// How a family writes its encoders down.
pub(super) struct Family {
    /// `model_type`s of `config.json`.
    pub model_types: &'static [&'static str],
    /// What stands before the names of tensors where a head of some task stands beside the encoder.
    pub prefixes: &'static [&'static str],
    /// Reads `config.json`.
    pub json: fn(&Object, EncoderFamily) -> Result<EncoderConfig>,
    pub names: Names,
}

/// A tensor's name within a block, and which of so many equal runs of its rows.
pub(super) type Place = (&'static str, usize, usize);

/// Names of tensors.
pub(super) struct Names {
    pub words: &'static str,
    pub embedding_norm: &'static str,
    /// Before a block's number.
    pub block: &'static str,
    pub query: Place,
    pub key: Place,
    pub value: Place,
    pub output: Place,
    /// Only where the feed-forward branch has a gate.
    pub gate: Place,
    pub up: Place,
    pub down: Place,
    /// The norms behind the attention and the feed-forward branch of a block of so many.
    pub norms: fn(usize, usize) -> [String; 2],
}

/// Declares the families: a variant, where it is read, what it is.
macro_rules! families {
    ($($variant:ident, $file:ident::$spec:ident, $about:literal;)*) => {
        /// An encoder family; what differs between them is spelled out in [`EncoderConfig`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EncoderFamily {
            $(#[doc = $about] $variant,)*
        }

        impl EncoderFamily {
            /// Every family.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub(super) const fn spec(self) -> &'static Family {
                match self {
                    $(Self::$variant => &super::$file::$spec,)*
                }
            }
        }
    };
}

families! {
    Bert, bert::BERT, "BERT: MiniLM, BGE, PubMedBERT and their like.";
    Roberta, bert::ROBERTA, "RoBERTa and XLM-RoBERTa: all-distilroberta, multilingual E5.";
    ModernBert, modernbert::FAMILY, "ModernBERT: rope, windows in most blocks, gated feed-forward branches.";
    NomicBert, nomic::FAMILY, "Nomic BERT: rope, gated feed-forward branches.";
}

impl EncoderFamily {
    /// The family's first `model_type`, for messages.
    pub const fn name(self) -> &'static str {
        self.spec().model_types[0]
    }

    /// Whose `model_type` this is.
    pub(crate) fn of_model_type(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.spec().model_types.contains(&name))
    }

    /// The family of a `config.json`.
    pub(super) fn of(o: &Object) -> Result<Self> {
        let model_type = o.required("model_type", o.str("model_type")?)?;
        Self::of_model_type(model_type).ok_or_else(|| {
            let all = Self::ALL.iter().flat_map(|family| family.spec().model_types).copied();
            let advice = format!("the sentence encoders that are implemented have the model types {}", listed(all));
            FormatError::unsupported(o.file, format!("model type {model_type:?}"), advice)
        })
    }
}
