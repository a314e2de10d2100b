//! Text to token ids and back, with the model's own tokenizer.

mod bytes;
mod folder;
mod gguf;
mod pieces;
mod stream;
mod wordpiece;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

pub use stream::StreamDecoder;
use tokenizers::Tokenizer as Inner;

use crate::guard::guarded;
use crate::{FormatError, Result};
use pieces::{Borders, PIECE};

/// Special tokens that a tokenizer's configuration may name, by the names that chat templates know
/// them under.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the library is asked to do with a text.
const ENCODE: &str = "encode the text";

/// Token ids that are put around a text when special tokens are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ends {
    first: Vec<u32>,
    last: Vec<u32>,
}

/// What a configuration file says about those ends.
#[derive(Debug)]
enum EndRule {
    /// These very ids.
    Ids(Ends),
    /// The beginning and end tokens, where the tokenizer has them.
    Tokens { bos: bool, eos: bool },
}

#[derive(Debug)]
struct Parts {
    inner: Inner,
    /// One more than the largest id.
    vocab_size: usize,
    special: BTreeSet<u32>,
    /// `bos_token` and its like, as chat templates know them.
    named: BTreeMap<String, String>,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    ends: Ends,
    /// Where a long text may be cut, if that is known.
    borders: Option<Borders>,
    /// Tokens are written in GPT-2's alphabet of 256 characters, one for each byte.
    byte_level: bool,
    /// Bytes without a piece of their own are written as tokens such as `<0x0A>`.
    byte_fallback: bool,
}

/// Bytes of text that the library is given at once, for each of which it holds more than a hundred:
/// a text is longer where it cannot be cut.
const LONGEST_PIECE: usize = 1 << 20;

fn check_piece(piece: &str) -> Result<()> {
    if piece.len() <= LONGEST_PIECE {
        return Ok(());
    }
    Err(FormatError::Tokenizer(format!(
        "cannot encode {} bytes at once, expected a place where words part within {LONGEST_PIECE}: divide the text",
        piece.len()
    )))
}

/// Has the library do something; whatever it fails with is said of the tokenizer.
fn run<T>(what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let failed = |problem: &dyn std::fmt::Display| FormatError::Tokenizer(format!("cannot {what}: {problem}"));
    match guarded(work) {
        Ok(result) => result.map_err(|error| failed(&error)),
        Err(panic) => Err(failed(&format!("its parts contradict one another ({panic})"))),
    }
}

/// A model's own tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    parts: Arc<Parts>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `file` names it in messages.
    ///
    /// Beginning and end tokens are unknown without `tokenizer_config.json`; opening a model's
    /// folder reads both.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let (inner, ends) = folder::parse(file, json, |_| Ok(false))?;
        Ok(Self::new(inner, BTreeMap::new(), EndRule::Ids(ends)))
    }

    /// `named` are special tokens by the names of [`Self::special_tokens`].
    fn new(inner: Inner, named: BTreeMap<String, String>, rule: EndRule) -> Self {
        let largest = inner.get_vocab(true).into_values().max();
        let known = |name: &str| named.get(name).and_then(|t| inner.token_to_id(t).map(|id| (t.clone(), id)));
        let (bos, eos) = (known("bos_token"), known("eos_token"));
        let added = inner.get_added_tokens_decoder();
        let id_if = |wanted: bool, token: &Option<(String, u32)>| -> Vec<u32> {
            token.iter().filter(|_| wanted).map(|(_, id)| *id).collect()
        };
        let ends = match rule {
            EndRule::Ids(ends) => ends,
            EndRule::Tokens { bos: add_bos, eos: add_eos } => {
                Ends { first: id_if(add_bos, &bos), last: id_if(add_eos, &eos) }
            }
        };
        let largest = largest.into_iter().chain(ends.first.iter().chain(&ends.last).copied()).max();
        Self {
            parts: Arc::new(Parts {
                vocab_size: largest.map_or(0, |id| id as usize + 1),
                special: added.into_iter().filter(|(_, t)| t.special).map(|(id, _)| id).collect(),
                byte_level: bytes::decoder_has(&inner, "ByteLevel"),
                byte_fallback: bytes::decoder_has(&inner, "ByteFallback"),
                borders: Borders::of(&inner),
                inner,
                named,
                bos,
                eos,
                ends,
            }),
        }
    }

    /// Token ids of `text`; special tokens written in the text are recognised.
    ///
    /// `add_special` adds the beginning and end tokens that this tokenizer adds to a whole text.
    /// Text from a chat template has its own already.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let Parts { inner, ends: Ends { first, last }, .. } = &*self.parts;
        let mut ids = if add_special { first.clone() } else { Vec::new() };
        for (_, piece) in self.pieces(text, PIECE) {
            check_piece(piece)?;
            ids.extend_from_slice(run(ENCODE, || inner.encode_fast(piece, false))?.get_ids());
        }
        if add_special {
            ids.extend(last);
        }
        Ok(ids)
    }

    /// A text in pieces whose ids, one after another, are its own, and the byte that each begins
    /// at: of `least` bytes at least, where it can be cut there.
    fn pieces<'t>(&self, text: &'t str, least: usize) -> Box<dyn Iterator<Item = (usize, &'t str)> + 't> {
        match self.parts.borders {
            Some(borders) => Box::new(borders.pieces(text, least)),
            None => Box::new(std::iter::once((0, text))),
        }
    }

    /// The last place behind a byte where `text` may be cut, if one is known: where the part before
    /// it ends and the part behind it begins, whose ids, one after another, are those of the text.
    /// It is one in every longer text, too.
    pub fn last_cut(&self, text: &str, behind: usize) -> Option<[usize; 2]> {
        self.parts.borders?.last(text, behind)
    }

    /// Ids of `text` and, for each, the bytes of the text that it stands for; nothing is added at
    /// either end.
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let (mut ids, mut offsets) = (Vec::new(), Vec::new());
        // A mark that stands for a space which was left out says that it begins behind it.
        let least = if self.parts.borders.is_some_and(|borders| borders.mark_for_space) { usize::MAX } else { PIECE };
        for (begin, piece) in self.pieces(text, least) {
            check_piece(piece)?;
            let encoding = run(ENCODE, || self.parts.inner.encode(piece, false))?;
            ids.extend_from_slice(encoding.get_ids());
            offsets.extend(encoding.get_offsets().iter().map(|(start, end)| begin + start..begin + end));
        }
        Ok((ids, offsets))
    }

    /// Ids that this tokenizer puts before a whole text.
    pub fn first_ids(&self) -> &[u32] {
        &self.parts.ends.first
    }

    /// As [`Self::encode`] with special tokens, but at most `longest` ids: the text itself is cut,
    /// its end tokens stay. Also whether it was cut.
    pub fn encode_within(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool)> {
        let mut ids = self.encode(text, true)?;
        let cut = ids.len() > longest;
        if cut {
            let last = &self.parts.ends.last;
            ids.truncate(longest.saturating_sub(last.len()));
            ids.extend(last);
            ids.truncate(longest);
        }
        Ok((ids, cut))
    }

    /// Text of `ids`; `skip_special` leaves special tokens out.
    ///
    /// Ids without a token (padding rows of the embedding) give no text; broken bytes give U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        run(&format!("decode {} tokens", ids.len()), || self.parts.inner.decode(ids, skip_special))
    }

    /// Lower-case hexadecimal SHA-256 of all that decides which ids a text becomes.
    pub fn sha256(&self) -> Result<String> {
        let Parts { inner, ends, named, .. } = &*self.parts;
        let json = inner.to_string(false);
        let json = json.map_err(|e| FormatError::Tokenizer(format!("cannot be written: {e}")))?;
        Ok(crate::sha256_bytes(format!("{json}\n{ends:?}\n{named:?}").as_bytes()))
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.parts.vocab_size
    }

    /// Id of a token by its exact vocabulary entry, such as `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parts.inner.token_to_id(token)
    }

    /// Readable text of one token; bytes that are no text by themselves are shown as `<0xE2>`.
    pub fn piece(&self, id: u32) -> String {
        let Some(token) = self.parts.inner.id_to_token(id) else {
            return format!("<no token {id}>");
        };
        if self.is_special(id) {
            return token;
        }
        if !self.parts.byte_level {
            return token.replace('▁', " ");
        }
        match bytes::token_bytes(&token).map(String::from_utf8) {
            None => token,
            Some(Ok(text)) => text,
            Some(Err(e)) => e.as_bytes().iter().map(|b| format!("<0x{b:02X}>")).collect(),
        }
    }

    /// The bytes a token of a byte-level tokenizer stands for; none for an id without a token.
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        let token = self.parts.inner.id_to_token(id).unwrap_or_default();
        // Added tokens are written as they are, in any characters.
        bytes::token_bytes(&token).unwrap_or_else(|| token.into_bytes())
    }

    /// The byte that a token such as `<0x0A>` stands for, where the tokenizer falls back to bytes.
    fn fallback_byte(&self, id: u32) -> Option<u8> {
        let token = self.parts.inner.id_to_token(id).filter(|_| self.parts.byte_fallback)?;
        let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|d| d.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    }

    /// True for control tokens, which decoding can leave out.
    pub fn is_special(&self, id: u32) -> bool {
        self.parts.special.contains(&id)
    }

    /// Special tokens by the names that chat templates know them under: `bos_token`, `eos_token`,
    /// `pad_token` and their like; only those that the tokenizer's files name.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.parts.named
    }

    /// Token that begins a text, where the tokenizer has one.
    pub fn bos_token(&self) -> Option<&str> {
        self.parts.bos.as_ref().map(|(token, _)| token.as_str())
    }

    /// Token that ends a text or turn, where the tokenizer has one.
    pub fn eos_token(&self) -> Option<&str> {
        self.parts.eos.as_ref().map(|(token, _)| token.as_str())
    }

    /// Id of [`Self::bos_token`].
    pub fn bos_token_id(&self) -> Option<u32> {
        self.parts.bos.as_ref().map(|(_, id)| *id)
    }

    /// Id of [`Self::eos_token`].
    pub fn eos_token_id(&self) -> Option<u32> {
        self.parts.eos.as_ref().map(|(_, id)| *id)
    }

    /// A decoder that takes tokens one by one and gives text as soon as it is whole; special tokens
    /// are left out.
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder::new(self.clone())
    }
}
