//! What the worker does for the engine.

use std::rc::Rc;

use bft_core::device::Device;
use bft_train::{Control, NamedFile};
use js_sys::{Array, Uint8Array};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use crate::contract::EngineEvent;
use crate::failure::{Answer, Failure};

#[wasm_bindgen]
extern "C" {
    /// The worker's side.
    #[wasm_bindgen(typescript_type = "Host")]
    pub type Host;

    /// Passes an [`EngineEvent`] on to the page.
    #[wasm_bindgen(method)]
    fn event(this: &Host, event: JsValue);

    /// Resolves when the messages that have come were heard.
    #[wasm_bindgen(method, catch)]
    async fn turn(this: &Host) -> Result<JsValue, JsValue>;

    /// Resolves when a paused run goes on.
    #[wasm_bindgen(method, catch)]
    async fn hold(this: &Host) -> Result<JsValue, JsValue>;

    /// Whether the page asked to stop.
    #[wasm_bindgen(method)]
    fn stopping(this: &Host) -> bool;

    /// Whether the page asked to pause.
    #[wasm_bindgen(method)]
    fn pausing(this: &Host) -> bool;

    /// Begins a file of the checkpoint of a step, and ends the one before it. Fails with a
    /// sentence, as all below.
    #[wasm_bindgen(method, catch)]
    async fn begin_file(this: &Host, step: f64, name: &str) -> Result<JsValue, JsValue>;

    /// Writes to the file that was begun.
    #[wasm_bindgen(method, catch)]
    fn write(this: &Host, bytes: &[u8]) -> Result<(), JsValue>;

    /// All files are written: the checkpoint counts from now on.
    #[wasm_bindgen(method, catch)]
    async fn complete(this: &Host) -> Result<JsValue, JsValue>;
}

#[wasm_bindgen(typescript_custom_section)]
const HOST: &str = "
export interface Host {
  event(event: unknown): void;
  turn(): Promise<void>;
  hold(): Promise<void>;
  stopping(): boolean;
  pausing(): boolean;
  begin_file(step: number, name: string): Promise<void>;
  write(bytes: Uint8Array): void;
  complete(): Promise<void>;
}
";

impl Host {
    /// Tells the page.
    pub fn tell(&self, event: &EngineEvent) {
        self.event(to_js(event));
    }

    /// Keeps a file of a checkpoint; the error is a sentence.
    pub async fn keep(&self, step: u64, (name, bytes): NamedFile) -> Result<(), String> {
        let begun = self.begin_file(step as f64, name).await;
        begun.and_then(|_| self.write(&bytes)).map_err(|e| sentence(&e))
    }

    /// Makes the files that were kept a checkpoint; the error is a sentence.
    pub async fn kept(&self) -> Result<(), String> {
        let complete = self.complete().await;
        complete.map(|_| ()).map_err(|e| sentence(&e))
    }
}

/// `[[name, bytes], …]`
pub fn named_files(files: impl IntoIterator<Item = NamedFile>) -> Array {
    files
        .into_iter()
        .map(|(name, bytes)| {
            let bytes = Uint8Array::from(bytes.as_slice());
            Array::of2(&name.into(), &bytes.into())
        })
        .collect()
}

/// The message of whatever was thrown.
fn sentence(thrown: &JsValue) -> String {
    js_sys::Reflect::get(thrown, &"message".into())
        .ok()
        .and_then(|message| message.as_string())
        .unwrap_or_else(|| format!("{thrown:?}"))
}

/// A value as JavaScript has it; numbers that are not finite become null.
pub fn to_js(value: &impl Serialize) -> JsValue {
    let json = serde_json::to_string(value).unwrap_or_default();
    js_sys::JSON::parse(&json).unwrap_or(JsValue::NULL)
}

/// A plain object as a struct.
pub fn from_js<T: DeserializeOwned>(value: &JsValue) -> Answer<T> {
    let json = js_sys::JSON::stringify(value).ok().and_then(|json| json.as_string()).unwrap_or_default();
    serde_json::from_str(&json).map_err(Failure::input)
}

/// The page's say in work between its steps.
pub struct Turns<'h> {
    pub host: &'h Host,
    /// Waited for between steps, so that the page's wishes are never more than a step old.
    pub device: Rc<Device>,
}

impl Control for Turns<'_> {
    fn stopping(&self) -> bool {
        self.host.stopping()
    }

    fn pausing(&self) -> bool {
        self.host.pausing()
    }

    async fn turn(&self) {
        // Whatever is wrong, the next call to the device says so.
        let _ = self.device.wait().await;
        let _ = self.host.turn().await;
    }

    async fn hold(&self) {
        let _ = self.host.hold().await;
    }
}
