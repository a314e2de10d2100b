//! Writing GGUF, version 3: metadata and the directory of tensors; the numbers come behind.

use super::DEFAULT_ALIGNMENT;
use super::value::ids;

/// Metadata on its way to a file: keys, and type numbers and values as they will lie there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata(pub Vec<(String, Vec<u8>)>);

/// An entry of the directory of tensors that are to be written.
pub(crate) struct Listed<'a> {
    pub name: &'a str,
    /// Row-major, the reverse of GGUF's own order.
    pub shape: &'a [usize],
    pub type_id: u32,
    pub byte_len: u64,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Metadata {
    /// Sets a key, in its place where it is there.
    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    fn typed(&mut self, key: &str, id: u32, value: &[u8]) {
        self.set(key, [&id.to_le_bytes(), value].concat());
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.typed(key, ids::U32, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.typed(key, ids::F32, &value.to_le_bytes());
    }

    pub fn string(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.typed(key, ids::STRING, &bytes);
    }

    /// The whole header, up to where the first tensor's numbers begin. Each tensor's begin at the
    /// next multiple of [`DEFAULT_ALIGNMENT`] behind those of the one before.
    pub fn header(&self, tensors: &[Listed]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((self.0.len() as u64).to_le_bytes());
        for (key, value) in &self.0 {
            text(&mut bytes, key);
            bytes.extend(value);
        }
        let mut offset = 0u64;
        for tensor in tensors {
            text(&mut bytes, tensor.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| bytes.extend((*size as u64).to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + tensor.byte_len).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        bytes
    }

    /// Zeros behind so many bytes of a tensor.
    pub fn padding(byte_len: u64) -> &'static [u8] {
        const ZEROS: [u8; DEFAULT_ALIGNMENT as usize] = [0; DEFAULT_ALIGNMENT as usize];
        &ZEROS[..(byte_len.next_multiple_of(DEFAULT_ALIGNMENT) - byte_len) as usize]
    }
}
