//! What a browser does otherwise: the op registry under its shader compiler, and chat templates
//! without a system's clock.

use bft_core::device::{Device, DeviceRequest};
use bft_core::ops::OPS;
use wasm_bindgen::prelude::*;

/// Names of all ops.
#[wasm_bindgen]
pub fn ops() -> Vec<String> {
    OPS.iter().map(|op| op.name.to_owned()).collect()
}

/// Compares every case of an op with the CPU; the number of comparisons.
///
/// # Errors
/// The first difference, in words.
#[wasm_bindgen]
pub async fn compare(name: String) -> Result<usize, JsValue> {
    let op = OPS.iter().find(|op| op.name == name);
    let op = op.ok_or_else(|| JsValue::from(format!("no op {name}")))?;
    let gpu = Device::open(&DeviceRequest::Gpu(None)).await.map_err(|error| error.to_string())?;
    Ok(bft_tests::ops::gpu_difference(op, &gpu).await?)
}

/// Compares public chat templates with transformers, from the text of a `templates.json`; a table
/// of what agrees.
///
/// # Errors
/// The differences, a line each, or what is wrong with the file.
#[wasm_bindgen]
pub fn templates(json: &str) -> Result<String, JsValue> {
    let report = bft_tests::templates::compare(json)?;
    if report.unknown.is_empty() { Ok(report.table) } else { Err(report.unknown.join("\n").into()) }
}

/// The date that chat templates see.
///
/// # Errors
/// Where there is no clock.
#[wasm_bindgen]
pub fn today() -> Result<String, JsValue> {
    Ok(bft_tests::templates::today()?)
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
}
