//! A text on its way to standard output.

use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::Runner;
use bft_formats::{Adapter, Model, Tokenizer};
use bft_train::{Finish, SamplingConfig, TextWriter, Written};

use crate::error::CliError;
use crate::ui;

/// An empty text, with kernels measured where the device is to. `max_length` is what `runner` was
/// planned for; `adapter` is the one it runs with.
pub fn begin<'r, 'd>(
    runner: &'r Runner<'d>,
    model: &'r Model,
    adapter: Option<&Adapter>,
    tokenizer: &'r Tokenizer,
    flags: &SamplingConfig,
    max_length: usize,
) -> Result<TextWriter<'r, 'd>, CliError> {
    note_unused(flags);
    let writer = TextWriter::new(runner, model, tokenizer, flags, max_length).map_err(CliError::failed)?;
    let writer = writer.with_end_tokens(adapter.map_or(&[], |adapter| &adapter.config.end_token_ids));
    pollster::block_on(writer.prepare()).map_err(CliError::failed)?;
    Ok(writer)
}

/// Says which flags of how tokens are chosen mean nothing.
pub fn note_unused(flags: &SamplingConfig) {
    let unused = [
        ("--top-p", flags.top_p != 1.0),
        ("--top-k", flags.top_k != 0),
        ("--min-p", flags.min_p != 0.0),
        ("--seed", flags.seed != 0),
    ];
    let unused: Vec<&str> = unused.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
    if flags.temperature == 0.0 && !unused.is_empty() {
        ui::note(&format!("{}: of no effect at --temperature 0, which takes the likeliest token", unused.join(", ")));
    }
}

/// Goes on from `prompt`, and shows the text as it comes unless it is wanted whole.
pub fn go_on(writer: &mut TextWriter<'_, '_>, prompt: &[u32], show: bool) -> Result<Written, CliError> {
    // Nobody reads on: the text ends with the token at hand.
    let closed = AtomicBool::new(false);
    let mut shown = Ok(());
    let written = pollster::block_on(writer.go_on(prompt, &closed, |piece| {
        if show && shown.is_ok() {
            shown = ui::result_piece(piece);
            closed.store(shown.is_err(), Ordering::Relaxed);
        }
    }))
    .map_err(CliError::failed)?;
    shown.map(|()| written)
}

/// One line about speed, for standard error.
pub fn summary(written: &Written) -> String {
    let end = match written.finish {
        Finish::Stop => "ended by the model",
        Finish::Length => "cut at the limit",
        Finish::Cancelled => "stopped",
    };
    let count = written.tokens.len();
    if count < 2 {
        return format!("{count} tokens, {end}");
    }
    let speed = (count - 1) as f64 / written.seconds.max(1e-9);
    format!(
        "{count} tokens, {end}; {speed:.1} tokens/s after a prompt of {} tokens in {:.2} s",
        written.prompt_tokens, written.prompt_seconds
    )
}
