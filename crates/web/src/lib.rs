//! bft in a browser's worker: the engine of the command line behind WebAssembly bindings.
//!
//! | file | is |
//! |---|---|
//! | `session` | what is open: device, model, data, adapter; one method for each of the page's |
//! | `training`, `writing`, `embedding` | its longer methods |
//! | `contract` | what the page and the engine say to each other |
//! | `host` | what the worker does for the engine: events, turns, storage |
//! | `blob` | weights that stay in the browser's storage until they are uploaded |
//! | `failure` | errors as the page shows them |
//! | `settings` | the page's names of settings |
//!
//! Nothing here computes: every number comes from a crate to the left.

mod blob;
mod contract;
mod embedding;
mod failure;
mod host;
mod session;
mod settings;
mod training;
mod vectors;
mod writing;

use wasm_bindgen::prelude::*;

pub use session::Session;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// Says on the console where the engine failed, which WebAssembly itself cannot.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
}

/// SHA-256 of bytes that come in pieces, as a download's do.
#[wasm_bindgen]
#[derive(Default)]
pub struct Sha256(bft_formats::Sha256);

#[wasm_bindgen]
impl Sha256 {
    /// Of nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Lower-case hexadecimal digest.
    pub fn finish(self) -> String {
        self.0.finish()
    }
}
