//! Tokens to text, one at a time.

use super::Tokenizer;
use crate::Result;

/// Tokens after which an unfinished character is given up: no character has more than four bytes.
const PATIENCE: usize = 8;

/// Turns tokens into text as they come, never cutting a character in two.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    /// Tokens whose text is given already, kept as context, and after them the pending ones.
    window: Vec<u32>,
    /// How many tokens of the window are context.
    given: usize,
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            given: 0,
        }
    }

    /// Takes the next token; gives the text that is whole now, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        if self.tokenizer.is_special(id) {
            // A control token ends whatever was unfinished.
            return self.flush(true);
        }
        self.window.push(id);
        self.flush(self.window.len() - self.given >= PATIENCE)
    }

    /// Gives what is left when no more tokens come; broken bytes become U+FFFD.
    pub fn finish(&mut self) -> Result<Option<String>> {
        self.flush(true)
    }

    /// Text of the pending tokens, unless it may still change and `even_broken` is not set.
    fn flush(&mut self, even_broken: bool) -> Result<Option<String>> {
        if self.given == self.window.len() {
            return Ok(None);
        }
        // Decoders may drop a leading space at the start of a text, so the pending tokens are
        // decoded after the context, and the context's own text is taken off again.
        let context = self.tokenizer.decode(&self.window[..self.given], true)?;
        let mut whole = self.tokenizer.decode(&self.window, true)?;
        if whole.ends_with('\u{FFFD}') && !even_broken {
            return Ok(None);
        }
        let text = if whole.starts_with(&context) {
            whole.split_off(context.len())
        } else {
            whole
        };
        self.window.drain(..self.given);
        self.given = self.window.len();
        Ok((!text.is_empty()).then_some(text))
    }
}
