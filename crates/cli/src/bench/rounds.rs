//! Rounds that are timed: as many as lines come in, or so many and their median.

use crate::error::CliError;

/// Answers every line of standard input.
pub fn each_line(mut answer: impl FnMut() -> Result<(), CliError>) -> Result<(), CliError> {
    for line in std::io::stdin().lines() {
        line.map_err(|error| CliError::failed(format!("standard input cannot be read: {error}")))?;
        answer()?;
    }
    Ok(())
}

/// The middle value; NaN of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
