//! `bft`: Balanced Fine-Tuning of language models on any machine.
//!
//! Flags become a configuration, the configuration a run, the run an exit code.

mod answering;
mod bench;
mod bio;
mod cache;
mod chat;
mod command_line;
mod config_file;
mod devices;
mod embed;
mod embed_output;
mod embed_shards;
mod error;
mod estimate;
mod eval;
mod export;
mod flags;
mod generate;
mod heat;
mod hub;
mod inspect;
mod memory;
mod open;
mod ranks;
mod runtime_dir;
mod stop;
mod suggest;
mod train;
mod ui;
mod writer;

use std::process::ExitCode;

use command_line::Request;
use error::CliError;

fn main() -> ExitCode {
    runtime_dir::provide();
    #[cfg(unix)]
    bft_formats::explain_bus_errors();
    let done = command_line::parse(command_line::arguments()).and_then(|request| match request {
        Request::Run(verb) => verb.run(),
        Request::Show(text) => ui::help(&text),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::ClosedPipe | CliError::Echo) {
                ui::error(&error.to_string());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
