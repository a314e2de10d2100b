//! The text side of a model: texts and chats to token ids, the same way in training, evaluation and
//! generation.
//!
//! A prompt's ids are made in one place, here, so that the ids a model is tuned on are the ids it
//! meets when it generates. An answer's ids continue them: where the ids of prompt + answer begin
//! with those of the prompt, they are what is left; where the tokenizer would merge across the
//! border (a prompt that ends with a space), the answer is encoded by itself, because generation,
//! too, starts from the prompt's own ids and can never reach the merged token.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bft_formats::{
    ChatTemplate, Conversation, EmbeddingModel, EncoderModel, FormatError, Message, Model, REASONING, Tokenizer, Turns,
};
use serde_json::{Map, Value};

use crate::rows::Chat;

/// A model's tokenizer, chat template and end-of-text token, with what must be known to use them
/// safely.
#[derive(Debug, Clone)]
pub struct TextEncoder<'m> {
    model: &'m str,
    tokenizer: Option<&'m Tokenizer>,
    template: Option<ChatTemplate>,
    end_tokens: &'m [u32],
    vocab_size: usize,
}

/// Why a text or chat has no token ids.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum TextError {
    /// The model came without a tokenizer.
    #[error("model {model} has no tokenizer: add its tokenizer.json, or use rows of input_ids/labels")]
    NoTokenizer { model: String },
    /// The model came without a chat template.
    #[error("model {model} has no chat template: use prompt/completion or text rows, or add a chat_template.jinja")]
    NoChatTemplate { model: String },
    /// The model does not say which token ends a text.
    #[error("model {model} names no end-of-text token (eos_token_id): use chat or input_ids/labels rows")]
    NoEndOfText { model: String },
    /// Pre-tokenised ids that the embedding lacks.
    #[error(
        "{path} is {id}, but the vocabulary of model {model} has {vocab_size} tokens: tokenise with its own tokenizer"
    )]
    TokenId { path: String, id: u32, model: String, vocab_size: usize },
    /// The tokenizer or the template refused.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// An answer without content, of whose other keys the template shows none.
    #[error(
        "messages[{turn}] has no content, and the chat template of {model} names no {key}: nothing of it would be trained"
    )]
    NothingSaid { model: String, turn: usize, key: &'static str },
    /// With an answer, the messages before it are rendered otherwise than without.
    #[error(
        "the chat template of {model} renders the messages before answer [{turn}] otherwise once it is there (they part at \"{found}\" against \"{expected}\"), and the answer cannot be told apart: use prompt/completion rows"
    )]
    Unstable { model: String, turn: usize, found: String, expected: String },
}

impl From<FormatError> for TextError {
    fn from(error: FormatError) -> Self {
        Self::Format(Box::new(error))
    }
}

impl TextError {
    /// Whether another row of the same format may still work.
    pub fn is_about_the_row(&self) -> bool {
        matches!(self, Self::TokenId { .. } | Self::Format(_) | Self::Unstable { .. } | Self::NothingSaid { .. })
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

/// The samples of a chat, and what was done to make them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatSamples {
    /// Of the whole chat, and then of answers by themselves.
    pub samples: Vec<LabelledTokens>,
    /// Whether the template's own marks are the mask.
    pub marked: bool,
    /// Answers that became samples of their own.
    pub alone: usize,
    /// Answers that are trained with what the template writes before them.
    pub headers: usize,
    /// Answers whose last trained token ends no turn.
    pub endless: usize,
    /// Tokens that trained answers end with.
    pub ends: BTreeSet<u32>,
}

impl ChatSamples {
    fn note_end(&mut self, end: Option<u32>) {
        self.endless += usize::from(end.is_none());
        self.ends.extend(end);
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
            template: model.chat_template.clone(),
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

    /// Gives the chat template variables, such as `enable_thinking`.
    ///
    /// # Errors
    /// Where there are some but no template, or one has a name that the template has from the
    /// conversation.
    pub fn with_template_vars(mut self, variables: &Map<String, Value>) -> Result<Self, TextError> {
        if !variables.is_empty() {
            self.template = Some(self.template()?.clone().with_variables(variables)?);
        }
        Ok(self)
    }

    fn template(&self) -> Result<&ChatTemplate, TextError> {
        self.template.as_ref().ok_or_else(|| TextError::NoChatTemplate { model: self.model.into() })
    }

    /// Whether the chat template's source has `name` in it.
    pub(crate) fn template_names(&self, name: &str) -> bool {
        self.template.as_ref().is_some_and(|template| template.names(name))
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

    /// Ids of a text to embed: just what the tokenizer makes of it, its own beginning and end
    /// tokens included.
    pub fn whole_text(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, true)
    }

    /// As [`Self::whole_text`], cut to `longest` ids but for its end tokens; also whether it was
    /// cut.
    pub fn whole_text_within(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool), TextError> {
        Ok(self.tokenizer()?.encode_within(text, longest)?)
    }

    /// Ids of a text that is to be continued: the tokenizer's beginning token, if it adds one and
    /// the text does not spell it, but no end token.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = self.encode(text, false)?;
        let first = self.tokenizer()?.first_ids();
        Ok(if ids.starts_with(first) { ids } else { [first, &ids].concat() })
    }

    /// Ids of a chat up to where the assistant's next answer begins.
    pub fn chat_prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, TextError> {
        let text = self.template()?.render(conversation, true)?;
        self.encode(&text, false)
    }

    /// As [`Self::chat_prompt`], of a row's chat, the parts of whose texts are joined where the
    /// template would not.
    pub fn row_prompt(&self, chat: &Chat) -> Result<Vec<u32>, TextError> {
        self.chat_prompt(&self.plain(chat).conversation)
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
        sample.push(&self.continuation(&prompt_ids, &whole, completion)?, true);
        self.close(&mut sample)?;
        Ok(sample)
    }

    /// Ids of a prompt and what is asked of it, as lm-evaluation-harness divides them, and how many
    /// of them are the prompt's: both are encoded together and cut where the prompt alone would
    /// end; white space at the prompt's end goes to what follows it.
    ///
    /// # Errors
    /// Where the model has no tokenizer, or it refuses the text.
    pub fn prompt_and_choice(&self, prompt: &str, choice: &str) -> Result<(Vec<u32>, usize), TextError> {
        let begins = self.prompt(prompt.trim_end())?.len();
        let whole = self.prompt(&format!("{prompt}{choice}"))?;
        Ok((whole, begins))
    }

    /// Adds the end-of-text token, unless the text itself spells it; white space after a spelt one
    /// is not trained.
    fn close(&self, sample: &mut LabelledTokens) -> Result<(), TextError> {
        let end = self.end_of_text()?;
        match sample.tokens.iter().rposition(|id| *id == end) {
            Some(last) if self.is_blank(&sample.tokens[last + 1..])? => sample.labels[last + 1..].fill(crate::MASKED),
            _ => sample.push(&[end], true),
        }
        Ok(())
    }

    /// Ids of `text` after a context of the ids `before`, where `whole` are the ids of both
    /// together.
    ///
    /// Where the two would merge into one token at the border, the text is encoded by itself:
    /// generation starts from the context's own ids and never reaches the merged token. A
    /// SentencePiece tokenizer begins whatever it encodes with a space; the text is then encoded
    /// behind something else, so that no space stands there that nobody wrote.
    fn continuation(&self, before: &[u32], whole: &[u32], text: &str) -> Result<Vec<u32>, TextError> {
        /// What a text is put behind: each is a token of its own in some vocabulary.
        const ANCHORS: [&str; 3] = ["\n", ".", "a"];
        if let Some(rest) = whole.strip_prefix(before) {
            return Ok(rest.to_vec());
        }
        let tokenizer = self.tokenizer()?;
        let wanted = tokenizer.decode(whole, false)?;
        let fits = |ids: &[u32]| Ok::<_, TextError>(tokenizer.decode(&[before, ids].concat(), false)? == wanted);
        let alone = self.encode(text, false)?;
        if fits(&alone)? {
            return Ok(alone);
        }
        for anchor in ANCHORS {
            let anchored = self.encode(&format!("{anchor}{text}"), false)?;
            if let Some(ids) = anchored.strip_prefix(self.encode(anchor, false)?.as_slice())
                && fits(ids)?
            {
                return Ok(ids.to_vec());
            }
        }
        Ok(alone)
    }

    /// A chat as samples whose assistant turns are trained, each with its end-of-turn token, and
    /// all else is masked.
    ///
    /// Where the template marks answers with `{% generation %}`, the marks are the mask. Else an
    /// answer is found by rendering the messages before it (with the opening of an answer) and with
    /// it: where both are beginnings of the whole rendered chat, it is trained there. Templates
    /// that render earlier turns otherwise than the last one show an answer as it was written only
    /// where the chat ends with it: such an answer becomes a sample of its own.
    pub fn chat_samples(&self, chat: &Chat) -> Result<ChatSamples, TextError> {
        if let Some(samples) = self.marked_sample(chat)? {
            return Ok(samples);
        }
        let conversation = &chat.conversation;
        let turns = self.template()?.turns(conversation)?;
        let whole = turns.render(conversation.messages.len(), None, false)?;
        let mut samples = ChatSamples::default();
        let mut joint = LabelledTokens::default();
        let mut alone = Vec::new();
        let mut done = Prefix::default();
        for turn in chat.trained_turns() {
            let answer = self.find_answer(&turns, &conversation.messages[turn], turn, &whole)?;
            samples.headers += usize::from(answer.header_is_trained);
            if whole.starts_with(&answer.text)
                && answer.prompt == answer.text[..answer.start]
                && answer.start >= done.end
            {
                done = self.extend(&mut joint, &whole, done, answer.start, None)?;
                done = self.extend(&mut joint, &whole, done, answer.text.len(), Some(&mut samples))?;
            } else {
                let text = format!("{}{}", answer.prompt, &answer.text[answer.start..]);
                let mut sample = LabelledTokens::default();
                let start = Prefix::default();
                let begun = self.extend(&mut sample, &text, start, answer.prompt.len(), None)?;
                self.extend(&mut sample, &text, begun, text.len(), Some(&mut samples))?;
                alone.push(sample);
            }
        }
        samples.alone = alone.len();
        if alone.is_empty() || joint.labels.iter().any(|label| *label != crate::MASKED) {
            self.extend(&mut joint, &whole, done, whole.len(), None)?;
            samples.samples.push(joint);
        }
        samples.samples.append(&mut alone);
        Ok(samples)
    }

    /// The samples of a row's chat: those of [`Self::chat_samples`] where the template can show
    /// what the row says.
    pub(crate) fn row_samples(&self, chat: &Chat) -> Result<ChatSamples, TextError> {
        self.template()?;
        if let Some((turn, key)) = chat.trained_turns().find_map(|turn| Some((turn, self.silent(chat, turn)?))) {
            return Err(TextError::NothingSaid { model: self.model.into(), turn, key });
        }
        self.chat_samples(&self.plain(chat))
    }

    /// The chat with its lists of text parts as the texts they are, where the template does not
    /// look into parts: it would print brackets and keys, and in transformers it does.
    fn plain<'c>(&self, chat: &'c Chat) -> Cow<'c, Chat> {
        let joined = |message: &Message| {
            let parts = message.get("content")?.as_array()?;
            parts.iter().map(|part| part.get("text")?.as_str()).collect::<Option<String>>()
        };
        let reads_parts = ["'text'", "\"text\"", ".text"].iter().any(|name| self.template_names(name));
        if reads_parts || !chat.conversation.messages.iter().any(|message| joined(message).is_some()) {
            return Cow::Borrowed(chat);
        }
        let mut plain = chat.clone();
        for message in &mut plain.conversation.messages {
            if let Some(text) = joined(message) {
                *message = message.with_content(text);
            }
        }
        Cow::Owned(plain)
    }

    /// The key of what an answer says where it has no content and the template names none of its
    /// other keys.
    fn silent(&self, chat: &Chat, turn: usize) -> Option<&'static str> {
        let answer = &chat.conversation.messages[turn];
        let has_content = match answer.get("content") {
            None => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        let said = || ["tool_calls"].into_iter().chain(REASONING).filter(|key| answer.get(key).is_some());
        if has_content || said().any(|key| self.template_names(key)) { None } else { said().next() }
    }

    /// The sample of a template that marks its answers; none where it has no marks, or where turns
    /// are left out of training and the marks do not tell which are theirs.
    fn marked_sample(&self, chat: &Chat) -> Result<Option<ChatSamples>, TextError> {
        let Some((text, mut spans)) = self.template()?.render_marked(&chat.conversation)? else {
            return Ok(None);
        };
        if !chat.masked.is_empty() {
            let turns: Vec<usize> = chat.assistant_turns().collect();
            if turns.len() != spans.len() {
                return Ok(None);
            }
            let mut turns = turns.iter();
            spans.retain(|_| turns.next().is_some_and(|turn| !chat.masked.contains(turn)));
        }
        let (tokens, offsets) = self.tokenizer()?.encode_with_offsets(&text)?;
        let mut labels = vec![crate::MASKED; tokens.len()];
        let mut samples = ChatSamples { marked: true, ..ChatSamples::default() };
        for span in spans.iter().filter(|span| !span.is_empty()) {
            // As in transformers, a token that overlaps the answer belongs to it.
            let first = offsets.partition_point(|token| token.end <= span.start);
            let end = offsets.partition_point(|token| token.start < span.end).max(first);
            for (label, id) in labels[first..end].iter_mut().zip(&tokens[first..end]) {
                *label = *id as i32;
            }
            samples.note_end(tokens[first..end].last().copied().filter(|id| self.ends_a_turn(*id)));
        }
        samples.samples.push(LabelledTokens { tokens, labels });
        Ok(Some(samples))
    }

    /// Where the answer of a turn begins in the chat rendered up to it.
    fn find_answer(&self, turns: &Turns, message: &Message, turn: usize, whole: &str) -> Result<Answer, TextError> {
        let render = |to: usize, prompt: bool| turns.render(to, None, prompt);
        let text = render(turn + 1, false)?;
        let before = match render(turn, true) {
            Ok(before) => before,
            // A template that looks at the first message cannot be asked what comes before it.
            Err(problem) if turn == 0 => {
                let start = content_start(turns, message, 0)?.filter(|start| text.starts_with(start));
                return match start {
                    Some(prompt) => Ok(Answer { start: prompt.len(), prompt, text, header_is_trained: false }),
                    None => Err(problem.into()),
                };
            }
            Err(problem) => return Err(problem.into()),
        };
        if text.starts_with(&before) {
            let start = before.len();
            let header_is_trained = match message.get("content").and_then(Value::as_str).map(str::trim) {
                Some(content) if !content.is_empty() && render(turn, false).is_ok_and(|bare| bare == before) => {
                    text[start..].find(content).is_some_and(|at| !text[start..start + at].trim().is_empty())
                }
                _ => false,
            };
            return Ok(Answer { start, prompt: before, text, header_is_trained });
        }
        // The opening that generation starts from is not how this answer opens: what they share is
        // not trained.
        let bare = render(turn, false)?;
        if text.starts_with(&bare) {
            let start = shared_beginning(&before, &text).max(bare.len());
            return Ok(Answer { prompt: text[..start].to_owned(), start, text, header_is_trained: false });
        }
        // With the answer, the messages before it are rendered otherwise than without, so that only
        // its content shows where it is. What stands right before both is the same.
        if let Some(until) = content_start(turns, message, turn)?.filter(|until| text.starts_with(until)) {
            let shared = |end: &usize| shared_end(&before, &until[..*end]);
            let ends = until.char_indices().rev().take(MOST_HEADER).map(|(at, _)| at).chain([until.len()]);
            let (length, start) = ends.map(|end| (shared(&end), end)).max().unwrap_or_default();
            if length >= LEAST_SHARED {
                return Ok(Answer { prompt: before, start, text, header_is_trained: false });
            }
        }
        Err(self.unstable(&before, whole, turn))
    }

    /// Appends the ids of `whole[done.end..end]`; `answer` counts how they end where they are
    /// trained.
    fn extend(
        &self,
        sample: &mut LabelledTokens,
        whole: &str,
        done: Prefix,
        end: usize,
        answer: Option<&mut ChatSamples>,
    ) -> Result<Prefix, TextError> {
        let ids = self.prefix_ids(&whole[..end], &done)?;
        let added = self.continuation(&done.ids, &ids.ids, &whole[done.end..end])?;
        let mut length = 0;
        if let Some(samples) = answer {
            let ending = self.turn_end(&added)?;
            length = ending.map_or(added.len(), |last| last + 1);
            samples.note_end(ending.map(|last| added[last]));
        }
        sample.push(&added[..length], true);
        sample.push(&added[length..], false);
        Ok(ids)
    }

    /// The ids of a text that `done` is a beginning of: what stands before the last place where
    /// `done` may be cut is not encoded again.
    fn prefix_ids(&self, text: &str, done: &Prefix) -> Result<Prefix, TextError> {
        let mut ids = done.ids[..done.known].to_vec();
        let mut begin = done.cut;
        if let Some([end, next]) = self.tokenizer()?.last_cut(text, begin) {
            ids.extend(self.encode(&text[begin..end], false)?);
            begin = next;
        }
        let known = ids.len();
        ids.extend(self.encode(&text[begin..], false)?);
        Ok(Prefix { end: text.len(), ids, cut: begin, known })
    }

    /// Where the end-of-turn token of a rendered answer is: it is trained, and the line break that
    /// templates write after it, which nobody ever generates, is not.
    fn turn_end(&self, ids: &[u32]) -> Result<Option<usize>, TextError> {
        match ids.iter().rposition(|id| self.ends_a_turn(*id)) {
            Some(last) if self.is_blank(&ids[last + 1..])? => Ok(Some(last)),
            _ => Ok(None),
        }
    }

    fn ends_a_turn(&self, id: u32) -> bool {
        self.end_tokens.contains(&id) || self.tokenizer.is_some_and(|tokenizer| tokenizer.is_special(id))
    }

    fn is_blank(&self, ids: &[u32]) -> Result<bool, TextError> {
        Ok(self.tokenizer()?.decode(ids, false)?.trim().is_empty())
    }

    fn unstable(&self, part: &str, whole: &str, turn: usize) -> TextError {
        let same: usize = part.chars().zip(whole.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let show = |text: &str| text[same..].chars().take(24).collect::<String>().escape_debug().to_string();
        TextError::Unstable { model: self.model.into(), turn, found: show(part), expected: show(whole) }
    }
}

/// A beginning of a rendered chat and its ids.
#[derive(Default)]
struct Prefix {
    end: usize,
    ids: Vec<u32>,
    /// Where the text behind its last cut begins, and how many ids stand before that.
    cut: usize,
    known: usize,
}

/// An answer in the chat rendered up to it.
struct Answer {
    /// What generation starts from.
    prompt: String,
    /// The rendered chat, with this answer as its end.
    text: String,
    /// Where the answer begins in it.
    start: usize,
    /// Whether the template opens no answer, so that what it writes before one is trained.
    header_is_trained: bool,
}

/// Longest text, in characters, that a template may write between an opening and the answer's
/// content.
const MOST_HEADER: usize = 64;
/// Bytes that two renderings of the same messages must share at their end to be taken for the same.
const LEAST_SHARED: usize = 4;

/// The chat rendered up to the content of a turn, where that is a text and is shown.
fn content_start(turns: &Turns, message: &Message, turn: usize) -> Result<Option<String>, TextError> {
    /// Not a character, and so in no text.
    const PROBE: &str = "\u{fdd0}";
    if !message.get("content").is_some_and(Value::is_string) {
        return Ok(None);
    }
    let probed = turns.render(turn + 1, Some(&message.with_content(PROBE)), false)?;
    Ok(probed.split_once(PROBE).map(|(before, _)| before.to_owned()))
}

/// Bytes of the longest beginning that two texts share, in whole characters.
fn shared_beginning(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Bytes of the longest end that two texts share, in whole characters.
fn shared_end(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
#[path = "text/tests.rs"]
mod tests;
