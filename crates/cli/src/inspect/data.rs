//! What is in a data file, token by token, under a model and the losses.

use std::io::IsTerminal;

use bft_core::device::Device;
use bft_formats::{Adapter, Model};
use bft_train::{BatchBounds, InspectedSample, InspectedToken, Rows, TokenScores, inspect_sample};

use super::InspectFlags;
use crate::error::CliError;
use crate::heat::{ShownToken, TokenWeights, heat, legend, listing};
use crate::open;
use crate::ui::{self, BOLD, thousands};

/// Prints the rows that were asked for.
pub fn show(
    model: &Model,
    adapter: Option<&Adapter>,
    mut rows: Rows,
    device: &Device,
    flags: &InspectFlags,
) -> Result<(), CliError> {
    let file = rows.file.clone();
    let total = rows.rows.len();
    if flags.first_row > total {
        return Err(CliError::failed(format!("--first-row {}: {file} has {total} rows", flags.first_row)));
    }
    rows.rows.drain(..flags.first_row - 1);
    rows.rows.truncate(flags.rows);
    let format = rows.format;
    let samples = open::make_samples(model, rows, &flags.settings.samples())?;
    let longest = samples.report.longest;
    let bounds = BatchBounds { tokens: longest, trained: longest, samples: 1 };
    let mut scorer = open::scorer(device, model, adapter, bounds)?;
    let colours = !flags.table && !flags.json && std::io::stdout().is_terminal() && !no_color();
    if !flags.json {
        ui::result(&format!("{BOLD}{file}{BOLD:#}  {} rows of {format}", thousands(total as u64)))?;
        if colours {
            ui::result(&legend())?;
        }
    }
    for sample in &samples.samples {
        let inspected =
            pollster::block_on(inspect_sample(&mut scorer, model.tokenizer.as_ref(), sample, flags.settings.loss()))
                .map_err(CliError::failed)?;
        if flags.json {
            ui::json(&serde_json::to_value(&inspected).map_err(CliError::failed)?)?;
            continue;
        }
        ui::result(&format!("\n{}", headline(&inspected)))?;
        let tokens = shown(&inspected);
        ui::result(&if colours { heat(&tokens) } else { listing(&tokens) })?;
    }
    Ok(())
}

/// Without colours heat shows nothing.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn headline(sample: &InspectedSample) -> String {
    let mut text =
        format!("{BOLD}{}{BOLD:#}  {} tokens, {} trained", sample.origin, sample.tokens.len(), sample.trained);
    if let Some(nll) = sample.nll {
        text.push_str(&format!("  nll {nll:.4}"));
    }
    if let Some(weight) = sample.sample_weight {
        text.push_str(&format!("  sample weight bft {:.4}, bft-v3 {:.4}", weight.bft, weight.bft_v3));
    }
    text
}

/// Weights as they count in the loss: the token's times its sample's.
fn shown(sample: &InspectedSample) -> Vec<ShownToken> {
    let (bft, bft_v3) = sample.sample_weight.map_or((0.0, 0.0), |weight| (weight.bft, weight.bft_v3));
    let one = |token: &InspectedToken| ShownToken {
        id: token.id,
        piece: token.text.clone(),
        trained: token.scores.map(|TokenScores { p, weights }| TokenWeights {
            p,
            weights: [weights.sft, weights.dft, weights.bft * bft, weights.bft_v3 * bft_v3, weights.gce],
        }),
    };
    sample.tokens.iter().map(one).collect()
}
