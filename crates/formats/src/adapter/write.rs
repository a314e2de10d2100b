//! Writing an adapter so that PEFT reads it, complete or not at all.

#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use ::safetensors::tensor::{Dtype, TensorView};

use super::{Adapter, CONFIG_FILE, GENERATION_FILE, PREFIX, WEIGHTS_FILE, config};
use crate::{FormatError, Result};

impl Adapter {
    /// Contents of `adapter_config.json`.
    pub fn config_json(&self) -> String {
        config::write(&self.config)
    }

    /// Contents of `adapter_model.safetensors`: every tensor in f32.
    ///
    /// # Errors
    /// Where a value is not finite, or the factors do not fit their ranks.
    pub fn weights(&self) -> Result<Vec<u8>> {
        if let Some(what) = self.not_finite() {
            return Err(FormatError::malformed("adapter", format!("is not written: {what}")));
        }
        let mut tensors = Vec::new();
        for pair in &self.pairs {
            if let Some(misfit) = pair.misfit() {
                return Err(FormatError::malformed(
                    "adapter",
                    format!("is not written: {misfit}; report this mistake"),
                ));
            }
            let module = self.config.peft_name(&pair.module);
            for (name, shape, values) in pair.tensors() {
                tensors.push((format!("{PREFIX}{module}.{name}"), shape, to_bytes(values)));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, shape, data)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data)?)))
            .collect::<std::result::Result<Vec<_>, ::safetensors::SafeTensorError>>();
        // PyTorch's readers look for this entry.
        let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
        views
            .and_then(|views| ::safetensors::serialize(views, Some(metadata)))
            .map_err(|e| FormatError::malformed("adapter", format!("cannot be written: {e}")))
    }

    /// Name and contents of every file of an adapter's folder, the configuration last.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = vec![(WEIGHTS_FILE, self.weights()?)];
        if !self.config.end_token_ids.is_empty() {
            let json = serde_json::json!({ "eos_token_id": self.config.end_token_ids });
            files.push((GENERATION_FILE, format!("{json:#}\n").into_bytes()));
        }
        files.push((CONFIG_FILE, self.config_json().into_bytes()));
        Ok(files)
    }

    /// Writes [`Self::files`], flushed to disk.
    ///
    /// A new folder appears complete or not at all. In a folder that exists (a training run's own
    /// output) each file is replaced whole, the weights first.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, dir: &Path) -> Result<()> {
        let files = self.files()?;
        let write = |folder: &Path| {
            files.iter().try_for_each(|(name, bytes)| crate::write_atomic(&folder.join(name), |w| w.write_all(bytes)))
        };
        if dir.exists() { write(dir) } else { crate::files::new_folder(dir, write) }
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
