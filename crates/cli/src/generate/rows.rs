//! `bft generate --data`: a prompt a row, an answer a line, many at once.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bft_core::Base;
use bft_formats::{Adapter, Message, Model, sha256_bytes};
use bft_train::{Prompt, PromptRow, Settings, TextEncoder, WriteError, Written, parse_prompts, path_to_json};
use serde_json::json;

use super::answers::{ANSWER, Answers, Manifest};
use super::{GenerateFlags, as_value, text_tokens};
use crate::answering::Answering;
use crate::error::CliError;
use crate::open;
use crate::stop;
use crate::ui::{self, Progress, thousands};
use crate::writer;

/// Answers every row of `data`.
pub fn run(flags: &GenerateFlags, data: &Path, output: &Path) -> Result<(), CliError> {
    let stop = stop::on_signal()?;
    open::readable("--data", data)?;
    open::writable("--output", output)?;
    open::not_over(output, "--data", data)?;
    open::not_over(output, "--model", &flags.model)?;
    open::adapters_exist(&flags.adapter)?;
    let model = open::model(&flags.model, flags.load.quantize)?;
    open::note_generation(&model.path);
    let adapter = open::adapter(&flags.adapter, &model)?;
    let text = TextEncoder::new(&model).with_template_vars(&flags.template.template_vars).map_err(CliError::failed)?;
    let file = data.display().to_string();
    let read =
        std::fs::read(data).map_err(|error| CliError::failed(format!("--data {file}: cannot be read: {error}")))?;
    let rows = parse_prompts(&file, &read).map_err(CliError::failed)?;
    let prompts = rows.iter().map(|row| tokens(flags, &model, &text, row)).collect::<Result<Vec<_>, _>>()?;
    let mut answers = Answers::open(output, &manifest(flags, &model, sha256_bytes(&read))?, &rows)?;
    drop(read);

    writer::note_unused(&flags.sampling);
    let work = Work { flags, model: &model, adapter: adapter.as_ref(), text: &text, rows: &rows };
    let kept = answers.kept;
    let done = if kept < rows.len() { work.answer(prompts, &mut answers, stop)? } else { Done::default() };
    if done.rows + kept < rows.len() {
        return Err(CliError::stopped(format!(
            "stopped after {} of {} answers, which are saved: the same command goes on",
            done.rows + kept,
            rows.len()
        )));
    }
    summary(flags, output, kept, &done)
}

/// Tokens of what a row asks.
fn tokens(flags: &GenerateFlags, model: &Model, text: &TextEncoder<'_>, row: &PromptRow) -> Result<Vec<u32>, CliError> {
    let of_row = |problem: &dyn std::fmt::Display| CliError::failed(format!("{}: {problem}", row.origin));
    if row.row.contains_key(ANSWER) {
        return Err(of_row(&format!("the row has a key \"{ANSWER}\", which its answer gets: rename it")));
    }
    let tokens = match &row.prompt {
        Prompt::Text(prompt) => text_tokens(flags, model, text, prompt.clone()).map_err(|error| of_row(&error))?,
        Prompt::Chat(_) if flags.no_chat_template => {
            return Err(of_row(&"turns cannot be given without the chat template: leave --no-chat-template out"));
        }
        Prompt::Chat(chat) => {
            let mut chat = chat.clone();
            let messages = &mut chat.conversation.messages;
            let begins_with_system = |role: &str| ["system", "developer"].contains(&role);
            if let Some(system) = flags.system.as_ref().filter(|_| !begins_with_system(messages[0].role())) {
                messages.insert(0, Message::new("system", system.clone()));
            }
            text.row_prompt(&chat).map_err(|error| of_row(&error))?
        }
    };
    let (found, context) = (tokens.len(), model.config.max_position_embeddings);
    if tokens.is_empty() {
        return Err(of_row(&WriteError::Empty));
    }
    if found >= context {
        return Err(of_row(&format!(
            "the prompt has {found} tokens, expected fewer than {context}, the model's context: shorten it"
        )));
    }
    Ok(tokens)
}

fn manifest(flags: &GenerateFlags, model: &Model, data_sha256: String) -> Result<Manifest, CliError> {
    Ok(Manifest {
        bft: env!("CARGO_PKG_VERSION").to_owned(),
        data_sha256,
        model_sha256: model.sha256().map_err(CliError::failed)?,
        model_settings_sha256: model.settings_sha256().map_err(CliError::failed)?,
        quantize: serde_json::to_value(flags.load.quantize).map_err(CliError::failed)?,
        adapter_sha256: open::adapter_sha256(&flags.adapter)?,
        system: flags.system.clone(),
        chat_template: !flags.no_chat_template,
        template_vars: flags.template.template_vars.clone(),
        sampling: flags.sampling.to_map(),
        precision: flags.kernels.precision(),
    })
}

/// What this start has done.
#[derive(Default)]
struct Done {
    rows: usize,
    tokens: usize,
    seconds: f64,
    batch_size: usize,
}

/// What answers are made of.
struct Work<'w> {
    flags: &'w GenerateFlags,
    model: &'w Model,
    adapter: Option<&'w Adapter>,
    text: &'w TextEncoder<'w>,
    rows: &'w [PromptRow],
}

impl Work<'_> {
    /// Answers the rows that have no answer yet.
    fn answer(&self, prompts: Vec<Vec<u32>>, answers: &mut Answers, stop: &AtomicBool) -> Result<Done, CliError> {
        let Self { flags, model, adapter, text, rows } = *self;
        let device = open::device(flags.run.device())?;
        let answering = Answering { device: &device, model, adapter, text, sampling: &flags.sampling };
        let kept = answers.kept;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let planned = answering.plan(longest, rows.len() - kept, flags.batch_size)?;
        flags.kernels.apply(&device, true);
        let base = Base::load(&device, model).map_err(CliError::failed)?;
        let mut done = Done { batch_size: planned.texts, ..Done::default() };
        let mut progress = Progress::new("answering", "rows", rows.len() as u64, kept as u64);
        let prompts = (0u64..).zip(prompts).skip(kept);
        let started = Instant::now();
        let sink = |row: u64, written: Written| {
            answers.add(&rows[row as usize], as_value(&written))?;
            done.rows += 1;
            done.tokens += written.tokens.len();
            done.seconds = started.elapsed().as_secs_f64();
            progress.at(row + 1, &format!("{:.0} tokens/s", done.tokens as f64 / done.seconds.max(1e-9)));
            Ok(())
        };
        let written = answering.run(&base, planned, prompts, |row| &rows[row as usize].origin, stop, sink);
        progress.finish();
        written.map(|_| done)
    }
}

/// What was made, and how fast.
fn summary(flags: &GenerateFlags, output: &Path, kept: usize, done: &Done) -> Result<(), CliError> {
    if flags.json {
        return ui::json(&json!({
            "rows": done.rows + kept,
            "kept": kept,
            "tokens": done.tokens,
            "seconds": done.seconds,
            "batch_size": done.batch_size,
            "output": path_to_json(output),
        }));
    }
    let place = output.display();
    if done.rows == 0 {
        ui::note(&format!("all {} answers were in {place}", thousands(kept as u64)));
        return Ok(());
    }
    let kept = if kept == 0 { String::new() } else { format!(", after {} that were there", thousands(kept as u64)) };
    ui::note(&format!(
        "{} answers in {place}{kept}; {} tokens, {} texts at once, {:.1} tokens/s",
        thousands(done.rows as u64),
        thousands(done.tokens as u64),
        done.batch_size,
        done.tokens as f64 / done.seconds.max(1e-9)
    ));
    Ok(())
}
