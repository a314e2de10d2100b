//! GGUF's typed metadata values and the reader they come from.

use std::fmt;

use super::{HeaderError, invalid};

/// A number format of GGUF metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Type numbers of what is written.
pub(super) mod ids {
    pub const U32: u32 = 4;
    pub const F32: u32 = 6;
    pub const STRING: u32 = super::STRING;
}

impl Scalar {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of exactly `self.bytes()` little-endian bytes.
    fn decode(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let n = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(n),
            Self::I8 => Value::Signed(i64::from(n as i8)),
            Self::I16 => Value::Signed(i64::from(n as i16)),
            Self::I32 => Value::Signed(i64::from(n as i32)),
            Self::I64 => Value::Signed(n as i64),
            Self::F32 => Value::Float(f64::from(f32::from_bits(n as u32))),
            Self::F64 => Value::Float(f64::from_bits(n)),
            Self::Bool => Value::Bool(n != 0),
        }
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// A list of one type.
    Array(Array),
}

/// A list of strings, or of numbers kept as they lie in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// A list of strings.
    Strings(Vec<String>),
    /// A list of numbers or truth values.
    Scalars(Scalars),
}

/// Numbers of one format, decoded when they are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalars {
    format: Scalar,
    bytes: Vec<u8>,
}

impl Scalars {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.format.bytes()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements as values.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.format.bytes()).map(|chunk| self.format.decode(chunk))
    }
}

impl Value {
    /// A whole number, zero or more, whatever its format.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A number, whatever its format.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// A list of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::Strings(s)) = self { Some(s) } else { None }
    }

    /// A list of numbers.
    pub fn as_scalars(&self) -> Option<&Scalars> {
        if let Self::Array(Array::Scalars(s)) = self { Some(s) } else { None }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::String(s) if s.len() <= 60 => write!(f, "{s:?}"),
            Self::String(s) => write!(f, "a string of {} bytes", s.len()),
            Self::Array(Array::Strings(s)) => write!(f, "a list of {} strings", s.len()),
            Self::Array(Array::Scalars(s)) => write!(f, "a list of {} numbers", s.len()),
        }
    }
}

/// A cursor over the first bytes of a file that says how many more it needs.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// Fails unless `count` items of at least `size` bytes each can still come.
    pub fn expect_room(&self, count: u64, size: u64) -> Result<(), HeaderError> {
        let total = count.saturating_mul(size).saturating_add(self.at as u64);
        if total > self.bytes.len() as u64 {
            return Err(HeaderError::NeedMoreBytes { total });
        }
        Ok(())
    }

    pub fn take(&mut self, count: u64) -> Result<&'a [u8], HeaderError> {
        self.expect_room(count, 1)?;
        // `expect_room` has compared the sum with a slice's length, so it fits a usize.
        let end = self.at + count as usize;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, HeaderError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn u64(&mut self) -> Result<u64, HeaderError> {
        let b = self.take(8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A length-prefixed UTF-8 string; `what` names it in messages.
    pub fn string(&mut self, what: &str) -> Result<String, HeaderError> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => invalid(format!(
                "{what} is not UTF-8 text: {:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
            )),
        }
    }

    /// A type number and the value of that type; `key` names it in messages.
    pub fn value(&mut self, key: &str) -> Result<Value, HeaderError> {
        match self.u32()? {
            STRING => Ok(Value::String(self.string(key)?)),
            ARRAY => self.array(key).map(Value::Array),
            id => match Scalar::from_id(id) {
                Some(format) => Ok(format.decode(self.take(format.bytes() as u64)?)),
                None => invalid(format!("metadata {key} has type {id}, which GGUF does not know")),
            },
        }
    }

    fn array(&mut self, key: &str) -> Result<Array, HeaderError> {
        let id = self.u32()?;
        let count = self.u64()?;
        if id == STRING {
            self.expect_room(count, 8)?;
            let mut strings = Vec::with_capacity(count as usize);
            for _ in 0..count {
                strings.push(self.string(key)?);
            }
            return Ok(Array::Strings(strings));
        }
        match Scalar::from_id(id) {
            Some(format) => {
                self.expect_room(count, format.bytes() as u64)?;
                let bytes = self.take(count * format.bytes() as u64)?.to_vec();
                Ok(Array::Scalars(Scalars { format, bytes }))
            }
            None if id == ARRAY => invalid(format!("metadata {key} is a list of lists, which no supported model has")),
            None => invalid(format!("metadata {key} is a list of type {id}, which GGUF does not know")),
        }
    }
}
