//! What the user sees: results on standard output, everything else on standard error.
//!
//! Colours go only to terminals and never where `NO_COLOR` is set (anstream strips them). A
//! standard error that is closed or full never stops a run: messages are best effort, results are
//! not.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::CliError;

/// Bold, for headings.
pub const BOLD: Style = Style::new().bold();
/// Dim, for what is said in passing.
pub const DIM: Style = Style::new().dimmed();
/// Red and bold, for `error:`.
pub const RED: Style = AnsiColor::Red.on_default().bold();
/// Yellow and bold, for `warning:`.
pub const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
/// Green and bold, for work that is done.
pub const GREEN: Style = AnsiColor::Green.on_default().bold();

/// Which process of a job this is.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// Of a job's processes only rank 0 speaks; the others say no more than why they fail.
pub fn speak_as(rank: usize) {
    RANK.store(rank, Ordering::Relaxed);
}

fn silent() -> bool {
    RANK.load(Ordering::Relaxed) > 0
}

/// A message in passing, on standard error.
pub fn note(text: &str) {
    if !silent() {
        say(text);
    }
}

fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A prompt for a line of input, on standard error, without a line end.
pub fn ask(text: &str) {
    let mut err = anstream::stderr();
    let _ = write!(err, "{text}").and_then(|()| err.flush());
}

/// Something the user should know but that does not stop the run.
pub fn warn(text: &str) {
    note(&format!("{YELLOW}warning:{YELLOW:#} {text}"));
}

/// The last line of a run that failed.
pub fn error(text: &str) {
    let rank = match RANK.load(Ordering::Relaxed) {
        0 => String::new(),
        rank => format!("rank {rank}: "),
    };
    say(&format!("{RED}error:{RED:#} {rank}{text}"));
}

/// One line of the result.
pub fn result(text: &str) -> Result<(), CliError> {
    if silent() {
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::from_stdout)
}

/// A piece of the result without a line end, seen at once (streaming text).
pub fn result_piece(text: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::from_stdout)
}

/// One JSON value on a line of its own.
pub fn json(value: &serde_json::Value) -> Result<(), CliError> {
    if silent() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).map_err(CliError::from_stdout)
}

/// Progress of a job of known length: a bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Plain>,
}

struct Plain {
    label: &'static str,
    unit: &'static str,
    total: u64,
    next: Instant,
    started: Instant,
}

/// Between two plain lines: often enough to see life, seldom enough to read.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// A job of `total` units, `done` of which were finished before (a resumed run).
    pub fn new(label: &'static str, unit: &'static str, total: u64, done: u64) -> Self {
        let terminal = io::stderr().is_terminal() && !silent();
        let bar = if terminal {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let template = "{prefix:.bold} {bar:24.green/dim} {pos}/{len} {msg} {eta:>4.dim}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("━━─"),
            );
            bar.set_prefix(label);
            bar.set_position(done);
            bar.reset_eta();
            bar
        } else {
            ProgressBar::hidden()
        };
        let plain = (!terminal).then(|| Plain {
            label,
            unit,
            total,
            next: Instant::now() + PLAIN_EVERY,
            started: Instant::now(),
        });
        Progress { bar, plain }
    }

    /// The job stands at `position`; `message` says how it goes.
    pub fn at(&mut self, position: u64, message: &str) {
        match &mut self.plain {
            None => {
                self.bar.set_position(position);
                self.bar.set_message(message.to_owned());
            }
            Some(plain) => {
                let now = Instant::now();
                if now >= plain.next {
                    plain.next = now + PLAIN_EVERY;
                    plain.say(position, message);
                }
            }
        }
    }

    /// A message while the job goes on, above the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// The job is over: the bar goes away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Plain {
    fn say(&self, position: u64, message: &str) {
        let seconds = self.started.elapsed().as_secs();
        let gap = if message.is_empty() { "" } else { "  " };
        note(&format!("{}: {}/{} {}{gap}{message}  ({seconds} s)", self.label, position, self.total, self.unit));
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as a person reads them: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Rows of cells as aligned columns, the first row their names; columns of numbers are set right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    let mut numbers = vec![true; columns];
    for (index, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(cell.chars().count());
            numbers[column] &= index == 0 || is_number(cell);
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                let (before, after) = if numbers[column] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.push_str(&format!("{before}{cell}{after}  "));
            }
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// `12`, `1,234`, `0.5`, `1.5 GiB`, or `-` for none.
fn is_number(cell: &str) -> bool {
    let first = cell.split(' ').next().unwrap_or(cell).replace(',', "");
    cell == "-" || first.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(134_515_008), "134,515,008");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn tables_align() {
        let rows = [
            vec!["name".to_owned(), "size".to_owned()],
            vec!["a".to_owned(), "12".to_owned()],
            vec!["longer".to_owned(), "1,007".to_owned()],
        ];
        assert_eq!(table(&rows), "name     size\na          12\nlonger  1,007");
    }
}
