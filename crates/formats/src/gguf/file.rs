//! A GGUF file, or all parts of one that was split: `NAME-00002-of-00005.gguf`.
//!
//! llama.cpp's gguf-split leaves the metadata in the first part and numbers all in `split.no`, from
//! 0; each says in `split.count` how many they are and in `split.tensors.count` how many tensors
//! the whole has. Names count from 1.

use std::collections::BTreeSet;

use super::{Header, HeaderError, TensorInfo};
use crate::{FormatError, Result, Source};

/// One file: all of a model, or a part.
pub(crate) struct Part {
    /// How messages name it.
    pub file: String,
    /// Its name in its folder.
    name: String,
    pub header: Header,
    pub source: Source,
}

/// A whole model's parts in order: one, unless it was split.
pub(crate) struct Gguf(Vec<Part>);

/// Says how many parts there are; what it is in one file that was never split is absent or 0.
const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

impl Gguf {
    /// Reads the header of a file, and of the other parts where it is one; `beside` finds files of
    /// its folder. `file` names it in messages and ends in its `name`.
    pub fn open(
        file: &str,
        name: &str,
        source: Source,
        beside: impl Fn(&str) -> Result<Option<Source>>,
    ) -> Result<Self> {
        let given = Part::read(file.to_string(), name.to_string(), source)?;
        let count = given.number(COUNT)?.unwrap_or(0);
        if count <= 1 {
            return Ok(Self(vec![given]));
        }
        let Some((stem, ..)) = numbered(name).filter(|&(_, n, of)| of == count && (1..=count).contains(&n)) else {
            let problem = format!(
                "is a part of {count}, whose name must end in -00001-of-{count:05}.gguf and so on: give the parts \
                 their own names again"
            );
            return Err(FormatError::malformed(file, problem));
        };
        let folder = file.strip_suffix(name).unwrap_or_default();
        let mut parts = Vec::new();
        for number in 1..=count {
            let name = format!("{stem}-{number:05}-of-{count:05}.gguf");
            let file = format!("{folder}{name}");
            let Some(source) = beside(&name)?.or_else(|| (name == given.name).then(|| given.source.clone())) else {
                let advice = "all parts must lie beside each other; download it, too";
                return Err(FormatError::missing(file, format!("part {number} of {count}"), advice));
            };
            let part = Part::read(file, name, source)?;
            part.check(number, &given)?;
            parts.push(part);
        }
        let gguf = Self(parts);
        gguf.check_tensors()?;
        Ok(gguf)
    }

    /// Checks that the parts have as many tensors as they say, each once.
    fn check_tensors(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for part in &self.0 {
            if let Some(twice) = part.header.tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
                let problem = format!("tensor {} is in a part before, too; download the parts again", twice.name);
                return Err(FormatError::malformed(&part.file, problem));
            }
        }
        let first = &self.0[0];
        match first.number(TENSORS)? {
            Some(stated) if stated != names.len() as u64 => Err(FormatError::Mismatch {
                file: first.file.clone(),
                what: TENSORS.to_string(),
                found: stated.to_string(),
                expected: format!("{}, which all {} parts have together", names.len(), self.0.len()),
                advice: "the parts are of different models; download them again".to_string(),
            }),
            _ => Ok(()),
        }
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// How messages name what is of the whole.
    pub fn file(&self) -> &str {
        &self.0[0].file
    }

    /// Where the metadata of the whole are.
    pub fn header(&self) -> &Header {
        &self.0[0].header
    }

    /// A tensor's entry, and the part that has it.
    pub fn find(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        self.0.iter().find_map(|part| Some((part, part.header.tensors.iter().find(|tensor| tensor.name == name)?)))
    }

    /// The files by their names.
    pub fn sources(&self) -> Vec<(String, Source)> {
        self.0.iter().map(|part| (part.name.clone(), part.source.clone())).collect()
    }
}

impl Part {
    fn read(file: String, name: String, source: Source) -> Result<Self> {
        let header = read_header(&file, &source)?;
        Ok(Self { file, name, header, source })
    }

    /// A count of the split, where it is there.
    fn number(&self, key: &str) -> Result<Option<u64>> {
        let number = |value: &super::Value| {
            value.as_u64().ok_or_else(|| {
                FormatError::malformed(&self.file, format!("{key} is {value}, expected a whole number, zero or more"))
            })
        };
        self.header.get(key).map(number).transpose()
    }

    /// Checks that this is part number `number`, from 1, of what `given` is a part of.
    fn check(&self, number: u64, given: &Self) -> Result<()> {
        let wrong = |what: &str, found: Option<u64>, expected: String, advice: &str| {
            let found = found.map_or_else(|| "nothing".to_string(), |found| found.to_string());
            let (file, what, advice) = (self.file.clone(), what.to_string(), advice.to_string());
            Err(FormatError::Mismatch { file, what, found, expected, advice })
        };
        for key in [COUNT, TENSORS] {
            let (found, expected) = (self.number(key)?, given.number(key)?);
            if found != expected {
                let expected = expected.map_or_else(|| "nothing".to_string(), |expected| expected.to_string());
                let expected = format!("{expected}, as in {}", given.file);
                return wrong(key, found, expected, "the parts are of different models; download them again");
            }
        }
        let found = self.number(NUMBER)?;
        if found != Some(number - 1) {
            let expected = format!("{}, for parts count from 0 there", number - 1);
            return wrong(NUMBER, found, expected, "it is another part under this one's name; download it again");
        }
        Ok(())
    }
}

/// What stands before the number in the name of a part, the number, and how many parts there are.
fn numbered(name: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(number) || !is_number(count) {
        return None;
    }
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

/// The header, from as many of the file's first bytes as it takes.
fn read_header(file: &str, source: &Source) -> Result<Header> {
    /// More than most headers have; a vocabulary's tokens and merges are most of one.
    const FIRST: u64 = 4 << 20;
    let mut count = FIRST.min(source.len());
    loop {
        match Header::parse(&source.head(count, file)?) {
            Ok(header) => return Ok(header),
            Err(HeaderError::Invalid(problem)) => {
                return Err(FormatError::malformed(file, problem));
            }
            Err(HeaderError::NeedMoreBytes { total }) if total > source.len() => {
                return Err(FormatError::malformed(
                    file,
                    format!(
                        "is truncated or lies about itself: the header goes on to byte {total} at least, \
                         the file has {}; download it again",
                        source.len()
                    ),
                ));
            }
            Err(HeaderError::NeedMoreBytes { total }) => {
                count = total.max(count.saturating_mul(2)).min(source.len());
            }
        }
    }
}
