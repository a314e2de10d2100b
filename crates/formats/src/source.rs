//! Where the bytes of weights are: in memory, or somewhere that gives them out a range at a time.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::{Bytes, FormatError, Result};

/// Something of known length that reads any range of itself: a file that a page was given, a file
/// in its storage.
pub trait ReadAt: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Where the range is not there (any more), or whatever holds it refuses.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

#[derive(Clone)]
enum Place {
    Memory(Bytes),
    Ranges { reader: Arc<dyn ReadAt>, range: Range<u64> },
}

/// A range of bytes that need not be in memory. Cloning and slicing read nothing.
#[derive(Clone)]
pub struct Source(Place);

impl Source {
    /// All of what `reader` gives out.
    pub fn ranges(reader: Arc<dyn ReadAt>) -> Self {
        let range = 0..reader.len();
        Self(Place::Ranges { reader, range })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::Ranges { range, .. } => range.end - range.start,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes `range` of this source; `None` when out of range.
    pub fn slice(&self, range: Range<u64>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        Some(Self(match &self.0 {
            Place::Memory(bytes) => Place::Memory(bytes.slice(range.start as usize..range.end as usize)?),
            Place::Ranges { reader, range: own } => {
                Place::Ranges { reader: Arc::clone(reader), range: own.start + range.start..own.start + range.end }
            }
        }))
    }

    /// All bytes: shared where they are in memory, else read. `what` names them in messages.
    pub fn bytes(&self, what: &str) -> Result<Bytes> {
        match &self.0 {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::Ranges { reader, range } => {
                let fail = |problem: String| FormatError::malformed(what, format!("cannot be read: {problem}"));
                let length = usize::try_from(range.end - range.start)
                    .map_err(|_| fail("it is larger than this machine's memory".to_string()))?;
                let mut bytes = Vec::new();
                bytes
                    .try_reserve_exact(length)
                    .map_err(|_| fail(format!("there is no memory for its {length} bytes")))?;
                bytes.resize(length, 0);
                reader.read_at(range.start, &mut bytes).map_err(|e| fail(e.to_string()))?;
                Ok(Bytes::from(bytes))
            }
        }
    }

    /// The first bytes, at most `count`.
    pub(crate) fn head(&self, count: u64, what: &str) -> Result<Bytes> {
        match self.slice(0..count.min(self.len())) {
            Some(head) => head.bytes(what),
            None => self.bytes(what),
        }
    }

    /// Lower-case hexadecimal SHA-256, read a piece at a time.
    pub(crate) fn sha256(&self, what: &str) -> Result<String> {
        if let Place::Memory(bytes) = &self.0 {
            return Ok(crate::sha256_bytes(bytes));
        }
        let mut hasher = crate::Sha256::default();
        let mut at = 0;
        while at < self.len() {
            let end = self.len().min(at + PIECE);
            if let Some(piece) = self.slice(at..end) {
                hasher.update(&piece.bytes(what)?);
            }
            at = end;
        }
        Ok(hasher.finish())
    }
}

/// Bytes read at once where all have to be seen.
const PIECE: u64 = 4 << 20;

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self(Place::Memory(bytes))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Memory(bytes) => bytes.fmt(f),
            Place::Ranges { range, .. } => write!(f, "Source({range:?})"),
        }
    }
}
