//! Export: GGUF bases as folders, adapters as llama.cpp loads them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::export::{Beside, File, Modelfile, gguf_adapter, gguf_model, merged_files, modelfile};
use bft_formats::gguf::Header;
use bft_formats::{Adapter, AdapterConfig, Bytes, DType, LoraPair, Model, ModelConfig, Random, dequantize_row};
use common::{Gguf, assert_says, gguf_name_of, message, tiny_gguf};

const GGUF: [&str; 9] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "olmo2", "granite", "phi3"];

/// A tiny model of a family, as its GGUF file says it.
fn open(name: &str) -> Model {
    open_gguf(&mut tiny_gguf(name), name)
}

fn open_gguf(g: &mut Gguf, name: &str) -> Model {
    if name.starts_with("gemma") {
        g.u32(&format!("{name}.attention.sliding_window"), 16);
    }
    Model::from_gguf("m.gguf", g.bytes()).unwrap()
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write(&mut bytes).unwrap();
    bytes
}

/// A random adapter of every module, some with a rank and an α of their own.
fn adapter(model: &ModelConfig, use_rslora: bool) -> Adapter {
    let names = model.linear_modules().iter().map(|module| module.name.to_owned()).collect();
    let config = AdapterConfig { use_rslora, ..AdapterConfig::new(4, 6.0, names, 0.0) };
    let (mut random, mut pairs) = (Random::new(3), Vec::new());
    for layer in 0..model.layers.len() {
        for (at, module) in model.linear_modules().iter().enumerate() {
            let [out_features, in_features] = model.linear_shape(module.name).unwrap();
            let (rank, alpha) = if at % 2 == 1 { (2, 5.0) } else { (4, 6.0) };
            let mut numbers = |count: usize| (0..count).map(|_| random.symmetric()).collect::<Vec<f32>>();
            pairs.push(LoraPair {
                module: ModelConfig::linear_name(layer, module.name),
                rank,
                scaling: config.scaling(rank, alpha),
                in_features,
                out_features,
                a: numbers(rank * in_features),
                b: numbers(out_features * rank),
                magnitude: None,
            });
        }
    }
    Adapter { config, pairs }
}

#[test]
fn a_gguf_base_becomes_a_folder_with_the_same_configuration_numbers_and_tokens() {
    for name in GGUF {
        let model = open(name);
        let files = merged_files(&model, None, Some(DType::F32), &Beside::new()).unwrap();
        let files: BTreeMap<String, Bytes> =
            files.iter().map(|file| (file.name.clone(), contents(file).into())).collect();
        let folder = Model::from_folder("m", files).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut config = folder.config.clone();
        // GGUF holds Gemma's norms with the 1 added.
        config.norm_offset = model.config.norm_offset;
        config.layers.iter_mut().zip(&model.config.layers).for_each(|(read, own)| read.score_scale = own.score_scale);
        assert_eq!(config, model.config, "{name}");
        for (tensor_name, tensor) in &model.tensors {
            let offset = if tensor_name.ends_with("norm.weight") { folder.config.norm_offset } else { 0.0 };
            let (found, expected) = (folder.tensors[tensor_name].to_f32().unwrap(), tensor.to_f32().unwrap());
            let close = |(found, expected): (&f32, &f32)| (found + offset - expected).abs() <= 2e-7 * offset;
            assert!(found.iter().zip(&expected).all(close), "{name}: {tensor_name}");
        }
        let (ours, theirs) = (model.tokenizer.as_ref().unwrap(), folder.tokenizer.as_ref().unwrap());
        for text in ["the the 12 é <think>x<|end|>", " a\n\nb", "<|start|>"] {
            assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap(), "{name}: {text:?}");
        }
        assert_eq!(ours.special_tokens(), theirs.special_tokens());
        let source = |model: &Model| model.chat_template.as_ref().unwrap().source().to_owned();
        assert_eq!(source(&folder), source(&model));
    }
}

#[test]
fn beginning_tokens_and_llama_3s_divisors_survive() {
    let mut g = tiny_gguf("llama");
    g.bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", true);
    // Frequencies of four pairs at theta 10,000 as llama3 scaling by 8 divides them: the waves of the
    // last two are 628 and 6283 tokens long, shorter than a quarter of 8192, so that all stay.
    g.f32_tensor("rope_freqs.weight", &[4], &[1.0, 1.0, 1.0, 1.0]);
    let model = open_gguf(&mut g, "llama");
    let folder = |model: &Model| {
        let files = merged_files(model, None, None, &Beside::new());
        files.map(|files| files.iter().map(|file| (file.name.clone(), contents(file))).collect::<BTreeMap<_, _>>())
    };
    let opened = Model::from_folder("m", folder(&model).unwrap()).unwrap();
    let ids = |model: &Model| model.tokenizer.as_ref().unwrap().encode("the", true).unwrap();
    assert_eq!((ids(&model).len(), ids(&opened)), (3, ids(&model)));

    // With a base of 500,000 the waves are 6, 167, 4443 and 118,142 tokens long: the third lies on
    // llama3's ramp, the last is divided by all of 8.
    g.f32("llama.rope.freq_base", 500_000.0);
    let wave = 2.0 * std::f64::consts::PI * 500_000f64.sqrt();
    let smooth = (8192.0 / wave - 1.0) / 3.0;
    let ramp = (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32;
    g.f32_tensor("rope_freqs.weight", &[4], &[1.0, 1.0, ramp, 8.0]);
    let model = open_gguf(&mut g, "llama");
    let opened = Model::from_folder("m", folder(&model).unwrap()).unwrap();
    assert!(opened.config.ropes[0].scaling.to_string().contains("llama3 scaling by 8"), "{:?}", opened.config.ropes);

    g.f32_tensor("rope_freqs.weight", &[4], &[1.0, 1.5, 3.0, 7.0]);
    let refused = message(folder(&open_gguf(&mut g, "llama")));
    assert_says(&refused, &["a divisor for each frequency", "config.json", "give the folder of safetensors"]);
}

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The tensors of a GGUF file, in F32.
fn read(bytes: &[u8]) -> (Header, Tensors) {
    let header = Header::parse(bytes).unwrap();
    let tensors = header.tensors.iter().map(|info| {
        let start = (header.data_start + info.offset) as usize;
        let mut values = vec![0.0; info.shape.iter().product()];
        let cols = *info.shape.last().unwrap();
        let row = info.dtype().unwrap().row_bytes(cols);
        for (index, values) in values.chunks_mut(cols).enumerate() {
            dequantize_row(info.dtype().unwrap(), &bytes[start + index * row..][..row], values);
        }
        (info.name.clone(), (info.shape.clone(), values))
    });
    let tensors = tensors.collect();
    (header, tensors)
}

/// B·A `[out, in]`, times `scale`.
fn product(a: &[f32], b: &[f32], rank: usize, scale: f32) -> Vec<f32> {
    let cols = a.len() / rank;
    let element = |row: usize, col: usize| {
        (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * cols + col])).sum::<f64>()
    };
    let rows = b.len() / rank;
    (0..rows * cols).map(|at| element(at / cols, at % cols) as f32 * scale).collect()
}

#[test]
fn a_gguf_adapter_adds_what_the_adapter_adds_in_llama_cpps_names_and_order() {
    for (name, use_rslora) in GGUF.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let model = open(name);
        let adapter = adapter(&model.config, use_rslora);
        let bytes = contents(&gguf_adapter(&model, &adapter, "a.gguf").unwrap());
        let (header, tensors) = read(&bytes);
        let text = |key: &str| header.get(key).unwrap().as_str().unwrap();
        assert_eq!(
            [text("general.type"), text("adapter.type"), text("general.architecture")],
            ["adapter", "lora", name]
        );
        let alpha = header.get("adapter.lora.alpha").unwrap().as_f64().unwrap() as f32;
        assert_eq!(tensors.len(), 2 * adapter.pairs.len());
        for pair in &adapter.pairs {
            let base =
                gguf_name_of(&model.config, &format!("{}.weight", pair.module)).replace("attn_qkv_proj", "attn_qkv");
            let ((a_shape, a), (b_shape, b)) =
                (&tensors[&format!("{base}.lora_a")], &tensors[&format!("{base}.lora_b")]);
            assert_eq!(
                (&a_shape[..], &b_shape[..]),
                (&[pair.rank, pair.in_features][..], &[pair.out_features, pair.rank][..])
            );
            // As llama.cpp scales.
            let found = product(a, b, pair.rank, alpha / pair.rank as f32);
            let mut expected = product(&pair.a, &pair.b, pair.rank, pair.scaling);
            let is_rotated = ["q_proj", "k_proj"].iter().any(|end| pair.module.ends_with(end));
            if is_rotated && ["llama", "smollm3", "granite"].contains(&name) {
                expected = interleave(&expected, 8, pair.in_features);
            }
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{name}: {}", pair.module);
            }
        }
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
fn what_a_gguf_adapter_cannot_say_is_refused() {
    let model = open("llama");
    let mut dora = adapter(&model.config, false);
    dora.config.use_dora = true;
    dora.pairs.iter_mut().for_each(|pair| pair.magnitude = Some(vec![1.0; pair.out_features]));
    assert_says(&message(gguf_adapter(&model, &dora, "a.gguf")), &["DoRA (use_dora true)", "as one model"]);
    let mut broken = adapter(&model.config, false);
    broken.pairs[1].b[3] = f32::NAN;
    assert_says(
        &message(gguf_adapter(&model, &broken, "a.gguf")),
        &["lora_B of model.layers.0.self_attn.k_proj holds NaN"],
    );

    // With a scale of nothing, llama.cpp must add nothing, though an α of 0 means none to it.
    let mut nothing = adapter(&model.config, false);
    nothing.pairs.iter_mut().for_each(|pair| pair.scaling = 0.0);
    let (header, tensors) = read(&contents(&gguf_adapter(&model, &nothing, "a.gguf").unwrap()));
    assert_eq!(header.get("adapter.lora.alpha").unwrap().as_f64(), Some(1.0));
    assert!(tensors.iter().filter(|(name, _)| name.ends_with("lora_b")).all(|(_, (_, b))| b.iter().all(|b| *b == 0.0)));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let model = open("llama");
    let mut other = adapter(&model.config, false);
    other.pairs[0].out_features = 16;
    other.pairs[0].b.truncate(16 * 4);
    let refused = message(merged_files(&model, Some(&other), None, &Beside::new()));
    assert_says(&refused, &["model.layers.0.self_attn.q_proj is [16, 32]", "no module of m.gguf"]);
}

#[test]
fn a_gguf_base_with_its_adapter_keeps_every_byte_that_the_adapter_leaves_alone() {
    for name in GGUF {
        let mut g = tiny_gguf(name);
        g.str("general.name", "tiny").u32("general.file_type", 0).u32("tokenizer.ggml.padding_token_id", 263);
        if name == "llama" {
            g.f32_tensor("rope_freqs.weight", &[4], &[1.0; 4]);
        }
        let model = open_gguf(&mut g, name);
        let mut adapter = adapter(&model.config, false);
        adapter.pairs.retain(|pair| !pair.module.contains("down_proj"));
        adapter.config.end_token_ids = vec![257, 256];
        let bytes = contents(&gguf_model(&model, &adapter, DType::F32, "t.gguf").unwrap());
        let tuned = Model::from_gguf("t.gguf", bytes.clone()).unwrap();
        let mut config = tuned.config.clone();
        assert_eq!(config.eos_token_ids, [257, 256], "{name}");
        config.eos_token_ids.pop();
        assert_eq!(config, model.config, "{name}");

        let (before, after) = (Header::parse(&g.bytes()).unwrap(), Header::parse(&bytes).unwrap());
        let names = |header: &Header| header.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{name}");
        for (key, value) in &before.metadata {
            assert!(key == "general.file_type" || after.get(key) == Some(value), "{name}: {key}");
        }
        let merged = merged_files(&model, Some(&adapter), Some(DType::F32), &Beside::new()).unwrap();
        let files = merged.iter().map(|file| (file.name.clone(), Bytes::from(contents(file)))).collect();
        let folder = Model::from_folder("m", files).unwrap();
        for (tensor_name, tensor) in &tuned.tensors {
            let is_norm = tensor_name.ends_with("norm.weight");
            let other = if is_norm { &model.tensors[tensor_name] } else { &folder.tensors[tensor_name] };
            assert_eq!(tensor.to_f32().unwrap(), other.to_f32().unwrap(), "{name}: {tensor_name}");
        }
        let down = "model.layers.0.mlp.down_proj.weight";
        assert_eq!(*tuned.tensors[down].bytes().unwrap(), *model.tensors[down].bytes().unwrap());
    }
}

#[test]
fn adapted_matrices_are_quantised_and_others_are_not() {
    let model = open("qwen3");
    let mut adapter = adapter(&model.config, false);
    adapter.pairs.retain(|pair| pair.module.contains(".0.self_attn."));
    let bytes = contents(&gguf_model(&model, &adapter, DType::Q4_K, "t.gguf").unwrap());
    let tuned = Model::from_gguf("t.gguf", bytes).unwrap();
    for (name, tensor) in &tuned.tensors {
        let is_adapted = name.contains(".0.self_attn.") && name.contains("_proj");
        // Rows of 32 are no whole blocks of 256.
        assert_eq!(tensor.dtype, if is_adapted { DType::Q5_0 } else { DType::F32 }, "{name}");
    }
    adapter.config.end_token_ids = vec![1, 2, 3];
    let refused = message(gguf_model(&model, &adapter, DType::F16, "t.gguf"));
    assert_says(&refused, &["token 3, which ends texts of the adapter", "three end tokens"]);
    let folder = Model::from_folder("m", common::tiny_folder(bft_formats::Architecture::Llama)).unwrap();
    let refused = message(gguf_model(&folder, &adapter, DType::F16, "t.gguf"));
    assert_says(&refused, &["a GGUF file of a base that is none", "convert_hf_to_gguf.py"]);
}

/// The Modelfile of a tiny model with this chat template. Jinja drops the last line end of a
/// template, so that those that end in one have an empty text behind it.
fn modelfile_of(template: &str, add_bos: bool) -> Modelfile {
    let mut g = tiny_gguf("llama");
    g.str("tokenizer.chat_template", template).bool("tokenizer.ggml.add_bos_token", add_bos);
    let model = open_gguf(&mut g, "llama");
    let mut adapter = adapter(&model.config, false);
    adapter.config.end_token_ids = vec![257, 256];
    modelfile(&model, &adapter, "./base.gguf", Some("./tuned.gguf"))
}

const STOPS: &str = "PARAMETER stop \"<|end|>\"\nPARAMETER stop \"<|start|>\"\n";

#[test]
fn a_modelfile_says_the_chat_format_where_ollama_can_say_the_same() {
    let chat_ml = "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n\
        {% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let made = modelfile_of(chat_ml, false);
    let go =
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";
    let expected = format!(
        "FROM ./base.gguf\nADAPTER ./tuned.gguf\nTEMPLATE \"\"\"{go}\"\"\"\nSYSTEM \"\"\"You help.\"\"\"\n{STOPS}"
    );
    assert_eq!((made.text.as_str(), made.left_out.len()), (&*expected, 0));

    let llama_3 = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n\
        {{ m.content }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}";
    let begins = |made: &Modelfile, start: &str| made.text.contains(&format!("TEMPLATE \"\"\"{start}"));
    // The tokenizer puts the beginning token there, or else the template has to.
    assert!(begins(&modelfile_of(llama_3, true), "{{- range .Messages }}<|start_header_id|>"));
    assert!(begins(&modelfile_of(llama_3, false), "<|start|>{{- range .Messages }}<|start_header_id|>"));

    let gemma = "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}\
        {% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}<start_of_turn>\
        {{ 'model' if m.role == 'assistant' else m.role }}\n{{ s if loop.first else '' }}{{ m.content }}<end_of_turn>\n\
        {% endfor %}<start_of_turn>model\n{{ '' }}";
    assert!(begins(
        &modelfile_of(gemma, true),
        "{{- range $i, $m := .Messages }}{{ if eq $m.Role \"user\" }}<start_of_turn>user"
    ));
    let mistral = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]\
        {% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}";
    assert!(begins(
        &modelfile_of(mistral, true),
        "{{- range $i, $m := .Messages }}{{ if eq $m.Role \"user\" }}[INST] "
    ));
}

#[test]
fn a_modelfile_leaves_out_a_template_that_it_cannot_say_and_says_so() {
    let near = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant\n{{ '' }}";
    let made = modelfile_of(near, false);
    assert_eq!(made.text, format!("FROM ./base.gguf\nADAPTER ./tuned.gguf\n{STOPS}"));
    assert_says(&made.left_out[0], &["TEMPLATE", "ChatML, Llama 3, Gemma, Mistral"]);
    let chat_ml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ '' }}";
    // SmolLM2's beginning token is ChatML's own first one.
    let (mut tokens, ..) = common::byte_level_tokens();
    tokens[256] = "<|im_start|>".to_owned();
    let mut g = tiny_gguf("llama");
    g.str("tokenizer.chat_template", chat_ml).strings("tokenizer.ggml.tokens", &tokens);
    let model = open_gguf(&mut g, "llama");
    let made = modelfile(&model, &adapter(&model.config, false), "./base.gguf", None);
    assert!(made.text.starts_with("FROM ./base.gguf\nTEMPLATE \"\"\"{{- range .Messages }}<|im_start|>{{ .Role }}"));
    // Ollama would put a beginning token where the template has none.
    assert!(modelfile_of(chat_ml, false).text.contains("TEMPLATE"));
    assert!(!modelfile_of(chat_ml, true).text.contains("TEMPLATE"));
}
