//! A data file under a model, token by token: what is trained, how likely it is, and what each loss
//! makes of it.

use bft_core::loss::{sample_weight, token_weights};
use bft_core::{LossConfig, LossKind};
use bft_formats::Tokenizer;

use crate::batches::pack;
use crate::engine::{EngineError, LogProbs, check_finite};
use crate::evaluate::ByLoss;
use crate::rows::{MASKED, Origin};
use crate::samples::Sample;

/// One sample, ready to be drawn.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct InspectedSample {
    /// `file:line` of the row.
    pub origin: String,
    /// Every token, in order.
    pub tokens: Vec<InspectedToken>,
    /// n_b: trained tokens.
    pub trained: usize,
    /// Mean −log p of the trained tokens; `None` without a model's probabilities.
    pub nll: Option<f64>,
    /// s_b of the losses that weigh samples; `None` without a model's probabilities.
    pub sample_weight: Option<SampleWeights>,
}

/// s_b: how much a sample counts.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct SampleWeights {
    /// One minus the confidence of the least likely window.
    pub bft: f64,
    /// One minus the smallest mean of p.
    #[serde(rename = "bft-v3")]
    pub bft_v3: f64,
}

/// One token of a sample.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct InspectedToken {
    /// Token id.
    pub id: u32,
    /// Readable text; `<17>` where there is no tokenizer.
    pub text: String,
    /// What the position before it is to predict, or −100.
    pub label: i32,
    /// Whether it is trained: it has a label, and a position before it.
    pub trained: bool,
    /// Probability and weights, for trained tokens under a model.
    pub scores: Option<TokenScores>,
}

/// What a model and the losses make of a trained token.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TokenScores {
    /// Probability of the right token.
    pub p: f64,
    /// Its weight, without its sample's.
    #[serde(flatten)]
    pub weights: ByLoss,
}

/// Splits a sample into tokens with text and labels, without a model.
pub fn inspect_tokens(tokenizer: Option<&Tokenizer>, sample: &Sample) -> InspectedSample {
    let token = |(t, (&id, &label)): (usize, (&u32, &i32))| InspectedToken {
        id,
        text: tokenizer.map_or_else(|| format!("<{id}>"), |tokenizer| tokenizer.piece(id)),
        label,
        trained: t > 0 && label != MASKED,
        scores: None,
    };
    InspectedSample {
        origin: Origin::to_string(&sample.origin),
        tokens: sample.tokens.iter().zip(&sample.labels).enumerate().map(token).collect(),
        trained: sample.trained(),
        nll: None,
        sample_weight: None,
    }
}

/// Adds what the model and the losses say. Of `loss`, all but the kind matters.
pub async fn inspect_sample(
    engine: &mut impl LogProbs,
    tokenizer: Option<&Tokenizer>,
    sample: &Sample,
    loss: LossConfig,
) -> Result<InspectedSample, EngineError> {
    let mut inspected = inspect_tokens(tokenizer, sample);
    if inspected.trained == 0 {
        return Ok(inspected);
    }
    let log_probs = engine.log_probs(&pack(&[sample])).await?;
    check_finite(&log_probs, &sample.origin)?;
    let log_probs: Vec<f64> = log_probs.iter().map(|l| f64::from(*l)).collect();
    let weights = LossKind::ALL.map(|kind| token_weights(&log_probs, &LossConfig { kind, ..loss }));
    let trained = inspected.tokens.iter_mut().filter(|t| t.trained);
    for (i, (token, log_p)) in trained.zip(&log_probs).enumerate() {
        token.scores = Some(TokenScores { p: log_p.exp(), weights: ByLoss::each(|kind| weights[kind as usize][i]) });
    }
    let weight = |kind| sample_weight(&log_probs, &LossConfig { kind, ..loss });
    inspected.nll = Some(-log_probs.iter().sum::<f64>() / log_probs.len().max(1) as f64);
    inspected.sample_weight = Some(SampleWeights { bft: weight(LossKind::Bft), bft_v3: weight(LossKind::BftV3) });
    Ok(inspected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Around, model, tokenizer};
    use crate::text::TextEncoder;
    use bft_core::{Batch, GroupSize};

    /// Every trained token has half the probability of the one before it.
    struct Halving;

    impl LogProbs for Halving {
        async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
            Ok((1..=batch.trained.len()).map(|i| i as f32 * 0.5f32.ln()).collect())
        }
    }

    fn sample() -> Sample {
        let model = model(Some(tokenizer(Around::Nothing)), None);
        let labelled = TextEncoder::new(&model).completion_sample("the", " Pr").unwrap();
        let origin = Origin::line(&"d".into(), 4);
        Sample { tokens: labelled.tokens, labels: labelled.labels, origin }
    }

    #[test]
    fn tokens_show_their_text_label_and_mask() {
        let inspected = inspect_tokens(Some(&tokenizer(Around::Nothing)), &sample());
        let seen: Vec<(&str, bool)> = inspected.tokens.iter().map(|t| (t.text.as_str(), t.trained)).collect();
        assert_eq!(seen, [("the", false), (" P", true), ("r", true), ("<|endoftext|>", true)]);
        assert_eq!((inspected.origin.as_str(), inspected.trained), ("d:4", 3));
        assert_eq!(inspected.tokens[0].label, MASKED);
        assert_eq!(inspect_tokens(None, &sample()).tokens[3].text, "<261>");
    }

    #[test]
    fn weights_are_those_of_the_losses_by_hand() {
        let tokenizer = tokenizer(Around::Nothing);
        let inspected = pollster::block_on(inspect_sample(
            &mut Halving,
            Some(&tokenizer),
            &sample(),
            LossConfig { group_size: GroupSize::Tokens(2), ..LossConfig::default() },
        ));
        let inspected = inspected.unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "found {a}, expected {b}");
        assert_eq!(inspected.tokens[0].scores, None);
        // p = ½, ¼, ⅛. Windows of bft-v3 at g = 2 are {½}, {½, ¼}, {¼, ⅛}.
        let expected = [(0.5, 1.0), (0.25, 0.25 / 0.375), (0.125, 0.125 / 0.1875)];
        for (token, (p, v3)) in inspected.tokens[1..].iter().zip(expected) {
            let scores = token.scores.unwrap();
            close(scores.p, p);
            assert_eq!((scores.weights.sft, scores.weights.dft, scores.weights.bft), (1.0, scores.p, scores.p));
            close(scores.weights.bft_v3, v3);
            close(scores.weights.gce, p.sqrt());
        }
        let weight = inspected.sample_weight.unwrap();
        close(weight.bft, 1.0 - (0.25f64 * 0.125).sqrt());
        close(weight.bft_v3, 1.0 - 0.1875);
        close(inspected.nll.unwrap(), 2.0 * std::f64::consts::LN_2);
    }
}
