//! Models in folders of safetensors, whole and broken.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::{Architecture, Bytes, DType, Model, Tensor};
use common::{
    Random, assert_says, config_json, message, put, raw_safetensors, safetensors_file, tiny_config, tiny_folder,
    tiny_tensors,
};
use serde_json::json;

type Files = BTreeMap<String, Bytes>;

fn open(files: &Files) -> bft_formats::Result<Model> {
    Model::from_folder("tiny", files.clone())
}

fn refusal(change: impl FnOnce(&mut Files)) -> String {
    let mut files = tiny_folder(Architecture::Llama);
    change(&mut files);
    message(open(&files))
}

/// The refusal of a model whose weight file is this.
fn weights(file: impl Into<Bytes>) -> String {
    let text = refusal(|f| drop(f.insert("model.safetensors".to_string(), file.into())));
    assert_says(&text, &["tiny/model.safetensors"]);
    text
}

#[test]
fn a_folder_becomes_its_tensors() {
    for architecture in [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3] {
        let model = open(&tiny_folder(architecture)).unwrap();
        let expected = tiny_tensors(&tiny_config(architecture));
        assert_eq!(model.tensors.len(), expected.len());
        for (name, tensor) in expected {
            assert_eq!(model.tensors[&name].bytes().unwrap()[..], tensor.bytes().unwrap()[..], "{name}");
        }
        assert!(model.tokenizer.is_none() && model.chat_template.is_none());
    }
    // 264·32 in the embedding, 9280 in each block, 32 in the last norm.
    assert_eq!(open(&tiny_folder(Architecture::Llama)).unwrap().parameters(), 27_040);
}

#[test]
fn half_precision_is_kept_as_it_is() {
    let mut tensors = tiny_tensors(&tiny_config(Architecture::Llama));
    for (i, tensor) in tensors.values_mut().enumerate() {
        let dtype = if i % 2 == 0 { DType::F16 } else { DType::BF16 };
        let half = |v: f32| match dtype {
            DType::F16 => half::f16::from_f32(v).to_le_bytes(),
            _ => half::bf16::from_f32(v).to_le_bytes(),
        };
        let data: Vec<u8> = tensor.to_f32().unwrap().into_iter().flat_map(half).collect();
        *tensor = Tensor::new(tensor.name.clone(), dtype, tensor.shape.clone(), data).unwrap();
    }
    let mut files = tiny_folder(Architecture::Llama);
    put(&mut files, "model.safetensors", safetensors_file(tensors.values()));
    let model = open(&files).unwrap();
    assert_eq!(model.formats().keys().collect::<Vec<_>>(), [&DType::F16, &DType::BF16]);
    for (name, tensor) in &tensors {
        assert_eq!(model.tensors[name].to_f32().unwrap(), tensor.to_f32().unwrap());
    }
}

/// The tiny model in two shards and their index.
fn sharded() -> Files {
    let mut files = tiny_folder(Architecture::Llama);
    files.remove("model.safetensors");
    let tensors = tiny_tensors(&tiny_config(Architecture::Llama));
    let mut weight_map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let part: Vec<&Tensor> = tensors.values().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, t)| t).collect();
        part.iter().for_each(|t| drop(weight_map.insert(t.name.clone(), json!(name))));
        put(&mut files, &name, safetensors_file(part));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    put(&mut files, "model.safetensors.index.json", index.to_string());
    files
}

#[test]
fn shards_are_put_together() {
    let model = open(&sharded()).unwrap();
    let whole = open(&tiny_folder(Architecture::Llama)).unwrap();
    for (name, tensor) in &whole.tensors {
        assert_eq!(model.tensors[name].bytes().unwrap()[..], tensor.bytes().unwrap()[..], "{name}");
    }
    // `sha256sum` prints for each file, in name order, its hash, two spaces and its name.
    let files = sharded();
    let lines: String = (1..=2)
        .map(|i| format!("model-0000{i}-of-00002.safetensors"))
        .map(|name| format!("{}  {name}\n", bft_formats::sha256_bytes(&files[&name])))
        .collect();
    assert_eq!(model.sha256().unwrap(), bft_formats::sha256_bytes(lines.as_bytes()));
    let single = &tiny_folder(Architecture::Llama)["model.safetensors"];
    assert_eq!(whole.sha256().unwrap(), bft_formats::sha256_bytes(single));
}

#[test]
fn broken_shards_say_which() {
    const INDEX: &str = "model.safetensors.index.json";
    let broken = |change: &dyn Fn(&mut Files)| {
        let mut files = sharded();
        change(&mut files);
        message(open(&files))
    };
    let gone = broken(&|f| drop(f.remove("model-00002-of-00002.safetensors")));
    assert_says(&gone, &["model-00002-of-00002.safetensors is missing", "download"]);
    let swapped = broken(&|f| {
        let first = f["model-00001-of-00002.safetensors"].clone();
        f.insert("model-00002-of-00002.safetensors".to_string(), first);
    });
    assert_says(&swapped, &["model-00002-of-00002.safetensors: tensor", "is missing", "the index says"]);
    for name in ["../secret.safetensors", "/etc/passwd", "a/b", "..", ""] {
        let index = json!({"weight_map": {"model.norm.weight": name}}).to_string();
        let escape = broken(&|f| put(f, INDEX, index.clone()));
        assert_says(&escape, &["puts tensor model.norm.weight in", "a file beside it"]);
    }
    assert_says(&broken(&|f| put(f, INDEX, "{}")), &["weight_map is missing"]);
    assert_says(&broken(&|f| put(f, INDEX, "{\"weight_map\"")), &[INDEX, "not valid JSON"]);
}

#[test]
fn incomplete_folders_say_what_is_missing() {
    let no_config = refusal(|f| drop(f.remove("config.json")));
    assert_says(&no_config, &["tiny: config.json is missing", "*.safetensors", ".gguf"]);
    let gguf = refusal(|f| {
        f.remove("config.json");
        put(f, "model-Q4_1.gguf", "GGUF");
    });
    assert_says(&gguf, &["to use model-Q4_1.gguf give its own path"]);
    let no_weights = refusal(|f| drop(f.remove("model.safetensors")));
    assert_says(&no_weights, &["model.safetensors is missing"]);
    let pickle = refusal(|f| {
        f.remove("model.safetensors");
        put(f, "pytorch_model.bin", "x");
    });
    assert_says(&pickle, &["pytorch_model.bin is a Python pickle", "safe_serialization=True"]);
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let file = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = tiny_tensors(&tiny_config(Architecture::Llama));
        change(&mut tensors);
        refusal(|f| put(f, "model.safetensors", safetensors_file(tensors.values())))
    };
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_says(&file(&|t| drop(t.remove(name))), &[&format!("tensor {name} [64, 32] is missing")]);
    let other = Tensor::from_f32(name, vec![32, 64], &[0.0; 2048]).unwrap();
    let shape = file(&|t| drop(t.insert(name.to_string(), other.clone())));
    assert_says(&shape, &["shape of", name, "found [32, 64]", "expected [64, 32]"]);
    let extra = file(&|t| {
        let bias = Tensor::from_f32("model.norm.bias", vec![32], &[0.0; 32]).unwrap();
        t.insert(bias.name.clone(), bias);
    });
    assert_says(&extra, &["tensor model.norm.bias", "no place"]);
}

#[test]
fn tensors_that_follow_from_others_are_left_out() {
    let mut tensors = tiny_tensors(&tiny_config(Architecture::Llama));
    let values = tensors["model.embed_tokens.weight"].to_f32().unwrap();
    let head = Tensor::from_f32("lm_head.weight", vec![264, 32], &values).unwrap();
    let rope = "model.layers.0.self_attn.rotary_emb.inv_freq";
    tensors.insert(head.name.clone(), head);
    tensors.insert(rope.to_string(), Tensor::from_f32(rope, vec![4], &[1.0; 4]).unwrap());
    let mut files = tiny_folder(Architecture::Llama);
    put(&mut files, "model.safetensors", safetensors_file(tensors.values()));
    assert_eq!(open(&files).unwrap().tensors.len(), 20, "the head is tied");

    let untied = config_json(Architecture::Llama, json!({"tie_word_embeddings": false}));
    put(&mut files, "config.json", untied);
    assert_eq!(open(&files).unwrap().tensors["lm_head.weight"].to_f32().unwrap(), values);
}

#[test]
fn lying_headers_are_refused() {
    let raw = |header: &str, data| weights(raw_safetensors(header, data));
    let f8 = r#"{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#;
    assert_says(&raw(f8, 4), &["tensor type F8_E4M3 (of w)", "F32, F16 and BF16", "GGUF"]);
    let new =
        r#"{"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"Z9","shape":[4],"data_offsets":[4,8]}}"#;
    assert_says(&raw(new, 8), &["tensor type Z9 (of w)"]);
    let long = r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    assert_says(&raw(long, 12), &["is truncated", "describes 79 bytes", "has 75"]);
    assert_says(&raw(long, 20), &["longer than it says"]);
    let shape = r#"{"w":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}"#;
    assert_says(&raw(shape, 16), &["shape and data length disagree"]);
    let gap = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_says(&raw(gap, 8), &["tensor w", "overlap another's or leave a gap"]);
    let many = r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    assert_says(&raw(many, 0), &["more elements than can be counted"]);
    assert_says(&raw("[]", 0), &["no safetensors header"]);
    assert_says(&raw("{", 0), &["no safetensors header"]);
    let mut latin1 = 1u64.to_le_bytes().to_vec();
    latin1.push(0xE9);
    assert_says(&weights(latin1), &["not UTF-8"]);

    assert_says(&weights(Vec::new()), &["has 0 bytes", "no safetensors file"]);
    assert_says(&weights(b"1234567".to_vec()), &["has 7 bytes"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\n".to_vec();
    assert_says(&weights(pointer), &["more than the format allows", "Git LFS pointer"]);
    let cut = 1000u64.to_le_bytes().to_vec();
    assert_says(&weights(cut), &["is truncated", "needs 1008 bytes", "has 8"]);
}

#[test]
fn no_truncation_or_damage_gets_through_or_panics() {
    let files = tiny_folder(Architecture::Llama);
    let good = files["model.safetensors"].to_vec();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for length in (0..header).chain((header..good.len()).step_by(997)) {
        assert!(weights(good[..length].to_vec()).contains("bytes"), "at length {length}");
    }
    let mut random = Random::new(11);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bad = good.clone();
        let at = random.below(header);
        bad[at] ^= 1 << random.below(8);
        let mut files = files.clone();
        put(&mut files, "model.safetensors", bad);
        refused += usize::from(open(&files).is_err());
    }
    assert!(refused > 2000, "{refused} of 3000 were refused");
}

#[test]
fn a_path_that_is_no_model_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let absent = message(Model::open(&dir.path().join("none")));
    assert_says(&absent, &["cannot open", "none", "No such file"]);
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "hello").unwrap();
    assert_says(&message(Model::open(&file)), &["notes.txt", "not GGUF", ".gguf file"]);
    assert_says(&message(Model::open(dir.path())), &["config.json is missing"]);
    std::fs::create_dir(dir.path().join("config.json")).unwrap();
    assert_says(&message(Model::open(dir.path())), &["config.json: is a folder"]);
}

#[test]
fn a_folder_on_disk_opens_as_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in sharded() {
        std::fs::write(dir.path().join(name), &*bytes).unwrap();
    }
    let model = Model::open(dir.path()).unwrap();
    assert_eq!(model.path, dir.path());
    assert_eq!(model.name, dir.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(model.tensors.len(), 20);
    assert_eq!(model.sha256().unwrap(), open(&sharded()).unwrap().sha256().unwrap());
}

/// The tiny Llama's files with these tensors and changes to its configuration.
fn with_tensors(tensors: &BTreeMap<String, Tensor>, changes: serde_json::Value) -> Files {
    let mut files = tiny_folder(Architecture::Llama);
    put(&mut files, "model.safetensors", safetensors_file(tensors.values()));
    put(&mut files, "config.json", config_json(Architecture::Llama, changes));
    files
}

#[test]
fn a_tied_configuration_with_a_head_of_its_own_uses_it_where_it_differs() {
    // As transformers 5.24: two alike are one, two that differ are not tied.
    let mut tensors = tiny_tensors(&tiny_config(Architecture::Llama));
    let embedding = tensors["model.embed_tokens.weight"].clone();
    let mut values = embedding.to_f32().unwrap();
    let head = |values: &[f32]| Tensor::from_f32("lm_head.weight", embedding.shape.clone(), values).unwrap();
    tensors.insert("lm_head.weight".into(), head(&values));
    let model = open(&with_tensors(&tensors, json!({"tie_word_embeddings": true}))).unwrap();
    assert!(model.config.tie_word_embeddings && !model.tensors.contains_key("lm_head.weight"));
    *values.last_mut().unwrap() += 1.0;
    tensors.insert("lm_head.weight".into(), head(&values));
    let model = open(&with_tensors(&tensors, json!({"tie_word_embeddings": true}))).unwrap();
    assert!(!model.config.tie_word_embeddings && !model.headless);
    assert_eq!(model.tensors["lm_head.weight"].to_f32().unwrap(), values);
}

#[test]
fn a_backbone_is_read_under_a_language_models_names_and_says_that_it_has_no_head() {
    let whole = tiny_tensors(&tiny_config(Architecture::Llama));
    let bare = whole.iter().map(|(name, tensor)| {
        let mut tensor = tensor.clone();
        tensor.name = name.trim_start_matches("model.").to_owned();
        (tensor.name.clone(), tensor)
    });
    let bare: BTreeMap<String, Tensor> = bare.collect();
    let tied = open(&with_tensors(&bare, json!({"tie_word_embeddings": true}))).unwrap();
    assert_eq!(tied.tensors.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert!(tied.require_head().is_ok());
    let headless = open(&with_tensors(&bare, json!({"tie_word_embeddings": false}))).unwrap();
    assert_says(&message(headless.require_head()), &["tiny", "lm_head.weight", "bft embed"]);
    assert_eq!(headless.sentence().unwrap(), None);
}

#[test]
fn what_makes_vectors_matters_only_to_who_makes_them() {
    let mut files = tiny_folder(Architecture::Qwen3);
    let modules = |kinds: &[&str]| {
        let module = |kind: &&str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": if *kind == "Transformer" { "" } else { kind }});
        json!(kinds.iter().map(module).collect::<Vec<_>>()).to_string()
    };
    put(&mut files, "modules.json", modules(&["Transformer", "Pooling", "Normalize"]));
    put(&mut files, "Pooling/config.json", json!({"pooling_mode_lasttoken": true}).to_string());
    let model = open(&files).unwrap();
    let steps = model.sentence().unwrap().unwrap();
    assert_eq!(
        (steps.pooling, steps.normalize, steps.source.as_str()),
        (bft_formats::Pooling::Last, true, "modules.json")
    );
    put(&mut files, "modules.json", modules(&["Transformer", "Pooling", "Dense"]));
    assert_says(&message(open(&files).unwrap().sentence()), &["modules.json", "\"Dense\""]);
    put(&mut files, "Pooling/config.json", json!({"pooling_mode_cls_token": true}).to_string());
    put(&mut files, "modules.json", modules(&["Transformer", "Pooling"]));
    assert_says(&message(open(&files).unwrap().sentence()), &["pooling by the first token"]);
}
