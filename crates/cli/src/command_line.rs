//! The command line: verbs, help, and errors in one line with the nearest known word.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgGroup, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config_file;
use crate::error::CliError;
use crate::flags::{needed_by, without_needs};
use crate::hub;
use crate::ranks;
use crate::suggest::{did_you_mean, long_flags, nearest};
use crate::{bench, bio, chat, devices, embed, estimate, eval, export, generate, inspect, train};

/// Balanced Fine-Tuning of language models, on any machine
#[derive(Debug, Parser)]
#[command(name = "bft", version, max_term_width = 110)]
#[command(disable_help_subcommand = true, disable_help_flag = true)]
#[command(after_help = "\
Example:
  bft train --model SmolLM2-135M-Instruct.Q4_1.gguf --data train.jsonl --output tuned
  bft generate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter tuned --prompt 'What does TP53 do?'

`bft VERB --help` shows a verb's flags and examples.")]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Print this help
    #[arg(long, short = 'h', global = true, action = ArgAction::HelpShort, help_heading = "Run")]
    pub help: Option<bool>,
}

/// One variant per verb; each verb's flags and work live in the file of its name.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Train(train::TrainFlags),
    Eval(eval::EvalFlags),
    Generate(generate::GenerateFlags),
    Chat(chat::ChatFlags),
    Embed(embed::EmbedFlags),
    Export(export::ExportFlags),
    Inspect(inspect::InspectFlags),
    Estimate(estimate::EstimateFlags),
    Devices(devices::DevicesFlags),
    Bench(bench::BenchFlags),
    Bio(bio::BioVerbs),
}

impl Verb {
    /// Does what was asked.
    pub fn run(self) -> Result<(), CliError> {
        if !matches!(self, Verb::Train(_) | Verb::Embed(_)) {
            ranks::refuse()?;
        }
        match self {
            Verb::Train(flags) => train::run(&flags),
            Verb::Eval(flags) => eval::run(&flags),
            Verb::Generate(flags) => generate::run(&flags),
            Verb::Chat(flags) => chat::run(&flags),
            Verb::Embed(flags) => embed::run(&flags),
            Verb::Export(flags) => export::run(&flags),
            Verb::Inspect(flags) => inspect::run(&flags),
            Verb::Estimate(flags) => estimate::run(&flags),
            Verb::Devices(flags) => devices::run(&flags),
            Verb::Bench(flags) => bench::run(&flags),
            Verb::Bio(verbs) => bio::run(verbs),
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// A verb with its flags.
    Run(Box<Verb>),
    /// Text to show (`--help`, `--version`), colours included.
    Show(clap::builder::StyledStr),
}

/// All verbs and flags. A value that begins with a minus is a number for its flag to judge, not
/// another flag.
fn definition() -> Command {
    let numbers = |arg: clap::Arg| {
        let takes_value = arg.get_action().takes_values();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    };
    let flags = |verb: Command| {
        let takes_flags = verb.get_subcommands().next().is_none();
        let verb = verb.mut_args(numbers);
        if takes_flags { verb.arg(hub::offline_flag()) } else { verb }
    };
    CommandLine::command().mut_subcommands(|verb| flags(verb).mut_subcommands(flags))
}

/// What was said to the verb itself.
fn of_verb(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    matches
}

/// The command that the first words of a command line name, and those words: `bft`, `bft train` or
/// `bft bio process`.
fn named<'c>(command: &'c Command, argv: &[OsString]) -> (&'c Command, String) {
    let (mut at, mut words) = (command, command.get_name().to_owned());
    for word in argv.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(below) = at.find_subcommand(word) else {
            break;
        };
        at = below;
        words = format!("{words} {}", at.get_name());
    }
    (at, words)
}

/// The definition with nothing required of verbs, nor of the verbs below them.
fn relaxed(command: &Command) -> Command {
    let optional = |arg: clap::Arg| arg.required(false);
    let relaxed = |verb: Command| without_needs(verb.mut_args(optional));
    command.clone().mut_subcommands(|verb| relaxed(verb).mut_subcommands(relaxed))
}

/// Reads the command line and the file its `--config` names.
///
/// # Errors
/// [`CliError::Usage`] for anything that is no such verb, flag or value; one line, with the nearest
/// known word.
pub fn parse(mut argv: Vec<OsString>) -> Result<Request, CliError> {
    let command = definition();
    let (verb, _) = named(&command, &argv);
    if verb.get_subcommands().next().is_none() {
        // Requirements are looked at once the files have had their say.
        let matches = match relaxed(&command).try_get_matches_from(&argv) {
            Ok(matches) => matches,
            // The strict definition prints the better help: it shows which flags must be there.
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                return finish(&command, argv, &[]);
            }
            Err(error) => return explain(&command, &argv, error, &[]),
        };
        let mut from_files = config_file::flags(verb, of_verb(&matches))?;
        argv.append(&mut from_files.arguments);
        return finish(&command, argv, &from_files.origins);
    }
    finish(&command, argv, &[])
}

fn finish(command: &Command, argv: Vec<OsString>, origins: &[(String, String)]) -> Result<Request, CliError> {
    let parsed = command.clone().try_get_matches_from(&argv).and_then(|matches| {
        if of_verb(&matches).try_get_one::<bool>("offline").ok().flatten() == Some(&true) {
            hub::forbid_network();
        }
        CommandLine::from_arg_matches(&matches)
    });
    match parsed {
        Ok(line) => Ok(Request::Run(Box::new(line.verb))),
        Err(error) => explain(command, &argv, error, origins),
    }
}

/// Turns clap's many-line reports into one line; help and version are no errors.
/// `origins` names the file a flag came from.
fn explain(
    command: &Command,
    argv: &[OsString],
    error: clap::Error,
    origins: &[(String, String)],
) -> Result<Request, CliError> {
    let (verb, words) = named(command, argv);
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(list)) => list.join(", "),
        _ => String::new(),
    };
    let help = format!("{words} --help");
    let flag = text(ContextKind::InvalidArg);
    let name = flag.split([' ', '=']).next().unwrap_or("").to_owned();
    let value = text(ContextKind::InvalidValue);
    let origin = origins
        .iter()
        .find(|(from_file, _)| *from_file == name)
        .map_or_else(String::new, |(_, file)| format!("{file}: "));
    let message = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if argv.len() > 1 =>
        {
            return Ok(Request::Show(error.render()));
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            format!("no verb was given: use one of {}; see {help}", verbs(verb))
        }
        ErrorKind::InvalidSubcommand => unknown_verb(verb, &words, &text(ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => unknown_argument(command, verb, &words, &flag),
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{origin}{name} needs a value: {flag}; see {help}")
        }
        ErrorKind::InvalidValue => {
            let known = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(list)) => list.clone(),
                _ => Vec::new(),
            };
            let guess = did_you_mean(&value, known.iter().map(String::as_str), str::to_owned);
            format!("{origin}{name}: found '{value}', expected {}{guess}", one_of(&known))
        }
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            let reason = reason.unwrap_or_else(|| "not a value of this flag".to_owned());
            format!("{origin}{name}: found '{value}': {reason}; see {help}")
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{}; see {help}", missing(verb, argv, &flag))
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg);
            if other.is_empty() || other.split(' ').next() == Some(name.as_str()) {
                format!("{name} was given twice; give it once")
            } else {
                format!("{flag} cannot be used with {other}; give one of them")
            }
        }
        ErrorKind::InvalidUtf8 => "a flag or value is not valid UTF-8; give it as UTF-8".to_owned(),
        _ => {
            let report = error.to_string();
            let first = report.lines().next().unwrap_or("bad command line");
            format!("{}; see {help}", first.trim_start_matches("error: "))
        }
    };
    Err(CliError::usage(message))
}

/// What is missing, and which flag on the command line needs it. `shown` is how clap writes it.
fn missing(verb: &Command, argv: &[OsString], shown: &str) -> String {
    let given = |flag: &str| {
        let said = |word: &OsString| word.to_str().and_then(|word| word.split('=').next()) == Some(flag);
        argv.iter().any(said)
    };
    let asks = |group: &ArgGroup| {
        let flag = format!("--{}", needed_by(group)?);
        let names: Vec<String> = group.get_args().map(|id| format!("--{}", id.as_str().replace('_', "-"))).collect();
        let all = given(&flag) && names.iter().all(|name| shown.contains(name));
        all.then(|| format!("{} is missing, which {flag} needs", names.join(" or ")))
    };
    verb.get_groups().find_map(asks).unwrap_or_else(|| format!("{shown} is missing"))
}

fn unknown_verb(command: &Command, words: &str, word: &str) -> String {
    let names = command.get_subcommands().map(Command::get_name);
    let guess = did_you_mean(word, names, |name| format!("{words} {name}"));
    format!("{words} has no verb '{word}'{guess}{} verbs: {}", if guess.is_empty() { ";" } else { "" }, verbs(command))
}

fn unknown_argument(command: &Command, verb: &Command, words: &str, flag: &str) -> String {
    let help = format!("{words} --help");
    if verb.get_subcommands().next().is_some() {
        let names = verb.get_subcommands().map(Command::get_name);
        let guess = did_you_mean(flag, names, |name| format!("{words} {name}"));
        return format!("{words} takes a verb before {flag}{guess}; see {help}");
    }
    if !flag.starts_with('-') {
        let guess = did_you_mean(flag, long_flags(verb), |flag| format!("--{flag}"));
        let takes =
            if verb.get_positionals().next().is_some() { "has room for no more words" } else { "takes flags only" };
        return format!("{words} {takes}, found '{flag}'{guess}; see {help}");
    }
    let guess = nearest(flag, long_flags(verb));
    // The flag may belong to another verb.
    let elsewhere =
        command.get_subcommands().flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands())).find(|other| {
            other.get_name() != verb.get_name() && long_flags(other).any(|known| format!("--{known}") == flag)
        });
    let hint = match (guess, elsewhere) {
        (Some(found), _) => format!("; did you mean --{found}?"),
        (None, Some(other)) => format!("; it belongs to bft {}", other.get_name()),
        (None, None) => String::new(),
    };
    format!("{words} has no flag {flag}{hint}; see {help}")
}

fn verbs(command: &Command) -> String {
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    names.join(", ")
}

fn one_of(values: &[String]) -> String {
    match values {
        [] => "another value".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The process's arguments; the program's own name is kept, as clap expects.
pub fn arguments() -> Vec<OsString> {
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    if argv.is_empty() {
        argv.push(OsStr::new("bft").to_owned());
    }
    argv
}

#[cfg(test)]
#[path = "command_line/tests.rs"]
mod tests;
