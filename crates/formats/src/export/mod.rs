//! Taking a tuned model to other programs: a base with its adapter worked in, as a folder that
//! transformers loads or as a GGUF file; the adapter alone in GGUF; a Modelfile.
//!
//! What is written is described first ([`File`]) and made as it is written, some rows at a time, so
//! that no more than a part of one tensor is in memory, and a page can write as a command line does.

mod folder;
mod gguf_adapter;
mod gguf_model;
mod merge;
mod modelfile;
mod outgoing;

use std::io::{self, Write};

pub use folder::{Beside, merged_files};
#[cfg(not(target_arch = "wasm32"))]
pub use folder::{check_free, files_beside, save_files};
pub use gguf_adapter::gguf_adapter;
pub use gguf_model::gguf_model;
pub use modelfile::{Modelfile, modelfile};
use outgoing::Outgoing;

use crate::gguf::{Listed, Metadata};

/// A file that is made as it is written.
pub struct File<'a> {
    /// Its name in its folder.
    pub name: String,
    content: Content<'a>,
}

enum Content<'a> {
    Bytes(Vec<u8>),
    Safetensors(Vec<Outgoing<'a>>),
    Gguf(Metadata, Vec<Outgoing<'a>>),
}

impl File<'_> {
    /// Writes the whole file, in pieces.
    ///
    /// # Errors
    /// Where `out` takes no more, or a number has no place in the format that it is to be written
    /// in; this is a [`crate::FormatError`] inside.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.content {
            Content::Bytes(bytes) => out.write_all(bytes),
            Content::Safetensors(tensors) => folder::write_safetensors(tensors, out),
            Content::Gguf(metadata, tensors) => write_gguf(metadata, tensors, out),
        }
    }
}

fn write_gguf(metadata: &Metadata, tensors: &[Outgoing], out: &mut dyn Write) -> io::Result<()> {
    let listed = tensors.iter().map(|tensor| Listed {
        name: &tensor.name,
        shape: &tensor.shape,
        type_id: tensor.dtype.spec().ggml_id,
        byte_len: tensor.byte_len(),
    });
    out.write_all(&metadata.header(&listed.collect::<Vec<_>>()))?;
    tensors.iter().try_for_each(|tensor| {
        tensor.write(out)?;
        out.write_all(Metadata::padding(tensor.byte_len()))
    })
}
