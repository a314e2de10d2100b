//! Folders of sentence encoders: what they become, and what is refused by name.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bft_formats::{
    Activation, Bytes, EmbeddingModel, EncoderConfig, EncoderFamily, EncoderModel, FeedForward, Gate, Model, NormPlace,
    Pooling, Positions, Result,
};
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
        "config_sentence_transformers.json",
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

/// The files of `minilm` with keys of one JSON file changed.
fn changed(path: &str, changes: Value) -> Files {
    changed_in("minilm", path, changes)
}

/// The same of any fixture.
fn changed_in(name: &str, path: &str, changes: Value) -> Files {
    let mut files = files(name);
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
    let activations = [&minilm, &bge, &pubmedbert].map(|model| model.config.layers[0].feed_forward);
    assert_eq!(activations, [Activation::Gelu, Activation::Relu, Activation::GeluTanh].map(FeedForward::Plain));
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
    for other in
        ["distilbert", "electra", "albert", "deberta", "deberta-v2", "mpnet", "camembert", "modernbert-decoder"]
    {
        let named = format!("model type {other:?}");
        let all = "bert, roberta, xlm-roberta, modernbert and nomic_bert";
        refusal(config, json!({"model_type": other}), &[&named, all]);
    }
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

fn open(name: &str) -> EncoderModel {
    EncoderModel::open(&folder(name)).unwrap()
}

/// What changes in a configuration make of it.
fn config(name: &str, changes: Value) -> Result<EncoderConfig> {
    let files = changed_in(name, "config.json", changes);
    EncoderConfig::from_json("config.json", &files["config.json"])
}

#[test]
fn families_say_what_their_blocks_do() {
    let [xlm, roberta, modern, nomic] = ["xlm_roberta", "roberta", "modernbert", "nomic"].map(open);
    for model in [&xlm, &roberta] {
        let config = &model.config;
        assert_eq!((config.family, config.norms), (EncoderFamily::Roberta, NormPlace::Stream));
        assert_eq!(config.positions, Some(Positions { rows: 50, padding: Some(1) }));
        assert_eq!((config.max_position_embeddings, config.type_vocab_size), (48, Some(1)));
    }
    assert_eq!((xlm.max_length, roberta.max_length), (40, 48));
    assert_eq!(xlm.sentence.prompts["passage"], "passage: ");
    assert_eq!(xlm.sentence.default_prompt.as_deref(), Some("query"));

    let c = &modern.config;
    assert_eq!(
        (c.family, c.norms, c.norm_bias, c.linear_bias),
        (EncoderFamily::ModernBert, NormPlace::Reader, false, false)
    );
    assert_eq!(
        c.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(),
        [0, 5, 5, 0, 5, 5].map(|w| Some(w).filter(|w| *w > 0))
    );
    assert_eq!(c.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [0, 1, 1, 0, 1, 1].map(Some));
    assert_eq!(c.ropes.iter().map(|rope| rope.theta).collect::<Vec<_>>(), [160_000.0, 10_000.0]);
    assert!(c.layers.iter().all(|layer| layer.feed_forward == FeedForward::Gated(Gate::Gelu)));

    let c = &nomic.config;
    assert_eq!(
        (c.family, c.norms, c.norm_bias, c.linear_bias),
        (EncoderFamily::NomicBert, NormPlace::Stream, true, false)
    );
    assert_eq!((c.ropes[0].theta, c.positions, c.type_vocab_size), (1000.0, None, Some(2)));
    assert!(c.layers.iter().all(|layer| layer.feed_forward == FeedForward::Gated(Gate::Silu)));
}

#[test]
fn fused_tensors_are_taken_apart_in_their_order() {
    let model = open("nomic");
    let stored = std::fs::read(folder("nomic").join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&stored).unwrap();
    let fused = stored.tensor("encoder.layers.1.attn.Wqkv.weight").unwrap().data().to_vec();
    let parts = ["query", "key", "value"].map(|part| model.tensors[&format!("layers.1.{part}.weight")].clone());
    assert!(parts.iter().all(|part| part.shape == [24, 24]));
    assert_eq!(parts.map(|part| part.bytes().unwrap().to_vec()).concat(), fused);
    assert_eq!(open("modernbert").tensors["layers.5.gate.weight"].shape, [40, 24]);
}

/// nomic-embed-text-v1.5 has its configuration in the words of its own code.
#[test]
fn nomics_own_words_and_transformers_mean_the_same() {
    let own = json!({
        "model_type": "nomic_bert", "activation_function": "swiglu", "n_embd": 24, "n_inner": 40, "n_layer": 2,
        "n_head": 2, "n_positions": 48, "vocab_size": 116, "pad_vocab_size_multiple": 4, "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": false, "rotary_emb_scale_base": null, "rotary_scaling_factor": null,
        "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false, "prenorm": false, "causal": false,
        "parallel_block": false, "use_rms_norm": false, "max_trained_positions": 2048,
    });
    let with = |changes: Value| {
        let mut own = own.clone();
        for (key, change) in changes.as_object().unwrap() {
            own[key] = change.clone();
        }
        EncoderConfig::from_json("config.json", own.to_string().as_bytes())
    };
    assert_eq!(with(json!({})).unwrap(), open("nomic").config);
    assert_eq!(with(json!({"vocab_size": 113})).unwrap().vocab_size, 116);
    let gelu = with(json!({"activation_function": "geglu"})).unwrap();
    assert_eq!(gelu.layers[0].feed_forward, FeedForward::Gated(Gate::Gelu));
    for (changes, says) in [
        (json!({"qkv_proj_bias": null}), "qkv_proj_bias true"),
        (json!({"mlp_fc1_bias": true}), "mlp_fc1_bias true"),
        (json!({"prenorm": true}), "prenorm true"),
        (json!({"causal": true}), "causal true"),
        (json!({"rotary_emb_fraction": 0.5}), "rotary_emb_fraction 0.5"),
        (json!({"rotary_emb_interleaved": true}), "rotary_emb_interleaved true"),
        (json!({"rotary_scaling_factor": 2}), "rotary_scaling_factor 2"),
        (json!({"activation_function": "gelu"}), "activation_function \"gelu\""),
        (json!({"moe_every_n_layers": 2}), "moe_every_n_layers 2"),
        (json!({"n_inner": null}), "n_inner is missing"),
        (json!({"rotary_emb_base": 0}), "rope_theta is 0"),
    ] {
        assert_says(&message(with(changes)), &["config.json", says]);
    }
    let refuse = |changes: Value, says: &str| assert_says(&message(config("nomic", changes)), &["config.json", says]);
    refuse(json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0}}), "rope type \"yarn\"");
    refuse(json!({"hidden_act": "relu"}), "hidden_act \"relu\"");
    refuse(json!({"head_dim": 16}), "head_dim 16");
}

#[test]
fn modernberts_older_words_mean_the_same() {
    let absent = Value::Null;
    let older = json!({
        "layer_types": absent, "rope_parameters": absent, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
    });
    let new = open("modernbert").config;
    assert_eq!(config("modernbert", older).unwrap(), new);
    let absent = json!({"layer_types": absent, "rope_parameters": absent});
    assert_eq!(config("modernbert", absent).unwrap(), new);
    let thetas = |changes: Value| -> Vec<f64> {
        config("modernbert", changes).unwrap().ropes.iter().map(|rope| rope.theta).collect()
    };
    assert_eq!(thetas(json!({"rope_parameters": null, "global_rope_theta": 5e3})), [5e3, 1e4]);
    let wide = config("modernbert", json!({"local_attention": 94})).unwrap();
    assert_eq!(wide.layers[1].window, None, "a window as wide as the longest text is none");
    let refuse =
        |changes: Value, says: &str| assert_says(&message(config("modernbert", changes)), &["config.json", says]);
    refuse(json!({"attention_bias": true}), "attention_bias true");
    refuse(json!({"mlp_bias": true}), "mlp_bias true");
    refuse(json!({"norm_bias": true}), "norm_bias true");
    refuse(json!({"hidden_activation": "relu"}), "hidden_activation \"relu\"");
    refuse(json!({"layer_types": ["full_attention"]}), "expected a list of 6");
    refuse(
        json!({"layer_types": ["full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "linear"]}),
        "layer type \"linear\"",
    );
    refuse(json!({"layer_types": null, "global_attn_every_n_layers": 0}), "global_attn_every_n_layers is 0");
    refuse(json!({"rope_scaling": {"type": "linear", "factor": 2}}), "rope_scaling");
    refuse(json!({"local_rope_theta": null}), "local_rope_theta null");
    refuse(json!({"local_attention": -1}), "local_attention is -1");
}

#[test]
fn robertas_places_begin_behind_its_padding() {
    let c = config("roberta", json!({"pad_token_id": 3})).unwrap();
    assert_eq!((c.max_position_embeddings, c.positions), (46, Some(Positions { rows: 50, padding: Some(3) })));
    let text = message(config("roberta", json!({"pad_token_id": 49})));
    assert_says(&text, &["max_position_embeddings is 50", "pad_token_id 49"]);
    // Some folders count the rows before the first place too.
    let lengths = "sentence_bert_config.json";
    let longest = |found: usize| read(&changed_in("roberta", lengths, json!({"max_seq_length": found})));
    assert_eq!((longest(50).unwrap().max_length, longest(20).unwrap().max_length), (48, 20));
    assert_says(&message(longest(51)), &["max_seq_length is 51", "48 positions"]);
}

#[test]
fn missing_tensors_have_the_names_of_their_files() {
    let missing = |name: &str, says: &[&str]| {
        let text =
            message(read(&changed_in(name, "config.json", json!({"num_hidden_layers": 9, "layer_types": null}))));
        assert_says(&text, says);
    };
    missing("nomic", &["tensor encoder.layers.2.attn.Wqkv.weight [72, 24]", "is missing"]);
    missing("modernbert", &["tensor layers.6.attn_norm.weight [24]", "is missing"]);
    missing("roberta", &["tensor encoder.layer.2.attention.self.query.weight", "is missing"]);
    let text = message(read(&changed_in("modernbert", "config.json", json!({"intermediate_size": 44}))));
    assert_says(&text, &["layers.0.mlp.Wi.weight", "[80, 24]", "[88, 24]"]);
}

/// As in transformers, RoBERTa's and XLM-R's classes put their own tokens around a text and cut it
/// as they do, whatever tokenizer.json says.
#[test]
fn robertas_classes_win_over_the_file() {
    let ids = |name: &str, path: &str, changes: Value, text: &str| {
        let model = read(&changed_in(name, path, changes)).unwrap();
        model.tokenizer.unwrap().encode(text, true).unwrap()
    };
    for name in ["roberta", "xlm_roberta"] {
        let plain = |text: &str| ids(name, "tokenizer.json", json!({}), text);
        for changes in [json!({"post_processor": null}), json!({"pre_tokenizer": null}), json!({"normalizer": null})] {
            // Of what normalises, SentencePiece's table stays.
            if name == "roberta" || changes.get("normalizer").is_none() {
                assert_eq!(ids(name, "tokenizer.json", changes, "a gene of a<mask>"), plain("a gene of a<mask>"));
            }
        }
        let space = json!({"add_prefix_space": name == "roberta"});
        assert_ne!(ids(name, "tokenizer_config.json", space, "gene"), plain("gene"));
        let named = json!({"cls_token": "<nowhere>", "bos_token": "<nowhere>"});
        let text = message(read(&changed_in(name, "tokenizer_config.json", named)));
        assert_says(&text, &["m/tokenizer.json", "token <nowhere>", "is missing"]);
        // A class that takes the file as it is.
        let general = changed_in(name, "tokenizer_config.json", json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
        assert_eq!(read(&general).unwrap().tokenizer.unwrap().encode("a gene", true).unwrap(), plain("a gene"));
    }
    assert_eq!(
        ids("xlm_roberta", "config.json", json!({}), "ｇｅｎｅ"),
        ids("xlm_roberta", "config.json", json!({}), "gene")
    );
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
