//! Tokens to text, one at a time.

use super::Tokenizer;
use crate::Result;

/// Turns tokens into text as they come, never cutting a character in two.
///
/// Joined together, what it gives is what decoding all the tokens at once gives.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    /// Byte-level tokenizers: the bytes of an unfinished character, at most three.
    bytes: Vec<u8>,
    /// Other tokenizers: tokens whose text is given already, kept as context, then pending ones.
    window: Vec<u32>,
    /// How many tokens of the window are context.
    given: usize,
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, bytes: Vec::new(), window: Vec::new(), given: 0 }
    }

    /// Takes the next token; gives the text that is whole now, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        if self.tokenizer.is_special(id) {
            // A control token ends whatever was unfinished.
            return self.finish();
        }
        if self.tokenizer.parts.byte_level {
            self.bytes.extend(self.tokenizer.token_bytes(id));
            return Ok(self.whole_characters());
        }
        self.window.push(id);
        if self.is_unfinished() { Ok(None) } else { self.flush() }
    }

    /// Gives what is left when no more tokens come; broken bytes become U+FFFD.
    pub fn finish(&mut self) -> Result<Option<String>> {
        if self.tokenizer.parts.byte_level {
            let rest = String::from_utf8_lossy(&self.bytes).into_owned();
            self.bytes.clear();
            return Ok((!rest.is_empty()).then_some(rest));
        }
        self.flush()
    }

    /// Takes everything but an unfinished character at the end off the bytes.
    fn whole_characters(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let broken = chunk.invalid();
            let at_end = used + broken.len() == self.bytes.len();
            // Without an error length, more bytes could still complete the character.
            let may_go_on = std::str::from_utf8(broken).is_err_and(|e| e.error_len().is_none());
            if broken.is_empty() || (at_end && may_go_on) {
                break;
            }
            text.push('\u{FFFD}');
            used += broken.len();
        }
        self.bytes.drain(..used);
        (!text.is_empty()).then_some(text)
    }

    /// True when the pending tokens end in bytes that begin a character and do not end it.
    fn is_unfinished(&self) -> bool {
        let pending = self.window[self.given..].iter().rev();
        let mut run: Vec<u8> = pending.map_while(|&id| self.tokenizer.fallback_byte(id)).collect();
        run.reverse();
        std::str::from_utf8(&run).is_err_and(|e| e.error_len().is_none())
    }

    /// Text of the pending tokens.
    ///
    /// Decoders may drop a leading space at the start of a text, so the pending tokens are decoded
    /// after the context, and the context's own text is taken off again.
    fn flush(&mut self) -> Result<Option<String>> {
        if self.given == self.window.len() {
            return Ok(None);
        }
        let context = self.tokenizer.decode(&self.window[..self.given], true)?;
        let mut whole = self.tokenizer.decode(&self.window, true)?;
        let text = if whole.starts_with(&context) { whole.split_off(context.len()) } else { whole };
        // A run of bytes decodes as one, so the next context is the last token that is no byte.
        let is_byte = |&id: &u32| self.tokenizer.fallback_byte(id).is_some();
        if let Some(last) = self.window.iter().rposition(|id| !is_byte(id)) {
            self.window.truncate(last + 1);
            self.window.drain(..last);
        }
        self.given = self.window.len();
        Ok((!text.is_empty()).then_some(text))
    }
}
