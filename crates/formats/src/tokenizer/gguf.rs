//! The tokenizer inside a GGUF file, rebuilt to split and merge as the model's `tokenizer.json`
//! does.

use std::collections::{BTreeMap, HashMap};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Inner};

use super::{EndRule, Tokenizer};
use crate::gguf::{Header, Value};
use crate::{FormatError, Result};

/// ggml's kinds of token.
mod kinds {
    pub const NORMAL: i64 = 1;
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
}

/// Special tokens: transformers' name, the metadata's key, and the id in a SentencePiece vocabulary
/// that names none.
const SPECIAL_TOKENS: [(&str, &str, Option<u32>); 7] = [
    ("bos_token", "bos_token_id", Some(1)),
    ("eos_token", "eos_token_id", Some(2)),
    ("unk_token", "unknown_token_id", None),
    // ggml's own spelling.
    ("sep_token", "seperator_token_id", None),
    ("pad_token", "padding_token_id", None),
    ("cls_token", "cls_token_id", None),
    ("mask_token", "mask_token_id", None),
];

/// Phi-3's special tokens swallow the white space behind them, all but these. Its GGUF files do not
/// say so; llama.cpp, too, knows it by the model.
const PHI3_KEEP_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Longest vocabulary entry that merges are made for, in bytes; real ones are far shorter.
const MAX_PIECE: usize = 256;

/// Merges that the tokens of a vocabulary are made by, for each token and beside that, and the
/// bytes of their text for each byte of the tokens': those of Llama 2, Gemma and Phi-3 come to 2
/// merges a token.
const MERGES_A_TOKEN: usize = 8;
const FREE_MERGES: usize = 10_000;

/// Llama 3's splitting of text into words, as in its `tokenizer.json`.
pub(super) const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's, which Phi-4-mini has: words begin anew where capitals follow small letters.
pub(super) const GPT4O_SPLIT: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Qwen2's, which takes digits one by one.
pub(super) const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

struct Source<'a> {
    file: &'a str,
    header: &'a Header,
    tokens: &'a [String],
    /// ggml's kind of each token.
    kinds: Vec<i64>,
}

impl Tokenizer {
    /// The tokenizer a GGUF header describes, `None` where it has none; `file` names it in
    /// messages.
    pub fn from_gguf(file: &str, header: &Header) -> Result<Option<Self>> {
        let model = match header.get("tokenizer.ggml.model").map(|v| (v, v.as_str())) {
            None | Some((_, Some("none" | "no_vocab"))) => return Ok(None),
            Some((_, Some(model))) => model,
            Some((value, None)) => {
                let problem = format!("tokenizer.ggml.model is {value}, expected a string");
                return Err(FormatError::malformed(file, problem));
            }
        };
        let source = Source::new(file, header)?;
        let (mut inner, add_bos) = match model {
            "gpt2" => source.byte_level()?,
            "llama" => (source.sentence_piece()?, true),
            other => {
                return Err(FormatError::unsupported(
                    file,
                    format!("tokenizer model {other:?}"),
                    "supported GGUF tokenizers are gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
                ));
            }
        };
        let phi3 = model == "llama" && header.get("general.architecture").and_then(Value::as_str) == Some("phi3");
        let mut added = source.added_tokens();
        for token in added.iter_mut().filter(|token| phi3 && !PHI3_KEEP_SPACE.contains(&token.content.as_str())) {
            token.rstrip = true;
        }
        inner.add_tokens(&added);

        let mut named = BTreeMap::new();
        for (name, key, llama) in SPECIAL_TOKENS {
            let default = llama.filter(|_| model == "llama");
            named.extend(source.token(key, default)?.map(|token| (name.to_owned(), token.to_owned())));
        }
        let rule = EndRule::Tokens {
            bos: source.bool("add_bos_token")?.unwrap_or(add_bos),
            eos: source.bool("add_eos_token")?.unwrap_or(false),
        };
        Ok(Some(Self::new(inner, named, rule)))
    }
}

impl<'a> Source<'a> {
    fn new(file: &'a str, header: &'a Header) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = header
            .get(key)
            .and_then(Value::as_strings)
            .ok_or_else(|| FormatError::missing(file, format!("metadata {key}"), "convert the model again"))?;
        let mut source = Self { file, header, tokens, kinds: Vec::new() };
        source.kinds = match source.scalars("token_type")? {
            Some(kinds) => kinds.into_iter().map(|v| v.as_u64().map_or(kinds::NORMAL, |n| n as i64)).collect(),
            None => vec![kinds::NORMAL; tokens.len()],
        };
        Ok(source)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.header.get(&format!("tokenizer.ggml.{key}"))
    }

    fn malformed(&self, problem: String) -> FormatError {
        FormatError::malformed(self.file, problem)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        let wrong = |v: &Value| self.malformed(format!("tokenizer.ggml.{key} is {v}, expected true or false"));
        self.get(key).map(|v| v.as_bool().ok_or_else(|| wrong(v))).transpose()
    }

    /// A list with one number for each token.
    fn scalars(&self, key: &str) -> Result<Option<Vec<Value>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_scalars().filter(|list| list.len() == self.tokens.len()) {
            Some(list) => Ok(Some(list.iter().collect())),
            None => Err(self.malformed(format!(
                "tokenizer.ggml.{key} is {value}, expected a number for each of the {} tokens",
                self.tokens.len()
            ))),
        }
    }

    /// The token whose id is under `key`.
    fn token(&self, key: &str, default: Option<u32>) -> Result<Option<&'a str>> {
        let id = match self.get(key) {
            None => default.map(u64::from),
            Some(value) => match value.as_u64() {
                Some(n) if n == u64::from(u32::MAX) => None,
                Some(n) if n < self.tokens.len() as u64 => Some(n),
                _ => {
                    return Err(self.malformed(format!(
                        "tokenizer.ggml.{key} is {value}, expected an id below {}",
                        self.tokens.len()
                    )));
                }
            },
        };
        Ok(id.and_then(|id| self.tokens.get(id as usize)).map(String::as_str))
    }

    fn vocab(&self) -> Result<Vocab> {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            // Unreachable by any text; the name only has to be its own.
            let name = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
            if let Some(other) = vocab.insert(name, id as u32) {
                return Err(
                    self.malformed(format!("tokens {other} and {id} are both {token:?}; convert the model again"))
                );
            }
        }
        Ok(vocab)
    }

    /// Tokens that are taken whole wherever they stand in a text.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let special = |kind: i64| kind == kinds::CONTROL || kind == kinds::UNKNOWN;
        self.tokens
            .iter()
            .zip(&self.kinds)
            .filter(|(_, kind)| special(**kind) || **kind == kinds::USER_DEFINED)
            .map(|(token, kind)| AddedToken::from(token.clone(), special(*kind)).normalized(false))
            .collect()
    }

    fn build(&self, builder: BpeBuilder) -> Result<BPE> {
        builder.build().map_err(|e| self.malformed(format!("the tokenizer's merges do not fit its tokens: {e}")))
    }

    /// Byte-level BPE, and whether texts begin with the beginning token by default.
    fn byte_level(&self) -> Result<(Inner, bool)> {
        let name = match self.get("pre").map(|v| (v, v.as_str())) {
            // Whoever guesses here gets other tokens than the model was trained on, and nobody
            // notices.
            None | Some((_, Some("" | "default"))) => {
                return Err(FormatError::missing(
                    self.file,
                    "the name of the pre-tokenizer (metadata tokenizer.ggml.pre), which says how a text is split into words,",
                    "convert the model again with a current llama.cpp, or use its safetensors folder with its tokenizer.json",
                ));
            }
            Some((_, Some(name))) => name,
            Some((value, None)) => {
                return Err(self.malformed(format!("tokenizer.ggml.pre is {value}, expected a string")));
            }
        };
        let gpt2 = || PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
        // A sequence of splits, and whether whole words of the vocabulary skip merging.
        let (splits, whole_words) = match name {
            "gpt-2" => (vec![gpt2()], false),
            "smollm" => (vec![Digits::new(true).into(), gpt2()], false),
            "llama-bpe" | "llama3" | "llama-v3" => (self.split_by(LLAMA3_SPLIT)?, true),
            "qwen2" | "deepseek-r1-qwen" => (self.split_by(QWEN2_SPLIT)?, false),
            "gpt-4o" => (self.split_by(GPT4O_SPLIT)?, false),
            other => {
                return Err(FormatError::unsupported(
                    self.file,
                    format!("pre-tokenizer {other:?}"),
                    "supported ones are smollm, qwen2, llama-bpe, gpt-4o and gpt-2; \
                     use the model's safetensors folder with its tokenizer.json",
                ));
            }
        };
        let merges = self.get("merges").and_then(Value::as_strings).ok_or_else(|| {
            FormatError::missing(self.file, "metadata tokenizer.ggml.merges", "convert the model again")
        })?;
        let merges = merges.iter().enumerate().map(|(i, merge)| {
            // A token may begin with a space, so the separator is sought from its second character.
            let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
            match space {
                Some((at, _)) => Ok((merge[..at].to_string(), merge[at + 1..].to_string())),
                None => Err(self.malformed(format!("merge {i} is {merge:?}, expected two tokens"))),
            }
        });
        let merges = merges.collect::<Result<Vec<_>>>()?;
        let builder = BPE::builder().vocab_and_merges(self.vocab()?, merges).ignore_merges(whole_words);
        let mut inner = Inner::new(self.build(builder)?);
        if name == "qwen2" || name == "deepseek-r1-qwen" {
            inner.with_normalizer(Some(NFC));
        }
        inner.with_pre_tokenizer(Some(PreTokenizers::new(splits)));
        inner.with_decoder(Some(ByteLevel::new(true, true, true)));
        Ok((inner, whole_words))
    }

    fn split_by(&self, pattern: &str) -> Result<Vec<PreTokenizerWrapper>> {
        let pattern = SplitPattern::Regex(pattern.to_string());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|e| FormatError::Tokenizer(format!("a splitting pattern does not compile: {e}")))?;
        Ok(vec![split.into(), ByteLevel::new(false, true, false).into()])
    }

    /// SentencePiece BPE: spaces become ▁, unknown characters fall back to bytes.
    fn sentence_piece(&self) -> Result<Inner> {
        if self.bool("remove_extra_whitespaces")? == Some(true) {
            return Err(FormatError::unsupported(
                self.file,
                "tokenizer.ggml.remove_extra_whitespaces true",
                "use the model's safetensors folder with its tokenizer.json",
            ));
        }
        let vocab = self.vocab()?;
        let has_bytes = (0..=255u8).all(|b| vocab.contains_key(&format!("<0x{b:02X}>")));
        let merges = self.merges_by_score(&vocab)?;
        let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(has_bytes).fuse_unk(true);
        if let Some(unknown) = self.token("unknown_token_id", Some(0))? {
            builder = builder.unk_token(unknown.to_string());
        }
        let mut inner = Inner::new(self.build(builder)?);

        let replace = |from: &str, to: &str| {
            Replace::new(from, to).map_err(|e| FormatError::Tokenizer(format!("cannot replace {from:?}: {e}")))
        };
        let space_prefix = self.bool("add_space_prefix")?.unwrap_or(true);
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        let mut decoders: Vec<DecoderWrapper> =
            vec![replace("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
        if space_prefix {
            normalizers.push(Prepend::new("▁".to_string()).into());
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        normalizers.push(replace(" ", "▁")?.into());
        inner.with_normalizer(Some(Normalizers::new(normalizers)));
        inner.with_decoder(Some(Decoders::new(decoders)));
        Ok(inner)
    }

    /// Merges that make the pieces in order of their scores, the best first.
    ///
    /// SentencePiece joins the neighbours whose joint piece has the best score; a merge for every
    /// way to cut a piece in two, ranked by the piece's score, does the same.
    fn merges_by_score(&self, vocab: &Vocab) -> Result<Vec<(String, String)>> {
        let Some(scores) = self.scores()? else {
            return Err(FormatError::missing(self.file, "metadata tokenizer.ggml.scores", "convert the model again"));
        };
        let normal: HashMap<&str, f64> = (self.tokens.iter().zip(&self.kinds).zip(&scores))
            .filter(|((token, kind), _)| **kind == kinds::NORMAL && vocab.contains_key(*token))
            .map(|((token, _), &score)| (token.as_str(), score))
            .collect();
        let (mut merges, mut bytes): (Vec<(f64, usize, &str, &str)>, usize) = (Vec::new(), 0);
        let most = MERGES_A_TOKEN * normal.len() + FREE_MERGES;
        let most_bytes = MERGES_A_TOKEN * normal.keys().map(|piece| piece.len()).sum::<usize>() + (FREE_MERGES << 4);
        for (&piece, &score) in normal.iter().filter(|(piece, _)| piece.len() <= MAX_PIECE) {
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if normal.contains_key(left) && normal.contains_key(right) {
                    merges.push((score, at, left, right));
                    bytes += piece.len();
                }
                if merges.len() > most || bytes > most_bytes {
                    return Err(self.malformed(format!(
                        "tokenizer.ggml.tokens has {} tokens that others make up in more than {most} ways, which no \
                         trained vocabulary has; convert the model again",
                        normal.len()
                    )));
                }
            }
        }
        // Of two ways to make a piece, the one with the longer left part comes first; the text
        // itself decides the rest, so that the order never depends on the hash map's.
        merges
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then_with(|| (a.2, a.3).cmp(&(b.2, b.3))));
        Ok(merges.into_iter().map(|(_, _, l, r)| (l.to_string(), r.to_string())).collect())
    }

    fn scores(&self) -> Result<Option<Vec<f64>>> {
        let Some(values) = self.scalars("scores")? else {
            return Ok(None);
        };
        Ok(Some(values.iter().map(|v| v.as_f64().unwrap_or(f64::NEG_INFINITY)).collect()))
    }
}
