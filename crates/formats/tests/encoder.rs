//! Folders of sentence encoders: what they become, and what is refused by name.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bft_formats::{Activation, Bytes, EmbeddingModel, EncoderModel, Model, Pooling, Result};
use common::{assert_says, message, put};
use serde_json::{Value, json};

type Files = BTreeMap<String, Bytes>;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/encoders").join(name)
}

/// The files of a fixture, by path.
fn files(name: &str) -> Files {
    let mut files = Files::new();
    let paths = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ];
    for path in paths {
        if let Ok(bytes) = std::fs::read(folder(name).join(path)) {
            put(&mut files, path, bytes);
        }
    }
    files
}

fn read(files: &Files) -> Result<EncoderModel> {
    EncoderModel::from_folder("m", files.clone())
}

/// The files of `minilm` with keys of one JSON file changed; null removes a key.
fn changed(path: &str, changes: Value) -> Files {
    let mut files = files("minilm");
    let mut value: Value = files.get(path).map_or_else(|| json!({}), |bytes| serde_json::from_slice(bytes).unwrap());
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    put(&mut files, path, value.to_string());
    files
}

fn refusal(path: &str, changes: Value, says: &[&str]) {
    let text = message(read(&changed(path, changes)));
    assert_says(&text, &[path]);
    assert_says(&text, says);
}

#[test]
fn every_layout_is_read() {
    let [minilm, bge, pubmedbert] =
        ["minilm", "bge", "pubmedbert"].map(|name| EncoderModel::open(&folder(name)).unwrap());
    assert_eq!((minilm.sentence.pooling, minilm.sentence.normalize, minilm.max_length), (Pooling::Mean, true, 24));
    assert_eq!((bge.sentence.pooling, bge.sentence.normalize, bge.max_length), (Pooling::Cls, true, 48));
    assert_eq!((pubmedbert.sentence.pooling, pubmedbert.sentence.normalize), (Pooling::Mean, false));
    let activations = [&minilm, &bge, &pubmedbert].map(|model| model.config.activation);
    assert_eq!(activations, [Activation::Gelu, Activation::Relu, Activation::GeluTanh]);
    assert_eq!(minilm.name, "minilm");
    assert_eq!(minilm.sha256().unwrap().len(), 64);
}

#[test]
fn a_vocabulary_alone_gives_the_tokens_of_its_tokenizer_json() {
    let mut alone = files("minilm");
    alone.remove("tokenizer.json");
    put(&mut alone, "vocab.txt", std::fs::read(folder("pubmedbert").join("vocab.txt")).unwrap());
    let (alone, whole) = (read(&alone).unwrap(), read(&files("minilm")).unwrap());
    for text in ["TP53: tumor protein p53", "", "Naïve 基因 [SEP]\tend", "☃"] {
        let ids = |model: &EncoderModel| model.tokenizer.as_ref().unwrap().encode(text, true).unwrap();
        assert_eq!(ids(&alone), ids(&whole), "{text:?}");
    }
    let mut broken = files("pubmedbert");
    put(&mut broken, "vocab.txt", "a\nb\n");
    assert_says(&message(read(&broken)), &["m/vocab.txt", "token [CLS] is missing"]);
    put(&mut broken, "vocab.txt", [0xff, b'\n']);
    assert_says(&message(read(&broken)), &["m/vocab.txt", "UTF-8"]);
}

#[test]
fn long_texts_keep_their_end_tokens() {
    let model = read(&files("minilm")).unwrap();
    let tokenizer = model.tokenizer.unwrap();
    let whole = tokenizer.encode("the gene of a kinase", true).unwrap();
    assert_eq!(tokenizer.encode_within("the gene of a kinase", 7).unwrap(), (whole.clone(), false));
    let cut = [&whole[..4], &whole[6..]].concat();
    assert_eq!(tokenizer.encode_within("the gene of a kinase", 5).unwrap(), (cut, true));
    let (two, _) = tokenizer.encode_within("the gene", 2).unwrap();
    assert_eq!(two, [whole[0], whole[6]]);
    let (none, cut) = tokenizer.encode_within("the gene", 0).unwrap();
    assert!(none.is_empty() && cut);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let config = "config.json";
    refusal(config, json!({"model_type": "roberta"}), &["model type \"roberta\"", "bert"]);
    refusal(config, json!({"model_type": null}), &["model_type is missing"]);
    refusal(
        config,
        json!({"position_embedding_type": "relative_key"}),
        &["position_embedding_type \"relative_key\"", "absolute"],
    );
    refusal(config, json!({"hidden_act": "silu"}), &["hidden_act \"silu\"", "gelu_new"]);
    refusal(config, json!({"is_decoder": true}), &["is_decoder true"]);
    refusal(config, json!({"quantization_config": {}}), &["quantization_config"]);
    refusal(config, json!({"num_attention_heads": 5}), &["24 is not a multiple of", "5"]);
    refusal(config, json!({"num_attention_heads": 4}), &["a head of 6", "multiples of 4"]);
    refusal(config, json!({"intermediate_size": 41}), &["intermediate_size 41", "4"]);
    refusal(config, json!({"hidden_size": 0}), &["hidden_size is 0"]);
    refusal(config, json!({"num_hidden_layers": 99_999_999}), &["num_hidden_layers"]);
    refusal(config, json!({"layer_norm_eps": 2}), &["layer_norm_eps is 2"]);

    let pooling = "1_Pooling/config.json";
    refusal(pooling, json!({"pooling_mode_mean_tokens": false}), &["a pooling mode is missing"]);
    refusal(pooling, json!({"pooling_mode_cls_token": true}), &["cls_token and mean_tokens together"]);
    refusal(pooling, json!({"pooling_mode": "max"}), &["pooling by max"]);
    refusal(
        pooling,
        json!({"pooling_mode_mean_tokens": false, "pooling_mode_mean_sqrt_len_tokens": true}),
        &["pooling by mean_sqrt_len_tokens"],
    );
    let lengths = "sentence_bert_config.json";
    refusal(lengths, json!({"max_seq_length": 512}), &["max_seq_length is 512", "48 positions"]);
    refusal(lengths, json!({"max_seq_length": "long"}), &["max_seq_length is \"long\""]);
    let prompts = "config_sentence_transformers.json";
    refusal(prompts, json!({"default_prompt_name": "query"}), &["has no prompt \"query\"", "default_prompt_name"]);
    refusal(prompts, json!({"prompts": {"query": 3}}), &["the prompt \"query\" 3"]);
    refusal(pooling, json!({"pooling_mode_mean_tokens": true, "include_prompt": false}), &["include_prompt false"]);
}

#[test]
fn modules_are_those_of_a_plain_encoder() {
    let with = |modules: Value| {
        let mut files = files("minilm");
        put(&mut files, "modules.json", modules.to_string());
        message(read(&files))
    };
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let (transformer, pooling) = (module("Transformer", ""), module("Pooling", "1_Pooling"));
    let text = with(json!([transformer, pooling, module("Dense", "2_Dense")]));
    assert_says(&text, &["m/modules.json", "module \"Dense\" in place 2"]);
    let text = with(json!([transformer, module("Pooling", "../elsewhere")]));
    assert_says(&text, &["../elsewhere", "folder beside it"]);
    let text = with(json!([transformer, module("Pooling", "gone")]));
    assert_says(&text, &["m/gone", "config.json is missing", "get the model again"]);
    assert_says(&with(json!([{"path": ""}])), &["expected an object with type and path"]);
    assert_says(&with(json!(3)), &["holds 3, expected a list"]);
}

/// Older folders keep the transformer in one of its own.
#[test]
fn a_transformer_in_a_folder_below_is_found() {
    let mut below = Files::new();
    for (path, bytes) in files("minilm") {
        let path = match path.as_str() {
            "modules.json" | "1_Pooling/config.json" => path,
            _ => format!("0_Transformer/{path}"),
        };
        below.insert(path, bytes);
    }
    let modules = json!([
        {"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]);
    put(&mut below, "modules.json", modules.to_string());
    let model = read(&below).unwrap();
    assert_eq!((model.max_length, model.sentence.normalize), (24, false));
}

#[test]
fn missing_and_foreign_tensors_are_named() {
    let mut files = changed("config.json", json!({"num_hidden_layers": 3}));
    let text = message(read(&files));
    assert_says(&text, &["tensor encoder.layer.2.attention.self.query.", "is missing"]);
    files = changed("config.json", json!({"num_hidden_layers": 1}));
    assert_says(&message(read(&files)), &["tensor encoder.layer.1.", "no place for it"]);
    files = changed("config.json", json!({"type_vocab_size": 3}));
    assert_says(&message(read(&files)), &["token_type_embeddings", "[2, 24]", "[3, 24]"]);
    files = changed("config.json", json!({"vocab_size": 50}));
    assert_says(&message(read(&files)), &["word_embeddings", "[50, 24]"]);
    files.remove("model.safetensors");
    assert_says(&message(read(&files)), &["model.safetensors is missing"]);
}

#[test]
fn an_encoder_is_told_from_a_language_model() {
    let open = |path: &Path| EmbeddingModel::open(path).unwrap();
    assert!(matches!(open(&folder("bge")), EmbeddingModel::Encoder(_)));
    assert!(matches!(open(&folder("../llama")), EmbeddingModel::Decoder(_)));
    assert_eq!(open(&folder("bge")).hidden_size(), 24);
    let text = message(Model::open(&folder("bge")));
    assert_says(&text, &["config.json", "\"bert\"", "bft embed"]);
    let text = message(EncoderModel::open(&folder("../llama")));
    assert_says(&text, &["model type \"llama\"", "bert"]);
    assert_says(&message(EmbeddingModel::open(Path::new("nowhere"))), &["cannot open nowhere"]);
}

#[test]
fn the_tokenizers_own_limit_counts_where_nothing_else_names_one() {
    // As sentence-transformers 6 saves: the limit stands in tokenizer_config.json alone.
    let mut files = changed("tokenizer_config.json", json!({"model_max_length": 8}));
    assert_eq!(read(&files).unwrap().max_length, 24, "max_seq_length wins");
    put(&mut files, "sentence_bert_config.json", json!({"do_lower_case": false}).to_string());
    assert_eq!(read(&files).unwrap().max_length, 8);
    put(&mut files, "tokenizer_config.json", json!({"model_max_length": 1e30}).to_string());
    assert_eq!(read(&files).unwrap().max_length, 48);
}

#[test]
fn berts_settings_win_over_the_file_as_in_transformers() {
    let ids = |settings: Value, text: &str| {
        let model = read(&changed("tokenizer_config.json", settings)).unwrap();
        model.tokenizer.unwrap().encode(text, true).unwrap()
    };
    assert_eq!(ids(json!({}), "TP"), ids(json!({}), "tp"));
    assert_ne!(ids(json!({"do_lower_case": false}), "TP"), ids(json!({}), "TP"));
    assert_ne!(ids(json!({"strip_accents": false}), "façade"), ids(json!({}), "façade"));
    assert_ne!(ids(json!({"tokenize_chinese_chars": false}), "a基"), ids(json!({}), "a基"));
    refusal("tokenizer_config.json", json!({"split_special_tokens": true}), &["split_special_tokens true"]);
}

#[test]
fn vectors_of_another_width_or_kind_are_refused() {
    let file = "config_sentence_transformers.json";
    refusal(file, json!({"truncate_dim": 8}), &["truncate_dim 8"]);
    refusal(file, json!({"model_type": "SparseEncoder"}), &["\"SparseEncoder\""]);
    assert!(read(&changed(file, json!({"model_type": "SentenceTransformer", "truncate_dim": null}))).is_ok());
}
