//! Signals that ask a run to save and stop: Ctrl-C everywhere; SIGTERM, which job schedulers and
//! service managers send, and SIGHUP, which a terminal sends as it closes, where there are such.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::CliError;
use crate::ui;

/// SIGINT, which is what Ctrl-C sends; Windows has no header that names it.
const INTERRUPT: i32 = 2;

/// Signals that follow the first within this time are the same request, and not a second one:
/// `timeout` signals its child and then its group, and a closing terminal and its shell both send
/// SIGHUP.
const ONE_REQUEST: Duration = Duration::from_millis(100);

/// Whether the run ends after the step at hand.
static STOP: AtomicBool = AtomicBool::new(false);

/// The signal that asked first; 0 where none has.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// When the first signal came.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether a signal has asked this run to end.
pub fn is_stopping() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// The exit code of a run that a signal stopped, as shells count: 128 and the signal's number. It
/// is 1 where no signal came to this process.
pub fn exit_code() -> u8 {
    code_of(FIRST.load(Ordering::SeqCst))
}

fn code_of(signal: i32) -> u8 {
    u8::try_from(signal).ok().filter(|signal| (1..128).contains(signal)).map_or(1, |signal| 128 + signal)
}

/// From here on the first signal asks the run to stop, and a second one ends the process at once.
/// The flag is set where the run is to stop.
///
/// # Errors
/// Where the system does not let signals be caught.
pub fn on_signal() -> Result<&'static AtomicBool, CliError> {
    catch().map_err(|error| CliError::failed(format!("signals that end the run cannot be caught: {error}")))?;
    Ok(&STOP)
}

fn heard(signal: i32) {
    let mut since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    match *since {
        None => {
            *since = Some(Instant::now());
            FIRST.store(signal, Ordering::SeqCst);
            STOP.store(true, Ordering::SeqCst);
            let again = if signal == INTERRUPT { "press Ctrl-C again" } else { "send another signal" };
            ui::note(&format!("\nstopping after this step and saving; {again} to quit at once"));
        }
        Some(first) if first.elapsed() < ONE_REQUEST => {}
        // Checkpoints are renamed into place, so that ending here leaves the last one whole.
        Some(_) => std::process::exit(code_of(signal).into()),
    }
}

#[cfg(unix)]
fn catch() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut caught = vec![SIGINT, SIGTERM];
    // `nohup` ignores SIGHUP, so that the run outlives its terminal.
    if !is_ignored(SIGHUP) {
        caught.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(caught)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(heard))?;
    Ok(())
}

/// Whether this process was started with `signal` ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action sigaction only writes the present one, which is read only where
    // it was written.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn catch() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| heard(INTERRUPT))
}

#[cfg(test)]
mod tests {
    use super::code_of;

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!([0, 1, 2, 15, -1, 128].map(code_of), [1, 129, 130, 143, 1, 1]);
    }
}
