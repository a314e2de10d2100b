//! What the user sees: results on standard output, everything else on standard error.
//!
//! Colours go only to terminals and never where `NO_COLOR` is set (anstream strips them). A
//! standard error that is closed or full never stops a run: messages are best effort, results are
//! not.
//!
//! Names of tensors, paths, keys of rows and words of a model come from files that nobody vouches
//! for, and reach messages and tables as they stand. What leaves this module as text for people
//! therefore has its control characters and those that turn the direction of text written out as
//! `\u{1b}`; only the colours of [`Style`] come through.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::builder::StyledStr;
use clap::builder::styling::{self, Ansi256Color, AnsiColor};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::CliError;

/// A style of the program's own. It stands in texts as a mark that no file can hold, and becomes a
/// terminal's sequence where the text is shown.
#[derive(Clone, Copy)]
pub struct Style(styling::Style);

/// Stands for the escape character in a [`Style`]'s sequences: a character that is none, and a
/// number that is another in every process.
static MARK: LazyLock<String> = LazyLock::new(|| format!("\u{fdd0}{:016x}", RandomState::new().hash_one(0)));

impl Style {
    /// White on a colour of the terminal's 256.
    pub fn white_on(colour: u8) -> Self {
        let [ink, paper] = [231, colour].map(|colour| Some(Ansi256Color(colour).into()));
        Style(styling::Style::new().fg_color(ink).bg_color(paper))
    }
}

/// `{STYLE}` begins it, `{STYLE:#}` ends it.
impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = if f.alternate() { format!("{:#}", self.0) } else { self.0.to_string() };
        f.write_str(&sequence.replace('\u{1b}', &MARK))
    }
}

/// Bold, for headings.
pub const BOLD: Style = Style(styling::Style::new().bold());
/// Dim, for what is said in passing.
pub const DIM: Style = Style(styling::Style::new().dimmed());
/// Red and bold, for `error:`.
pub const RED: Style = Style(AnsiColor::Red.on_default().bold());
/// Yellow and bold, for `warning:`.
pub const YELLOW: Style = Style(AnsiColor::Yellow.on_default().bold());
/// Green and bold, for work that is done.
pub const GREEN: Style = Style(AnsiColor::Green.on_default().bold());

/// A text as a terminal may have it: everything escaped but the marks of [`Style`].
fn shown(text: &str) -> String {
    let parts: Vec<Cow<'_, str>> = text.split(&**MARK).map(|part| escaped(part, "\n\t")).collect();
    parts.join("\u{1b}")
}

/// Writes out, as `\u{1b}`, characters that steer a terminal or turn the direction of text, but for
/// those in `kept`.
fn escaped<'t>(text: &'t str, kept: &str) -> Cow<'t, str> {
    replaced(text, |c| steers(c) && !kept.contains(c), |c| c.escape_unicode().to_string())
}

/// The same for JSON, in its own escapes: it may hold these characters in texts alone, and most of
/// them as they are.
fn escaped_json(text: &str) -> Cow<'_, str> {
    replaced(text, steers, |c| format!("\\u{:04x}", u32::from(c)))
}

fn replaced(text: &str, is_bad: impl Fn(char) -> bool, by: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return text.into();
    }
    text.chars().map(|c| if is_bad(c) { by(c) } else { c.to_string() }).collect::<String>().into()
}

fn steers(c: char) -> bool {
    c.is_control() || turns_direction(c)
}

/// Marks, embeddings, overrides and isolates of bidirectional text: with them a name shows other
/// than it is.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

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
    let _ = writeln!(anstream::stderr(), "{}", shown(text));
}

/// A prompt for a line of input, on standard error, without a line end.
pub fn ask(text: &str) {
    let mut err = anstream::stderr();
    let _ = write!(err, "{}", shown(text)).and_then(|()| err.flush());
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
    line(&shown(text))
}

/// The program's own help, whose colours are clap's.
pub fn help(text: &StyledStr) -> Result<(), CliError> {
    line(text.ansi().to_string().trim_end())
}

fn line(text: &str) -> Result<(), CliError> {
    if silent() {
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::from_stdout)
}

/// A piece of what a model writes, without a line end, seen at once. A terminal gets it as other
/// text; a file or a program gets what the model wrote.
pub fn result_piece(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let text = written(text, out.is_terminal());
    write!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::from_stdout)
}

fn written(text: &str, to_terminal: bool) -> Cow<'_, str> {
    if to_terminal { escaped(text, "\n\t") } else { text.into() }
}

/// One JSON value on a line of its own.
pub fn json(value: &serde_json::Value) -> Result<(), CliError> {
    if silent() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", escaped_json(&value.to_string())).and_then(|()| out.flush()).map_err(CliError::from_stdout)
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
                self.bar.set_message(escaped(message, "").into_owned());
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
    // A cell stays in its line, and is as wide as it will be shown.
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell, "")).collect()).collect();
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
    fn nothing_of_a_file_steers_the_terminal() {
        let name = "a\u{1b}[31mb\u{9b}2J\u{7}\r\u{8}\u{7f}\u{202e}c\n\td\u{e9}\u{fdd0}[1m";
        let safe = "a\\u{1b}[31mb\\u{9b}2J\\u{7}\\u{d}\\u{8}\\u{7f}\\u{202e}c\n\td\u{e9}\u{fdd0}[1m";
        assert_eq!(shown(name), safe);
        assert_eq!(shown(safe), safe);
        assert_eq!(shown(&format!("{RED}x:{RED:#} {name}")), format!("\u{1b}[1m\u{1b}[31mx:\u{1b}[0m {safe}"));
        assert!(shown(&Style::white_on(52).to_string()).contains("\u{1b}[48;5;52m"));
        assert_eq!(written(name, true), safe);
        assert_eq!(written(name, false), name);
        let json = serde_json::Value::from(name).to_string();
        assert!(!escaped_json(&json).contains(steers));
        assert_eq!(serde_json::from_str::<String>(&escaped_json(&json)).expect("JSON"), name);
    }

    #[test]
    fn a_cell_stays_in_its_line() {
        let rows = [["x", "n"], ["a\nb\u{1b}c", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "x               n\na\\u{a}b\\u{1b}c  1");
    }

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
