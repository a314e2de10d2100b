//! Paths in JSON: a text, or where a path is no UTF-8, as Unix allows, the list of its bytes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

fn write(path: &Path) -> Written {
    match path.to_str() {
        Some(text) => Written::Text(text.to_owned()),
        None => Written::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
    }
}

fn read<E: serde::de::Error>(written: Written) -> Result<PathBuf, E> {
    match written {
        Written::Text(text) => Ok(text.into()),
        Written::Bytes(bytes) => {
            os_string(bytes).map(PathBuf::from).ok_or_else(|| E::custom("a path of bytes that this system cannot name"))
        }
    }
}

/// A path as it stands in `run.json`, checkpoints and answers.
#[must_use]
pub fn path_to_json(path: &Path) -> serde_json::Value {
    match write(path) {
        Written::Text(text) => text.into(),
        Written::Bytes(bytes) => bytes.into(),
    }
}

/// The name that the system knows by these bytes; `None` where a system's names are no bytes.
#[must_use]
pub fn os_string(bytes: Vec<u8>) -> Option<OsString> {
    #[cfg(unix)]
    return Some(std::os::unix::ffi::OsStringExt::from_vec(bytes));
    #[cfg(not(unix))]
    String::from_utf8(bytes).ok().map(OsString::from)
}

/// The files of a flag that may be given several times, in their order. In JSON one is a path, and
/// several are a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files(pub Vec<PathBuf>);

impl std::ops::Deref for Files {
    type Target = [PathBuf];

    fn deref(&self) -> &[PathBuf] {
        &self.0
    }
}

impl From<PathBuf> for Files {
    fn from(path: PathBuf) -> Self {
        Self(vec![path])
    }
}

impl Serialize for Files {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self[..] {
            [only] => write(only).serialize(serializer),
            several => several.iter().map(|path| write(path)).collect::<Vec<_>>().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Several {
            List(Vec<Written>),
            One(Written),
        }
        let written = match Several::deserialize(deserializer)? {
            Several::List(list) => list,
            Several::One(only) => vec![only],
        };
        written.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// For `#[serde(with = …)]` on a path.
pub(crate) mod one {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        write(path).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        read(Written::deserialize(deserializer)?)
    }
}

/// For `#[serde(with = …)]` on a path that may be absent.
pub(crate) mod maybe {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(write).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Option::<Written>::deserialize(deserializer)?.map(read).transpose()
    }
}
