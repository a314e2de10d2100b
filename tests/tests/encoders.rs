//! Encoders against sentence-transformers: tiny ones of every family and layout, and the real
//! MiniLM; texts of many lengths in one packed batch.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bft_core::device::{Device, KernelPreference};
use bft_formats::{EmbeddingModel, EncoderConfig, EncoderModel, FeedForward, Gate, Pooling, Positions};
use bft_tests::fixture::{folder, read_tensors};
use bft_train::{EmbedEngine, EmbedOptions, EmbedReport, embed_texts};
use pollster::block_on;
use serde_json::Value;

/// Texts, the tokens each has, and their vectors, one after the other.
struct Expected {
    texts: Vec<String>,
    tokens: usize,
    vectors: Vec<f32>,
}

impl Expected {
    fn new(rows: &[Value], vectors: &Path) -> Self {
        let tokens = rows.iter().map(|row| row["tokens"].as_u64().unwrap());
        Self {
            texts: rows.iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect(),
            tokens: tokens.sum::<u64>() as usize,
            vectors: read_tensors(vectors).remove("vectors").unwrap(),
        }
    }
}

fn embed(device: &Device, model: &EmbeddingModel, texts: &[String], options: &EmbedOptions) -> (Vec<f32>, EmbedReport) {
    let mut engine = EmbedEngine::new(device, model, None, options).unwrap();
    let mut vectors = Vec::new();
    let report = block_on(embed_texts(
        model,
        &mut engine,
        "texts",
        texts.iter().map(String::as_str),
        options,
        |number, vector| {
            assert_eq!(number * vector.len(), vectors.len(), "vectors come in order");
            vectors.extend_from_slice(vector);
            Ok(())
        },
    ));
    (vectors, report.unwrap())
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "numbers of vectors");
    let pairs = found.iter().zip(expected);
    // NaN would be lost in a maximum.
    pairs.fold(0.0, |worst: f32, (a, b)| {
        let difference = (a - b).abs();
        if worst.is_nan() || difference <= worst { worst } else { difference }
    })
}

fn compare(model: &EmbeddingModel, expected: &Expected, tolerance: f32) {
    // sentence-transformers cuts whatever is too long.
    let options = EmbedOptions { truncate: true, ..EmbedOptions::of(model, None).unwrap() };
    let whole = EmbedOptions { batch_tokens: expected.tokens, batch_rows: expected.texts.len(), ..options.clone() };
    // As many batches as texts, nearly: what a text becomes must not depend on its neighbours.
    let few = EmbedOptions { batch_tokens: options.max_length, batch_rows: 2, ..options };
    let cpus = [Device::cpu(), Device::cpu_f64()];
    for device in cpus.into_iter().chain(bft_tests::gpu()) {
        for preference in [KernelPreference::Software, KernelPreference::Card] {
            device.prefer_kernels(preference);
            let what = format!("{} on {}, {preference:?}", model.name(), device.info().name);
            let (found, report) = embed(&device, model, &expected.texts, &whole);
            assert_eq!(report.tokens, expected.tokens, "{what}: tokens");
            let worst = largest_difference(&found, &expected.vectors);
            println!("{what}: {worst:.1e}");
            assert!(worst <= tolerance, "{what}: differs by {worst:.1e}");
            if !device.is_gpu() {
                break;
            }
        }
        // The real model is too much for a software driver once more.
        if device.is_gpu() && model.hidden_size() > 100 {
            continue;
        }
        let (found, _) = embed(&device, model, &expected.texts, &few);
        let worst = largest_difference(&found, &expected.vectors);
        assert!(worst <= tolerance, "in small batches: {worst:.1e}");
    }
}

fn tiny(name: &str) -> (EncoderModel, Expected) {
    let (folder, expected) = tiny_folder(name);
    (EncoderModel::open(&folder).unwrap(), expected)
}

fn tiny_folder(name: &str) -> (PathBuf, Expected) {
    let folder = folder().join("encoders").join(name);
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let expected = Expected::new(&rows, &folder.join("expected.safetensors"));
    (folder, expected)
}

/// Last token, scaled, with the prompt that its folder names, an end token that the tokenizer adds,
/// and no head.
#[test]
fn a_language_model_that_was_made_to_embed_equals_sentence_transformers() {
    let (folder, expected) = tiny_folder("qwen3");
    let model = EmbeddingModel::open(&folder).unwrap();
    let options = EmbedOptions::of(&model, None).unwrap();
    assert_eq!((options.pooling, options.normalize), (Pooling::Last, true));
    assert_eq!(options.prompt, "Find the gene: ");
    compare(&model, &expected, 1e-5);
    // Each of the three makes another vector.
    let unlike = |options: EmbedOptions| {
        let (found, _) = embed(&Device::cpu(), &model, &expected.texts, &EmbedOptions { truncate: true, ..options });
        assert!(largest_difference(&found, &expected.vectors) > 1e-3);
    };
    unlike(EmbedOptions { pooling: Pooling::Mean, ..options.clone() });
    unlike(EmbedOptions { normalize: false, ..options.clone() });
    unlike(EmbedOptions { prompt: String::new(), ..options });
    let EmbeddingModel::Decoder(model) = model else { panic!("not a language model") };
    let message = model.require_head().unwrap_err().to_string();
    assert!(message.contains("lm_head.weight") && message.contains("bft embed"), "{message}");
}

#[test]
fn every_family_and_layout_equals_sentence_transformers() {
    for name in ["minilm", "bge", "pubmedbert", "xlm_roberta", "roberta", "modernbert", "nomic"] {
        let (model, expected) = tiny(name);
        compare(&EmbeddingModel::Encoder(model.into()), &expected, 1e-5);
    }
}

#[test]
fn the_real_minilm_equals_sentence_transformers() {
    let model = EmbeddingModel::open(&bft_tests::minilm()).unwrap();
    let rows = std::fs::read_to_string(folder().join("minilm.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let expected = Expected::new(&rows, &folder().join("minilm.safetensors"));
    compare(&model, &expected, 1e-5);
}

/// The comparison sees a model whose last bias is off, and one number that is missing.
#[test]
fn a_broken_weight_is_noticed() {
    let (mut model, expected) = tiny("minilm");
    let name = "layers.1.norm.bias";
    let mut values = model.tensors[name].to_f32().unwrap();
    values[0] += 1e-3;
    let broken = bft_formats::Tensor::from_f32(name, vec![values.len()], &values).unwrap();
    model.tensors.insert(name.into(), broken);
    let model = EmbeddingModel::Encoder(model.into());
    let options = EmbedOptions::of(&model, None).unwrap();
    let (mut found, _) = embed(&Device::cpu(), &model, &expected.texts, &options);
    assert!(largest_difference(&found, &expected.vectors) > 1e-5);
    found.clone_from(&expected.vectors);
    found[7] = f32::NAN;
    assert!(largest_difference(&found, &expected.vectors).is_nan());
}

/// What only one block of many does shows in the vectors: its window, its rope, its activation, and
/// where places begin.
#[test]
fn what_a_block_is_said_to_do_changes_the_vectors() {
    let unlike = |name: &str, change: fn(&mut EncoderConfig)| {
        let (mut model, expected) = tiny(name);
        change(&mut model.config);
        let model = EmbeddingModel::Encoder(model.into());
        let options = EmbedOptions { truncate: true, ..EmbedOptions::of(&model, None).unwrap() };
        let (found, _) = embed(&Device::cpu(), &model, &expected.texts, &options);
        let worst = largest_difference(&found, &expected.vectors);
        assert!(worst > 1e-4, "{name}: {worst:.1e}");
    };
    unlike("modernbert", |config| config.layers[4].window = None);
    unlike("modernbert", |config| config.layers[4].window = Some(4));
    unlike("modernbert", |config| config.layers[3].window = Some(5));
    unlike("modernbert", |config| config.layers[4].rope = Some(0));
    unlike("modernbert", |config| config.layers[4].feed_forward = FeedForward::Gated(Gate::Silu));
    unlike("nomic", |config| config.layers[1].rope = None);
    unlike("nomic", |config| config.layers[1].feed_forward = FeedForward::Gated(Gate::Gelu));
    unlike("roberta", |config| config.positions = Some(Positions { rows: 50, padding: None }));
    unlike("xlm_roberta", |config| config.positions = Some(Positions { rows: 50, padding: Some(0) }));
}

#[test]
fn long_texts_are_cut_and_counted() {
    let (model, expected) = tiny("minilm");
    let longest = model.max_length;
    let model = EmbeddingModel::Encoder(model.into());
    let options = EmbedOptions::of(&model, None).unwrap();
    let (_, report) = embed(&Device::cpu(), &model, &expected.texts, &options);
    assert_eq!((report.truncated, longest), (2, 24));
    let options = EmbedOptions::of(&model, Some(5)).unwrap();
    let (_, report) = embed(&Device::cpu(), &model, &expected.texts, &options);
    assert!(report.tokens <= 5 * expected.texts.len() && report.truncated > 1);
    let message = EmbedOptions::of(&model, Some(49)).unwrap_err().to_string();
    assert!(message.contains("expected 2 to 48"), "{message}");
}
