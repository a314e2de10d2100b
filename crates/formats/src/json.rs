//! Reading a JSON object whose keys may be absent, null, or of the wrong type.

use serde_json::{Map, Value};

use crate::{FormatError, Result};

/// A JSON object and the name it goes by in messages.
pub(crate) struct Object<'a> {
    pub file: &'a str,
    pub map: &'a Map<String, Value>,
}

/// Parses a file that must hold one JSON object.
pub(crate) fn parse_object(file: &str, json: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(FormatError::malformed(file, format!("holds {}, expected a JSON object", kind(&other)))),
        Err(e) => Err(FormatError::malformed(file, format!("is not valid JSON: {e}"))),
    }
}

/// What a value is, for messages: short values verbatim, long ones by type.
pub(crate) fn kind(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 {
        return text;
    }
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_string(),
        _ => "a long string".to_string(),
    }
}

/// The shortest decimal that reads back as this `f32`: 0.1, not 0.10000000149.
pub(crate) fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or_else(|_| value.into(), Value::from)
}

impl<'a> Object<'a> {
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, map }
    }

    /// The value of a key; absent and null are the same.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                FormatError::malformed(self.file, format!("{key} is {}, expected {expected}", kind(value)))
            }),
        }
    }

    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number, zero or more", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|n| n.is_finite()))
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let file = self.file;
        self.typed(key, "an object", Value::as_object).map(|m| m.map(|map| Object { file, map }))
    }

    /// A value that must be there.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            FormatError::missing(self.file, key, "the file is incomplete; get the model's own copy again")
        })
    }
}
