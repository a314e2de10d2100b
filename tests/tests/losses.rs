//! The host's losses against PyTorch's numbers in the fixtures.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use bft_core::loss::{GroupSize, LossConfig, LossKind, StepTotals, loss, nll, sample_weight, token_weights};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    group_size: GroupSize,
    gamma: f32,
    rows: Vec<Row>,
    nll: f64,
    losses: Vec<Loss>,
    sample_weights: SampleWeights,
}

#[derive(Deserialize)]
struct Row {
    trained: usize,
    nll_sum: f64,
}

#[derive(Deserialize)]
struct Loss {
    loss: LossKind,
    group_size: GroupSize,
    gamma: f32,
    value: f64,
}

#[derive(Deserialize)]
struct SampleWeights {
    bft: Vec<f64>,
    #[serde(rename = "bft-v3")]
    bft_v3: Vec<f64>,
}

/// The fixtures store log p and token weights in f32, everything else in f64.
fn close(found: f64, expected: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1e-3);
    assert!(error < 1e-6, "{what} is {found}, PyTorch says {expected}");
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let bytes = tensors.tensor(name).unwrap();
    let words = bytes.data().chunks_exact(4);
    words.map(|word| f64::from(f32::from_le_bytes(word.try_into().unwrap()))).collect()
}

#[test]
fn host_losses_equal_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut models = 0;
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let (json, tensors) = (folder.join("expected.json"), folder.join("expected.safetensors"));
        if !folder.join("adapter").exists() || !json.exists() {
            continue;
        }
        let Ok(expected) = serde_json::from_str::<Expected>(&fs::read_to_string(&json).unwrap()) else {
            panic!("{} has no losses", json.display());
        };
        models += 1;
        let bytes = fs::read(tensors).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let log_p = floats(&tensors, "log_prob");
        let mut rest = log_p.as_slice();
        let samples: Vec<Vec<f64>> = expected
            .rows
            .iter()
            .map(|row| {
                let (sample, after) = rest.split_at(row.trained);
                rest = after;
                close(nll(sample), row.nll_sum, "nll of a row");
                sample.to_vec()
            })
            .collect();
        assert!(rest.is_empty(), "log p of tokens that no row trains");

        let totals = StepTotals { samples: samples.len(), tokens: log_p.len() };
        close(nll(&log_p) / log_p.len() as f64, expected.nll, "nll");
        for Loss { loss: kind, group_size, gamma, value } in expected.losses {
            let config = LossConfig { kind, group_size, gamma, ..LossConfig::default() };
            let what = format!("{} {config:?}", folder.display());
            close(loss(&samples, &config, totals), value, &what);
        }
        let Expected { group_size, gamma, .. } = expected;
        let of = |kind| LossConfig { kind, group_size, gamma, ..LossConfig::default() };
        for (kind, weights) in
            [(LossKind::Bft, &expected.sample_weights.bft), (LossKind::BftV3, &expected.sample_weights.bft_v3)]
        {
            for (sample, weight) in samples.iter().zip(weights) {
                close(sample_weight(sample, &of(kind)), *weight, "sample weight");
            }
            let found = samples.iter().flat_map(|sample| token_weights(sample, &of(kind)));
            let name = format!("token_weight.{kind}");
            for (found, expected) in found.zip(floats(&tensors, &name)) {
                close(found, expected, &name);
            }
        }
    }
    assert!(models > 0, "there are no fixtures");
}

/// Floors under weights, windows of a part of a sample, and generalised cross-entropy.
#[test]
fn host_losses_with_more_settings_equal_pytorch() {
    #[derive(Deserialize)]
    struct Cases {
        losses: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        loss: LossKind,
        group_size: GroupSize,
        gamma: f32,
        weight_floor: f32,
        q: f32,
        kl_weight: f32,
        value: f64,
    }

    let fixture = bft_tests::fixture::Fixture::load("llama");
    let log_p: Vec<f64> = fixture.tensor("log_prob").iter().map(|log_p| f64::from(*log_p)).collect();
    let bounds = bft_tests::fixture::pack(&fixture.rows).trained_segments;
    let samples = bounds.windows(2).map(|ends| log_p[ends[0] as usize..ends[1] as usize].to_vec());
    let samples: Vec<Vec<f64>> = samples.collect();
    let totals = StepTotals { samples: samples.len(), tokens: log_p.len() };
    let text = fs::read(bft_tests::fixture::folder().join("losses/expected.json")).unwrap();
    let Cases { losses } = serde_json::from_slice(&text).unwrap();
    assert!(losses.len() > 8);
    // The host's losses know no other tokens than the right: an anchor is not theirs.
    for case in losses.into_iter().filter(|case| case.kl_weight == 0.0) {
        let Case { loss: kind, group_size, gamma, weight_floor, q, kl_weight, value } = case;
        let config = LossConfig { kind, group_size, gamma, weight_floor, q, kl_weight };
        close(loss(&samples, &config, totals), value, &format!("{config:?}"));
    }
}
