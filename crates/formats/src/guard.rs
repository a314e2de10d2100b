//! Parsers of other people's, run so that a panic in one is an error of the file that it reads.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`], where a panic is no fault of this program's to
    /// print.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a parser on a file's contents; a panic in it, which prints nothing, is the error, in the
/// parser's own words on one line.
///
/// Nothing that `parse` changes may be used after an error. Where a panic ends the program (a
/// browser's worker), it still does, and says so.
///
/// # Errors
/// What the panic said.
pub fn guarded<T>(parse: impl FnOnce() -> T) -> Result<T, String> {
    if cfg!(panic = "abort") {
        return Ok(parse());
    }
    static SILENT: Once = Once::new();
    SILENT.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(parse));
    GUARDED.set(outer);
    result.map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let line = text.unwrap_or_default().lines().next().unwrap_or_default();
    if line.is_empty() { "no reason given".to_owned() } else { line.chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_parser_runs() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(
            guarded(|| -> u8 { panic!("index {} out of range\nmore", 3) }),
            Err("index 3 out of range".to_owned())
        );
        assert_eq!(guarded(|| -> u8 { std::panic::panic_any(5_u8) }), Err("no reason given".to_owned()));
        let nested = guarded(|| (guarded(|| -> u8 { panic!("inner") }), GUARDED.get()));
        assert_eq!(nested, Ok((Err("inner".to_owned()), true)));
        assert!(!GUARDED.get());
    }
}
