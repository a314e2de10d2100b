//! Text to token ids and back.

use crate::{FormatError, Result};

/// A model's own tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: std::sync::Arc<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `file` names it in messages.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| FormatError::malformed(file, format!("is not a tokenizer: {e}")))?;
        Ok(Self {
            inner: std::sync::Arc::new(inner),
        })
    }

    /// Token ids of `text`; special tokens written in the text are recognised.
    /// `add_special` adds the beginning and end tokens that the tokenizer itself adds.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special)
            .map_err(|e| FormatError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`; `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| FormatError::Tokenizer(e.to_string()))
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token by its exact vocabulary entry, such as `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Readable text of one token; bytes that are no text by themselves are shown as `<0xE2>`.
    pub fn piece(&self, id: u32) -> String {
        self.inner.decode(&[id], false).unwrap_or_default()
    }

    /// True for control tokens, which text output leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|t| t.special)
    }

    /// Token that begins a text, where the tokenizer has one.
    pub fn bos_token(&self) -> Option<&str> {
        None
    }

    /// Token that ends a text, where the tokenizer has one.
    pub fn eos_token(&self) -> Option<&str> {
        None
    }

    /// A decoder that takes tokens one by one and gives text as soon as it is whole; special tokens are left out.
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder {
            tokenizer: self.clone(),
        }
    }
}

/// Turns tokens into text as they come, never cutting a character in two.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
}

impl StreamDecoder {
    /// Takes the next token; gives the text that is whole now, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.tokenizer.decode(&[id], true).map(Some)
    }

    /// Gives what is left when no more tokens come; broken bytes become U+FFFD.
    pub fn finish(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}
