//! Weights in a `Blob`: a file that was dropped on the page, or one of its storage.

use std::io;
use std::sync::Arc;

use bft_formats::{ReadAt, Source};
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use web_sys::{Blob, FileReaderSync};

struct BlobFile {
    blob: Blob,
    reader: FileReaderSync,
}

// SAFETY: this module is built without threads, and so is all that it runs in: nothing is ever sent
// or shared.
unsafe impl Send for BlobFile {}
// SAFETY: as above.
unsafe impl Sync for BlobFile {}

/// A blob as something that gives out ranges. Only workers may read as it does.
pub fn source(blob: Blob) -> Result<Source, JsValue> {
    let reader = FileReaderSync::new()?;
    Ok(Source::ranges(Arc::new(BlobFile { blob, reader })))
}

impl ReadAt for BlobFile {
    fn len(&self) -> u64 {
        self.blob.size() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let refused = |_| io::Error::other("it was changed, moved or removed; open it again");
        let (start, end) = (offset as f64, (offset + into.len() as u64) as f64);
        let part = self.blob.slice_with_f64_and_f64(start, end).map_err(refused)?;
        let buffer = self.reader.read_as_array_buffer(&part).map_err(refused)?;
        let bytes = Uint8Array::new(&buffer);
        if bytes.length() as usize != into.len() {
            return Err(refused(JsValue::NULL));
        }
        bytes.copy_to(into);
        Ok(())
    }
}
