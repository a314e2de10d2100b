//! GGUF: what a sound file becomes, and how each kind of broken or foreign one is refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::gguf::{Header, HeaderError};
use bft_formats::{Architecture, Bytes, DType, Model, RopeScaling};
use common::{Gguf, Random, assert_says, config_of, message, tiny_config, tiny_gguf, tiny_tensors};
use serde_json::json;

fn open(g: &Gguf) -> bft_formats::Result<Model> {
    Model::from_gguf("m.gguf", g.bytes())
}

/// A change to a sound file.
type Change<'b> = dyn for<'a> Fn(&'a mut Gguf) -> &'a mut Gguf + 'b;

fn refusal(change: impl FnOnce(&mut Gguf) -> &mut Gguf) -> String {
    let mut g = tiny_gguf("llama");
    change(&mut g);
    message(open(&g))
}

#[test]
fn every_architecture_becomes_its_configuration() {
    for (name, architecture) in
        [("llama", Architecture::Llama), ("qwen2", Architecture::Qwen2), ("qwen3", Architecture::Qwen3)]
    {
        let mut g = tiny_gguf(name);
        // Without it, the head's width follows from the others.
        if name == "qwen3" {
            g.u32("qwen3.attention.key_length", 8).u32("qwen3.attention.value_length", 8);
        }
        let model = open(&g).unwrap();
        let mut expected = tiny_config(architecture);
        expected.bos_token_id = Some(256);
        assert_eq!(model.config, expected);
        assert_eq!(model.name, "m.gguf");
    }
}

#[test]
fn families_of_their_own_become_their_configuration() {
    let configured = |name: &str, change: &Change| {
        let mut g = tiny_gguf(name);
        change(&mut g);
        let mut config = open(&g).unwrap().config;
        config.bos_token_id = None;
        config
    };
    // llama.cpp's converter has added 1 to the norms, and scores are scaled by the width of a head.
    let mut gemma3 = config_of(Architecture::Gemma3, json!({"sliding_window": 16, "query_pre_attn_scalar": 8}));
    gemma3.norm_offset = 0.0;
    assert_eq!(configured("gemma3", &|g| g.u32("gemma3.attention.sliding_window", 16)), gemma3);
    assert_says(&message(open(&tiny_gguf("gemma3"))), &["gemma3.attention.sliding_window is missing"]);
    let mut gemma2 = config_of(Architecture::Gemma2, json!({"sliding_window": 16, "query_pre_attn_scalar": 8}));
    gemma2.norm_offset = 0.0;
    assert_eq!(configured("gemma2", &|g| g.u32("gemma2.attention.sliding_window", 16)), gemma2);
    for (name, architecture) in [("smollm3", Architecture::SmolLM3), ("olmo2", Architecture::Olmo2)] {
        assert_eq!(configured(name, &|g| g), config_of(architecture, json!({})), "{name}");
    }
    let granite: &Change = &|g| {
        g.f32("granite.attention.scale", 0.25).f32("granite.embedding_scale", 12.0);
        g.f32("granite.residual_scale", 0.5).f32("granite.logit_scale", 8.0)
    };
    let multipliers = json!({"embedding_multiplier": 12, "attention_multiplier": 0.25, "residual_multiplier": 0.5, "logits_scaling": 8});
    assert_eq!(configured("granite", granite), config_of(Architecture::Granite, multipliers));
    // Later OLMo models of the same architecture have windows in layers that the file does not
    // name.
    let mut olmo3 = tiny_gguf("olmo2");
    olmo3.u32("olmo2.attention.sliding_window", 64);
    assert_says(&message(open(&olmo3)), &["sliding attention window of 64", "which layers"]);
}

#[test]
fn tensors_come_back_under_hugging_face_names() {
    let model = open(&tiny_gguf("qwen3")).unwrap();
    let expected = tiny_tensors(&tiny_config(Architecture::Qwen3));
    assert_eq!(model.tensors.len(), expected.len());
    for (name, tensor) in &expected {
        assert_eq!(model.tensors[name].to_f32().unwrap(), tensor.to_f32().unwrap(), "{name}");
        assert_eq!(model.tensors[name].shape, tensor.shape, "{name}");
    }
}

/// llama.cpp's converter: `reshape(heads, 2, D/2, …).swapaxes(1, 2)`.
fn interleave(values: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (row, chunk) in values.chunks(cols).enumerate() {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
        let to = (head * head_dim + 2 * i + half) * cols;
        out[to..to + cols].copy_from_slice(chunk);
    }
    out
}

#[test]
fn llamas_query_and_key_rows_are_put_back_in_order() {
    let config = tiny_config(Architecture::Llama);
    let expected = tiny_tensors(&config);
    let mut g = tiny_gguf("llama");
    let bias: Vec<f32> = (0..32).map(|i| i as f32).collect();
    for layer in 0..2 {
        for (short, rows) in [("q", 32), ("k", 16)] {
            let name = format!("model.layers.{layer}.self_attn.{short}_proj.weight");
            let stored = interleave(&expected[&name].to_f32().unwrap(), 8, 32);
            g.f32_tensor(&format!("blk.{layer}.attn_{short}.weight"), &[rows, 32], &stored);
            let stored = interleave(&bias[..rows], 8, 1);
            g.f32_tensor(&format!("blk.{layer}.attn_{short}.bias"), &[rows], &stored);
        }
        g.f32_tensor(&format!("blk.{layer}.attn_v.bias"), &[16], &bias[..16]);
    }
    let model = open(&g).unwrap();
    assert!(model.config.attention_bias && !model.config.attention_output_bias);
    for (name, tensor) in &expected {
        assert_eq!(model.tensors[name].to_f32().unwrap(), tensor.to_f32().unwrap(), "{name}");
    }
    for (name, rows) in [("q_proj", 32), ("k_proj", 16), ("v_proj", 16)] {
        let tensor = &model.tensors[&format!("model.layers.1.self_attn.{name}.bias")];
        assert_eq!(tensor.to_f32().unwrap(), bias[..rows], "{name}");
    }
}

#[test]
fn quantised_rows_keep_their_bytes() {
    // Q8_0 blocks whose every byte names its row.
    let rows = |n: u8| -> Vec<u8> { (0..n).flat_map(|row| [row; 34]).collect() };
    let mut g = tiny_gguf("llama");
    g.tensor("blk.0.attn_q.weight", &[32, 32], 8, rows(32));
    g.tensor("blk.0.attn_v.weight", &[16, 32], 8, rows(16));
    let model = open(&g).unwrap();
    let q = &model.tensors["model.layers.0.self_attn.q_proj.weight"];
    assert_eq!(q.dtype, DType::Q8_0);
    let order: Vec<u8> = (0..32).map(|row| q.read_rows(row..row + 1).unwrap()[0]).collect();
    assert_eq!(order[..8], [0, 2, 4, 6, 1, 3, 5, 7]);
    assert_eq!(order[24..], [24, 26, 28, 30, 25, 27, 29, 31]);
    let v = &model.tensors["model.layers.0.self_attn.v_proj.weight"];
    assert_eq!(*v.bytes().unwrap(), rows(16), "only q and k are reordered");

    let mut qwen = tiny_gguf("qwen2");
    qwen.tensor("blk.0.attn_q.weight", &[32, 32], 8, rows(32));
    let model = open(&qwen).unwrap();
    assert_eq!(*model.tensors["model.layers.0.self_attn.q_proj.weight"].bytes().unwrap(), rows(32));
}

#[test]
fn every_supported_format_is_taken() {
    for (id, dtype) in
        [(0, DType::F32), (1, DType::F16), (2, DType::Q4_0), (3, DType::Q4_1), (8, DType::Q8_0), (30, DType::BF16)]
    {
        let mut g = tiny_gguf("llama");
        g.tensor("blk.1.ffn_down.weight", &[32, 64], id, vec![1; 32 * dtype.row_bytes(64)]);
        let model = open(&g).unwrap();
        let tensor = &model.tensors["model.layers.1.mlp.down_proj.weight"];
        assert_eq!((tensor.dtype, &tensor.shape[..]), (dtype, &[32, 64][..]));
        assert!(model.formats()[&dtype].0 > 0);
    }
}

#[test]
fn an_untied_head_and_an_alignment_are_honoured() {
    let mut g = tiny_gguf("llama");
    g.alignment = 64;
    g.u32("general.alignment", 64);
    let head = vec![0.25; 264 * 32];
    g.f32_tensor("output.weight", &[264, 32], &head);
    g.version = 2;
    let model = open(&g).unwrap();
    assert!(!model.config.tie_word_embeddings);
    assert_eq!(model.tensors["lm_head.weight"].to_f32().unwrap(), head);
    let embedding = &tiny_tensors(&model.config)["model.embed_tokens.weight"];
    assert_eq!(model.tensors["model.embed_tokens.weight"].to_f32().unwrap(), embedding.to_f32().unwrap());
}

#[test]
fn rope_settings_are_honoured_or_refused() {
    let scaling = |change: &Change| {
        let mut g = tiny_gguf("llama");
        change(&mut g);
        open(&g).map(|m| m.config.ropes[0].scaling.clone())
    };
    let linear = RopeScaling::Linear { factor: 4.0 };
    let by_type = |name: &'static str| -> Box<Change<'static>> {
        Box::new(move |g| g.str("llama.rope.scaling.type", name).f32("llama.rope.scaling.factor", 4.0))
    };
    assert_eq!(scaling(&*by_type("linear")).unwrap(), linear);
    assert_eq!(scaling(&*by_type("none")).unwrap(), RopeScaling::None);
    assert_eq!(scaling(&|g| g.f32("llama.rope.scale_linear", 4.0)).unwrap(), linear);
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        original_max_position_embeddings: 128,
    };
    assert_eq!(scaling(&*by_type("yarn")).unwrap(), yarn);
    let log: &Change = &|g| by_type("yarn")(g).f32("llama.rope.scaling.yarn_log_multiplier", 0.1);
    assert_says(&message(scaling(log)), &["yarn_log_multiplier 0.1"]);
    assert_says(&message(scaling(&*by_type("longrope"))), &["rope_factors_long.weight is missing"]);
    assert_says(&message(scaling(&*by_type("dynamic"))), &["rope type \"dynamic\"", "supported", "linear"]);

    let divisors: &Change = &|g| g.f32_tensor("rope_freqs.weight", &[4], &[1.0, 1.0, 2.5, 8.0]);
    assert_eq!(scaling(divisors).unwrap(), RopeScaling::Divisors(vec![1.0, 1.0, 2.5, 8.0]));
    let ones: &Change = &|g| g.f32_tensor("rope_freqs.weight", &[4], &[1.0; 4]);
    assert_eq!(scaling(ones).unwrap(), RopeScaling::None);
    let short: &Change = &|g| g.f32_tensor("rope_freqs.weight", &[3], &[2.0; 3]);
    assert_says(&message(scaling(short)), &["3 rope divisors", "expected 4"]);
    let zero: &Change = &|g| g.f32_tensor("rope_freqs.weight", &[4], &[2.0, 0.0, 1.0, 1.0]);
    assert_says(&message(scaling(zero)), &["rope divisors", "positive"]);
    let both: &Change = &|g| {
        divisors(g);
        by_type("linear")(g)
    };
    assert_says(&message(scaling(both)), &["together with rope_freqs.weight"]);
}

#[test]
fn phi_3_is_cut_into_its_maps() {
    let mut g = tiny_gguf("phi3");
    g.u32("phi3.attention.sliding_window", 16);
    let model = open(&g).unwrap();
    let mut expected = config_of(Architecture::Phi3, json!({"sliding_window": 16}));
    expected.bos_token_id = Some(256);
    assert_eq!(model.config, expected);
    for (name, tensor) in tiny_tensors(&expected) {
        assert_eq!(model.tensor(&name).unwrap().to_f32().unwrap(), tensor.to_f32().unwrap(), "{name}");
    }
    g.remove("phi3.attention.sliding_window").u32("phi3.attention.sliding_window", 0);
    assert!(open(&g).unwrap().config.layers.iter().all(|layer| layer.window.is_none()), "as Phi-4-mini has it");
    let mut short = tiny_gguf("phi3");
    short.f32_tensor("blk.1.attn_qkv.weight", &[60, 32], &[0.0; 60 * 32]);
    assert_says(&message(open(&short)), &["layers.1.self_attn.qkv_proj.weight", "[60, 32]", "[64, 32]"]);
    let mut without = tiny_gguf("phi3");
    without.tensors.retain(|(name, ..)| name != "blk.0.ffn_up.weight");
    assert_says(&message(open(&without)), &["layers.0.mlp.gate_up_proj.weight", "missing"]);
    let qkv = refusal(|g| g.f32_tensor("blk.0.attn_qkv.weight", &[64, 32], &[0.0; 64 * 32]));
    assert_says(&qkv, &["tensor blk.0.attn_qkv.weight", "a llama model has no place"]);
}

#[test]
fn longrope_is_two_tensors_and_a_factor() {
    let longrope = |name: &str, change: &Change| {
        let mut g = tiny_gguf(name);
        let key = |rest: &str| format!("{name}.{rest}");
        g.u32(&key("rope.scaling.original_context_length"), 32).f32(&key("rope.scaling.attn_factor"), 1.25);
        g.f32_tensor("rope_factors_short.weight", &[4], &[1.0, 1.5, 2.0, 2.5]);
        g.f32_tensor("rope_factors_long.weight", &[4], &[2.0, 3.0, 4.0, 5.0]);
        change(&mut g);
        open(&g).map(|model| model.config.ropes[0].clone())
    };
    let scaling = RopeScaling::LongRope {
        short: vec![1.0, 1.5, 2.0, 2.5],
        long: vec![2.0, 3.0, 4.0, 5.0],
        attention_factor: 1.25,
        original_max_position_embeddings: 32,
    };
    assert_eq!(longrope("phi3", &|g| g).unwrap().scaling, scaling);
    assert_eq!(longrope("llama", &|g| g.str("llama.rope.scaling.type", "longrope")).unwrap().scaling, scaling);
    let partial = longrope("phi3", &|g| {
        g.u32("phi3.rope.dimension_count", 6);
        g.f32_tensor("rope_factors_short.weight", &[3], &[1.0; 3]).f32_tensor(
            "rope_factors_long.weight",
            &[3],
            &[2.0; 3],
        )
    });
    assert_eq!(partial.unwrap().dim, 6);
    let refused = |change: &Change| message(longrope("phi3", change));
    let without = |which: &'static str| {
        refused(&move |g| {
            g.tensors.retain(|(name, ..)| name != which);
            g
        })
    };
    assert_says(&without("rope_factors_long.weight"), &["rope_factors_long.weight is missing"]);
    assert_says(&without("rope_factors_short.weight"), &["rope_factors_short.weight is missing"]);
    let neither = refused(&|g| {
        g.tensors.retain(|(name, ..)| !name.starts_with("rope_factors"));
        g
    });
    assert_says(&neither, &["phi3.rope.scaling.attn_factor 1.25"]);
    let yarn = refused(&|g| g.str("phi3.rope.scaling.type", "yarn"));
    assert_says(&yarn, &["rope type \"yarn\" together with rope_factors_long.weight"]);
    let factor = refused(&|g| g.f32("phi3.rope.scaling.factor", 4.0));
    assert_says(&factor, &["rope scaling by 4 together with rope_factors_long.weight"]);
    assert_says(&refusal(|g| g.str("llama.rope.scaling.type", "longrope")), &["rope_factors_long.weight is missing"]);
    let mut odd = tiny_gguf("phi3");
    odd.u32("phi3.rope.dimension_count", 7);
    assert_says(&message(open(&odd)), &["rope spans 7 numbers of a head of 8", "even"]);
}

#[test]
fn keys_of_layers_with_a_window_are_obeyed_or_refused() {
    for (key, value) in [
        ("rope.scaling_swa.type", "yarn"),
        ("rope.freq_base_swa", "10000"),
        ("attention.key_length_swa", "8"),
        ("attention.sliding_window_pattern", "6"),
    ] {
        let text = refusal(|g| g.str(&format!("llama.{key}"), value));
        assert_says(&text, &[&format!("llama.{key}"), "layers with a window"]);
    }
    let mut g = tiny_gguf("gemma3");
    g.u32("gemma3.attention.sliding_window", 16).str("gemma3.rope.scaling_swa.type", "linear");
    assert_says(&message(open(&g)), &["gemma3.rope.scaling_swa.type \"linear\""]);
}

#[test]
fn models_that_would_run_wrongly_are_refused_by_name() {
    let architecture = refusal(|g| g.str("general.architecture", "gemma4"));
    assert_says(&architecture, &["m.gguf", "\"gemma4\"", "llama", "qwen2, qwen3"]);
    for (name, reason) in [("qwen3moe", "mixtures of experts"), ("qwen35", "delta nets"), ("gemma3n", "embeddings")] {
        assert_says(&refusal(|g| g.str("general.architecture", name)), &[&format!("{name:?}"), reason]);
    }
    let iq2_xs = refusal(|g| g.tensor("blk.0.ffn_up.weight", &[64, 32], 17, vec![0; 144]));
    assert_says(&iq2_xs, &["IQ2_XS", "blk.0.ffn_up.weight", "TQ1_0 and TQ2_0", "BF16"]);
    let part_of_a_block = refusal(|g| g.tensor("blk.0.ffn_up.weight", &[64, 32], 12, vec![0; 144]));
    assert_says(&part_of_a_block, &["blk.0.ffn_up.weight", "[64, 32]", "whole Q4_K blocks of 256"]);
    let newer = refusal(|g| g.tensor("blk.0.ffn_up.weight", &[64, 32], 77, vec![0; 144]));
    assert_says(&newer, &["tensor type number 77", "blk.0.ffn_up.weight"]);
    let experts = refusal(|g| g.u32("llama.expert_count", 8));
    assert_says(&experts, &["llama.expert_count 8"]);
    let scale = refusal(|g| g.f32("llama.attention.scale", 0.5));
    assert_says(&scale, &["llama.attention.scale 0.5"]);
    let causal = refusal(|g| g.bool("llama.attention.causal", false));
    assert_says(&causal, &["causal"]);
    let partial = refusal(|g| g.u32("llama.rope.dimension_count", 4));
    assert_says(&partial, &["rope.dimension_count 4", "heads of 8"]);
    let layers = refusal(|g| g.i32s("llama.attention.head_count_kv", &[2, 1]));
    assert_says(&layers, &["head_count_kv", "layer to layer"]);
    let extra = refusal(|g| g.f32_tensor("blk.0.attn_sinks.weight", &[4], &[0.0; 4]));
    assert_says(&extra, &["tensor blk.0.attn_sinks.weight", "no place"]);
    let bias = refusal(|g| g.f32_tensor("blk.0.ffn_up.bias", &[64], &[0.0; 64]));
    assert_says(&bias, &["tensor blk.0.ffn_up.bias"]);
}

/// A model in three parts as llama.cpp's gguf-split leaves them, by name.
fn split() -> BTreeMap<String, Gguf> {
    let whole = tiny_gguf("llama");
    let count = whole.tensors.len();
    let parts = (0..3).map(|number| {
        let mut part = if number == 0 { whole.clone() } else { Gguf::new() };
        part.tensors = whole.tensors[number * count / 3..(number + 1) * count / 3].to_vec();
        part.u32("split.no", number as u32).u32("split.count", 3).u32("split.tensors.count", count as u32);
        (format!("m-{:05}-of-00003.gguf", number + 1), part)
    });
    parts.collect()
}

fn open_split(parts: &BTreeMap<String, Gguf>) -> bft_formats::Result<Model> {
    let parts = parts.iter().map(|(name, part)| (name.clone(), part.bytes()));
    Model::from_gguf_parts("m", parts.collect())
}

#[test]
fn any_part_stands_for_all() {
    let whole = open(&tiny_gguf("llama")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for (name, part) in split() {
        std::fs::write(folder.path().join(&name), part.build()).unwrap();
        lines.push_str(&format!("{}  {name}\n", bft_formats::sha256_bytes(&part.build())));
    }
    for name in split().keys() {
        let model = Model::open(&folder.path().join(name)).unwrap();
        assert_eq!((&model.config, model.name.as_str()), (&whole.config, name.as_str()));
        assert_eq!(model.tensors.len(), whole.tensors.len());
        for (name, tensor) in &whole.tensors {
            assert_eq!(model.tensors[name].bytes().unwrap()[..], tensor.bytes().unwrap()[..], "{name}");
        }
        assert_eq!(model.sha256().unwrap(), bft_formats::sha256_bytes(lines.as_bytes()), "all parts count");
    }
    assert_eq!(open_split(&split()).unwrap().tensors.len(), whole.tensors.len());
}

#[test]
fn parts_that_are_not_of_one_model_are_named() {
    let parts = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let broken = |change: &dyn Fn(&mut BTreeMap<String, Gguf>)| {
        let mut split = split();
        change(&mut split);
        message(open_split(&split))
    };
    let on = |part: usize, change: &'static Change<'static>| {
        broken(&move |split| {
            change(split.get_mut(parts[part]).unwrap());
        })
    };
    let missing = broken(&|split| drop(split.remove(parts[1])));
    assert_says(&missing, &[parts[1], "part 2 of 3 is missing", "beside each other"]);
    let alone = message(Model::from_gguf(parts[2], split()[parts[2]].bytes()));
    assert_says(&alone, &[parts[0], "part 1 of 3 is missing"]);
    let twice = broken(&|split| drop(split.insert(parts[2].into(), split[parts[1]].clone())));
    assert_says(&twice, &[parts[2], "split.no: found 1, expected 2", "another part"]);
    let count = on(1, &|g| g.u32("split.count", 4));
    assert_says(&count, &[parts[1], "split.count: found 4, expected 3, as in", parts[0]]);
    let tensors = on(2, &|g| g.u32("split.tensors.count", 9));
    assert_says(&tensors, &[parts[2], "split.tensors.count: found 9, expected 20"]);
    let text = on(2, &|g| g.str("split.no", "two"));
    assert_says(&text, &[parts[2], "split.no is \"two\""]);
    let fewer = on(1, &|g| {
        g.tensors.pop();
        g
    });
    assert_says(&fewer, &[parts[0], "split.tensors.count: found 20, expected 19", "different models"]);
    let again = broken(&|split| {
        let tensor = split[parts[0]].tensors[2].clone();
        split.get_mut(parts[1]).unwrap().tensors[0] = tensor;
    });
    assert_says(&again, &[parts[1], "is in a part before, too"]);
    let renamed = broken(&|split| {
        let part = split.remove(parts[0]).unwrap();
        split.insert("a.gguf".into(), part);
    });
    assert_says(&renamed, &["a.gguf", "a part of 3", "-00001-of-00003.gguf"]);
    let other = broken(&|split| drop(split.insert("n.gguf".into(), tiny_gguf("llama"))));
    assert_says(&other, &["n.gguf", "beside the model of m-00001-of-00003.gguf"]);
    let cut = broken(&|split| split.get_mut(parts[2]).unwrap().tensors[0].3.truncate(0));
    assert_says(&cut, &[parts[2]]);
    let outside = broken(&|split| {
        let part = split.remove(parts[2]).unwrap();
        split.clear();
        split.insert("m-00007-of-00003.gguf".into(), part);
    });
    assert_says(&outside, &["m-00007-of-00003.gguf", "a part of 3"]);
}

#[test]
fn a_window_is_every_layers_where_the_file_can_mean_no_other() {
    let mut g = tiny_gguf("llama");
    g.u32("llama.attention.sliding_window", 64);
    assert!(open(&g).unwrap().config.layers.iter().all(|layer| layer.window == Some(64)));
    let mut g = tiny_gguf("qwen2");
    g.u32("qwen2.attention.sliding_window", 64);
    assert_says(&message(open(&g)), &["sliding attention window of 64", "context 128", "which layers"]);
}

#[test]
fn a_window_as_wide_as_the_context_is_none() {
    let mut g = tiny_gguf("llama");
    g.u32("llama.attention.sliding_window", 128);
    g.i32s("llama.attention.head_count_kv", &[2, 2]);
    let config = open(&g).unwrap().config;
    assert_eq!(config.num_key_value_heads, 2);
    assert!(config.layers.iter().all(|layer| layer.window.is_none()));
}

#[test]
fn missing_and_lying_settings_say_which() {
    let missing = refusal(|g| g.remove("llama.embedding_length"));
    assert_says(&missing, &["llama.embedding_length is missing"]);
    let text = refusal(|g| g.str("llama.block_count", "two"));
    assert_says(&text, &["llama.block_count is \"two\"", "expected a whole number"]);
    let zero = refusal(|g| g.u32("llama.attention.head_count", 0));
    assert_says(&zero, &["num_attention_heads is 0"]);
    let many = refusal(|g| g.u32("llama.block_count", u32::MAX));
    assert_says(&many, &["num_hidden_layers is 4294967295", "10000"]);
    let absent = refusal(|g| g.u32("llama.block_count", 3));
    assert_says(&absent, &["model.layers.2.input_layernorm.weight", "missing"]);
    let shape = refusal(|g| g.u32("llama.feed_forward_length", 128));
    assert_says(&shape, &["gate_proj.weight", "[64, 32]", "[128, 32]"]);
    let vocabulary = refusal(|g| g.u32("llama.vocab_size", 300));
    assert_says(&vocabulary, &["token_embd.weight", "264", "300"]);
    let no_tensors = refusal(|g| {
        g.tensors.clear();
        g
    });
    assert_says(&no_tensors, &["token_embd.weight is missing"]);
    let nothing = refusal(|g| {
        g.metadata.clear();
        g
    });
    assert_says(&nothing, &["general.architecture is missing"]);
    let blocks = refusal(|g| g.tensor("blk.0.attn_norm.weight", &[16, 2], 8, vec![0; 64]));
    assert_says(&blocks, &["blk.0.attn_norm.weight", "[16, 2]", "blocks of 32"]);
    let end = refusal(|g| g.u32("tokenizer.ggml.eos_token_id", 264));
    assert_says(&end, &["264", "vocabulary of 264"]);
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let problem = |bytes: &[u8]| match Header::parse(bytes) {
        Err(HeaderError::Invalid(problem)) => problem,
        other => panic!("{other:?}"),
    };
    let good = tiny_gguf("llama").build();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    assert_says(&problem(b"GGML\x03\0\0\0"), &["\"GGML\"", "no GGUF file"]);
    assert_says(&problem(&with(4, &1u32.to_le_bytes())), &["version 1", "llama.cpp"]);
    assert_says(&problem(&with(4, &3u32.to_be_bytes())), &["big-endian"]);
    assert_says(&problem(&with(4, &9u32.to_le_bytes())), &["version 9"]);

    let broken = |change: &Change| {
        let mut g = tiny_gguf("llama");
        change(&mut g);
        problem(&g.build())
    };
    let odd = broken(&|g| g.u32("general.alignment", 24));
    assert_says(&odd, &["general.alignment is 24", "power of two"]);
    let unknown = broken(&|g| g.raw("x", 99u32.to_le_bytes().to_vec()));
    assert_says(&unknown, &["metadata x has type 99"]);
    let nested = [9u32.to_le_bytes().as_slice(), &9u32.to_le_bytes(), &[0; 8]].concat();
    assert_says(&broken(&|g| g.raw("x", nested.clone())), &["metadata x is a list of lists"]);
    let twice = broken(&|g| {
        g.metadata.push(g.metadata[0].clone());
        g
    });
    assert_says(&twice, &["general.architecture", "twice"]);
    let tensors = broken(&|g| {
        g.tensors.push(g.tensors[0].clone());
        g
    });
    assert_says(&tensors, &["is there twice"]);
    let wide = broken(&|g| {
        g.tensors[0].1 = vec![1; 5];
        g
    });
    assert_says(&wide, &["5 dimensions"]);
    let huge = broken(&|g| {
        g.tensors[0].1 = vec![1 << 40, 1 << 40];
        g
    });
    assert_says(&huge, &["more elements than can be counted"]);
    let latin1 = [8u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &[0xE9]].concat();
    assert_says(&broken(&|g| g.raw("general.name", latin1.clone())), &["general.name", "UTF-8"]);
    // The alignment changes what the offsets mean.
    let offsets = broken(&|g| {
        g.alignment = 32;
        g.f32_tensor("a", &[1], &[0.0]);
        g.f32_tensor("b", &[1], &[0.0]);
        g.u32("general.alignment", 1 << 20)
    });
    assert_says(&offsets, &["not a multiple of the alignment 1048576"]);
}

#[test]
fn tensor_data_outside_the_file_or_over_each_other_are_refused() {
    let good = tiny_gguf("llama").build();
    let short = Bytes::from(good[..good.len() - 1].to_vec());
    let truncated = message(Model::from_gguf("m.gguf", short));
    assert_says(&truncated, &["ends at byte", &(good.len() - 1).to_string(), "truncated"]);

    // A directory whose first two tensors claim the same bytes.
    let mut g = tiny_gguf("llama");
    g.tensors[0].3.clear();
    let overlap = message(open(&g));
    assert_says(&overlap, &["overlap"]);
}

#[test]
fn a_stream_is_told_how_much_more_it_needs() {
    let good = tiny_gguf("llama").build();
    let header = Header::parse(&good).unwrap();
    let mut have = 0;
    let mut rounds = 0;
    // A reader that fetches exactly what it is told to ends up with the header and no more.
    let parsed = loop {
        match Header::parse(&good[..have]) {
            Ok(parsed) => break parsed,
            Err(HeaderError::NeedMoreBytes { total }) => {
                assert!(total > have as u64 && total <= good.len() as u64);
                have = total as usize;
                rounds += 1;
            }
            Err(e) => panic!("{e}"),
        }
    };
    assert!(rounds > 10 && have as u64 <= header.data_start);
    assert_eq!(parsed, header);
    assert_eq!(parsed.tensors.len(), 20);
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let good = tiny_gguf("llama").build();
    let start = Header::parse(&good).unwrap().data_start as usize;
    // Every length of the header, and some of the data.
    for length in (0..start).chain((start..good.len()).step_by(997)) {
        let text = message(Model::from_gguf("m.gguf", Bytes::from(good[..length].to_vec())));
        assert_says(&text, &["m.gguf", "truncated"]);
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let good = tiny_gguf("llama").build();
    let start = Header::parse(&good).unwrap().data_start as usize;
    let mut random = Random::new(3);
    let mut refused = 0;
    for round in 0..6000 {
        let mut bad = good.clone();
        for _ in 0..=round % 3 {
            let at = random.below(start);
            bad[at] = match random.below(4) {
                0 => 0xFF,
                1 => 0,
                2 => bad[at] ^ (1 << random.below(8)),
                _ => random.bits() as u8,
            };
        }
        refused += usize::from(Model::from_gguf("m.gguf", Bytes::from(bad)).is_err());
    }
    assert!(refused > 1000, "{refused} of 6000 were refused");
}

#[test]
fn a_tokenizer_that_does_not_say_how_it_splits_texts_is_refused() {
    for name in ["", "default"] {
        let text = refusal(|g| g.str("tokenizer.ggml.pre", name));
        assert_says(&text, &["tokenizer.ggml.pre", "missing", "convert the model again"]);
    }
}

#[test]
fn the_pooling_of_an_embedding_model_is_known() {
    let sentence = |kind: u32| {
        let mut g = tiny_gguf("qwen3");
        g.u32("qwen3.pooling_type", kind).u32("qwen3.attention.key_length", 8).u32("qwen3.attention.value_length", 8);
        open(&g).unwrap()
    };
    assert_eq!(sentence(0).sentence().unwrap(), None);
    for (kind, pooling) in [(1, bft_formats::Pooling::Mean), (3, bft_formats::Pooling::Last)] {
        let model = sentence(kind);
        let steps = model.sentence().unwrap().unwrap();
        assert_eq!((steps.pooling, steps.normalize, steps.source.as_str()), (pooling, false, "qwen3.pooling_type"));
    }
    assert_says(&message(sentence(2).sentence()), &["qwen3.pooling_type 2 (the first token)", "--pooling"]);
    assert_says(&message(sentence(9).sentence()), &["qwen3.pooling_type 9"]);
}
