//! A real model: SmolLM2-135M-Instruct as GGUF, which `cargo xtask test` fetches.
//!
//! It is looked for at `BFT_SMOLLM2_GGUF`, else in `BFT_CACHE`, else in `~/.cache/bft`.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bft_formats::{Architecture, DType, Message, Model};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn path() -> PathBuf {
    let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = env("BFT_SMOLLM2_GGUF").unwrap_or_else(|| {
        let cache = env("BFT_CACHE").or_else(|| env("HOME").map(|home| home.join(".cache/bft"))).unwrap_or_default();
        cache.join(FILE)
    });
    assert!(
        path.is_file(),
        "{} is not there: run `cargo xtask test`, which fetches it, or set BFT_SMOLLM2_GGUF to its path",
        path.display()
    );
    path
}

/// ggml's own reference, run by tests/fixtures/quantize.py.
#[test]
fn its_numbers_are_quantised_as_ggml_does_it() {
    let reference: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/quantize.json")).unwrap();
    let tensor = &Model::open(&path()).unwrap().tensors["model.layers.0.mlp.down_proj.weight"];
    let values = tensor.to_f32().unwrap();
    for dtype in DType::quantizers() {
        let mut blocks = vec![0; dtype.row_bytes(values.len())];
        assert!(bft_formats::quantize_row(dtype, &values, &mut blocks));
        let expected = reference["blk.0.ffn_down.weight"][dtype.name()]["sha256"].as_str().unwrap();
        assert_eq!(bft_formats::sha256_bytes(&blocks), expected, "{dtype}");
    }
}

#[test]
fn it_opens_as_what_it_is() {
    // The best of five, since other work on the machine can only add to it.
    let time = || {
        let started = std::time::Instant::now();
        drop(Model::open(&path()).unwrap());
        started.elapsed()
    };
    let fastest = (0..5).map(|_| time()).min().unwrap();
    assert!(fastest.as_secs_f64() < 1.5, "opening took {fastest:?} at best");

    let model = Model::open(&path()).unwrap();
    let c = &model.config;
    assert_eq!(c.architecture, Architecture::Llama);
    assert_eq!((c.hidden_size, c.intermediate_size, c.layers.len()), (576, 1536, 30));
    assert_eq!((c.num_attention_heads, c.num_key_value_heads, c.head_dim), (9, 3, 64));
    assert_eq!((c.vocab_size, c.max_position_embeddings), (49_152, 8192));
    assert_eq!((c.ropes[0].theta, c.rms_norm_eps), (100_000.0, 1e-5));
    assert!(c.tie_word_embeddings && !c.attention_bias && c.layers[0].qk_norm.is_none());
    assert_eq!((c.bos_token_id, &c.eos_token_ids[..]), (Some(1), &[2, 0][..]));
    assert_eq!(model.parameters(), 134_515_008);
    let formats: Vec<_> = model.formats().into_iter().map(|(d, (count, _))| (d, count)).collect();
    assert_eq!(formats, [(DType::F32, 61), (DType::Q8_0, 1), (DType::Q4_1, 210)]);
    assert_eq!(model.sha256().unwrap(), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

#[test]
fn weights_dequantise_to_what_transformers_gets() {
    // SHA-256 of the little-endian f32 data after transformers 5.23 loaded the same file.
    let model = Model::open(&path()).unwrap();
    for (name, expected) in HASHES {
        let bytes: Vec<u8> = model.tensors[name].to_f32().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(bft_formats::sha256_bytes(&bytes), expected, "{name}");
    }
}

const HASHES: [(&str, &str); 4] = [
    ("model.layers.0.self_attn.q_proj.weight", "54b377bbfa2deab945dfdba7fb59e0ca3eb74329358bd1b53b635b3ff37c1a56"),
    ("model.layers.29.self_attn.k_proj.weight", "8e99b2450d5f3d53731f52790cc82f80b04341e533306bcfee6669ffa3c79921"),
    ("model.layers.29.mlp.down_proj.weight", "c19605745425a11e704e305ce3d27b632c406195d39eb3377e9cfb140ac643d1"),
    ("model.embed_tokens.weight", "3fd491c8066dd9dc1a2bf6796701526c82817d95c0ecabacdef3013c2b8bbbaa"),
];

#[test]
fn text_becomes_the_ids_that_hugging_face_gives() {
    #[derive(serde::Deserialize)]
    struct Row {
        text: String,
        ids: Vec<u32>,
    }
    let rows: Vec<Row> = serde_json::from_str(include_str!("fixtures/smollm2_tokens.json")).unwrap();
    assert_eq!(rows[0].ids, [504, 4675, 39009, 37, 35, 46685]);
    let model = Model::open(&path()).unwrap();
    let tokenizer = model.require_tokenizer().unwrap();
    for Row { text, ids } in rows {
        assert_eq!(tokenizer.encode(&text, true).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.piece(46685), " encodes");
    assert!((0..17).all(|id| tokenizer.is_special(id)) && !tokenizer.is_special(17));
}

#[test]
fn its_chat_template_is_chatml() {
    let model = Model::open(&path()).unwrap();
    let template = model.require_chat_template().unwrap();
    let turns = vec![
        Message::new("user", "What is TP53?"),
        Message::new("assistant", "A gene."),
        Message::new("user", "Thanks"),
    ];
    let text = template.render(&turns.into(), true).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is TP53?<|im_end|>\n<|im_start|>assistant\nA gene.<|im_end|>\n\
         <|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n"
    );
    let own_system = vec![Message::new("system", "Be brief."), Message::new("user", "Hi")];
    assert_eq!(
        template.render(&own_system.into(), false).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    );
}
