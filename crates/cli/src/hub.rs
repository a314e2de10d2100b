//! Models by their names on the hub, and whether the network may be used at all.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bft_fetch::hub::{Hub, HubError, HubEvent, Reference};
use clap::{Arg, ArgAction};

use crate::error::CliError;
use crate::open::{existing, hub_name};
use crate::stop::is_stopping;
use crate::ui::{self, DIM, Progress};

/// Set by `--offline`.
static OFFLINE: AtomicBool = AtomicBool::new(false);

/// `--offline`, which every verb has.
pub fn offline_flag() -> Arg {
    let help = "Open no connection: models of the hub come from its cache alone, as with HF_HUB_OFFLINE=1";
    Arg::new("offline").long("offline").action(ArgAction::SetTrue).help_heading("Run").help(help)
}

/// Obeys `--offline`.
pub fn forbid_network() {
    OFFLINE.store(true, Ordering::Relaxed);
}

/// What keeps this run off the network.
pub fn offline() -> Option<&'static str> {
    if OFFLINE.load(Ordering::Relaxed) { Some("--offline") } else { bft_fetch::hub::offline() }
}

/// Path of a flag's model: what lies there, else the model of that name on the hub, which is
/// fetched into the hub's cache.
pub fn model_path(flag: &str, path: &Path) -> Result<PathBuf, CliError> {
    let found = existing(flag, path);
    let text = path.to_str().filter(|_| found.is_err()).unwrap_or_default();
    let told = text.starts_with("hf:");
    if !told && !hub_name(text).is_some_and(|name| name.is_bare) {
        return found.map(Path::to_path_buf);
    }
    let reference = match Reference::parse(text) {
        Ok(reference) => reference,
        Err(error) if told => return Err(CliError::usage(format!("{flag}: {error}"))),
        Err(_) => return found.map(Path::to_path_buf),
    };
    fetch(&reference).map_err(|error| match found {
        Err(no_path) if !told && !matches!(error, HubError::Stopped) => {
            CliError::failed(format!("{no_path}; as a model on the hub: {error}"))
        }
        _ if matches!(error, HubError::Stopped) => CliError::stopped(format!("{flag} {text}: {error}")),
        _ => CliError::failed(format!("{flag} {text}: {error}")),
    })
}

/// Larger files have a bar.
const LARGE: u64 = 4_000_000;
/// What the bar counts in.
const MEGABYTE: u64 = 1_000_000;

/// Fetches a model, and shows how that goes.
fn fetch(reference: &Reference) -> Result<PathBuf, HubError> {
    let mut bar: Option<Progress> = None;
    let (mut told, mut size) = (false, 0);
    let mut hear = |event: HubEvent<'_>| {
        match event {
            HubEvent::Unreachable(error) => {
                ui::warn(&format!("{error}; taking what the cache holds of {reference}"));
            }
            HubEvent::Waiting(file) => ui::note(&format!("{DIM}another process is fetching {file}; waiting{DIM:#}")),
            HubEvent::Fetching(file, have, all) => {
                size = all;
                if !std::mem::replace(&mut told, true) {
                    ui::note(&format!("fetching {reference} from the hub"));
                }
                if all > LARGE {
                    let new = || Progress::new("fetching", "MB", all.div_ceil(MEGABYTE), have / MEGABYTE);
                    bar.get_or_insert_with(new).at(have / MEGABYTE, file);
                }
            }
            HubEvent::Checking(file, size) if size > LARGE => {
                ui::note(&format!("{DIM}{file}: reading all of it to check it, this once{DIM:#}"));
            }
            HubEvent::Checking(..) => {}
            HubEvent::Placed(file) => {
                if let Some(bar) = bar.take() {
                    bar.finish();
                }
                if std::mem::take(&mut size) > LARGE {
                    ui::note(&format!("{DIM}{file}: checksum right{DIM:#}"));
                }
            }
        }
        if is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let path = Hub::new(offline())?.model(reference, &mut hear);
    drop(bar);
    path
}
