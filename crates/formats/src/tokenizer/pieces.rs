//! Where a long text may be cut so that the ids of its pieces, one after another, are the ids of
//! the whole.
//!
//! The library holds more than a hundred bytes for each byte of a text that it encodes at once. A
//! text is therefore handed over in pieces, which end between a letter and a space (or a line break
//! or full stop, where words are split by a known pattern). Whether no token reaches over such a
//! border is read off the tokenizer itself: its added tokens, how it normalises and splits, and,
//! where it splits nothing, its vocabulary. A tokenizer with any part that is not known here gets
//! its texts whole.

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Inner};

use super::gguf::{GPT4O_SPLIT, LLAMA3_SPLIT, QWEN2_SPLIT};

/// Bytes that a piece has at least, unless it is the last.
pub(super) const PIECE: usize = 1 << 16;

/// The mark that SentencePiece writes for a space.
const MARK: char = '▁';

/// Where one tokenizer's texts may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Borders {
    /// Before a space alone, and no other character.
    spaces_only: bool,
    /// The tokenizer puts a mark before whatever it is given, which stands for the space that a
    /// later piece begins with: the piece is handed over without it.
    pub mark_for_space: bool,
}

/// What normalising does to spaces; `None` where it may change one side of a border by the other.
#[derive(Default)]
struct Normalizer {
    /// A mark takes the place of each.
    marks: bool,
    /// A mark is put before whatever is there.
    prepends: bool,
}

/// How words are split; `None` where that is not known to be the same on one side of a border
/// whatever is on the other.
#[derive(Default)]
struct Splits {
    /// At every border.
    at_borders: bool,
    /// Borders before other characters than spaces are none.
    spaces_only: bool,
    /// A mark takes the place of each space.
    marks: bool,
}

impl Borders {
    /// The borders of a tokenizer, where it is known to have some.
    pub fn of(inner: &Inner) -> Option<Self> {
        let json = |part: Option<serde_json::Result<Value>>| part.unwrap_or(Ok(Value::Null)).ok();
        let normalizer = normalizer(&json(inner.get_normalizer().map(serde_json::to_value))?)?;
        let splits = splits(&json(inner.get_pre_tokenizer().map(serde_json::to_value))?, normalizer.marks)?;
        let marks = normalizer.marks || splits.marks;
        // A mark that is put before everything stands for a space only where spaces become marks.
        if (normalizer.prepends && !marks) || !(splits.at_borders || (marks && never_crosses(inner))) {
            return None;
        }
        let spaces_only = marks || splits.spaces_only;
        let borders = Self { spaces_only, mark_for_space: normalizer.prepends };
        let added = inner.get_added_tokens_decoder();
        let fits = |token: &tokenizers::AddedToken| {
            let text = &token.content;
            let ends = [text.chars().next(), text.chars().next_back()];
            let word = |end: Option<char>| end.is_some_and(char::is_alphanumeric);
            // One that looks at its neighbours, or takes white space behind it, might do so across.
            let looks = token.single_word || (token.rstrip && word(ends[1])) || (normalizer.prepends && word(ends[0]));
            !looks && !crosses(text)
        };
        added.values().all(fits).then_some(borders)
    }

    /// Pieces of a text of at least `least` bytes each, but for the last, with the byte of the text
    /// that each begins at.
    pub fn pieces(self, text: &str, least: usize) -> impl Iterator<Item = (usize, &str)> {
        let mut start = Some(0);
        std::iter::from_fn(move || {
            let begin: usize = start?;
            let end = self.next(text, begin.saturating_add(least.max(1)));
            start = end.map(|end| if self.mark_for_space { end + 1 } else { end });
            Some((begin, &text[begin..end.unwrap_or(text.len())]))
        })
    }

    /// The first border at or behind a byte.
    fn next(self, text: &str, from: usize) -> Option<usize> {
        (from..text.len()).find(|at| self.is_border(text, *at))
    }

    /// The last border behind a byte: where the text before it ends, and where that behind it
    /// begins.
    pub fn last(self, text: &str, behind: usize) -> Option<[usize; 2]> {
        let at = (behind + 1..text.len()).rev().find(|at| self.is_border(text, *at))?;
        Some([at, if self.mark_for_space { at + 1 } else { at }])
    }

    fn is_border(self, text: &str, at: usize) -> bool {
        if !text.is_char_boundary(at) {
            return false;
        }
        let mut rest = text[at..].chars();
        let allowed = rest.next().is_some_and(|c| if self.spaces_only { c == ' ' } else { BEHIND.contains(&c) });
        // Without its space a piece begins with this character, and not with an added token.
        let follows = rest.next().is_some_and(|next| !self.mark_for_space || next.is_ascii_alphanumeric());
        allowed && follows && text[..at].chars().next_back().is_some_and(is_letter)
    }
}

/// Characters before which there is a border if a letter stands there. No pattern known here takes
/// them and a letter before them for one word, and nothing composes them.
const BEHIND: [char; 4] = [' ', '\n', '。', '，'];

/// Letters of which every version of Unicode says so, and that no mark is part of.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, 'Α'..='Ρ' | 'Σ'..='Ω' | 'α'..='ω' | 'А'..='я' | 'ァ'..='ヺ' | '一'..='龥' | '가'..='힣')
}

/// Whether a token holds a border.
fn crosses(token: &str) -> bool {
    token.chars().zip(token.chars().skip(1)).any(|(a, b)| is_letter(a) && (b == MARK || BEHIND.contains(&b)))
}

/// Whether a tokenizer that splits no words joins none over a border: it joins two neighbours only
/// into a token that is in its vocabulary. Unigram weighs a whole text at once, in sums that are
/// rounded.
fn never_crosses(inner: &Inner) -> bool {
    let ModelWrapper::BPE(bpe) = inner.get_model() else { return false };
    let affixes = bpe.continuing_subword_prefix.is_some() || bpe.end_of_word_suffix.is_some();
    let vocabulary = bpe.get_vocab();
    // A mark without a token would be joined with an unknown character before it.
    let marked = vocabulary.contains_key(MARK.encode_utf8(&mut [0; 4]) as &str);
    !affixes && !bpe.ignore_merges && marked && !vocabulary.keys().any(|token| crosses(token))
}

fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

fn normalizer(part: &Value) -> Option<Normalizer> {
    let mut all = Normalizer::default();
    match kind(part) {
        "" if part.is_null() => {}
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "BertNormalizer" | "Precompiled" => {}
        "Prepend" if part["prepend"] == "▁" => all.prepends = true,
        "Replace" if part["pattern"]["String"] == " " && part["content"] == "▁" => all.marks = true,
        "Sequence" => {
            for step in part["normalizers"].as_array()? {
                let step = normalizer(step)?;
                all.marks |= step.marks;
                all.prepends |= step.prepends;
            }
        }
        _ => return None,
    }
    Some(all)
}

/// `marked`: spaces are marks already.
fn splits(part: &Value, marked: bool) -> Option<Splits> {
    let mut all = Splits::default();
    let is = |key: &str, value: &str| part[key] == value;
    match kind(part) {
        "" if part.is_null() => {}
        "Digits" => {}
        "Punctuation" if is("behavior", "Isolated") => {}
        "BertPreTokenizer" | "Whitespace" => all.at_borders = true,
        "WhitespaceSplit" => (all.at_borders, all.spaces_only) = (true, true),
        "ByteLevel" => {
            all.at_borders = part["use_regex"] == true;
            // A piece that begins with a space gets no other.
            all.spaces_only = part["add_prefix_space"] == true;
        }
        "Metaspace" if is("replacement", "▁") => (all.at_borders, all.marks) = (part["split"] == true, true),
        "Split" if part["invert"] == false && is("behavior", "Isolated") => {
            let pattern = part["pattern"]["Regex"].as_str()?;
            all.at_borders = [LLAMA3_SPLIT, QWEN2_SPLIT, GPT4O_SPLIT].contains(&pattern);
            if !all.at_borders {
                return None;
            }
        }
        // There are none left to split at.
        "Split" if marked && part["pattern"]["String"] == " " => {}
        "Sequence" => {
            for step in part["pretokenizers"].as_array()? {
                let step = splits(step, marked || all.marks)?;
                all.at_borders |= step.at_borders;
                all.spaces_only |= step.spaces_only;
                all.marks |= step.marks;
            }
        }
        _ => return None,
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use tokenizers::AddedToken;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainer;

    use super::*;
    use crate::tokenizer::{EndRule, Ends, Tokenizer};

    /// What texts are made of: words, and whatever may stand beside a border.
    const PARTS: [&str; 24] = [
        "the", "gene", "TP53", "binds", "x", "Ω", "зона", "基因", "カ", "가", "é", "e\u{301}", "'s", "'", " ", " ",
        " ", "  ", "\n", "。", "，", ".", "<s>", "▁",
    ];

    fn texts(count: usize, seed: u64) -> Vec<String> {
        let mut state = seed;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        (0..count).map(|_| (0..next(40)).map(|_| PARTS[next(PARTS.len())]).collect()).collect()
    }

    /// A tokenizer with these parts, whose BPE has learnt from texts that are cut in no way.
    fn trained(normalizer: Value, pre_tokenizer: Value) -> Tokenizer {
        let model = json!({"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": false, "fuse_unk": true});
        let parts = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model
        });
        let mut inner: Inner = parts.to_string().parse().unwrap();
        let learn = BpeTrainer::builder().vocab_size(600).min_frequency(1).show_progress(false).build();
        inner.train(&mut TrainerWrapper::from(learn), texts(60, 1).iter()).unwrap();
        inner.add_special_tokens(&[AddedToken::from("<s>", true)]);
        Tokenizer::new(inner, BTreeMap::new(), EndRule::Ids(Ends::default()))
    }

    /// Compares the pieces of many texts with the whole texts; gives how many pieces there were.
    fn compare(name: &str, tokenizer: &Tokenizer) -> usize {
        let inner = &tokenizer.parts.inner;
        let by_offsets = tokenizer.parts.borders.is_some_and(|borders| !borders.mark_for_space);
        let mut count = 0;
        for text in texts(1200, 2) {
            let whole = inner.encode(text.as_str(), false).unwrap();
            for least in [1, 9] {
                let (mut ids, mut offsets) = (Vec::new(), Vec::new());
                for (begin, piece) in tokenizer.pieces(&text, least) {
                    let encoding = inner.encode(piece, false).unwrap();
                    ids.extend_from_slice(encoding.get_ids());
                    offsets.extend(encoding.get_offsets().iter().map(|(start, end)| (begin + start, begin + end)));
                    count += 1;
                }
                assert_eq!(ids, whole.get_ids(), "{name}: {text:?}");
                if by_offsets {
                    assert_eq!(offsets, whole.get_offsets(), "{name}: {text:?}");
                }
            }
        }
        count - 2400
    }

    fn bytes(prefix: bool, regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex})
    }

    fn split(pattern: &str) -> Value {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false, false)]})
    }

    fn marks(scheme: &str, split: bool) -> Value {
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
    }

    #[test]
    fn the_ids_of_the_pieces_are_those_of_the_whole() {
        let nfc = json!({"type": "NFC"});
        let lower = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
        let digits = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(false, true)]});
        let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks("always", true)]});
        for (name, normalizer, pre_tokenizer) in [
            ("GPT-2", Value::Null, bytes(false, true)),
            ("RoBERTa", Value::Null, bytes(true, true)),
            ("Llama 3", Value::Null, split(LLAMA3_SPLIT)),
            ("Qwen 2", nfc, split(QWEN2_SPLIT)),
            ("GPT-4o", Value::Null, split(GPT4O_SPLIT)),
            ("SmolLM", Value::Null, digits),
            ("words", lower.clone(), words),
            ("BERT", lower, json!({"type": "BertPreTokenizer"})),
            ("marks", Value::Null, marks("always", true)),
            ("marks, first", Value::Null, marks("first", true)),
        ] {
            let count = compare(name, &trained(normalizer, pre_tokenizer));
            assert!(count > 1000, "{name}: {count} pieces");
        }
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
        for name in
            ["qwen2", "encoders/bge", "encoders/minilm", "encoders/modernbert", "encoders/nomic", "encoders/roberta"]
        {
            let json = std::fs::read(format!("{fixtures}/{name}/tokenizer.json")).unwrap();
            let count = compare(name, &Tokenizer::from_json(name, &json).unwrap());
            assert!(count > 1000, "{name}: {count} pieces");
        }
    }

    /// Normalisers and splitting of SentencePiece's tokenizers, whose words nothing splits.
    fn sentence_pieces() -> [(Value, Value); 3] {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let both = json!({"type": "Sequence", "normalizers": [prepend, replace]});
        let spaces =
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
        [(both, Value::Null), (replace, spaces), (Value::Null, marks("first", false))]
    }

    #[test]
    fn where_no_words_are_split_the_vocabulary_tells() {
        for (number, (normalizer, pre_tokenizer)) in sentence_pieces().into_iter().enumerate() {
            // It has learnt tokens that reach over borders, so that there are none.
            let tokenizer = trained(normalizer, pre_tokenizer);
            assert_eq!(tokenizer.parts.borders, None);
            assert_eq!(compare("whole", &tokenizer), 0);
            // Without these.
            let mut json: Value = serde_json::from_str(&tokenizer.parts.inner.to_string(false).unwrap()).unwrap();
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            let pair = |merge: &Value| merge.as_array().unwrap().iter().filter_map(Value::as_str).collect::<String>();
            merges.retain(|merge| !crosses(&pair(merge)));
            let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
            vocabulary.retain(|token, _| !crosses(token));
            vocabulary.values_mut().enumerate().for_each(|(id, value)| *value = id.into());
            json["added_tokens"] = json!([]);
            let tokenizer = Tokenizer::from_json("t", json.to_string().as_bytes()).unwrap();
            let count = compare(&format!("SentencePiece {number}"), &tokenizer);
            assert!(count > 400, "{number}: {count} pieces");
            assert_eq!(tokenizer.parts.borders.unwrap().mark_for_space, number == 0);
        }
    }

    #[test]
    fn what_is_not_known_is_encoded_whole() {
        let borders = |normalizer, pre_tokenizer| trained(normalizer, pre_tokenizer).parts.borders;
        assert!(borders(Value::Null, bytes(false, true)).is_some());
        let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
        let odd = r"\p{L}+ ?|.";
        for (normalizer, pre_tokenizer) in [
            (strip, bytes(false, true)),
            (json!({"type": "Prepend", "prepend": "▁"}), bytes(false, true)),
            (Value::Null, bytes(false, false)),
            (Value::Null, split(odd)),
            (Value::Null, Value::Null),
        ] {
            assert_eq!(borders(normalizer.clone(), pre_tokenizer.clone()), None, "{normalizer} {pre_tokenizer}");
        }
        for added in [
            AddedToken::from("of the", true),
            AddedToken::from("word", true).single_word(true),
            AddedToken::from("word", true).rstrip(true),
        ] {
            let mut inner = trained(Value::Null, bytes(false, true)).parts.inner.clone();
            inner.add_special_tokens(&[added]);
            assert_eq!(Borders::of(&inner), None);
        }
    }

    #[test]
    fn a_piece_has_as_much_as_it_must_and_little_more() {
        let tokenizer = trained(Value::Null, bytes(false, true));
        let text = "a gene binds ".repeat(30_000);
        let pieces: Vec<(usize, &str)> = tokenizer.pieces(&text, PIECE).collect();
        assert_eq!(pieces.iter().map(|(_, piece)| *piece).collect::<String>(), text);
        let whole = |(_, piece): &(usize, &str)| (PIECE..PIECE + 16).contains(&piece.len());
        assert!(pieces.len() == 6 && pieces[..5].iter().all(whole), "{pieces:?}");
        assert_eq!(tokenizer.pieces("", PIECE).collect::<Vec<_>>(), [(0, "")]);
        assert_eq!(tokenizer.pieces(&"A".repeat(200_000), PIECE).count(), 1, "there is no border in it");
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            tokenizer.parts.inner.encode(text.as_str(), false).unwrap().get_ids()
        );
    }
}
