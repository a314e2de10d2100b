use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::rows::{RowOptions, read_rows};
use crate::samples::{SampleOptions, Samples, make_samples};
use crate::testing::model_with;
use bft_core::{Batch, GroupSize};

/// PyTorch's numbers for a small model; see the README beside them.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/llama")
}

fn fixture_samples() -> Samples {
    let any = model_with(None, None, |c| c.vocab_size = 1000);
    let rows = read_rows(&[fixtures().join("rows.jsonl")], &RowOptions::default()).unwrap();
    make_samples(&any, rows, &SampleOptions::default()).unwrap()
}

/// Answers with the log-probabilities that PyTorch gave for the same rows, in order.
struct Recorded {
    log_probs: Vec<f32>,
    at: usize,
}

impl Recorded {
    fn open() -> Self {
        let bytes = std::fs::read(fixtures().join("expected.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (words, _) = tensors.tensor("log_prob").unwrap().data().as_chunks::<4>();
        Self { log_probs: words.iter().map(|w| f32::from_le_bytes(*w)).collect(), at: 0 }
    }
}

impl LogProbs for Recorded {
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let start = self.at;
        self.at += batch.trained.len();
        Ok(self.log_probs[start..self.at].to_vec())
    }
}

#[test]
fn the_losses_are_those_of_pytorch_however_the_rows_are_grouped() {
    let samples = fixture_samples().samples;
    let expected: Value = serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let all = BatchBounds { tokens: 1000, trained: 1000, samples: 100 };
    let few = BatchBounds { tokens: 50, trained: 40, samples: 3 };
    for bounds in [all, few] {
        for case in expected["losses"].as_array().unwrap() {
            let kind: LossKind = serde_json::from_value(case["loss"].clone()).unwrap();
            let group_size = serde_json::from_value(case["group_size"].clone()).unwrap();
            let gamma = case["gamma"].as_f64().unwrap() as f32;
            let loss = LossConfig { kind, group_size, gamma, ..LossConfig::default() };
            let report = pollster::block_on(evaluate(&mut Recorded::open(), &samples, bounds, loss, |_| {}));
            let report = report.unwrap();
            let (found, value) = (report.loss.of(kind), case["value"].as_f64().unwrap());
            // PyTorch's log-probabilities are stored as f32, its losses as f64.
            assert!((found / value - 1.0).abs() < 1e-6, "{case}: found {found}");
            assert_eq!((report.samples, report.tokens), (8, 86));
            assert!((report.nll / expected["nll"].as_f64().unwrap() - 1.0).abs() < 1e-6);
            assert_eq!(report.perplexity, report.nll.exp());
        }
    }
}

#[test]
fn an_evaluation_serialises_to_what_the_command_line_promises() {
    let mut tally = Tally::new(LossConfig::default());
    tally.add_sample(vec![-0.5, -1.5]);
    let json = serde_json::to_value(tally.report()).unwrap();
    assert_eq!(json["nll"], 1.0);
    assert_eq!((&json["tokens"], &json["samples"]), (&2.into(), &1.into()));
    let kinds: Vec<&String> = json["loss"].as_object().unwrap().keys().collect();
    assert_eq!(kinds, ["sft", "dft", "bft", "bft-v3", "gce"]);
}

#[test]
fn extreme_probabilities_and_empty_samples_never_make_a_nan() {
    let mut tally = Tally::new(LossConfig { group_size: GroupSize::Tokens(2), gamma: 0.5, ..LossConfig::default() });
    for log_probs in [&[0.0, 0.0, 0.0][..], &[-1e4, -1e4], &[], &[-0.0]] {
        tally.add_sample(log_probs.to_vec());
    }
    let report = tally.report();
    let ByLoss { sft, dft, bft, bft_v3, gce } = report.loss;
    assert!([sft, dft, bft, bft_v3, gce].iter().all(|x| x.is_finite()), "{report:?}");
    assert_eq!((report.samples, report.tokens), (4, 6));
    assert!(Tally::new(LossConfig::default()).report().nll.is_finite());
}

#[test]
fn a_device_that_gives_too_few_numbers_is_refused() {
    struct Short;
    impl LogProbs for Short {
        async fn log_probs(&mut self, _: &Batch) -> Result<Vec<f32>, EngineError> {
            Ok(vec![0.0])
        }
    }
    let samples = fixture_samples().samples;
    let bounds = BatchBounds { tokens: 1000, trained: 1000, samples: 100 };
    let error = pollster::block_on(evaluate(&mut Short, &samples, bounds, LossConfig::default(), |_| {})).unwrap_err();
    assert_eq!(error.to_string(), "the device gave 1 log-probabilities, expected 86");
}
