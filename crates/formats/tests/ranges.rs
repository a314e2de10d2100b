//! Models whose files give out ranges, as a page's do: the same tensors, and weights only read when
//! they are asked for.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bft_formats::{Architecture, Bytes, Model, ReadAt, Source};
use common::*;

/// Counts what is read, and can lose its file.
struct File {
    bytes: Bytes,
    read: AtomicU64,
    there: u64,
}

impl ReadAt for File {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
        let start = offset as usize;
        let end = start + into.len();
        if end as u64 > self.there {
            return Err(io::Error::other("the file was removed"));
        }
        into.copy_from_slice(&self.bytes[start..end]);
        Ok(())
    }
}

fn file(bytes: Bytes) -> Arc<File> {
    let there = bytes.len() as u64;
    let read = AtomicU64::new(0);
    Arc::new(File { bytes, read, there })
}

#[test]
fn a_gguf_file_in_ranges_is_the_one_in_memory() {
    let whole = tiny_gguf("llama").bytes();
    let file = file(whole.clone());
    let ranged = Model::from_gguf("m", Source::ranges(file.clone())).unwrap();
    let model = Model::from_gguf("m", whole).unwrap();
    assert_eq!(ranged.tensors.len(), model.tensors.len());
    for (name, tensor) in &model.tensors {
        let other = &ranged.tensors[name];
        assert_eq!(*other.bytes().unwrap(), *tensor.bytes().unwrap(), "{name}");
        let (last, row) = (tensor.rows() - 1, tensor.byte_len() / tensor.rows());
        let rows = other.read_rows(last..last + 1).unwrap();
        assert_eq!(*rows, tensor.bytes().unwrap()[last * row..], "{name}");
    }
    assert_eq!(ranged.sha256().unwrap(), model.sha256().unwrap());
}

#[test]
fn opening_safetensors_reads_no_weights() {
    let mut folder = tiny_folder(Architecture::Llama);
    let weights = folder.remove("model.safetensors").unwrap();
    let whole = weights.len() as u64;
    let file = file(weights);
    let mut files: std::collections::BTreeMap<String, Source> =
        folder.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    files.insert("model.safetensors".into(), Source::ranges(file.clone()));
    let model = Model::from_folder("m", files).unwrap();
    let data: usize = model.tensors.values().map(|t| t.byte_len()).sum();
    let read = file.read.load(Ordering::Relaxed);
    assert!(read <= whole - data as u64 + 8, "{read} bytes of {whole}");
    let expected = Model::from_folder("m", tiny_folder(Architecture::Llama)).unwrap();
    for (name, tensor) in &expected.tensors {
        assert_eq!(model.tensors[name].to_f32().unwrap(), tensor.to_f32().unwrap(), "{name}");
    }
}

#[test]
fn a_file_that_goes_away_is_an_error_that_names_the_tensor() {
    let bytes = tiny_gguf("llama").bytes();
    let there = bytes.len() as u64 - 1;
    let read = AtomicU64::new(0);
    let file = Arc::new(File { bytes, read, there });
    // The header fits into what is read first, so a small file is read whole.
    let opened = Model::from_gguf("m", Source::ranges(file));
    assert!(message(opened).contains("the file was removed"));
}

#[test]
fn a_known_digest_is_not_computed_again() {
    let file = file(tiny_gguf("llama").bytes());
    let model = Model::from_gguf("m", Source::ranges(file.clone())).unwrap();
    let read = file.read.load(Ordering::Relaxed);
    model.set_sha256("abc".into());
    assert_eq!(model.sha256().unwrap(), "abc");
    assert_eq!(file.read.load(Ordering::Relaxed), read);
}
