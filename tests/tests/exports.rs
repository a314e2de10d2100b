//! What `bft export` writes, read again by the engine that it was made with.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use bft_core::device::Device;
use bft_core::{Capacity, Runner, RunnerOptions};
use bft_formats::export::{check_free, files_beside, merged_files, save_files};
use bft_formats::{Adapter, DType, Model};
use bft_tests::fixture::{Fixture, Row, folder, relative_norm};
use pollster::block_on;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// The logits behind every token of a row, one behind the other.
fn logits(model: &Model, adapter: Option<&Adapter>, row: &Row) -> Vec<f32> {
    let device = Device::cpu();
    let capacity = Capacity { tokens: 1, trained: 1, samples: 1 };
    let options = RunnerOptions { capacity, max_length: row.input_ids.len() };
    let runner = Runner::new(&device, model, adapter, options).unwrap();
    let mut text = runner.generation().unwrap();
    row.input_ids.iter().flat_map(|id| block_on(text.next(&[*id])).unwrap()).collect()
}

fn merge(model: &Model, adapter: &Adapter, dtype: Option<DType>, to: &Path) -> Model {
    let files = merged_files(model, Some(adapter), dtype, &files_beside(model).unwrap()).unwrap();
    save_files(to, &files).unwrap();
    Model::open(to).unwrap()
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    let error = relative_norm(found, expected);
    assert!(error <= 1e-5, "{what}: relative error {error:.2e}");
}

#[test]
fn a_merged_model_computes_what_base_and_adapter_compute_in_every_family() {
    for fixture in Fixture::all() {
        let (name, row) = (&fixture.name, &fixture.rows[7]);
        let temporary = tempfile::tempdir().unwrap();
        let merged = merge(&fixture.model, &fixture.adapter, Some(DType::F32), &temporary.path().join("merged"));
        assert_eq!(merged.config, fixture.model.config, "{name}");
        assert!(merged.tensors.values().all(|tensor| tensor.dtype == DType::F32), "{name}");
        let found = logits(&merged, None, row);
        assert_close(&format!("{name}, bft"), &found, &logits(&fixture.model, Some(&fixture.adapter), row));
        assert_close(&format!("{name}, PEFT"), &found, fixture.tensor("logits.7"));
        // What the adapter leaves alone keeps its bits.
        for (tensor_name, tensor) in &fixture.model.tensors {
            if tensor.shape.len() == 1 || tensor_name.contains("embed_tokens") {
                assert_eq!(tensor.to_f32().unwrap(), merged.tensors[tensor_name].to_f32().unwrap(), "{tensor_name}");
            }
        }
    }
}

/// Names, shapes and formats of a safetensors file.
fn listing(path: &Path) -> BTreeMap<String, (Vec<usize>, String)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, TensorView)| (name, (view.shape().to_vec(), format!("{:?}", view.dtype())));
    file.tensors().into_iter().map(entry).collect()
}

#[test]
fn a_merged_folder_has_the_names_shapes_and_formats_of_its_base() {
    for name in ["phi3", "gemma3_sees", "qwen2"] {
        let fixture = Fixture::load(name);
        let temporary = tempfile::tempdir().unwrap();
        let to = temporary.path().join("merged");
        merge(&fixture.model, &fixture.adapter, None, &to);
        let expected = listing(&folder().join(name).join("model.safetensors"));
        assert_eq!(listing(&to.join("model.safetensors")), expected, "{name}");
        let config = |path: &Path| std::fs::read(path.join("config.json")).unwrap();
        assert_eq!(config(&to), config(&folder().join(name)), "{name}");

        let narrow = temporary.path().join("narrow");
        merge(&fixture.model, &fixture.adapter, Some(DType::F16), &narrow);
        assert!(listing(&narrow.join("model.safetensors")).values().all(|(_, dtype)| dtype == "F16"), "{name}");
        let config: Value = serde_json::from_slice(&config(&narrow)).unwrap();
        let named = config.get("dtype").or(config.get("torch_dtype"));
        assert_eq!(named, Some(&"float16".into()), "{name}");
    }
}

#[test]
fn shards_stay_shards_and_an_index_names_them() {
    let fixture = Fixture::load("llama");
    let temporary = tempfile::tempdir().unwrap();
    let base = temporary.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let source = folder().join("llama");
    std::fs::copy(source.join("config.json"), base.join("config.json")).unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut weight_map = BTreeMap::new();
    for shard in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let tensors: Vec<_> = whole.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == shard).collect();
        weight_map.extend(tensors.iter().map(|(_, (name, _))| (name.clone(), file.clone())));
        let views = tensors.iter().map(|(_, (name, view))| (name, view));
        std::fs::write(base.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({"weight_map": weight_map});
    std::fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();

    let to = temporary.path().join("merged");
    let merged = merge(&Model::open(&base).unwrap(), &fixture.adapter, Some(DType::BF16), &to);
    assert_eq!(merged.tensors.len(), fixture.model.tensors.len());
    let index: Value =
        serde_json::from_slice(&std::fs::read(to.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["weight_map"], serde_json::to_value(&weight_map).unwrap());
    assert_eq!(index["metadata"]["total_size"].as_u64(), Some(2 * fixture.model.parameters() as u64));
}

#[test]
fn a_number_that_a_format_cannot_hold_is_told_and_nothing_is_left() {
    let mut fixture = Fixture::load("llama");
    fixture.adapter.pairs[0].b.fill(1e6);
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("merged");
    let beside = files_beside(&fixture.model).unwrap();
    let files = merged_files(&fixture.model, Some(&fixture.adapter), Some(DType::F16), &beside).unwrap();
    let error = save_files(&to, &files).unwrap_err().to_string();
    assert!(error.starts_with("tensor model.layers.0.self_attn.q_proj.weight: row 0 holds "), "{error}");
    assert!(error.ends_with("which F16 cannot; write it in bf16 or f32, which hold larger ones"), "{error}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);

    std::fs::write(&to, "a file").unwrap();
    assert!(check_free(&to).unwrap_err().to_string().contains("is there already"));
    assert!(save_files(temporary.path(), &files).unwrap_err().to_string().contains("no empty folder"));
}

#[test]
fn tokens_that_end_a_tuned_text_go_with_the_model() {
    let mut fixture = Fixture::load("llama");
    fixture.adapter.config.end_token_ids = vec![2, 7];
    let temporary = tempfile::tempdir().unwrap();
    let merged = merge(&fixture.model, &fixture.adapter, None, &temporary.path().join("merged"));
    assert_eq!(merged.config.eos_token_ids, [2, 7]);
}
