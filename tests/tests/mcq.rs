//! Multiple choice against lm-evaluation-harness (`tests/fixtures/mcq.py`): the log-likelihood of
//! every answer to 1e-4, and every decision.

#![allow(clippy::unwrap_used)] // Helpers of tests, too, stop where something is wrong.

use std::path::Path;

use bft_bio::data::questions::{Questions, ReadOptions};
use bft_bio::tasks::mcq::{Arm, Form, Scored, lines};
use bft_core::device::Device;
use bft_core::{Runner, RunnerOptions};
use bft_formats::{Adapter, Model};
use bft_tests::fixture;
use bft_train::{BatchBounds, Continuations, TextEncoder, log_likelihoods};
use serde_json::Value;

#[derive(serde::Deserialize)]
struct Expected {
    context: usize,
    post_processor: Value,
    pairs: Vec<Pair>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Pair {
    first_token: bool,
    context: String,
    continuation: String,
    before: Vec<u32>,
    after: Vec<u32>,
}

#[derive(serde::Deserialize)]
struct Case {
    file: String,
    form: String,
    shots: usize,
    arm: String,
    first_token: bool,
    log_likelihoods: Vec<Vec<f64>>,
    acc: Vec<f64>,
    acc_norm: Vec<f64>,
}

/// The model, with a tokenizer that puts a token before every text, or as it is.
fn model(folder: &Path, expected: &Expected, first_token: bool) -> Model {
    let of = fixture::folder().join("qwen2");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(of.join(name), folder.join(name)).unwrap();
    }
    if first_token {
        let change = |name: &str, key: &str, value: Value| {
            let mut json: Value = serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap();
            json[key] = value;
            std::fs::write(folder.join(name), json.to_string()).unwrap();
        };
        change("tokenizer.json", "post_processor", expected.post_processor.clone());
        change("tokenizer_config.json", "bos_token", "<|endoftext|>".into());
    }
    let mut model = Model::open(folder).unwrap();
    model.config.max_position_embeddings = expected.context;
    model
}

fn read(name: &str) -> Questions {
    Questions::read(&fixture::folder().join("mcq").join(name), &ReadOptions::default()).unwrap()
}

/// What bft makes of a case.
fn scored<'q>(case: &Case, questions: &'q Questions, model: &Model, device: &Device) -> Scored<'q> {
    let form = Form::ALL.into_iter().find(|form| form.word() == case.form).unwrap();
    let shots = read("shots.jsonl");
    let shown = form.shots(&shots.questions[..case.shots], shots.layout);
    let text = TextEncoder::new(model);
    let longest = model.config.max_position_embeddings;
    let packed = questions.questions.iter().map(|question| {
        let each = form.continuations(&text, &shown, question, questions.layout, longest).unwrap();
        Continuations::new(&each, question.origin.clone())
    });
    let packed: Vec<Continuations> = packed.collect();
    let largest = packed.iter().map(Continuations::bounds).fold(BatchBounds::default(), BatchBounds::union);
    // Several texts together, and no room for all.
    let tokens = largest.tokens * 2;
    let bounds = BatchBounds { tokens, trained: tokens, samples: tokens };
    let adapter = (case.arm == "adapter")
        .then(|| Adapter::load(&fixture::folder().join("qwen2/adapter"), &model.config).unwrap());
    let options = RunnerOptions { capacity: bounds.into(), max_length: tokens };
    let mut runner = Runner::new(device, model, adapter.as_ref(), options).unwrap();
    let found = pollster::block_on(log_likelihoods(&mut runner, &packed, bounds, |_| ())).unwrap();
    Scored { questions, form, arms: vec![Arm { name: "base", log_likelihoods: found }] }
}

fn expected() -> Expected {
    let json = std::fs::read_to_string(fixture::folder().join("mcq/expected.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn agree(device: &Device) {
    let expected = expected();
    assert_eq!(expected.cases.len(), 24);
    let folder = tempfile::tempdir().unwrap();
    for case in &expected.cases {
        let name = format!("{} {} {} {} {}", case.file, case.form, case.shots, case.arm, case.first_token);
        let (questions, model) = (read(&case.file), model(folder.path(), &expected, case.first_token));
        let scored = scored(case, &questions, &model, device);
        for (found, expected) in scored.arms[0].log_likelihoods.iter().zip(&case.log_likelihoods) {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{name}: {found} against {expected}");
            }
        }
        let rows = lines(std::slice::from_ref(&scored));
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), case.log_likelihoods.len());
        for (row, (acc, acc_norm)) in rows.iter().zip(case.acc.iter().zip(&case.acc_norm)) {
            let arm = &row[&case.form]["base"];
            assert_eq!(f64::from(arm["acc"] == row["answer"]), *acc, "{name}: {row}");
            // Letters are all as long as each other.
            let by_length = if case.form == "letters" { "acc" } else { "acc_norm" };
            assert_eq!(f64::from(arm[by_length] == row["answer"]), *acc_norm, "{name}: {row}");
        }
    }
}

#[test]
fn texts_and_what_follows_are_divided_as_the_harness_divides_them() {
    let expected = expected();
    assert_eq!(expected.pairs.len(), 10);
    let folder = tempfile::tempdir().unwrap();
    for pair in &expected.pairs {
        let model = model(folder.path(), &expected, pair.first_token);
        let text = TextEncoder::new(&model);
        let (found, begins) = text.prompt_and_choice(&pair.context, &pair.continuation).unwrap();
        assert_eq!(found[..begins], pair.before, "{:?}", pair.context);
        assert_eq!(found[begins..], pair.after, "{:?}", pair.context);
    }
}

#[test]
fn answers_are_as_likely_as_the_harness_finds_them() {
    agree(&Device::cpu());
}

#[test]
fn and_on_a_gpu() {
    if let Some(gpu) = bft_tests::gpu() {
        agree(&gpu);
    }
}

#[test]
fn published_layouts_of_the_same_questions_are_the_same() {
    let [authors, hub] = ["pubmedqa.json", "pubmedqa.parquet"].map(read);
    assert_eq!(authors.questions.len(), 3);
    for (a, b) in authors.questions.iter().zip(&hub.questions) {
        let parts = |it: &bft_bio::data::questions::Question| {
            (it.id.clone(), it.question.clone(), it.context.clone(), it.options.clone(), it.answer)
        };
        assert_eq!(parts(a), parts(b));
    }
    let medmcqa = read("medmcqa.parquet");
    assert_eq!(medmcqa.questions.iter().map(|it| it.answer).collect::<Vec<_>>(), [3, 0, 2]);
    assert_eq!(medmcqa.questions[0].subject.as_deref(), Some("Anatomy"));
}
