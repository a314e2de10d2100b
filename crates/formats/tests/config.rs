//! `config.json`: what it becomes, and what it may not ask for.
#![allow(clippy::unwrap_used)]

mod common;

use bft_formats::{Architecture, Gate, ModelConfig, Result, Rope, RopeScaling};
use common::{assert_says, config_json, config_of, message, tiny_config};
use serde_json::{Value, json};

fn read(architecture: Architecture, changes: Value) -> Result<ModelConfig> {
    ModelConfig::from_json("m/config.json", config_json(architecture, changes).as_bytes())
}

fn refusal(architecture: Architecture, changes: Value) -> String {
    let text = message(read(architecture, changes));
    assert_says(&text, &["m/config.json"]);
    text
}

use Architecture::{Gemma2, Gemma3, Granite, Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLM3};

#[test]
fn every_architecture_is_read() {
    for architecture in [Llama, Mistral, Qwen2, Qwen3] {
        assert_eq!(read(architecture, json!({})).unwrap(), tiny_config(architecture));
    }
}

#[test]
fn absent_keys_mean_what_transformers_takes_them_to_mean() {
    let absent = json!("<absent>");
    let c = read(
        Llama,
        json!({
            "num_key_value_heads": absent, "head_dim": absent, "rope_theta": absent,
            "rms_norm_eps": absent, "tie_word_embeddings": absent, "max_position_embeddings": absent,
        }),
    );
    let c = c.unwrap();
    assert_eq!((c.num_key_value_heads, c.head_dim, c.max_position_embeddings), (4, 8, 2048));
    assert_eq!((c.ropes[0].theta, c.rms_norm_eps, c.tie_word_embeddings), (10_000.0, 1e-6, false));
    assert_eq!(read(Qwen3, json!({"head_dim": absent})).unwrap().head_dim, 128);
    assert_eq!(read(Qwen2, json!({"num_key_value_heads": null})).unwrap().num_key_value_heads, 4);
    assert_says(&refusal(Qwen2, json!({"num_key_value_heads": absent})), &["num_key_value_heads is missing"]);
    // Mistral's own default is a window.
    let windowed = json!({"sliding_window": absent, "max_position_embeddings": 32768});
    assert_eq!(windows(Mistral, windowed), [Some(4096); 2]);
}

#[test]
fn biases_are_where_the_architecture_has_them() {
    let biases = |a, changes| {
        let c = read(a, changes).unwrap();
        (c.attention_bias, c.attention_output_bias)
    };
    let on = || json!({"attention_bias": true});
    assert_eq!(biases(Llama, on()), (true, true));
    assert_eq!(biases(Qwen3, on()), (true, true));
    assert_eq!(biases(Mistral, on()), (false, false));
    assert_eq!(biases(Qwen2, json!({})), (true, false));
}

#[test]
fn rope_is_read_from_either_spelling() {
    let rope = |changes| read(Llama, changes).map(|c| (c.ropes[0].theta, c.ropes[0].scaling.clone()));
    let llama3 = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0
    });
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(rope(json!({"rope_parameters": llama3})).unwrap(), (500_000.0, expected.clone()));
    assert_eq!(rope(json!({"rope_scaling": llama3})).unwrap(), (500_000.0, expected));
    let linear = RopeScaling::Linear { factor: 2.0 };
    let older = json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}});
    assert_eq!(rope(older).unwrap(), (1e6, linear));
    let default = json!({"rope_theta": "<absent>", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}});
    assert_eq!(rope(default).unwrap(), (5e5, RopeScaling::None));
    assert_eq!(rope(json!({"rope_scaling": null})).unwrap().1, RopeScaling::None);
    let short = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let RopeScaling::Llama3 { original_max_position_embeddings: original, .. } =
        rope(json!({"rope_scaling": short})).unwrap().1
    else {
        panic!("llama3 expected")
    };
    assert_eq!(original, 128, "the context where there is no original one");
}

#[test]
fn other_ropes_are_refused_by_name() {
    let with = |scaling: Value| refusal(Llama, json!({"rope_scaling": scaling}));
    for name in ["su", "mrope", "proportional"] {
        let text = with(json!({"rope_type": name, "factor": 2.0}));
        assert_says(&text, &[&format!("rope type {name:?}"), "default, linear, dynamic, llama3, yarn and longrope"]);
    }
    assert_says(&with(json!({"type": "dynamic"})), &["factor is missing"]);
    let longrope = |more: Value| {
        let mut scaling = json!({"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3, 4]});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(scaling)
    };
    assert_says(&longrope(json!({"short_factor": null})), &["short_factor is missing"]);
    assert_says(&longrope(json!({"long_factor": [1, 2, "3", 4]})), &["long_factor is [1,2,\"3\",4]", "numbers"]);
    assert_says(&longrope(json!({"long_factor": [1, 2, 3]})), &["3 rope divisors", "expected 4 positive"]);
    assert_says(&longrope(json!({"long_factor": [1, 2, 3, 0]})), &["4 rope divisors", "expected 4 positive"]);
    assert_says(&longrope(json!({"original_max_position_embeddings": 0})), &["a context of 0 tokens"]);
    assert_says(&longrope(json!({"original_max_position_embeddings": 1})), &["attention factor", "is inf"]);
    assert_says(&with(json!({"type": "default", "mrope_section": [16, 24, 24]})), &["\"mrope\""]);
    assert_says(&with(json!({"type": "linear"})), &["factor is missing"]);
    assert_says(&with(json!({"type": "yarn"})), &["factor is missing"]);
    assert_says(&with(json!({"type": "yarn", "factor": 2, "beta_fast": 0})), &["beta_fast is 0", "positive"]);
    assert_says(&with(json!({"type": "linear", "factor": -1})), &["factor is -1", "positive"]);
    assert_says(&with(json!({"type": "linear", "factor": "2"})), &["factor is \"2\"", "a number"]);
    let backwards = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1});
    assert_says(&with(backwards), &["low_freq_factor 4", "high_freq_factor 1"]);
    assert_says(&with(json!("linear")), &["rope_scaling is \"linear\"", "an object"]);
    let partial = refusal(Llama, json!({"partial_rotary_factor": 0.5}));
    assert_says(&partial, &["partial_rotary_factor 0.5"]);
    let layered = json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}});
    assert_says(&refusal(Llama, layered), &["layer to layer", "the layers of a llama model have one set"]);
    assert_says(&refusal(Llama, json!({"rope_theta": 0.0})), &["rope_theta is 0", "above 1"]);
}

fn windows(architecture: Architecture, changes: Value) -> Vec<Option<usize>> {
    read(architecture, changes).unwrap().layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn each_layer_has_the_window_that_transformers_gives_it() {
    assert_eq!(windows(Mistral, json!({"sliding_window": 64})), [Some(64); 2]);
    assert_eq!(windows(Mistral, json!({"sliding_window": 128})), [None; 2], "as wide as the context");
    // Qwen states a window whether or not it uses it.
    assert_eq!(windows(Qwen2, json!({"sliding_window": 64, "use_sliding_window": false})), [None; 2]);
    let used = |from: usize| json!({"sliding_window": 64, "use_sliding_window": true, "max_window_layers": from});
    assert_eq!(windows(Qwen2, used(1)), [None, Some(64)]);
    assert_eq!(windows(Qwen2, used(2)), [None; 2], "no layer is beyond the second");
    let types = |types: &[&str]| json!({"sliding_window": 64, "use_sliding_window": true, "layer_types": types});
    assert_eq!(windows(Qwen3, types(&["sliding_attention", "full_attention"])), [Some(64), None]);
    assert_eq!(windows(Qwen3, types(&["full_attention", "full_attention"])), [None; 2]);
    assert_says(&refusal(Qwen3, types(&["full_attention"])), &["layer_types names 1 layers", "num_hidden_layers 2"]);
    assert_says(&refusal(Qwen3, types(&["linear_attention"])), &["layer type \"linear_attention\""]);
    assert_says(&refusal(Mistral, json!({"sliding_window": 0})), &["sliding_window is 0"]);
}

#[test]
fn gemma_3_has_windows_and_ropes_by_turns() {
    let many = || json!({"num_hidden_layers": 7, "sliding_window": 16, "rope_theta": 1e6, "head_dim": 16});
    let c = config_of(Gemma3, many());
    let (local, global) = ((Some(16), Some(1)), (None, Some(0)));
    let layers: Vec<_> = c.layers.iter().map(|layer| (layer.window, layer.rope)).collect();
    assert_eq!(layers, [local, local, local, local, local, global, local]);
    assert_eq!((c.ropes[0].theta, c.ropes[1].theta), (1e6, 10_000.0));
    assert_eq!((c.layers[0].score_scale, c.layers[0].gate), (Some(1.0 / 16.0), Gate::GeluTanh));
    assert_eq!((c.embedding_scale, c.norm_offset), (32f32.sqrt(), 1.0));
    // As transformers 5 writes it, and as it wrote it before.
    let linear = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5});
    let new = json!({"rope_parameters": {"full_attention": linear, "sliding_attention": {"rope_theta": 2e4}}});
    let old =
        json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 5e5, "rope_local_base_freq": 2e4});
    let ropes = config_of(Gemma3, new).ropes;
    assert_eq!(ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!((ropes[0].theta, ropes[1].theta, &ropes[1].scaling), (5e5, 2e4, &RopeScaling::None));
    assert_eq!(config_of(Gemma3, old).ropes, ropes);
    let both = json!({"use_bidirectional_attention": true});
    assert_says(&refusal(Gemma3, both), &["use_bidirectional_attention true", "causal"]);
    assert_says(&refusal(Gemma3, json!({"hidden_activation": "relu"})), &["hidden_activation \"relu\""]);
    assert_says(&refusal(Gemma3, json!({"final_logit_softcapping": 30.0})), &["final_logit_softcapping 30"]);
}

#[test]
fn gemma_2_has_caps_and_a_window_in_every_other_layer() {
    let c = config_of(Gemma2, json!({"sliding_window": 16, "attn_logit_softcapping": null}));
    let windows: Vec<_> = c.layers.iter().map(|layer| (layer.window, layer.score_cap)).collect();
    assert_eq!((windows, c.logits_cap), (vec![(Some(16), None), (None, None)], Some(30.0)));
    assert_eq!(config_of(Gemma2, json!({})).layers[0].score_cap, Some(50.0));
    assert_says(
        &refusal(Gemma2, json!({"final_logit_softcapping": -1})),
        &["final_logit_softcapping is -1", "positive"],
    );
    assert_says(&refusal(Gemma2, json!({"query_pre_attn_scalar": 0})), &["query_pre_attn_scalar is 0"]);
}

#[test]
fn smollm3_layers_rotate_or_not() {
    let ropes = |changes| config_of(SmolLM3, changes).layers.iter().map(|layer| layer.rope).collect::<Vec<_>>();
    assert_eq!(ropes(json!({"num_hidden_layers": 5})), [Some(0), Some(0), Some(0), None, Some(0)]);
    assert_eq!(ropes(json!({"no_rope_layers": [0, 1]})), [None, Some(0)]);
    assert_eq!(ropes(json!({"no_rope_layer_interval": 2})), [Some(0), None]);
    assert_says(&refusal(SmolLM3, json!({"no_rope_layers": [0]})), &["no_rope_layers is [0]", "each layer"]);
    let windows = json!({"use_sliding_window": true, "sliding_window": 8, "no_rope_layers": [1, 0]});
    let windows: Vec<_> = config_of(SmolLM3, windows).layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [None, Some(8)]);
}

#[test]
fn olmo_2_has_its_norms_behind() {
    let c = config_of(Olmo2, json!({"rms_norm_eps": "<absent>"}));
    assert_eq!(c.rms_norm_eps, 1e-5);
    let shapes = c.tensor_shapes();
    let of = |name: &str| shapes.iter().find(|(n, _)| n == &format!("model.layers.1.{name}.weight")).map(|(_, s)| s[0]);
    assert_eq!((of("input_layernorm"), of("post_attention_layernorm")), (None, Some(32)));
    assert_eq!((of("post_feedforward_layernorm"), of("self_attn.q_norm")), (Some(32), Some(32)));
    assert_eq!(of("self_attn.k_norm"), Some(16));
}

#[test]
fn phi_3_is_fused_and_rotates_in_part() {
    let c = config_of(Phi3, json!({"sliding_window": 64}));
    assert!(c.fused_projections && c.layers.iter().all(|layer| layer.window == Some(64)));
    let modules: Vec<&str> = c.linear_modules().iter().map(|module| module.name).collect();
    assert_eq!(modules, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]);
    assert_eq!((c.linear_shape("qkv_proj"), c.linear_shape("gate_up_proj")), (Some([64, 32]), Some([128, 32])));
    let longrope = |outer: Value| {
        let scaling = json!({"type": "longrope", "short_factor": [1.5, 2, 3], "long_factor": [2, 4, 8]});
        let mut changes = json!({"rope_scaling": scaling, "partial_rotary_factor": 0.75, "head_dim": 8});
        changes.as_object_mut().unwrap().extend(outer.as_object().unwrap().clone());
        changes
    };
    let rope = &config_of(Phi3, longrope(json!({"original_max_position_embeddings": 16}))).ropes[0];
    let attention_factor = (1.0 + 8f64.ln() / 16f64.ln()).sqrt();
    let scaling = RopeScaling::LongRope {
        short: vec![1.5, 2.0, 3.0],
        long: vec![2.0, 4.0, 8.0],
        attention_factor,
        original_max_position_embeddings: 16,
    };
    assert_eq!(rope, &Rope { theta: 10_000.0, dim: 6, scaling });
    assert_eq!((rope.attention_factor(), rope.beyond().unwrap().0), (attention_factor, 16));
    // What transformers takes where nothing is said, whatever the scaling itself says.
    let rope = &config_of(Phi3, longrope(json!({"max_position_embeddings": 8192}))).ropes[0];
    assert_eq!(rope.beyond().unwrap().0, 4096);
    let inner = json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 2, 3], "long_factor": [2, 4, 8],
                                        "original_max_position_embeddings": 32}});
    assert_says(&refusal(Phi3, longrope(inner)), &["original_max_position_embeddings 4096 beside 32"]);
    let linear = refusal(Phi3, json!({"rope_scaling": {"type": "linear", "factor": 2.0}}));
    assert_says(&linear, &["linear scaling by 2", "default and longrope"]);
    for part in [0.7, 0.0, 1.5, -1.0] {
        let text = refusal(Phi3, json!({"partial_rotary_factor": part}));
        assert_says(&text, &[&format!("partial_rotary_factor is {part}"), "an even number of a head's 8"]);
    }
}

#[test]
fn the_language_part_of_a_model_that_sees_is_read() {
    let whole = |text: Value, outer: Value| {
        let text: Value = serde_json::from_str(&config_json(Gemma3, text)).unwrap();
        let mut json = json!({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}});
        json.as_object_mut().unwrap().extend(outer.as_object().unwrap().clone());
        ModelConfig::from_json("m/config.json", json.to_string().as_bytes())
    };
    let named = || json!({"model_type": "gemma3_text"});
    let mut expected = config_of(Gemma3, json!({}));
    expected.sees = true;
    assert_eq!(whole(named(), json!({})).unwrap(), expected);
    let ends = whole(named(), json!({"eos_token_id": [1, 106], "tie_word_embeddings": false})).unwrap();
    assert_eq!((ends.eos_token_ids, ends.tie_word_embeddings), (vec![1, 106], false));
    assert_says(
        &message(whole(json!({"model_type": "llama"}), json!({}))),
        &["text_config", "\"llama\"", "gemma3_text"],
    );
    assert_says(&message(whole(named(), json!({"text_config": null}))), &["text_config is missing"]);
    let quantized = whole(named(), json!({"quantization_config": {"quant_method": "awq"}}));
    assert_says(&message(quantized), &["quantization_config", "awq"]);
    // As Google publishes Gemma 3 4B.
    let published = json!({"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    let c = ModelConfig::from_json("m/config.json", published.to_string().as_bytes()).unwrap();
    assert_eq!((c.vocab_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim), (262_208, 8, 4, 256));
    assert_eq!(c.layers.iter().filter(|layer| layer.window == Some(1024)).count(), 29);
}

#[test]
fn families_that_are_not_there_are_refused_with_the_reason() {
    for (name, reason) in [
        ("mixtral", "mixtures of experts"),
        ("qwen3_moe", "mixtures of experts"),
        ("phimoe", "mixtures of experts"),
        ("gpt_oss", "mixtures of experts"),
        ("qwen3_next", "gated delta nets"),
        ("qwen3_5", "gated delta nets"),
        ("qwen3_5_moe", "gated delta nets"),
        ("gemma3n", "embeddings that its layers have"),
        ("gemma4", "embeddings that its layers have"),
    ] {
        let text = refusal(Llama, json!({"model_type": name}));
        assert_says(&text, &[&format!("model type {name:?}"), reason, "supported model types are llama"]);
    }
    let unknown = refusal(Llama, json!({"model_type": "mamba"}));
    assert!(!unknown.contains("not implemented"), "{unknown}");
}

#[test]
fn granite_has_multipliers() {
    let c = config_of(
        Granite,
        json!({"embedding_multiplier": 12, "attention_multiplier": 0.25, "residual_multiplier": 0.5, "logits_scaling": 8}),
    );
    assert_eq!((c.embedding_scale, c.logits_scale), (12.0, 0.125));
    assert_eq!((c.layers[1].score_scale, c.layers[1].residual_scale), (Some(0.25), 0.5));
    assert_says(&refusal(Granite, json!({"logits_scaling": 0})), &["logits_scaling is 0", "positive"]);
    let biased = json!({"attention_bias": true, "residual_multiplier": 0.5});
    assert_says(&refusal(Granite, biased), &["bias of o_proj"]);
    assert_says(&refusal(Llama, json!({"attention_multiplier": 0.5})), &["attention_multiplier 0.5"]);
}

#[test]
fn two_spellings_of_rope_that_differ_are_refused() {
    let new = json!({"rope_type": "default", "rope_theta": 10000.0});
    let old = json!({"rope_type": "yarn", "factor": 4.0});
    let text = refusal(Qwen3, json!({"rope_parameters": new, "rope_scaling": old}));
    assert_says(&text, &["rope_scaling beside rope_parameters", "keep one"]);
    assert!(read(Qwen3, json!({"rope_parameters": new, "rope_scaling": new})).is_ok());
    assert!(read(Qwen3, json!({"rope_parameters": new, "rope_scaling": null})).is_ok());
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let text = refusal(Llama, json!({"model_type": "gemma4"}));
    assert_says(&text, &["\"gemma4\"", "llama, mistral, qwen2, qwen3"]);
    assert_says(&refusal(Llama, json!({"model_type": "<absent>"})), &["model_type is missing"]);
    assert_says(&refusal(Llama, json!({"hidden_act": "gelu"})), &["hidden_act \"gelu\"", "silu"]);
    assert_says(&refusal(Llama, json!({"mlp_bias": true})), &["mlp_bias true"]);
    assert_says(&refusal(Qwen2, json!({"is_causal": false})), &["is_causal false"]);
    let awq = json!({"quantization_config": {"quant_method": "awq"}});
    assert_says(&refusal(Llama, awq), &["quantization_config", "\"awq\"", "GGUF"]);
    assert_says(&refusal(Llama, json!({"logits_scaling": 8.0})), &["logits_scaling 8"]);
    assert_says(&refusal(Llama, json!({"num_local_experts": 8})), &["num_local_experts 8"]);
}

#[test]
fn impossible_sizes_are_refused() {
    let says = |changes, parts: &[&str]| assert_says(&refusal(Llama, changes), parts);
    says(json!({"hidden_size": "<absent>"}), &["hidden_size is missing"]);
    says(json!({"hidden_size": "32"}), &["hidden_size is \"32\"", "whole number"]);
    says(json!({"hidden_size": -32}), &["hidden_size is -32"]);
    says(json!({"hidden_size": 32.5}), &["hidden_size is 32.5"]);
    says(json!({"hidden_size": 0}), &["hidden_size is 0"]);
    says(json!({"hidden_size": 1u64 << 40}), &["hidden_size is 1099511627776", "2147483647"]);
    says(json!({"num_hidden_layers": 1u64 << 60}), &["num_hidden_layers", "10000"]);
    says(json!({"num_attention_heads": 0, "head_dim": null}), &["num_attention_heads 0"]);
    says(json!({"num_attention_heads": 3, "head_dim": null}), &["hidden_size 32", "num_attention_heads 3"]);
    says(json!({"num_attention_heads": 3}), &["num_attention_heads 3", "num_key_value_heads 2"]);
    says(json!({"head_dim": 7}), &["head_dim 7 is odd"]);
    says(json!({"hidden_size": 34}), &["hidden_size 34", "multiple of 4"]);
    says(json!({"intermediate_size": 63}), &["intermediate_size 63", "multiple of 4"]);
    says(json!({"head_dim": 1 << 30, "num_attention_heads": 1 << 30}), &["×", "at most"]);
    says(json!({"head_dim": 6}), &["head_dim 6", "multiples of 4 up to 256"]);
    says(json!({"head_dim": 260}), &["head_dim 260", "multiples of 4 up to 256"]);
    says(json!({"rms_norm_eps": -1.0}), &["rms_norm_eps is -1"]);
    says(json!({"eos_token_id": 264}), &["264", "vocabulary of 264"]);
    says(json!({"eos_token_id": [1, -2]}), &["eos_token_id is [1,-2]", "a token id or a list"]);
    says(json!({"tie_word_embeddings": "yes"}), &["tie_word_embeddings is \"yes\""]);
}

#[test]
fn what_is_no_object_is_refused() {
    let text = |json: &[u8]| message(ModelConfig::from_json("config.json", json));
    assert_says(&text(b"{\"model_type\": \"llama\""), &["config.json: is not valid JSON", "EOF"]);
    assert_says(&text(b"[1, 2]"), &["holds [1,2]", "a JSON object"]);
    assert_says(&text(b""), &["not valid JSON"]);
    assert_says(&text(b"\xff\xfe"), &["not valid JSON"]);
}

#[test]
fn end_tokens_come_from_both_files() {
    let mut c = read(Llama, json!({"eos_token_id": [3, 4], "bos_token_id": null})).unwrap();
    c.add_generation_config("g", br#"{"eos_token_id": [4, 5], "bos_token_id": 1}"#).unwrap();
    assert_eq!((c.eos_token_ids, c.bos_token_id), (vec![3, 4, 5], Some(1)));
}

/// Within so many representable numbers of each other.
fn assert_near(found: &[f32], expected: &[u32], ulps: u32) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, &e)) in found.iter().zip(expected).enumerate() {
        let off = f.to_bits().abs_diff(e);
        assert!(off <= ulps, "{i}: {f} and {} are {off} steps apart", f32::from_bits(e));
    }
}

#[test]
fn inverse_frequencies_are_transformers() {
    // LlamaRotaryEmbedding(config).inv_freq of transformers 5.23.0 on torch 2.15.0, as bits.
    let llama3 = [
        0x3f800000, 0x3f29e1c6, 0x3ee177bc, 0x3e959ee3, 0x3e4693b0, 0x3e03c6a0, 0x3daee4ad, 0x3d681e67, 0x3d1a08c8,
        0x3ccc6f49, 0x3c87a9c3, 0x3c340d6d, 0x3beef74f, 0x3b9e9402, 0x3b527720, 0x3aa9279b, 0x39e13620, 0x38cb98f7,
        0x37a3418d, 0x3758ac81, 0x370fc8f8, 0x36bed4f4, 0x367d45c3, 0x3628126b, 0x35df10c4, 0x359406cb, 0x35447610,
        0x35025f34, 0x34ad07a7, 0x3465a54d, 0x341864a7, 0x33ca41b0,
    ];
    let linear = [
        0x3e800000, 0x3e3ff911, 0x3e0ff59a, 0x3dd7e89b, 0x3da1e89b, 0x3d72d423, 0x3d361887, 0x3d088d77, 0x3ccccccd,
        0x3c99940d, 0x3c6655c2, 0x3c2cba15, 0x3c0186e3, 0x3bc2434f, 0x3b91ad39, 0x3b5a7bf2, 0x3b23d70a, 0x3af5b9b0,
        0x3ab8449c, 0x3a8a2e77, 0x3a4f3e38, 0x3a1b690d, 0x39e91528, 0x39aec98e, 0x3983126f, 0x3944948c, 0x39136a16,
        0x38dd1725, 0x38a5cb60, 0x3878a815, 0x383a7753, 0x380bd472,
    ];
    let mut rope = Rope { theta: 500_000.0, dim: 64, scaling: RopeScaling::None };
    rope.scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_near(&rope.inv_freq(), &llama3, 1);

    // The same scaling as llama.cpp stores it: a divisor for each plain frequency.
    let scaled = rope.inv_freq();
    rope.scaling = RopeScaling::None;
    let divisors = rope.inv_freq().iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
    rope.scaling = RopeScaling::Divisors(divisors);
    assert_near(&rope.inv_freq(), &llama3, 3);

    rope.theta = 10_000.0;
    rope.scaling = RopeScaling::Linear { factor: 4.0 };
    assert_near(&rope.inv_freq(), &linear, 1);
}

#[test]
fn longrope_divides_long_texts_otherwise() {
    // ROPE_INIT_FUNCTIONS["longrope"] of transformers 5.23.0 for 4096 and for 4097 tokens, as bits.
    let short = [0x3f800000, 0x3e9a32dd, 0x3dba2e8c, 0x3ccf3e38, 0x3bea0ea1, 0x3ada268c, 0x39e3f389, 0x38e4ae95];
    let long = [0x3f68ba2e, 0x3e674c4b, 0x3d17b426, 0x3bbc671b, 0x3a6e500f, 0x39135f71, 0x37d1b717, 0x36ad3cff];
    let parameters = json!({"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096,
                            "short_factor": [1.0, 1.05, 1.1, 1.25, 1.4, 1.9, 2.3, 2.9],
                            "long_factor": [1.1, 1.4, 2.7, 5.5, 11.0, 22.5, 40.0, 61.25]});
    let with = |parameters: &Value| {
        let sizes = json!({"head_dim": 16, "max_position_embeddings": 131_072, "rope_parameters": parameters});
        config_of(Llama, sizes).ropes[0].clone()
    };
    let rope = with(&parameters);
    assert_near(&rope.inv_freq(), &short, 1);
    let (beyond, inv_freq) = rope.beyond().unwrap();
    assert_near(&inv_freq, &long, 1);
    assert_eq!((beyond, rope.attention_factor()), (4096, 1.190_238_071_423_808_3));
    // Stated, they count.
    let mut stated = parameters.clone();
    stated["factor"] = json!(16.0);
    assert_eq!(with(&stated).attention_factor(), (1.0 + 16f64.ln() / 4096f64.ln()).sqrt());
    stated["attention_factor"] = json!(1.5);
    assert_eq!(with(&stated).attention_factor(), 1.5);
}

/// transformers changes a dynamic rope for texts that are longer than the context alone, and no
/// text here is.
#[test]
fn a_dynamic_rope_is_plain_within_the_context() {
    let ropes = |scaling: Value| config_of(Llama, json!({"rope_scaling": scaling})).ropes[0].clone();
    let (dynamic, plain) = (ropes(json!({"rope_type": "dynamic", "factor": 4.0})), ropes(json!(null)));
    assert_eq!(dynamic.scaling, RopeScaling::Dynamic { factor: 4.0 });
    assert_eq!((dynamic.inv_freq(), dynamic.attention_factor()), (plain.inv_freq(), 1.0));
    assert_eq!(dynamic.beyond(), None);
}

/// Where transformers reads something else than what stands there, or cannot run it, nothing is
/// guessed.
#[test]
fn windows_and_ropes_that_transformers_takes_otherwise_are_refused_by_name() {
    let types = |first: &str| json!([first, "full_attention"]);
    let sliding = || types("sliding_attention");
    for (architecture, changes, says) in [
        (Qwen2, json!({"layer_types": sliding(), "sliding_window": 8}), "use_sliding_window is not true"),
        (
            Qwen2,
            json!({"layer_types": sliding(), "sliding_window": null, "use_sliding_window": true}),
            "without a sliding_window",
        ),
        (Mistral, json!({"layer_types": sliding(), "sliding_window": null}), "without a sliding_window"),
        (Gemma2, json!({"sliding_window": null}), "sliding_window is null"),
        (Gemma3, json!({"sliding_window": null}), "sliding_window is null"),
        (Gemma3, json!({"sliding_window_pattern": 0}), "sliding_window_pattern is 0"),
        (SmolLM3, json!({"layer_types": sliding(), "sliding_window": 8}), "use_sliding_window is not true"),
        (SmolLM3, json!({"no_rope_layer_interval": 0}), "no_rope_layer_interval is 0"),
        (SmolLM3, json!({"no_rope_layers": [true, 0]}), "a list of 0 or 1"),
        (SmolLM3, json!({"no_rope_layers": [1, 2]}), "a list of 0 or 1"),
        (
            Gemma3,
            json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 777.0}}),
            "rope_theta in the scaling of rope",
        ),
        (Gemma3, json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), "type in the scaling of rope"),
        (
            Gemma3,
            json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0},
                   "rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "rope_scaling beside rope_parameters",
        ),
        (
            Llama,
            json!({"original_max_position_embeddings": 16,
                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
            "original_max_position_embeddings 16 beside 32",
        ),
        (Gemma2, json!({"attn_logit_softcapping": 1e-60}), "attn_logit_softcapping is"),
    ] {
        assert_says(&refusal(architecture, changes), &[says]);
    }
    let wide = |more: Value| {
        let mut changes = json!({"max_position_embeddings": 8192});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    let null = json!({"sliding_window": null, "use_sliding_window": true, "max_window_layers": 0});
    assert_eq!(windows(Qwen2, wide(null)), [None; 2]);
    assert_eq!(windows(Mistral, json!({"layer_types": sliding(), "sliding_window": 8})), [Some(8), None]);
    assert_eq!(windows(Mistral, json!({"layer_types": types("full_attention"), "sliding_window": 8})), [None; 2]);
    let outer = json!({"rope_theta": 5000.0, "rope_local_base_freq": 300.0,
                       "rope_parameters": {"full_attention": {"rope_type": "default"}}});
    let thetas: Vec<f64> = read(Gemma3, outer).unwrap().ropes.iter().map(|rope| rope.theta).collect();
    assert_eq!(thetas, [5000.0, 300.0]);
}
