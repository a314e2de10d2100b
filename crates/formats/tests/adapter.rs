//! LoRA adapters: PEFT's files are read, and what is written is what PEFT writes.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bft_formats::{
    Adapter, AdapterConfig, Architecture, Bytes, DType, LINEAR_MODULES, LayerSpec, LoraPair, ModelConfig, Tensor,
};
use common::{Random, assert_says, message, put, raw_safetensors, safetensors_file, tiny_config};
use serde_json::{Value, json};

type Files = BTreeMap<String, Bytes>;
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn model() -> ModelConfig {
    tiny_config(Architecture::Llama)
}

/// Random pairs of rank 4 on these modules of every layer.
fn pairs(modules: &[&str]) -> Vec<LoraPair> {
    let mut random = Random::new(2);
    let mut pairs = Vec::new();
    for layer in 0..2 {
        for module in modules {
            let [out_features, in_features] = model().linear_shape(module).unwrap();
            let mut values = |n: usize| (0..n).map(|_| random.symmetric()).collect::<Vec<f32>>();
            pairs.push(LoraPair {
                module: ModelConfig::linear_name(layer, module),
                rank: 4,
                scaling: 2.0,
                in_features,
                out_features,
                a: values(4 * in_features),
                b: values(4 * out_features),
                magnitude: None,
            });
        }
    }
    pairs
}

fn adapter(modules: &[&str]) -> Adapter {
    let names = modules.iter().map(|m| m.to_string()).collect();
    Adapter { config: AdapterConfig::new(4, 8.0, names, 0.1), pairs: pairs(modules) }
}

/// What PEFT 0.21.2's LoraConfig.save_pretrained writes, with `changes` put over it.
fn peft_config(changes: Value) -> String {
    let mut config: Value = serde_json::from_str(PEFT).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string()
}

const PEFT: &str = r#"{
  "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
  "base_model_name_or_path": "some/model", "bias": "none", "corda_config": null,
  "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
  "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
  "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8,
  "lora_bias": false, "lora_dropout": 0.1, "lora_ga_config": null, "megatron_config": null,
  "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null,
  "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4, "rank_pattern": {},
  "revision": null, "target_modules": ["v_proj", "q_proj"], "target_parameters": null,
  "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
  "use_qalora": false, "use_rslora": false, "velora_config": null
}"#;

fn tensors(pairs: &[LoraPair]) -> Vec<Tensor> {
    let name = |p: &LoraPair, half| format!("base_model.model.{}.{half}.weight", p.module);
    let halves = pairs.iter().flat_map(|p| {
        [
            Tensor::from_f32(name(p, "lora_A"), vec![p.rank, p.in_features], &p.a),
            Tensor::from_f32(name(p, "lora_B"), vec![p.out_features, p.rank], &p.b),
        ]
    });
    halves.map(Result::unwrap).collect()
}

/// An adapter's folder with this configuration, on q and v.
fn files(changes: Value) -> Files {
    let mut files = Files::new();
    put(&mut files, CONFIG, peft_config(changes));
    put(&mut files, WEIGHTS, safetensors_file(&tensors(&pairs(&["q_proj", "v_proj"]))));
    files
}

fn load(files: &Files) -> bft_formats::Result<Adapter> {
    Adapter::from_folder("tuned", files.clone(), &model())
}

fn refusal(changes: Value) -> String {
    let text = message(load(&files(changes)));
    assert_says(&text, &["tuned/adapter_config.json"]);
    text
}

#[test]
fn pefts_adapter_is_read() {
    let adapter = load(&files(json!({}))).unwrap();
    assert_eq!(adapter.pairs, pairs(&["q_proj", "v_proj"]));
    let mut expected = AdapterConfig::new(4, 8.0, vec!["q_proj".into(), "v_proj".into()], 0.1);
    expected.base_model = Some("some/model".to_string());
    assert_eq!(adapter.config, expected);
}

#[test]
fn half_precision_is_widened() {
    let mut files = files(json!({}));
    let mut all = tensors(&pairs(&["q_proj", "v_proj"]));
    for tensor in &mut all {
        let half = |v: f32| half::bf16::from_f32(v).to_le_bytes();
        let data: Vec<u8> = tensor.to_f32().unwrap().into_iter().flat_map(half).collect();
        *tensor = Tensor::new(&tensor.name, DType::BF16, tensor.shape.clone(), data).unwrap();
    }
    put(&mut files, WEIGHTS, safetensors_file(&all));
    let adapter = load(&files).unwrap();
    assert_eq!(adapter.pairs[0].a, all[0].to_f32().unwrap());
}

#[test]
fn scaling_is_alpha_over_the_rank_or_its_root() {
    let scaling = |changes| load(&files(changes)).unwrap().pairs.iter().map(|p| p.scaling).collect::<Vec<_>>();
    assert_eq!(scaling(json!({"lora_alpha": 6})), [1.5; 4]);
    assert_eq!(scaling(json!({"lora_alpha": 6, "use_rslora": true})), [3.0; 4]);
    // Pairs come as layer 0 q, v, layer 1 q, v.
    assert_eq!(scaling(json!({"alpha_pattern": {"v_proj": 2}})), [2.0, 0.5, 2.0, 0.5]);
    assert_eq!(scaling(json!({"alpha_pattern": {"model.layers.1.self_attn.v_proj": 2}})), [2.0, 2.0, 2.0, 0.5]);
    assert_eq!(scaling(json!({"alpha_pattern": {"^model\\.layers\\.0.*": 2}})), [0.5, 0.5, 2.0, 2.0]);
    // Only whole parts of a name count.
    assert_eq!(scaling(json!({"alpha_pattern": {"proj": 2}})), [2.0; 4]);
}

#[test]
fn ranks_may_differ_by_pattern() {
    let mut mixed = pairs(&["q_proj", "v_proj"]);
    for pair in mixed.iter_mut().filter(|p| p.module.ends_with("v_proj")) {
        pair.rank = 2;
        pair.a.truncate(2 * pair.in_features);
        pair.b.truncate(2 * pair.out_features);
    }
    let mut files = files(json!({"rank_pattern": {"v_proj": 2}}));
    put(&mut files, WEIGHTS, safetensors_file(&tensors(&mixed)));
    let adapter = load(&files).unwrap();
    assert_eq!(
        adapter.pairs.iter().map(|p| (p.rank, p.scaling)).collect::<Vec<_>>(),
        [(4, 2.0), (2, 4.0), (4, 2.0), (2, 4.0)]
    );
    assert_eq!(adapter.config.rank_and_scaling("model.layers.0.self_attn.v_proj").unwrap(), (2, 4.0));

    put(&mut files, CONFIG, peft_config(json!({})));
    let text = message(load(&files));
    assert_says(&text, &["rank of model.layers.0.self_attn.v_proj", "lora_A [2, 32]", "rank 4", "rank_pattern"]);
}

#[test]
fn targets_may_be_a_word_or_a_pattern() {
    for target in [json!("all-linear"), json!(".*self_attn.(q|v)_proj"), Value::Null] {
        let adapter = load(&files(json!({"target_modules": target}))).unwrap();
        assert_eq!(adapter.config.target_modules, ["q_proj", "v_proj"]);
    }
    // Modules adapted in one layer alone are named in full, so that nothing else is adapted later.
    let mut one = files(json!({"layers_to_transform": [1]}));
    let second: Vec<LoraPair> = pairs(&["q_proj", "v_proj"]).split_off(2);
    put(&mut one, WEIGHTS, safetensors_file(&tensors(&second)));
    let adapter = load(&one).unwrap();
    assert_eq!(adapter.config.target_modules, ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]);
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let text = message(load(&files(json!({"target_modules": ["q_proj"]}))));
    assert_says(&text, &[WEIGHTS, "model.layers.0.self_attn.v_proj", "target_modules"]);
    let text = message(load(&files(json!({"target_modules": ["q_proj", "v_proj", "o_proj"]}))));
    assert_says(&text, &[WEIGHTS, "the pair of model.layers.0.self_attn.o_proj is missing"]);
    let mut half = files(json!({}));
    let mut all = tensors(&pairs(&["q_proj", "v_proj"]));
    all.remove(3);
    put(&mut half, WEIGHTS, safetensors_file(&all));
    let text = message(load(&half));
    assert_says(&text, &["one of lora_A and lora_B of model.layers.0.self_attn.v_proj is missing"]);
    let mut none = files(json!({"target_modules": "all-linear"}));
    put(&mut none, WEIGHTS, safetensors_file(&[]));
    assert_says(&message(load(&none)), &["any LoRA tensor is missing"]);
}

#[test]
fn an_adapter_for_another_model_says_where_they_differ() {
    let other = |change: &dyn Fn(&mut ModelConfig)| {
        let mut model = model();
        change(&mut model);
        message(Adapter::from_folder("tuned", files(json!({})), &model))
    };
    let wide = other(&|m| m.hidden_size = 64);
    assert_says(
        &wide,
        &["lora_A of model.layers.0.self_attn.q_proj", "found [4, 32]", "expected [4, 64]", "another model"],
    );
    let heads = other(&|m| m.num_key_value_heads = 4);
    assert_says(&heads, &["lora_B of model.layers.0.self_attn.v_proj", "found [16, 4]", "expected [32, 4]"]);
    let deep = other(&|m| m.layers.resize(3, LayerSpec::default()));
    assert_says(&deep, &["the pair of model.layers.2.self_attn.q_proj is missing", "fewer layers"]);
    let shallow = other(&|m| m.layers.truncate(1));
    assert_says(&shallow, &["model.layers.1.self_attn.q_proj", "llama model with 1 layers", "another model"]);
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    assert_says(&refusal(json!({"peft_type": "LOHA"})), &["peft_type \"LOHA\"", "only LORA"]);
    assert_says(&refusal(json!({"modules_to_save": ["lm_head"]})), &["modules_to_save [\"lm_head\"]"]);
    assert_says(&refusal(json!({"bias": "all"})), &["bias \"all\""]);
    assert_says(&refusal(json!({"init_lora_weights": "pissa"})), &["init_lora_weights \"pissa\"", "base weights"]);
    assert_says(&refusal(json!({"some_new_thing": {"on": 1}})), &["some_new_thing"]);
    for key in ["fan_in_fan_out", "lora_bias", "use_qalora"] {
        assert_says(&refusal(json!({key: true})), &[&format!("{key} true")]);
    }
    for key in ["target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens"] {
        assert_says(&refusal(json!({key: [1]})), &[&format!("{key} [1]")]);
    }
    // The same keys, and unknown ones, at values that mean "off" are fine.
    let off = json!({"use_qalora": false, "modules_to_save": [], "new": null, "newer": {}, "newest": false,
                     "init_lora_weights": "gaussian", "exclude_modules": ["lm_head"]});
    assert!(load(&files(off)).is_ok());
}

#[test]
fn tensors_of_other_kinds_are_refused_by_name() {
    let with = |name: &str| {
        let mut all = tensors(&pairs(&["q_proj", "v_proj"]));
        all.push(Tensor::from_f32(name, vec![4, 32], &[0.0; 128]).unwrap());
        let mut files = files(json!({}));
        put(&mut files, WEIGHTS, safetensors_file(&all));
        message(load(&files))
    };
    let embedding = with("base_model.model.model.embed_tokens.lora_embedding_A");
    assert_says(&embedding, &["lora_embedding_A", "lora_A.weight, lora_B.weight and lora_magnitude_vector"]);
    let lone = with("base_model.model.model.layers.0.self_attn.q_proj.lora_A");
    assert_says(&lone, &["tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A is not supported"]);
    let head = with("base_model.model.lm_head.lora_A.weight");
    assert_says(&head, &["an adapter on lm_head", "q_proj", "down_proj"]);
}

#[test]
fn values_that_cannot_be_are_refused() {
    assert_says(&refusal(json!({"r": 0})), &["r is 0"]);
    assert_says(&refusal(json!({"r": null})), &["r is missing"]);
    assert_says(&refusal(json!({"lora_alpha": 1e300})), &["lora_alpha is too large"]);
    assert_says(&refusal(json!({"r": "4"})), &["r is \"4\""]);
    assert_says(&refusal(json!({"lora_dropout": 1.0})), &["lora_dropout is 1", "below 1"]);
    assert_says(&refusal(json!({"target_modules": [1]})), &["target_modules"]);
    assert_says(&refusal(json!({"target_modules": 5})), &["target_modules is 5"]);
    assert_says(&refusal(json!({"rank_pattern": {"q": 0}})), &["rank_pattern", "\"q\"", "0"]);
    assert_says(&refusal(json!({"alpha_pattern": {"(": 2}})), &["alpha_pattern", "\"(\"", "regular expression"]);
}

#[test]
fn incomplete_folders_say_what_is_missing() {
    let without = |name: &str, other: Option<&str>| {
        let mut files = files(json!({}));
        files.remove(name);
        other.iter().for_each(|name| put(&mut files, name, "x"));
        message(load(&files))
    };
    assert_says(&without(CONFIG, None), &["tuned: adapter_config.json is missing", "PEFT"]);
    assert_says(&without(WEIGHTS, None), &["tuned: adapter_model.safetensors is missing"]);
    let pickle = without(WEIGHTS, Some("adapter_model.bin"));
    assert_says(&pickle, &["adapter_model.bin is a Python pickle", "safe_serialization=True"]);
    let nowhere = message(Adapter::load(Path::new("no/such/folder"), &model()));
    assert_says(&nowhere, &["cannot open no/such/folder", "adapter_config.json"]);
    let mut files = files(json!({}));
    files.insert(WEIGHTS.to_string(), raw_safetensors("{", 0));
    assert_says(&message(load(&files)), &[WEIGHTS, "no safetensors header"]);
    put(&mut files, CONFIG, "{");
    assert_says(&message(load(&files)), &[CONFIG, "not valid JSON"]);
}

#[test]
fn no_truncation_of_either_file_gets_through() {
    let good = files(json!({}));
    for name in [CONFIG, WEIGHTS] {
        for length in 0..good[name].len() {
            let mut files = good.clone();
            put(&mut files, name, &good[name][..length]);
            assert!(load(&files).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_neither_read_nor_written() {
    let named = |half: &str, value: f32| {
        let mut adapter = adapter(&LINEAR_MODULES);
        let pair = adapter.pairs.last_mut().unwrap();
        let (values, at) = if half == "lora_A" { (&mut pair.a, 1) } else { (&mut pair.b, 2) };
        let before = std::mem::replace(&mut values[at], value).to_le_bytes();
        let (shown, at) = (format!("{half} of model.layers.1.mlp.down_proj holds {value} at element {at}"), at * 4);
        assert_says(&message(adapter.weights().map(|_| adapter.clone())), &[&shown]);

        // The same in a file that another program wrote.
        let values = if half == "lora_A" {
            &mut adapter.pairs.last_mut().unwrap().a
        } else {
            &mut adapter.pairs.last_mut().unwrap().b
        };
        values[at / 4] = f32::from_le_bytes(before);
        let mut weights = adapter.weights().unwrap();
        let name = format!("base_model.model.model.layers.1.mlp.down_proj.{half}.weight");
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
        let start = 8 + header + metadata.info(&name).unwrap().data_offsets.0 + at;
        weights[start..start + 4].copy_from_slice(&value.to_le_bytes());
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        files.insert(CONFIG.to_owned(), adapter.config_json().into_bytes());
        files.insert(WEIGHTS.to_owned(), weights);
        assert_says(
            &message(Adapter::from_folder("tuned", files, &model())),
            &["adapter_model.safetensors", &shown, "diverged"],
        );
    };
    named("lora_A", f32::NAN);
    named("lora_B", f32::INFINITY);
    named("lora_B", f32::NEG_INFINITY);
    // Each is a number, their product is none.
    let mut adapter = adapter(&LINEAR_MODULES);
    (adapter.pairs[0].a[0], adapter.pairs[0].b[3]) = (-3e30, 2e8);
    let text = message(adapter.weights().map(|_| adapter.clone()));
    assert_says(&text, &["lora_B · lora_A of model.layers.0.self_attn.q_proj overflows: they hold 2e8 and 3e30"]);
}

#[test]
fn what_is_saved_is_read_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut original = adapter(&LINEAR_MODULES);
    original.config.use_rslora = true;
    original.pairs.iter_mut().for_each(|p| p.scaling = 4.0);
    original.config.base_model = Some("m.gguf".to_string());
    let out = dir.path().join("a/b/out");
    original.save(&out).unwrap();
    assert_eq!(Adapter::load(&out, &model()).unwrap(), original);
    let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");

    // Over an older one, beside a run's other files.
    fs::write(out.join("metrics.jsonl"), "{}").unwrap();
    original.pairs[0].a[0] = 0.5;
    original.save(&out).unwrap();
    assert_eq!(Adapter::load(&out, &model()).unwrap(), original);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
}

#[test]
fn what_is_saved_is_what_peft_writes() {
    let adapter = adapter(&["q_proj", "v_proj"]);
    let ours: Value = serde_json::from_str(&adapter.config_json()).unwrap();
    let mut pefts: Value = serde_json::from_str(PEFT).unwrap();
    pefts["base_model_name_or_path"] = Value::Null;
    pefts["target_modules"] = json!(["q_proj", "v_proj"]);
    assert_eq!(ours, pefts);
    let keys: Vec<_> = ours.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted(), "PEFT sorts its keys");
    assert!(adapter.config_json().contains("\"lora_dropout\": 0.1,"));

    let weights = adapter.weights().unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let info = header.info("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight").unwrap();
    assert_eq!((info.dtype, &info.shape[..]), (safetensors::Dtype::F32, &[16, 4][..]));
    assert_eq!(header.tensors().len(), 8);
}

#[test]
fn a_failed_save_leaves_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let text = message(adapter(&["q_proj"]).save(&file.join("out")));
    assert_says(&text, &["cannot write", "out"]);
    let text = message(adapter(&["q_proj"]).save(&file));
    assert_says(&text, &["cannot write"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mut wrong = adapter(&["q_proj"]);
    wrong.pairs[0].b.pop();
    let text = message(wrong.save(&dir.path().join("out")));
    assert_says(&text, &["lora_B.weight of model.layers.0.self_attn.q_proj", "[32, 4]", "127"]);
    assert!(!dir.path().join("out").exists());
}

#[test]
fn whatever_a_model_was_wrapped_in_its_modules_are_found() {
    let expected = Adapter::from_folder("a", files(json!({})), &model()).unwrap();
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let mut files = files(json!({}));
        let tensors = tensors(&pairs(&["q_proj", "v_proj"])).into_iter().map(|mut tensor| {
            tensor.name = rename(&tensor.name);
            tensor
        });
        put(&mut files, WEIGHTS, safetensors_file(&tensors.collect::<Vec<_>>()));
        Adapter::from_folder("a", files, &model())
    };
    let prefixes =
        ["", "model.", "layers.", "base_model.model.layers.", "base_model.model.model.language_model.layers."];
    for prefix in prefixes {
        let rename = |name: &str| match prefix.strip_suffix("layers.") {
            Some(prefix) => name.replace("base_model.model.model.", prefix),
            None => name.replace("base_model.model.", ""),
        };
        assert_eq!(renamed(&rename).unwrap().pairs, expected.pairs, "{prefix}");
    }
    let named = renamed(&|name| name.replace(".weight", ".default.weight"));
    assert_eq!(named.unwrap().pairs, expected.pairs);
    // What belongs elsewhere is told by its name, not by what is missing instead of it.
    let text = message(renamed(&|name| name.replace("model.model.", "model.model.vision_tower.")));
    assert_says(&text, &["found vision_tower.model.layers.0", "such as model.layers.0.self_attn.q_proj"]);
    assert!(!text.contains("incomplete"), "{text}");
    let text = message(renamed(&|name| name.replace("layers.1.", "layers.7.")));
    assert_says(&text, &["found model.layers.7.self_attn.q_proj", "2 layers"]);
}

/// What PEFT saved of models inside others: its names, and the ranks and scalings that its patterns
/// gave by those names.
#[test]
fn patterns_and_targets_are_of_the_model_that_was_adapted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/adapters.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 9);
    for case in &cases {
        let tensors = case["tensors"].as_object().unwrap().iter().map(|(name, tensor)| {
            let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
            let value = tensor["value"].as_f64().unwrap() as f32;
            Tensor::from_f32(name.clone(), shape.clone(), &vec![value; shape.iter().product()]).unwrap()
        });
        let mut files = Files::new();
        put(&mut files, CONFIG, case["config"].to_string());
        put(&mut files, WEIGHTS, safetensors_file(&tensors.collect::<Vec<_>>()));
        let read = Adapter::from_folder("a", files.clone(), &model()).unwrap_or_else(|e| panic!("{}: {e}", case["of"]));
        let found = |adapter: &Adapter| {
            let pairs = adapter.pairs.iter().map(|p| {
                assert_eq!(
                    model().linear_shape(p.module.rsplit('.').next().unwrap()),
                    Some([p.out_features, p.in_features])
                );
                (p.module.clone(), json!({"rank": p.rank, "scaling": p.scaling, "a": p.a[0], "b": p.b[0]}))
            });
            Value::Object(pairs.collect())
        };
        assert_eq!(found(&read), case["pairs"], "{}", case["of"]);
        // Saved, it is an adapter of a language model of its own, and means the same.
        let saved = read.files().unwrap().into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
        let again = Adapter::from_folder("b", saved.collect(), &model()).unwrap();
        assert_eq!(again.pairs, read.pairs, "{}", case["of"]);
        // What is missing is told as missing.
        if case["config"]["target_modules"].is_array() {
            let mut config = case["config"].clone();
            config["target_modules"].as_array_mut().unwrap().push(json!("up_proj"));
            put(&mut files, CONFIG, config.to_string());
            assert_says(&message(Adapter::from_folder("a", files, &model())), &["layers.0.mlp.up_proj"]);
        }
    }
}

#[test]
fn what_ends_a_text_of_the_tuned_model_is_kept_beside_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let mut adapter = adapter(&["q_proj"]);
    adapter.save(&folder.path().join("plain")).unwrap();
    assert!(!folder.path().join("plain/generation_config.json").exists());
    adapter.config.end_token_ids = vec![257, 3];
    adapter.save(&folder.path().join("ends")).unwrap();
    let read = Adapter::load(&folder.path().join("ends"), &model()).unwrap();
    assert_eq!(read.config.end_token_ids, [257, 3]);
    let text = fs::read_to_string(folder.path().join("ends/generation_config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"eos_token_id": [257, 3]}));
    let mut files = files(json!({}));
    put(&mut files, "generation_config.json", "{\"eos_token_id\": \"x\"}");
    assert_says(&message(Adapter::from_folder("a", files, &model())), &["generation_config.json", "eos_token_id"]);
}

/// Where q, k and v are one module, so are their factors.
#[test]
fn modules_that_are_fused_are_adapted_as_one() {
    let phi3 = tiny_config(Architecture::Phi3);
    let pair = |module: &str, [out_features, in_features]: [usize; 2]| LoraPair {
        module: ModelConfig::linear_name(1, module),
        rank: 4,
        scaling: 2.0,
        in_features,
        out_features,
        a: vec![0.5; 4 * in_features],
        b: vec![0.25; 4 * out_features],
        magnitude: None,
    };
    let saved = |pairs: Vec<LoraPair>| {
        let names = pairs.iter().map(|pair| pair.module.clone()).collect();
        let adapter = Adapter { config: AdapterConfig::new(4, 8.0, names, 0.0), pairs };
        adapter
            .files()
            .unwrap()
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)))
            .collect::<Files>()
    };
    let fused = vec![pair("qkv_proj", [64, 32]), pair("gate_up_proj", [128, 32])];
    let files = saved(fused.clone());
    assert_eq!(Adapter::from_folder("a", files.clone(), &phi3).unwrap().pairs, fused);
    let llama = message(Adapter::from_folder("a", files, &model()));
    assert_says(
        &llama,
        &["model.layers.1.mlp.gate_up_proj", "of a llama model with 2 layers, such as model.layers.0.self_attn.q_proj"],
    );
    let apart = message(Adapter::from_folder("a", saved(vec![pair("q_proj", [32, 32])]), &phi3));
    assert_says(
        &apart,
        &["layers.1.self_attn.q_proj", "of a phi3 model with 2 layers, such as model.layers.0.self_attn.qkv_proj"],
    );
}

/// Its names are those of the model that transformers loads the folder as, and its targets leave
/// alone what sees, whose modules are called the same.
#[test]
fn an_adapter_of_a_language_part_has_the_names_of_the_whole() {
    let whole = ModelConfig { sees: true, ..model() };
    let mut original = adapter(&["q_proj", "down_proj"]);
    original.config.sees = true;
    original.config.rank_pattern.insert("model.language_model.layers.0.self_attn.q_proj".to_string(), 4);
    let files = original.files().unwrap();
    let weights = safetensors::SafeTensors::deserialize(&files[0].1).unwrap();
    assert!(weights.names().iter().all(|name| name.starts_with("base_model.model.model.language_model.layers.")));
    let config: Value = serde_json::from_slice(&files[1].1).unwrap();
    let targets = regex::Regex::new(&format!("^(?:{})$", config["target_modules"].as_str().unwrap())).unwrap();
    for (name, adapted) in [
        ("model.language_model.layers.11.self_attn.q_proj", true),
        ("model.language_model.layers.0.mlp.down_proj", true),
        ("model.language_model.layers.0.self_attn.k_proj", false),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj", false),
    ] {
        assert_eq!(targets.is_match(name), adapted, "{name}");
    }
    let files: Files = files.into_iter().map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes))).collect();
    let read = Adapter::from_folder("a", files.clone(), &whole).unwrap();
    assert_eq!((&read.config, &read.pairs), (&original.config, &original.pairs));
    // The same adapter over a language model of its own has that one's names.
    let alone = Adapter::from_folder("a", files, &model()).unwrap();
    assert_eq!(alone.pairs, original.pairs);
    assert!(alone.config.rank_pattern.contains_key("model.layers.0.self_attn.q_proj"));
    // In one layer alone, a module has its full name.
    original.pairs.truncate(1);
    original.config.target_modules = vec!["model.layers.0.self_attn.q_proj".to_string()];
    let config: Value = serde_json::from_str(&original.config_json()).unwrap();
    assert_eq!(config["target_modules"], r"model\.language_model\.layers\.0\.self_attn\.q_proj");
}

#[test]
fn several_adapters_are_one_that_can_be_saved_like_any_other() {
    let first = adapter(&["q_proj", "v_proj"]);
    let mut second = adapter(&["q_proj", "up_proj"]);
    second.pairs.iter_mut().for_each(|pair| pair.scaling = 0.5);
    (second.config.end_token_ids, second.config.alpha) = (vec![7], 2.0);
    let weights = [(first.clone(), 1.0), (second.clone(), -2.0)];
    let sum = Adapter::sum(weights.to_vec()).unwrap().unwrap();
    let shapes: Vec<_> = sum.pairs.iter().map(|pair| (pair.module.rsplit('.').next().unwrap(), pair.rank)).collect();
    assert_eq!(shapes, [("q_proj", 8), ("v_proj", 4), ("up_proj", 4)].repeat(2));
    assert_eq!(sum.config.end_token_ids, [7]);
    // ΔW of a module, row by row.
    let delta = |pair: &LoraPair| -> Vec<f32> {
        let element = |row: usize, column: usize| -> f32 {
            let products = (0..pair.rank).map(|r| pair.b[row * pair.rank + r] * pair.a[r * pair.in_features + column]);
            pair.scaling * products.sum::<f32>()
        };
        (0..pair.out_features)
            .flat_map(|row| (0..pair.in_features).map(move |c| (row, c)))
            .map(|(r, c)| element(r, c))
            .collect()
    };
    for pair in &sum.pairs {
        let mut expected = vec![0.0; pair.in_features * pair.out_features];
        for (adapter, weight) in &weights {
            for part in adapter.pairs.iter().filter(|part| part.module == pair.module) {
                expected.iter_mut().zip(delta(part)).for_each(|(sum, x)| *sum += weight * x);
            }
        }
        assert!(delta(pair).iter().zip(&expected).all(|(found, x)| (found - x).abs() < 1e-5), "{}", pair.module);
    }
    let mut files = Files::new();
    for (name, contents) in sum.files().unwrap() {
        put(&mut files, name, contents);
    }
    assert_eq!(load(&files).unwrap().pairs, sum.pairs);

    assert_eq!(Adapter::sum(vec![(first.clone(), 1.0)]).unwrap().as_ref(), Some(&first), "one alone stays as it is");
    assert_eq!(Adapter::sum(Vec::new()).unwrap(), None);
    let half = Adapter::sum(vec![(first.clone(), 0.5)]).unwrap().unwrap();
    assert!(half.pairs.iter().zip(&first.pairs).all(|(half, one)| half.scaling == 1.0 && half.b == one.b));
}

/// An adapter with DoRA, as PEFT's state dictionaries name its magnitudes.
fn dora_files(ends: &str, change: impl Fn(&mut Vec<Tensor>)) -> Files {
    let of_all = pairs(&["q_proj", "v_proj"]);
    let mut all = tensors(&of_all);
    all.extend(of_all.iter().enumerate().map(|(i, pair)| {
        let name = format!("base_model.model.{}.{ends}", pair.module);
        let values: Vec<f32> = (0..pair.out_features).map(|row| 1.0 + i as f32 + row as f32 / 64.0).collect();
        Tensor::from_f32(name, vec![pair.out_features], &values).unwrap()
    }));
    change(&mut all);
    let mut files = files(json!({"use_dora": true}));
    put(&mut files, WEIGHTS, safetensors_file(&all));
    files
}

#[test]
fn magnitudes_of_dora_are_read_and_written() {
    const NAME: &str = "lora_magnitude_vector";
    let adapter = load(&dora_files(NAME, |_| {})).unwrap();
    assert!(adapter.config.use_dora);
    for (i, pair) in adapter.pairs.iter().enumerate() {
        let magnitude = pair.magnitude.as_ref().unwrap();
        assert_eq!((magnitude.len(), magnitude[2]), (pair.out_features, 1.0 + i as f32 + 2.0 / 64.0));
        assert_eq!(pair.parameters(), pair.a.len() + pair.b.len() + pair.out_features);
    }
    for ends in ["lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"] {
        assert_eq!(load(&dora_files(ends, |_| {})).unwrap(), adapter, "{ends}");
    }
    let mut again = Files::new();
    adapter.files().unwrap().into_iter().for_each(|(name, contents)| put(&mut again, name, contents));
    assert_eq!(load(&again).unwrap(), adapter);
    let names = safetensors::SafeTensors::deserialize(&again[WEIGHTS]).unwrap().names().join(" ");
    assert!(names.contains("layers.1.self_attn.v_proj.lora_magnitude_vector"), "{names}");
    assert!(!names.contains("vector.weight"), "{names}");
}

#[test]
fn magnitudes_that_do_not_fit_are_refused() {
    const NAME: &str = "lora_magnitude_vector";
    let refused = |change: &dyn Fn(&mut Vec<Tensor>)| message(load(&dora_files(NAME, change)));
    let missing = refused(&|all| drop(all.pop()));
    assert_says(&missing, &["lora_magnitude_vector of model.layers.1.self_attn.v_proj is missing", "use_dora true"]);
    let short = refused(&|all| {
        let last = all.last_mut().unwrap();
        *last = Tensor::from_f32(last.name.clone(), vec![2], &[1.0; 2]).unwrap();
    });
    assert_says(&short, &["shape of lora_magnitude_vector", "found [2]", "expected [16]"]);
    let infinite = refused(&|all| {
        let last = all.last_mut().unwrap();
        *last = Tensor::from_f32(last.name.clone(), vec![16], &[f32::INFINITY; 16]).unwrap();
    });
    assert_says(&infinite, &["lora_magnitude_vector of model.layers.1.self_attn.v_proj holds inf at element 0"]);
    let twice = refused(&|all| {
        let mut last = all.last().unwrap().clone();
        last.name.push_str(".weight");
        all.push(last);
    });
    assert_says(&twice, &["two tensors for lora_magnitude_vector of model.layers.1.self_attn.v_proj"]);
    let mut plain = dora_files(NAME, |_| {});
    put(&mut plain, CONFIG, peft_config(json!({})));
    assert_says(&message(load(&plain)), &["lora_magnitude_vector", "use_dora false", "different adapters"]);
}

#[test]
fn what_was_put_side_by_side_comes_apart_again() {
    let [first, second] = [1.0, 2.0].map(|factor| {
        let mut pair = adapter(&["q_proj"]).pairs.remove(0);
        pair.a.iter_mut().enumerate().for_each(|(at, a)| *a = factor * at as f32);
        pair.b.iter_mut().enumerate().for_each(|(at, b)| *b = -factor * at as f32);
        pair
    });
    let both = LoraPair::side_by_side(vec![first.clone(), second.clone()]).unwrap();
    assert_eq!(both.halves(), Some([first.clone(), second]));
    assert_eq!(LoraPair { rank: both.rank + 1, ..both.clone() }.halves(), None, "an odd rank");
    assert_eq!(LoraPair { rank: both.rank + 2, ..both.clone() }.halves(), None, "factors of another rank");
    assert_eq!(LoraPair { magnitude: Some(vec![1.0; both.out_features]), ..both }.halves(), None, "DoRA");
}

#[test]
fn lengths_of_rows_do_not_add_up() {
    let (plain, dora) = (adapter(&["q_proj", "v_proj"]), load(&dora_files("lora_magnitude_vector", |_| {})).unwrap());
    let alone = Adapter::sum(vec![(dora.clone(), 1.0)]).unwrap().unwrap();
    assert_eq!(alone, dora);
    let refused = |adapters| message(Adapter::sum(adapters));
    assert_says(&refused(vec![(plain, 1.0), (dora.clone(), 1.0)]), &["adapter 2 of 2: use_dora true", "alone"]);
    assert_says(&refused(vec![(dora, 0.5)]), &["adapter 1 of 1", "without a scale"]);
}
