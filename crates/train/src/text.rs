//! The text side of a model: texts and chats to token ids, the same way in training, evaluation and generation.
//!
//! A prompt's ids are made in one place, here, so that the ids a model is tuned on are the ids it meets when it
//! generates. An answer's ids continue them: where the ids of prompt + answer begin with those of the prompt, they are
//! what is left; where the tokenizer would merge across the border (a prompt that ends with a space), the answer is
//! encoded by itself, because generation, too, starts from the prompt's own ids and can never reach the merged token.

use bft_formats::{ChatTemplate, EmbeddingModel, EncoderModel, FormatError, Message, Model, Tokenizer};

/// A model's tokenizer, chat template and end-of-text token, with what must be known to use them safely.
#[derive(Debug, Clone, Copy)]
pub struct TextEncoder<'m> {
    model: &'m str,
    tokenizer: Option<&'m Tokenizer>,
    template: Option<&'m ChatTemplate>,
    end_tokens: &'m [u32],
    vocab_size: usize,
}

/// Why a text or chat has no token ids.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The model came without a tokenizer.
    #[error("model {model} has no tokenizer: add its tokenizer.json, or use rows of input_ids/labels")]
    NoTokenizer {
        /// The model's name.
        model: String,
    },
    /// The model came without a chat template.
    #[error("model {model} has no chat template: use prompt/completion or text rows, or add a chat_template.jinja")]
    NoChatTemplate {
        /// The model's name.
        model: String,
    },
    /// The model does not say which token ends a text.
    #[error("model {model} names no end-of-text token (eos_token_id): use chat or input_ids/labels rows")]
    NoEndOfText {
        /// The model's name.
        model: String,
    },
    /// Pre-tokenised ids that the embedding lacks.
    #[error(
        "{path} is {id}, but the vocabulary of model {model} has {vocab_size} tokens: tokenise with its own tokenizer"
    )]
    TokenId {
        /// Which value, such as `input_ids[3]`.
        path: String,
        /// The id.
        id: u32,
        /// The model's name.
        model: String,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The tokenizer or the template refused.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// The beginning of a chat is not rendered as the beginning of the whole chat.
    #[error(
        "the chat template of {model} renders the messages before and with answer [{turn}] unlike the whole chat (they part at \"{found}\" against \"{expected}\"), so the answer cannot be told apart: end each row with its only answer, or use prompt/completion rows"
    )]
    Unstable {
        /// The model's name.
        model: String,
        /// Index of the assistant's message.
        turn: usize,
        /// The rendered beginning, from where it differs.
        found: String,
        /// The rendered chat, from there.
        expected: String,
    },
}

impl From<FormatError> for TextError {
    fn from(error: FormatError) -> Self {
        Self::Format(Box::new(error))
    }
}

impl TextError {
    /// Whether another row of the same format may still work.
    pub fn is_about_the_row(&self) -> bool {
        matches!(self, Self::TokenId { .. } | Self::Format(_) | Self::Unstable { .. })
    }
}

/// Token ids with a label for each: the id itself where it is trained, [`crate::MASKED`] elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelledTokens {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// One label for each token.
    pub labels: Vec<i32>,
}

impl LabelledTokens {
    fn push(&mut self, ids: &[u32], trained: bool) {
        self.tokens.extend_from_slice(ids);
        self.labels.extend(ids.iter().map(|&id| if trained { id as i32 } else { crate::MASKED }));
    }
}

impl<'m> From<&'m Model> for TextEncoder<'m> {
    fn from(model: &'m Model) -> Self {
        Self::new(model)
    }
}

impl<'m> From<&'m EncoderModel> for TextEncoder<'m> {
    fn from(model: &'m EncoderModel) -> Self {
        Self {
            model: &model.name,
            tokenizer: model.tokenizer.as_ref(),
            template: None,
            end_tokens: &[],
            vocab_size: model.config.vocab_size,
        }
    }
}

impl<'m> From<&'m EmbeddingModel> for TextEncoder<'m> {
    fn from(model: &'m EmbeddingModel) -> Self {
        match model {
            EmbeddingModel::Decoder(model) => Self::new(model),
            EmbeddingModel::Encoder(model) => Self::from(&**model),
        }
    }
}

impl<'m> TextEncoder<'m> {
    /// The text side of `model`.
    pub fn new(model: &'m Model) -> Self {
        Self {
            model: &model.name,
            tokenizer: model.tokenizer.as_ref(),
            template: model.chat_template.as_ref(),
            end_tokens: &model.config.eos_token_ids,
            vocab_size: model.config.vocab_size,
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] where the model came without one.
    pub fn tokenizer(&self) -> Result<&'m Tokenizer, TextError> {
        self.tokenizer.ok_or_else(|| TextError::NoTokenizer { model: self.model.into() })
    }

    fn template(&self) -> Result<&'m ChatTemplate, TextError> {
        self.template.ok_or_else(|| TextError::NoChatTemplate { model: self.model.into() })
    }

    fn end_of_text(&self) -> Result<u32, TextError> {
        let end = self.end_tokens.first().copied();
        end.ok_or_else(|| TextError::NoEndOfText { model: self.model.into() })
    }

    /// Checks pre-tokenised ids against the model's vocabulary.
    pub fn check_ids(&self, key: &str, ids: impl Iterator<Item = (usize, u32)>) -> Result<(), TextError> {
        for (i, id) in ids {
            if id as usize >= self.vocab_size {
                let (path, model) = (format!("{key}[{i}]"), self.model.into());
                return Err(TextError::TokenId { path, id, model, vocab_size: self.vocab_size });
            }
        }
        Ok(())
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        // Opening the model has checked that the tokenizer makes no id beyond the vocabulary.
        Ok(self.tokenizer()?.encode(text, add_special)?)
    }

    /// Ids of a text to embed: just what the tokenizer makes of it, its own beginning and end tokens included.
    pub fn whole_text(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, true)
    }

    /// As [`Self::whole_text`], cut to `longest` ids but for its end tokens; also whether it was cut.
    pub fn whole_text_within(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool), TextError> {
        Ok(self.tokenizer()?.encode_within(text, longest)?)
    }

    /// Ids of a text that is to be continued: the tokenizer's beginning token, if it adds one, but no end token.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(text, true)?;
        let bare = self.encode(text, false)?;
        if !ids.ends_with(&bare) {
            // A tokenizer that closes every text would end the prompt before it is answered.
            if let Some(start) = ids.windows(bare.len()).rposition(|w| w == bare) {
                ids.truncate(start + bare.len());
            }
        }
        Ok(ids)
    }

    /// Ids of a chat up to where the assistant's next answer begins.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, TextError> {
        let text = self.template()?.render(messages, true)?;
        self.encode(&text, false)
    }

    /// A text, all of it trained, with the end-of-text token.
    pub fn text_sample(&self, text: &str) -> Result<LabelledTokens, TextError> {
        let mut sample = LabelledTokens::default();
        sample.push(&self.prompt(text)?, true);
        self.close(&mut sample)?;
        Ok(sample)
    }

    /// A masked prompt and a trained completion with the end-of-text token.
    pub fn completion_sample(&self, prompt: &str, completion: &str) -> Result<LabelledTokens, TextError> {
        let prompt_ids = self.prompt(prompt)?;
        let whole = self.prompt(&format!("{prompt}{completion}"))?;
        let mut sample = LabelledTokens::default();
        sample.push(&prompt_ids, false);
        match whole.strip_prefix(prompt_ids.as_slice()) {
            Some(rest) => sample.push(rest, true),
            None => sample.push(&self.encode(completion, false)?, true),
        }
        self.close(&mut sample)?;
        Ok(sample)
    }

    /// Adds the end-of-text token, unless the text itself spells it.
    fn close(&self, sample: &mut LabelledTokens) -> Result<(), TextError> {
        let end = self.end_of_text()?;
        if sample.tokens.last() != Some(&end) {
            sample.push(&[end], true);
        }
        Ok(())
    }

    /// A chat with its assistant turns trained, each with its end-of-turn token, and all else masked.
    ///
    /// Where an answer begins and ends is found by rendering the messages before it (with the opening of an answer)
    /// and with it; both must be beginnings of the whole rendered chat.
    pub fn chat_sample(&self, messages: &[Message]) -> Result<LabelledTokens, TextError> {
        let template = self.template()?;
        let whole = template.render(messages, false)?;
        let mut sample = LabelledTokens::default();
        let mut done = Prefix { end: 0, ids: Vec::new() };
        for turn in (0..messages.len()).filter(|&i| messages[i].role == "assistant") {
            let before = template.render(&messages[..turn], true)?;
            self.check_prefix(&whole, &before, turn)?;
            let with = template.render(&messages[..=turn], false)?;
            self.check_prefix(&whole, &with, turn)?;
            if before.len() < done.end || with.len() < before.len() {
                return Err(self.unstable(&with, &before, turn));
            }
            done = self.extend(&mut sample, &whole, done, before.len(), false)?;
            done = self.extend(&mut sample, &whole, done, with.len(), true)?;
        }
        let end = whole.len();
        self.extend(&mut sample, &whole, done, end, false)?;
        Ok(sample)
    }

    /// Appends the ids of `whole[done.end..end]`.
    fn extend(
        &self,
        sample: &mut LabelledTokens,
        whole: &str,
        done: Prefix,
        end: usize,
        trained: bool,
    ) -> Result<Prefix, TextError> {
        let ids = self.encode(&whole[..end], false)?;
        let own;
        let added = match ids.strip_prefix(done.ids.as_slice()) {
            Some(rest) => rest,
            None => {
                own = self.encode(&whole[done.end..end], false)?;
                &own
            }
        };
        let answer = if trained { self.answer_length(added)? } else { 0 };
        sample.push(&added[..answer], true);
        sample.push(&added[answer..], false);
        Ok(Prefix { end, ids })
    }

    /// How many tokens of a rendered answer are trained: up to its end-of-turn token, without the line break that
    /// templates write after it and that nobody ever generates.
    fn answer_length(&self, ids: &[u32]) -> Result<usize, TextError> {
        let tokenizer = self.tokenizer()?;
        let ends = |id: &u32| self.end_tokens.contains(id) || tokenizer.is_special(*id);
        if let Some(last) = ids.iter().rposition(ends)
            && tokenizer.decode(&ids[last + 1..], false)?.trim().is_empty()
        {
            return Ok(last + 1);
        }
        Ok(ids.len())
    }

    fn check_prefix(&self, whole: &str, part: &str, turn: usize) -> Result<(), TextError> {
        if whole.starts_with(part) { Ok(()) } else { Err(self.unstable(part, whole, turn)) }
    }

    fn unstable(&self, part: &str, whole: &str, turn: usize) -> TextError {
        let same: usize = part.chars().zip(whole.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let show = |text: &str| text[same..].chars().take(24).collect::<String>().escape_debug().to_string();
        TextError::Unstable { model: self.model.into(), turn, found: show(part), expected: show(whole) }
    }
}

/// A beginning of a rendered chat and its ids.
struct Prefix {
    end: usize,
    ids: Vec<u32>,
}

#[cfg(test)]
#[path = "text/tests.rs"]
mod tests;
