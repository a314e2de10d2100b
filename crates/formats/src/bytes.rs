//! A cheaply clonable view of bytes that are either a memory map or an owned buffer.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

enum Owner {
    Buffer(Vec<u8>),
    #[cfg(not(target_arch = "wasm32"))]
    Map(Arc<crate::mapped::Mapped>),
}

impl Owner {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            #[cfg(not(target_arch = "wasm32"))]
            Self::Map(mapped) => &mapped.map,
        }
    }
}

/// A range of a memory map or of an owned buffer; cloning and slicing share the bytes.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// Maps a file into memory; an empty file gives empty bytes.
    ///
    /// The file must not be changed while the map lives; [`crate::check_maps`] tells whether it was.
    /// Where it is shortened, the operating system ends the process when the missing part is read,
    /// and [`crate::explain_bus_errors`] has it say so. Files are replaced by rename, never in place,
    /// by everything that writes through [`crate::write_atomic`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn map(path: &std::path::Path) -> crate::Result<Self> {
        use crate::FormatError;
        // Before opening: to open a pipe is to wait for someone to write to it.
        let metadata = std::fs::metadata(path).map_err(|e| FormatError::io("open", path, e))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
            return Err(FormatError::malformed(
                path.display().to_string(),
                format!("is {what} where a file was expected"),
            ));
        }
        let Some(mapped) = crate::mapped::Mapped::open(path)? else { return Ok(Self::from(Vec::new())) };
        let range = 0..mapped.map.len();
        Ok(Self { owner: Arc::new(Owner::Map(mapped)), range })
    }

    /// The bytes `range` of this view, sharing the owner; `None` when out of range.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start..start + range.len() })
    }

    /// Tells the system that these bytes of a map are not needed soon, so that they count as memory
    /// in use no longer. Read again, they come from the file again.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Owner::Map(mapped) = &*self.owner {
            let map = &mapped.map;
            // Pages at the ends may hold bytes of neighbours that are in use.
            let start = self.range.start.next_multiple_of(PAGE);
            let Some(length) = (self.range.end / PAGE * PAGE).checked_sub(start) else { return };
            // SAFETY: the map is of a file, shared and never written to: pages that are dropped come
            // back from the file with the same bytes.
            let dropped = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length) };
            // A system that reads a neighbour's page maps others around it, as far as advice is the
            // same: advice that differs keeps these out.
            let apart = map.advise_range(memmap2::Advice::Random, start, length);
            // Where the system does not listen, it drops pages by itself when memory is short.
            drop((dropped, apart));
        }
    }
}

/// Bytes that are whole pages on nearly every system: 4 KiB are usual, Apple has 16.
#[cfg(unix)]
const PAGE: usize = 16 << 10;

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.as_slice()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(buffer: Vec<u8>) -> Self {
        let range = 0..buffer.len();
        Self { owner: Arc::new(Owner::Buffer(buffer)), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match *self.owner {
            Owner::Buffer(_) => "buffer",
            #[cfg(not(target_arch = "wasm32"))]
            Owner::Map(_) => "map",
        };
        write!(f, "Bytes({} bytes of a {owner})", self.range.len())
    }
}
