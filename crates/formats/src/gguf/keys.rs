//! GGUF metadata of a model's own architecture.

use super::{Header, Value};
use crate::{FormatError, Pooling, Result, SentenceSteps};

/// The metadata of a GGUF file's architecture: keys below its prefix.
pub(crate) struct Keys<'a> {
    pub file: &'a str,
    pub header: &'a Header,
    pub prefix: &'a str,
}

impl Keys<'_> {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.get(&format!("{}.{key}", self.prefix))
    }

    pub fn wrong(&self, key: &str, value: &Value, expected: &str) -> FormatError {
        FormatError::malformed(self.file, format!("{}.{key} is {value}, expected {expected}", self.prefix))
    }

    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, v, "a number")))
            .transpose()
    }

    /// A whole number, or a list of one number repeated, as files with per-layer settings write it.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let single = match value.as_scalars() {
            None => value.as_u64(),
            Some(list) => {
                let mut items = list.iter();
                let first = items.next();
                if items.any(|item| Some(item) != first) {
                    return Err(FormatError::unsupported(
                        self.file,
                        format!("{}.{key} that differs from layer to layer", self.prefix),
                        "layers must be alike",
                    ));
                }
                first.and_then(|v| v.as_u64())
            }
        };
        match single.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, value, "a whole number, zero or more")),
        }
    }

    pub fn required(&self, key: &str) -> Result<usize> {
        self.usize(key)?.ok_or_else(|| {
            FormatError::missing(
                self.file,
                format!("metadata {}.{key}", self.prefix),
                "convert the model again with a current llama.cpp",
            )
        })
    }

    /// Refuses a number at which something else would be computed than at its `neutral` value.
    pub fn neutral(&self, key: &str, neutral: f64) -> Result<()> {
        match self.f64(key)?.filter(|&value| value != neutral) {
            None => Ok(()),
            Some(value) => {
                let what = format!("{}.{key} {value}", self.prefix);
                Err(FormatError::unsupported(self.file, what, "a model without it is needed"))
            }
        }
    }

    /// Tokens of a sliding attention window, where there is one.
    pub fn window(&self) -> Result<Option<usize>> {
        Ok(self.usize("attention.sliding_window")?.filter(|&window| window > 0))
    }
}

/// How vectors are made, where the metadata says that the model was made for it.
pub(crate) fn sentence(file: &str, header: &Header) -> Result<Option<SentenceSteps>> {
    let prefix = header.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let keys = Keys { file, header, prefix };
    let pooling = match keys.usize("pooling_type")? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(3) => Pooling::Last,
        Some(other) => {
            let name = ["", "", " (the first token)", "", " (a ranking head)"].get(other).copied().unwrap_or_default();
            return Err(FormatError::unsupported(
                file,
                format!("{prefix}.pooling_type {other}{name}"),
                "1 (mean) and 3 (last token) are; name another --pooling",
            ));
        }
    };
    Ok(Some(SentenceSteps { pooling, source: format!("{prefix}.pooling_type"), ..SentenceSteps::default() }))
}
