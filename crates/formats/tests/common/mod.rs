//! Small valid files, made in memory, for tests to break.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use bft_formats::{
    Architecture, Bytes, DType, LINEAR_MODULES, LayerSpec, ModelConfig, QkNorm, Rope, RopeScaling, Tensor,
};

pub use bft_formats::Random;

/// Two layers, 4 heads of 8 over 2 key-value heads, 32 wide.
pub fn tiny_config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        sees: false,
        hidden_size: 32,
        intermediate_size: 64,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        vocab_size: 264,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        ropes: vec![Rope { theta: 10_000.0, dim: 8, scaling: RopeScaling::None }],
        layers: vec![
            LayerSpec {
                qk_norm: (architecture == Architecture::Qwen3).then_some(QkNorm::Heads),
                ..LayerSpec::default()
            };
            2
        ],
        embedding_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        norm_offset: 0.0,
        tie_word_embeddings: true,
        attention_bias: architecture == Architecture::Qwen2,
        attention_output_bias: false,
        fused_projections: architecture == Architecture::Phi3,
        bos_token_id: None,
        eos_token_ids: vec![257],
    }
}

pub fn tiny_tensors(config: &ModelConfig) -> BTreeMap<String, Tensor> {
    let mut random = Random::new(7);
    let tensors = config.tensor_shapes().into_iter().map(|(name, shape)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.symmetric()).collect();
        (name.clone(), Tensor::from_f32(name, shape, &values).unwrap())
    });
    tensors.collect()
}

/// `config.json` of [`tiny_config`], with `changes` put over it; null removes a key.
pub fn config_json(architecture: Architecture, changes: serde_json::Value) -> String {
    let c = tiny_config(architecture);
    let mut json = serde_json::json!({
        "model_type": architecture.name(),
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.layers.len(),
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "sliding_window": null,
        "eos_token_id": 257,
    });
    if matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3) {
        json["sliding_window"] = 4096.into();
    }
    for (key, value) in changes.as_object().unwrap() {
        match value {
            serde_json::Value::String(s) if s == "<absent>" => {
                json.as_object_mut().unwrap().remove(key);
            }
            _ => json[key] = value.clone(),
        }
    }
    json.to_string()
}

/// A safetensors file of these tensors, which must be plain floats.
pub fn safetensors_file<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<u8> {
    use safetensors::tensor::{Dtype, TensorView};
    let tensors: Vec<_> = tensors.into_iter().map(|t| (t, t.bytes().unwrap())).collect();
    let views = tensors.iter().map(|(t, bytes)| {
        let dtype = match t.dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => panic!("{other} in a safetensors file"),
        };
        (t.name.clone(), TensorView::new(dtype, t.shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
}

/// A safetensors file with this header and so many bytes of data.
pub fn raw_safetensors(header: &str, data: usize) -> Bytes {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    Bytes::from(file)
}

/// The files of a small model's folder.
pub fn tiny_folder(architecture: Architecture) -> BTreeMap<String, Bytes> {
    let config = tiny_config(architecture);
    let tensors = tiny_tensors(&config);
    let json = config_json(architecture, serde_json::json!({}));
    BTreeMap::from([
        ("config.json".to_string(), Bytes::from(json.into_bytes())),
        ("model.safetensors".to_string(), Bytes::from(safetensors_file(tensors.values()))),
    ])
}

pub fn put(files: &mut BTreeMap<String, Bytes>, name: &str, contents: impl Into<Vec<u8>>) {
    files.insert(name.to_string(), Bytes::from(contents.into()));
}

/// A GGUF file under construction; a later entry of the same key replaces the earlier one.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub metadata: Vec<(String, Vec<u8>)>,
    /// Name, dimensions in GGUF's order, type, data.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    pub alignment: usize,
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Gguf {
    pub fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    pub fn raw(&mut self, key: &str, typed_value: Vec<u8>) -> &mut Self {
        self.remove(key);
        self.metadata.push((key.to_string(), typed_value));
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    fn typed(&mut self, key: &str, id: u32, value: &[u8]) -> &mut Self {
        self.raw(key, [&id.to_le_bytes(), value].concat())
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.typed(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.typed(key, 6, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.typed(key, 7, &[u8::from(value)])
    }

    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.typed(key, 8, &bytes)
    }

    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|s| text(&mut bytes, s.as_ref()));
        self.typed(key, 9, &bytes)
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let mut bytes = [5u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.typed(key, 9, &bytes)
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let mut bytes = [6u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.typed(key, 9, &bytes)
    }

    /// `shape` is row-major, as everywhere but in the file.
    pub fn tensor(&mut self, name: &str, shape: &[usize], type_id: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.retain(|(n, ..)| n != name);
        let dims = shape.iter().rev().map(|&n| n as u64).collect();
        self.tensors.push((name.to_string(), dims, type_id, data));
        self
    }

    pub fn f32_tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            out.extend(value);
        }
        let mut offset = 0u64;
        for (name, dims, type_id, data) in &self.tensors {
            text(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(type_id.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        for (.., data) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(data);
        }
        out
    }

    pub fn bytes(&self) -> Bytes {
        Bytes::from(self.build())
    }
}

/// GPT-2's character for a byte.
pub fn byte_char(b: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(b) {
        return char::from(b);
    }
    let before = (0..b).filter(|&x| !printable(x)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// 256 bytes, two control tokens, four merges, a user-defined and an unused token: 264 in all.
pub fn byte_level_tokens() -> (Vec<String>, Vec<i32>, Vec<&'static str>) {
    let mut tokens: Vec<String> = (0..=255).map(|b| byte_char(b).to_string()).collect();
    tokens.extend(["<|start|>", "<|end|>"].map(String::from));
    tokens.extend(["th", "the", "Ġthe", "12"].map(String::from));
    tokens.extend(["<think>", "[PAD263]"].map(String::from));
    let mut kinds = vec![1; 264];
    (kinds[256], kinds[257], kinds[262], kinds[263]) = (3, 3, 4, 5);
    (tokens, kinds, vec!["t h", "th e", "Ġ the", "1 2"])
}

/// A whole small GGUF model of a `general.architecture`, all tensors F32.
pub fn tiny_gguf(name: &str) -> Gguf {
    let architecture = match name {
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        "gemma2" => Architecture::Gemma2,
        "gemma3" => Architecture::Gemma3,
        "smollm3" => Architecture::SmolLM3,
        "olmo2" => Architecture::Olmo2,
        "granite" => Architecture::Granite,
        "phi3" => Architecture::Phi3,
        other => panic!("{other}"),
    };
    let c = config_of(architecture, serde_json::json!({}));
    let mut g = Gguf::new();
    g.str("general.architecture", name);
    let key = |k: &str| format!("{name}.{k}");
    g.u32(&key("block_count"), 2).u32(&key("context_length"), 128).u32(&key("embedding_length"), 32);
    g.u32(&key("feed_forward_length"), 64).u32(&key("attention.head_count"), 4);
    g.u32(&key("attention.head_count_kv"), 2).f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    g.f32(&key("rope.freq_base"), 10_000.0).u32(&key("rope.dimension_count"), 8);
    let (tokens, kinds, merges) = byte_level_tokens();
    g.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "smollm");
    g.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    g.strings("tokenizer.ggml.merges", &merges);
    g.u32("tokenizer.ggml.bos_token_id", 256).u32("tokenizer.ggml.eos_token_id", 257);
    g.str("tokenizer.chat_template", "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}");
    for (hf_name, tensor) in joined(&c, tiny_tensors(&c)) {
        g.tensor(&gguf_name_of(&c, &hf_name), &tensor.shape, 0, tensor.bytes().unwrap().to_vec());
    }
    g
}

/// The tensors as a model's files have them: maps of one module as one tensor.
pub fn joined(config: &ModelConfig, mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let fused = config.linear_modules().iter().filter(|module| module.maps.len() > 1);
    for (module, layer) in fused.flat_map(|module| (0..config.layers.len()).map(move |layer| (module, layer))) {
        let name = |short: &str| format!("{}.weight", ModelConfig::linear_name(layer, short));
        let parts = LINEAR_MODULES[module.maps.clone()].iter().map(|map| tensors.remove(&name(map)).unwrap());
        let values: Vec<f32> = parts.flat_map(|part| part.to_f32().unwrap()).collect();
        let shape = config.linear_shape(module.name).unwrap().to_vec();
        let whole = Tensor::from_f32(name(module.name), shape, &values).unwrap();
        tensors.insert(whole.name.clone(), whole);
    }
    tensors
}

/// A configuration as `config.json` gives it.
pub fn config_of(architecture: Architecture, changes: serde_json::Value) -> ModelConfig {
    ModelConfig::from_json("m/config.json", config_json(architecture, changes).as_bytes()).unwrap()
}

/// As [`gguf_name`], of a model whose branches may have norms behind them.
pub fn gguf_name_of(config: &ModelConfig, name: &str) -> String {
    if config.layers[0].attention_norms.after.is_none() {
        return gguf_name(name);
    }
    let name = name
        .replace("post_attention_layernorm", "post_attention_norm")
        .replace("pre_feedforward_layernorm", "ffn_norm")
        .replace("post_feedforward_layernorm", "post_ffw_norm");
    gguf_name(&name)
}

/// llama.cpp's name for a Hugging Face tensor name.
pub fn gguf_name(name: &str) -> String {
    name.replace("model.layers.", "blk.")
        .replace("model.embed_tokens", "token_embd")
        .replace("model.norm", "output_norm")
        .replace("lm_head", "output")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("input_layernorm", "attn_norm")
        .replace("self_attn.o_proj", "attn_output")
        .replace("mlp.gate_up_proj", "ffn_up")
        .replace("_proj", "")
        .replace("self_attn.", "attn_")
        .replace("mlp.", "ffn_")
}

/// The message of the error this must be.
pub fn message<T>(result: bft_formats::Result<T>) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(e) => {
            let text = e.to_string();
            assert!(!text.contains('\n'), "a message is one line: {text:?}");
            text
        }
    }
}

/// Asserts that a message has all of these in it.
#[track_caller]
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}
