//! Opening what the flags name: models, adapters, devices; and saying what was opened.

use std::path::Path;

use bft_core::device::{Device, DeviceRequest};
use bft_formats::{Adapter, Model};

use crate::error::CliError;
use crate::suggest::nearest_path;
use crate::ui;

/// Checks that a flag's file or folder is there; if not, names the nearest that is.
pub fn existing<'p>(flag: &str, path: &'p Path) -> Result<&'p Path, CliError> {
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => {
            let guess = nearest_path(path)
                .map(|near| format!("; did you mean {}?", near.display()))
                .unwrap_or_default();
            Err(CliError::failed(format!(
                "{flag} {}: no such file or folder{guess}",
                path.display()
            )))
        }
        Err(error) => Err(CliError::failed(format!(
            "{flag} {}: cannot be looked at: {error}",
            path.display()
        ))),
    }
}

/// Opens the model of `--model`.
pub fn model(path: &Path) -> Result<Model, CliError> {
    Model::open(existing("--model", path)?).map_err(CliError::failed)
}

/// Opens the adapter of `--adapter`, if there is one, and checks it against the model.
pub fn adapter(path: Option<&Path>, model: &Model) -> Result<Option<Adapter>, CliError> {
    path.map(|path| {
        Adapter::load(existing("--adapter", path)?, &model.config).map_err(CliError::failed)
    })
    .transpose()
}

/// Opens the device of `--device` and says which it is and why.
pub fn device(request: &DeviceRequest) -> Result<Device, CliError> {
    let device = pollster::block_on(Device::open(request)).map_err(CliError::failed)?;
    ui::note(&format!(
        "{}device: {}{}",
        ui::DIM,
        describe(&device),
        ui::DIM.render_reset()
    ));
    Ok(device)
}

/// The device in words: kind, name, backend and why it was taken.
pub fn describe(device: &Device) -> String {
    let info = device.info();
    if device.is_gpu() {
        format!("gpu, {} ({}): {}", info.name, info.backend, info.reason)
    } else {
        format!("cpu, {}: {}", info.backend, info.reason)
    }
}
