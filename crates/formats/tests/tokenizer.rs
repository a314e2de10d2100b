//! Tokenizers out of GGUF files and folders.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::gguf::Header;
use bft_formats::{Architecture, Bytes, Model, Result, Tokenizer};
use common::{Gguf, Random, assert_says, byte_char, byte_level_tokens, message, put, tiny_folder, tiny_gguf};
use serde_json::{Value, json};

fn of(g: &Gguf) -> Result<Tokenizer> {
    let header = Header::parse(&g.build()).unwrap();
    Tokenizer::from_gguf("m.gguf", &header).map(|t| t.expect("the file has a tokenizer"))
}

/// Bytes have their own value as id; 256 `<|start|>`, 257 `<|end|>`, 258 th, 259 the, 260 Ġthe,
/// 261 12, 262 `<think>`.
fn byte_level(pre: &str) -> Tokenizer {
    let mut g = tiny_gguf("llama");
    g.str("tokenizer.ggml.pre", pre);
    of(&g).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap()
}

#[test]
fn digits_are_split_as_each_pre_tokenizer_splits_them() {
    assert_eq!(ids(&byte_level("smollm"), "12 the"), [49, 50, 260]);
    assert_eq!(ids(&byte_level("qwen2"), "12 the"), [49, 50, 260]);
    assert_eq!(ids(&byte_level("gpt-2"), "12 the"), [261, 260]);
    assert_eq!(ids(&byte_level("llama-bpe"), "12 the"), [261, 260]);
    // Runs of three: 121|2.
    assert_eq!(ids(&byte_level("llama-bpe"), "1212"), [261, 49, 50]);
    assert_eq!(ids(&byte_level("gpt-2"), "1212"), [261, 261]);
    assert_eq!(ids(&byte_level("gpt-4o"), "1212"), [261, 49, 50]);
}

#[test]
fn contractions_split_whatever_their_case_only_where_the_model_does() {
    // "'the": GPT-2 and Llama 3 know 't, so "the" is never whole.
    assert_eq!(ids(&byte_level("llama-bpe"), "'The"), [39, 84, 104, 101]);
    assert_eq!(ids(&byte_level("gpt-2"), "'the"), [39, 116, 104, 101]);
    // GPT-4o's takes contractions with the word before them, and what stands before a word with it.
    assert_eq!(ids(&byte_level("gpt-4o"), "'the"), [39, 259]);
    // Only Llama 3's lets a word begin with punctuation.
    assert_eq!(ids(&byte_level("llama-bpe"), "(the"), [40, 259]);
}

#[test]
fn qwen_composes_accents_and_the_others_keep_them() {
    let decomposed = "e\u{301}";
    assert_eq!(ids(&byte_level("qwen2"), decomposed), [0xC3, 0xA9]);
    assert_eq!(ids(&byte_level("smollm"), decomposed), [0x65, 0xCC, 0x81]);
}

#[test]
fn whole_words_skip_merging_in_llama_3_alone() {
    let mut g = tiny_gguf("llama");
    let (mut tokens, mut kinds, _) = byte_level_tokens();
    (tokens[263], kinds[263]) = ("xyz".to_string(), 1);
    g.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    assert_eq!(ids(&of(&g).unwrap(), "xyz"), [120, 121, 122]);
    g.str("tokenizer.ggml.pre", "llama-bpe");
    assert_eq!(ids(&of(&g).unwrap(), "xyz"), [263]);
}

#[test]
fn control_tokens_are_whole_and_can_be_left_out() {
    let t = byte_level("smollm");
    assert_eq!(ids(&t, "a<|end|>b<think>"), [97, 257, 98, 262]);
    assert_eq!(t.decode(&[97, 257, 98, 262], true).unwrap(), "ab<think>");
    assert_eq!(t.decode(&[97, 257, 98, 262], false).unwrap(), "a<|end|>b<think>");
    assert!(t.is_special(257) && !t.is_special(262) && !t.is_special(97));
    assert_eq!((t.token_to_id("<|end|>"), t.token_to_id("nothing")), (Some(257), None));
    assert_eq!((t.bos_token(), t.eos_token()), (Some("<|start|>"), Some("<|end|>")));
    assert_eq!((t.bos_token_id(), t.eos_token_id()), (Some(256), Some(257)));
    assert_eq!(t.vocab_size(), 264);
}

#[test]
fn pieces_are_readable() {
    let t = byte_level("smollm");
    let pieces = [260, 10, 0xE2, 257, 262, 263, 999].map(|id| t.piece(id));
    assert_eq!(pieces, [" the", "\n", "<0xE2>", "<|end|>", "<think>", "[PAD263]", "<no token 999>"]);
}

#[test]
fn beginnings_and_ends_are_added_as_the_file_says() {
    let mut g = tiny_gguf("llama");
    let whole = |g: &Gguf| of(g).unwrap().encode("the", true).unwrap();
    assert_eq!(whole(&g), [259], "smollm adds nothing unless told to");
    g.bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", true);
    assert_eq!(whole(&g), [256, 259, 257]);
    assert_eq!(of(&g).unwrap().encode("the", false).unwrap(), [259]);
    g.remove("tokenizer.ggml.add_bos_token").remove("tokenizer.ggml.add_eos_token");
    g.str("tokenizer.ggml.pre", "llama-bpe");
    assert_eq!(whole(&g), [256, 259], "Llama 3 begins every text");
    g.bool("tokenizer.ggml.add_bos_token", false);
    assert_eq!(whole(&g), [259]);
    g.bool("tokenizer.ggml.add_bos_token", true).u32("tokenizer.ggml.bos_token_id", u32::MAX);
    assert_eq!(whole(&g), [259], "there is no beginning token to add");
}

#[test]
fn text_comes_back_whatever_it_is() {
    let t = byte_level("smollm");
    let mut random = Random::new(5);
    let alphabet: Vec<char> = "the 12\n\t é日🏳\u{200d}\u{0}<|>Ġ▁\u{FFFD}\u{2028}".chars().collect();
    for _ in 0..500 {
        let text: String = (0..random.below(30)).map(|_| alphabet[random.below(alphabet.len())]).collect();
        let ids = ids(&t, &text);
        assert_eq!(t.decode(&ids, false).unwrap(), text);
        let mut stream = t.stream();
        let mut streamed = String::new();
        for id in ids {
            streamed += &stream.push(id).unwrap().unwrap_or_default();
        }
        streamed += &stream.finish().unwrap().unwrap_or_default();
        assert_eq!(streamed, text);
    }
}

#[test]
fn a_stream_never_cuts_a_character() {
    let t = byte_level("smollm");
    let mut s = t.stream();
    let mut push = |id| s.push(id).unwrap();
    assert_eq!(push(97), Some("a".to_string()));
    assert_eq!(push(0xF0), None);
    assert_eq!(push(0x9F), None);
    assert_eq!(push(0x98), None);
    assert_eq!(push(0x80), Some("😀".to_string()));
    // Broken bytes are given up when the next character shows that they are.
    assert_eq!(push(0xC3), None);
    assert_eq!(push(98), Some("\u{FFFD}b".to_string()));
    // A control token gives no text, and ends what was unfinished.
    assert_eq!(push(257), None);
    assert_eq!(push(0xC3), None);
    assert_eq!(push(257), Some("\u{FFFD}".to_string()));
    // Rows of the embedding without a token give no text.
    assert_eq!(push(9999), None);
    assert_eq!(push(99), Some("c".to_string()));
    // Bytes that no character begins with are given up at once.
    assert_eq!(push(0xFF), Some("\u{FFFD}".to_string()));
    push(0xE2);
    assert!(s.finish().unwrap().unwrap().ends_with('\u{FFFD}'));
    assert_eq!(s.finish().unwrap(), None);
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, 256 bytes from 3 on, then pieces with
/// scores.
fn sentence_piece(pieces: &[(&str, f32)]) -> Gguf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(pieces.iter().map(|(p, _)| p.to_string()));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.resize(tokens.len(), 1);
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.iter().map(|(_, s)| s));
    let mut g = Gguf::new();
    g.str("general.architecture", "llama").str("tokenizer.ggml.model", "llama");
    g.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    g.f32s("tokenizer.ggml.scores", &scores);
    g
}

/// Ids 259 on.
const PIECES: [(&str, f32); 10] = [
    ("▁", -9.0),
    ("a", -10.0),
    ("b", -11.0),
    ("c", -12.0),
    ("ab", -2.0),
    ("bc", -1.0),
    ("abc", -3.0),
    ("▁a", -4.0),
    ("▁▁", -5.0),
    ("▁abc", -6.0),
];

#[test]
fn sentence_piece_merges_by_score() {
    let t = of(&sentence_piece(&PIECES)).unwrap();
    // bc first (the best score), then a+bc, then ▁+abc.
    assert_eq!(t.encode("abc", true).unwrap(), [1, 268]);
    // ab wins where there is no c.
    assert_eq!(ids(&t, "ab"), [259, 263]);
    assert_eq!(ids(&t, "  a"), [267, 266]);
    // What is in no piece falls back to its bytes; é is C3 A9.
    assert_eq!(ids(&t, "é"), [259, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(t.decode(&[1, 268, 3 + 0xC3, 3 + 0xA9], true).unwrap(), "abcé");
    assert_eq!(t.piece(268), " abc");
    assert_eq!(ids(&t, "a</s>b"), [266, 2, 259, 261], "every stretch of text has its space");
    assert_eq!(ids(&t, ""), [0; 0]);
}

#[test]
fn white_space_behind_a_special_token_of_phi_3_is_swallowed() {
    let mut g = sentence_piece(&PIECES);
    assert_eq!(ids(&of(&g).unwrap(), "a</s> b"), [266, 2, 267, 261]);
    g.str("general.architecture", "phi3");
    assert_eq!(ids(&of(&g).unwrap(), "a</s> \n b"), [266, 2, 259, 261]);
    assert_eq!(ids(&of(&g).unwrap(), "a<s> b"), [266, 1, 267, 261]);
}

#[test]
fn sentence_piece_keeps_its_word_on_spaces_in_a_stream() {
    let t = of(&sentence_piece(&PIECES)).unwrap();
    let mut s = t.stream();
    let text: Vec<_> = [268, 266, 3 + 0xC3, 3 + 0xA9].map(|id| s.push(id).unwrap()).into();
    assert_eq!(text, [Some("abc".into()), Some(" a".into()), None, Some("é".into())]);
}

#[test]
fn a_space_prefix_can_be_switched_off() {
    let mut g = sentence_piece(&PIECES);
    g.bool("tokenizer.ggml.add_space_prefix", false).bool("tokenizer.ggml.add_bos_token", false);
    let t = of(&g).unwrap();
    assert_eq!(t.encode("abc", true).unwrap(), [265]);
    assert_eq!(t.decode(&[266], false).unwrap(), " a");
}

#[test]
fn tokenizers_that_are_not_known_or_not_whole_are_refused() {
    let refuse = |change: &dyn Fn(&mut Gguf)| {
        let mut g = tiny_gguf("llama");
        change(&mut g);
        let text = message(of(&g));
        assert_says(&text, &["m.gguf"]);
        text
    };
    let pre = refuse(&|g| {
        g.str("tokenizer.ggml.pre", "tekken");
    });
    assert_says(&pre, &["pre-tokenizer \"tekken\"", "smollm, qwen2, llama-bpe, gpt-4o and gpt-2"]);
    let model = refuse(&|g| {
        g.str("tokenizer.ggml.model", "bert");
    });
    assert_says(&model, &["tokenizer model \"bert\"", "gpt2", "llama"]);
    let tokens = refuse(&|g| {
        g.remove("tokenizer.ggml.tokens");
    });
    assert_says(&tokens, &["tokenizer.ggml.tokens is missing"]);
    let merges = refuse(&|g| {
        g.remove("tokenizer.ggml.merges");
    });
    assert_says(&merges, &["tokenizer.ggml.merges is missing"]);
    let merge = refuse(&|g| {
        g.strings("tokenizer.ggml.merges", &["th"]);
    });
    assert_says(&merge, &["merge 0 is \"th\"", "two tokens"]);
    let unknown = refuse(&|g| {
        g.strings("tokenizer.ggml.merges", &["q q"]);
    });
    assert_says(&unknown, &["merges do not fit", "qq"]);
    let kinds = refuse(&|g| {
        g.i32s("tokenizer.ggml.token_type", &[1, 2]);
    });
    assert_says(&kinds, &["token_type is a list of 2 numbers", "264"]);
    let bos = refuse(&|g| {
        g.u32("tokenizer.ggml.bos_token_id", 264);
    });
    assert_says(&bos, &["bos_token_id is 264", "below 264"]);
    let flag = refuse(&|g| {
        g.u32("tokenizer.ggml.add_bos_token", 1);
    });
    assert_says(&flag, &["add_bos_token is 1", "true or false"]);
    let twice = refuse(&|g| {
        let (mut tokens, ..) = byte_level_tokens();
        tokens[200] = "a".to_string();
        g.strings("tokenizer.ggml.tokens", &tokens);
    });
    assert_says(&twice, &["tokens 97 and 200 are both \"a\""]);

    let mut g = sentence_piece(&PIECES);
    g.remove("tokenizer.ggml.scores");
    assert_says(&message(of(&g)), &["tokenizer.ggml.scores is missing"]);
    g = sentence_piece(&PIECES);
    g.bool("tokenizer.ggml.remove_extra_whitespaces", true);
    assert_says(&message(of(&g)), &["remove_extra_whitespaces"]);
    g.remove("tokenizer.ggml.model");
    assert!(Tokenizer::from_gguf("m", &Header::parse(&g.build()).unwrap()).unwrap().is_none());
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused() {
    let mut g = tiny_gguf("llama");
    let (mut tokens, mut kinds, _) = byte_level_tokens();
    tokens.push("<extra>".to_string());
    kinds.push(3);
    g.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    let text = message(Model::from_gguf("m.gguf", g.bytes()));
    assert_says(&text, &["m.gguf", "264 (\"<extra>\")", "below the embedding's 264 rows"]);
    // Fewer tokens than rows is how vocabularies are padded.
    g.strings("tokenizer.ggml.tokens", &tokens[..262]).i32s("tokenizer.ggml.token_type", &kinds[..262]);
    assert!(Model::from_gguf("m.gguf", g.bytes()).is_ok());
}

/// The same byte-level tokenizer as a `tokenizer.json`, which cuts texts after two tokens.
fn tokenizer_json(extra: &[&str]) -> Value {
    let mut vocab: serde_json::Map<String, Value> = (0..=255u8).map(|b| (byte_char(b).to_string(), json!(b))).collect();
    let special = ["<|start|>", "<|end|>"].iter().chain(extra);
    let added: Vec<Value> = special
        .enumerate()
        .map(|(i, t)| {
            vocab.insert(t.to_string(), json!(256 + i));
            json!({"id": 256 + i, "content": t, "special": true, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    for (i, token) in ["th", "the"].iter().enumerate() {
        vocab.insert(token.to_string(), json!(256 + added.len() + i));
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|start|>": {"id": "<|start|>", "ids": [256], "tokens": ["<|start|>"]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": false, "vocab": vocab, "merges": ["t h", "th e"]},
    })
}

fn in_folder(json: &Value, config: Option<Value>) -> Result<Model> {
    let mut files: BTreeMap<String, Bytes> = tiny_folder(Architecture::Llama);
    put(&mut files, "tokenizer.json", json.to_string());
    if let Some(config) = config {
        put(&mut files, "tokenizer_config.json", config.to_string());
    }
    Model::from_folder("tiny", files)
}

#[test]
fn a_folders_tokenizer_is_read_with_its_settings() {
    let encode = |config: Option<Value>| {
        let model = in_folder(&tokenizer_json(&[]), config).unwrap();
        model.require_tokenizer().unwrap().encode("the the", true).unwrap()
    };
    // Neither cut nor padded, and with what the file itself adds.
    assert_eq!(encode(None), [256, 259, 32, 259]);
    assert_eq!(encode(Some(json!({"bos_token": "<|start|>"}))), [256, 259, 32, 259]);
    let settings = json!({"bos_token": {"content": "<|start|>"}, "eos_token": "<|end|>",
                          "add_bos_token": false, "add_eos_token": true});
    // As in transformers, the file's post-processor wins over settings for tokenizers without such
    // a file.
    assert_eq!(encode(Some(settings.clone())), [256, 259, 32, 259]);
    let model = in_folder(&tokenizer_json(&[]), Some(settings)).unwrap();
    let tokenizer = model.tokenizer.unwrap();
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token_id()), (Some("<|start|>"), Some(257)));
}

#[test]
fn every_usual_post_processor_is_followed() {
    let encode = |processor: Value| {
        let mut json = tokenizer_json(&[]);
        json["post_processor"] = processor;
        let tokenizer = Tokenizer::from_json("tokenizer.json", json.to_string().as_bytes());
        tokenizer.and_then(|t| t.encode("the", true))
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    assert_eq!(encode(Value::Null).unwrap(), [259]);
    assert_eq!(encode(byte_level.clone()).unwrap(), [259]);
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let template = |single: Value| {
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {
            "<|start|>": {"id": "<|start|>", "ids": [256], "tokens": ["<|start|>"]},
            "<|end|>": {"id": "<|end|>", "ids": [257, 257], "tokens": ["<|end|>", "<|end|>"]}}})
    };
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let both = template(json!([token("<|start|>"), a, token("<|end|>")]));
    assert_eq!(encode(both.clone()).unwrap(), [256, 259, 257, 257]);
    let sequence = json!({"type": "Sequence", "processors": [byte_level, both]});
    assert_eq!(encode(sequence).unwrap(), [256, 259, 257, 257]);
    let bert = json!({"type": "BertProcessing", "cls": ["<|start|>", 256], "sep": ["<|end|>", 257]});
    assert_eq!(encode(bert).unwrap(), [256, 259, 257]);

    let unknown = template(json!([token("<|other|>"), a]));
    assert_says(&message(encode(unknown)), &["tokenizer.json: post_processor", "does not make sense"]);
    let second = template(json!([{"Sequence": {"id": "B", "type_id": 0}}]));
    assert_says(&message(encode(second)), &["does not make sense"]);
    assert_says(&message(encode(json!({"type": "New"}))), &["post-processor \"New\"", "TemplateProcessing"]);
}

#[test]
fn the_tokenizers_end_token_is_the_first_of_the_models() {
    let config = json!({"eos_token": "<|start|>"});
    let model = in_folder(&tokenizer_json(&[]), Some(config)).unwrap();
    assert_eq!(model.config.eos_token_ids, [256, 257]);
}

#[test]
fn broken_tokenizer_files_are_refused() {
    let refuse = |json: &Value, config| message(in_folder(json, config));
    assert_says(&refuse(&json!({"model": 1}), None), &["tiny/tokenizer.json", "no tokenizer.json"]);
    let many: Vec<String> = (0..8).map(|i| format!("<extra{i}>")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let big = refuse(&tokenizer_json(&many), None);
    assert_says(&big, &["tiny/tokenizer.json", "largest token id", "found 267", "264 rows"]);
    let mut gap = tokenizer_json(&["<extra>"]);
    let added = gap["added_tokens"].as_array_mut().unwrap();
    added.last_mut().unwrap()["id"] = json!(4000);
    assert_says(&refuse(&gap, None), &["id of the added token \"<extra>\"", "found 4000", "expected 258"]);
    let mut far = tokenizer_json(&[]);
    far["post_processor"]["special_tokens"]["<|start|>"]["ids"] = json!([70_000]);
    assert_says(&refuse(&far, None), &["largest token id", "70000", "264 rows"]);
    let mut table = tokenizer_json(&[]);
    table["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="});
    let described = json!({"added_tokens_decoder": {"258": {"content": "new"}}});
    assert_says(&refuse(&table, Some(described)), &["cannot add its tokens", "contradict one another"]);
    let bos = refuse(&tokenizer_json(&[]), Some(json!({"bos_token": 5})));
    assert_says(&bos, &["tokenizer_config.json", "bos_token is 5"]);

    let without = Model::from_folder("tiny", tiny_folder(Architecture::Llama)).unwrap();
    assert_says(&message(without.require_tokenizer()), &["tiny", "tokenizer.json", "input_ids"]);
    assert_says(&message(without.require_chat_template()), &["chat template is missing", "base model"]);
}

#[test]
fn no_damage_to_a_tokenizer_file_makes_it_panic() {
    let good = tokenizer_json(&[]).to_string().into_bytes();
    let mut random = Random::new(9);
    let mut read = 0;
    for round in 0..3000 {
        let mut bad = good.clone();
        // The vocabulary is most of the file; the settings around it are what can go wrong.
        let at = if round % 2 == 0 { random.below(1400) } else { random.below(bad.len()) };
        match random.below(3) {
            0 => bad[at] = b"0123456789\"{}[]:,xnt-"[random.below(21)],
            1 => drop(bad.drain(at..(at + 1 + random.below(40)).min(good.len()))),
            _ => bad[at] ^= 1 << random.below(8),
        }
        if let Ok(tokenizer) = Tokenizer::from_json("tokenizer.json", &bad) {
            read += 1;
            // Whatever could be read must also work, or say why not.
            if let Ok(ids) = tokenizer.encode("the 12 é<|end|>", true) {
                let _ = tokenizer.decode(&ids, false);
                ids.iter().for_each(|&id| drop(tokenizer.piece(id)));
            }
        }
    }
    assert!(read > 100, "{read} of 3000 could be read");
}

/// Contents of a JSON file of the fixtures.
fn fixture(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A folder of a tiny model with this tokenizer and these settings.
fn loaded(tokenizer: &Value, config: &Value, model_type: Architecture) -> Tokenizer {
    let mut files = tiny_folder(model_type);
    let changes = json!({"vocab_size": 400, "eos_token_id": 2});
    put(&mut files, "config.json", common::config_json(model_type, changes));
    let mut tiny = common::tiny_config(model_type);
    tiny.vocab_size = 400;
    files.insert("model.safetensors".into(), common::safetensors_file(common::tiny_tensors(&tiny).values()).into());
    put(&mut files, "tokenizer.json", tokenizer.to_string());
    put(&mut files, "tokenizer_config.json", config.to_string());
    Model::from_folder("tiny", files).unwrap().tokenizer.unwrap()
}

#[test]
fn special_tokens_are_those_that_transformers_loads() {
    let file = fixture("special_tokens.json");
    let bases = [("qwen2", fixture("qwen2/tokenizer.json")), ("sentencepiece", fixture("sentencepiece.json"))];
    let cases = file["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let mut tokenizer = bases.iter().find(|(name, _)| case["base"] == *name).unwrap().1.clone();
        if let Some(post) = file["post_processors"].get(case["post_processor"].as_str().unwrap()) {
            tokenizer["post_processor"] = post.clone();
        }
        let architecture = match case["model_type"].as_str() {
            Some("mistral") => Architecture::Mistral,
            Some(_) => Architecture::Llama,
            None => Architecture::Qwen2,
        };
        let tokenizer = loaded(&tokenizer, &case["config"], architecture);
        for (text, ids) in case["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap()) {
            let found = json!(tokenizer.encode(text.as_str().unwrap(), true).unwrap());
            if found != *ids {
                wrong.push(format!("{} {} {text}: found {found}, expected {ids}", case["of"], case["config"]));
            }
        }
    }
    assert!(cases.len() > 200);
    assert_eq!(wrong, Vec::<String>::new(), "of {} cases", cases.len());
}

#[test]
fn the_same_text_is_always_the_same_tokens_whatever_dropout_a_file_names() {
    let mut tokenizer = fixture("qwen2/tokenizer.json");
    let config = json!({"eos_token": "<|im_end|>"});
    let text = "the gene that encodes the protein";
    let plain = loaded(&tokenizer, &config, Architecture::Qwen2).encode(text, true).unwrap();
    tokenizer["model"]["dropout"] = json!(1.0);
    assert_eq!(loaded(&tokenizer, &config, Architecture::Qwen2).encode(text, true).unwrap(), plain);
}

#[test]
fn added_tokens_that_contradict_the_file_are_refused() {
    let tokenizer = fixture("qwen2/tokenizer.json");
    let token = |content: &str| json!({"content": content, "special": true});
    let folder = |decoder: Value| {
        let mut files = tiny_folder(Architecture::Qwen2);
        put(&mut files, "tokenizer.json", tokenizer.to_string());
        put(&mut files, "tokenizer_config.json", json!({"added_tokens_decoder": decoder}).to_string());
        message(Model::from_folder("tiny", files))
    };
    assert_says(&folder(json!({"399": token("<|far|>")})), &["tokenizer_config.json", "\"<|far|>\"", "399"]);
    assert_says(&folder(json!({"x": token("<|far|>")})), &["added_tokens_decoder", "\"x\""]);
    assert_says(&folder(json!({"316": {}})), &["no content for token 316"]);
    assert_says(&folder(json!([])), &["added_tokens_decoder", "expected an object"]);
}
