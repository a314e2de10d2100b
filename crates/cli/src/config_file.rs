//! `--config FILE`: a TOML file that holds flags of a verb.
//!
//! A key is a flag without its dashes. What the file says is added to the command line unless the flag
//! is there already, so that both go through one parser and one set of checks.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::Value;

use crate::command_line::long_flags;
use crate::error::CliError;
use crate::suggest::{did_you_mean, nearest_path};

/// Arguments that files add to the command line.
#[derive(Debug, Default)]
pub struct FromFiles {
    /// `--flag=value`, ready to append.
    pub arguments: Vec<OsString>,
    /// Flag (with dashes) and the file it came from, for error messages.
    pub origins: Vec<(String, String)>,
}

/// What the file of `--config` adds to the flags `given` for `verb`.
///
/// # Errors
/// A file that is missing or no TOML, an unknown key, a value of another type than its flag takes.
pub fn flags(verb: &Command, given: &ArgMatches) -> Result<FromFiles, CliError> {
    let mut added = FromFiles::default();
    if let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") {
        let table = read(path)?;
        add(&mut added, verb, given, &table, &path.display().to_string())?;
    }
    Ok(added)
}

fn read(path: &Path) -> Result<toml::Table, CliError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let guess = match nearest_path(path) {
            Some(near) if !path.exists() => format!("; did you mean {}?", near.display()),
            _ => String::new(),
        };
        CliError::usage(format!("--config {shown}: cannot be read: {error}{guess}"))
    })?;
    text.parse::<toml::Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text.as_bytes()[..span.start.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1
        });
        CliError::usage(format!(
            "{shown}, line {line}: not TOML: {}; write one `flag = value` a line",
            error.message()
        ))
    })
}

fn add(
    added: &mut FromFiles,
    verb: &Command,
    given: &ArgMatches,
    table: &toml::Table,
    file: &str,
) -> Result<(), CliError> {
    for (key, value) in table {
        let name = key.replace('_', "-");
        let arg = verb
            .get_arguments()
            .find(|arg| arg.get_long() == Some(name.as_str()) && holdable(arg))
            .ok_or_else(|| unknown_key(verb, file, key))?;
        if on_command_line(arg, given) || excluded(verb, arg, given) {
            continue;
        }
        let text = value_text(arg, value).map_err(|expected| {
            CliError::usage(format!(
                "{file}: key `{key}`: found {}, expected {expected}",
                found(value)
            ))
        })?;
        match text {
            Some(text) => added.arguments.push(format!("--{name}={text}").into()),
            None if value.as_bool() == Some(true) => {
                added.arguments.push(format!("--{name}").into())
            }
            None => continue,
        }
        added.origins.push((format!("--{name}"), file.to_owned()));
    }
    Ok(())
}

/// Neither help nor another config file.
fn holdable(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "config" | "help" | "version")
}

fn on_command_line(arg: &Arg, given: &ArgMatches) -> bool {
    given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}

/// Flags win over the file: `--steps` on the command line silences `epochs` in the file.
fn excluded(verb: &Command, arg: &Arg, given: &ArgMatches) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        let mut conflicts = verb.get_arg_conflicts_with(one).into_iter();
        conflicts.any(|conflict| conflict.get_id() == other.get_id())
    };
    // clap knows a conflict from the side that declares it.
    verb.get_arguments()
        .filter(|other| on_command_line(other, given))
        .any(|other| excludes(arg, other) || excludes(other, arg))
}

fn unknown_key(verb: &Command, file: &str, key: &str) -> CliError {
    let known = long_flags(verb).filter(|name| !matches!(*name, "config" | "help" | "version"));
    let guess = did_you_mean(key, known, |name| format!("`{name}`"));
    CliError::usage(format!(
        "{file}: unknown key `{key}` for bft {name}{guess}; keys are the flags of `bft {name} --help`",
        name = verb.get_name()
    ))
}

/// The value as it would stand after `--flag=`; `None` for a flag that takes none.
/// The error is what was expected.
fn value_text(arg: &Arg, value: &Value) -> Result<Option<String>, &'static str> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Boolean(_) => Ok(None),
            _ => Err("true or false"),
        };
    }
    let kind = arg.get_value_parser().type_id();
    let is = |id: TypeId| kind == id;
    if is(TypeId::of::<usize>()) || is(TypeId::of::<u64>()) {
        return match value {
            Value::Integer(number) => Ok(Some(number.to_string())),
            _ => Err("a whole number"),
        };
    }
    if is(TypeId::of::<f32>()) || is(TypeId::of::<f64>()) {
        return match value {
            Value::Integer(number) => Ok(Some(number.to_string())),
            Value::Float(number) => Ok(Some(number.to_string())),
            _ => Err("a number"),
        };
    }
    match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(items) if arg.get_value_delimiter().is_some() => items
            .iter()
            .map(scalar)
            .collect::<Option<Vec<String>>>()
            .map(|items| Some(items.join(",")))
            .ok_or("a list of plain values"),
        _ if arg.get_value_delimiter().is_some() => Err("a text or a list"),
        _ => Err("a text in quotes"),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text \"{text}\""),
        Value::Integer(number) => format!("the whole number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(truth) => format!("{truth}"),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Request, Verb, parse};
    use crate::train::TrainFlags;

    fn parse_with(config: &str, flags: &[&str]) -> Result<TrainFlags, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("run.toml");
        std::fs::write(&path, config).expect("a file");
        let mut argv: Vec<OsString> = ["bft", "train", "--config"].map(OsString::from).to_vec();
        argv.push(path.into());
        argv.extend(flags.iter().map(OsString::from));
        match parse(argv) {
            Ok(Request::Run(Verb::Train(flags))) => Ok(*flags),
            Ok(other) => panic!("not a training run: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    const BASE: &str = "model = 'm'\ndata = 'd'\noutput = 'o'\n";

    #[test]
    fn a_file_holds_every_kind_of_flag() {
        let text = format!(
            "{BASE}rank = 8\nlr = 1\nno-shuffle = true\ntruncate = false\nloss = 'bft-v3'\n\
             target_modules = ['q_proj', 'v_proj']\n"
        );
        let flags = parse_with(&text, &[]).expect("a valid file");
        assert_eq!(flags.lora.rank, 8);
        assert_eq!(flags.lr, 1.0);
        assert!(flags.no_shuffle);
        assert!(!flags.data_flags.truncate);
        assert_eq!(flags.lora.modules(), ["q_proj", "v_proj"]);
    }

    #[test]
    fn the_command_line_wins() {
        let text = format!("{BASE}rank = 8\nepochs = 3\n");
        let flags = parse_with(&text, &["--rank", "4", "--steps", "7"]).expect("a valid file");
        assert_eq!(flags.lora.rank, 4);
        assert_eq!(flags.steps, Some(7));
        assert_eq!(flags.epochs, None);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let cases = [
            (
                "rnak = 8\n",
                "unknown key `rnak` for bft train; did you mean `rank`?",
            ),
            ("learning_rate = 0.1\n", "did you mean `lr`?"),
            (
                "rank = '8'\n",
                "key `rank`: found the text \"8\", expected a whole number",
            ),
            (
                "rank = 8.5\n",
                "found the number 8.5, expected a whole number",
            ),
            ("lr = 'fast'\n", "expected a number"),
            (
                "no-shuffle = 1\n",
                "found the whole number 1, expected true or false",
            ),
            ("seed = true\n", "found true, expected a whole number"),
            ("[train]\nrank = 8\n", "unknown key `train`"),
            ("config = 'x'\n", "unknown key `config`"),
            ("rank = \n", "line 4: not TOML"),
            ("rank = 0\n", "run.toml: --rank: found '0'"),
            ("loss = 'btf'\n", "did you mean bft?"),
        ];
        for (line, expected) in cases {
            let error = parse_with(&format!("{BASE}{line}"), &[]).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
            assert!(error.contains("run.toml"), "{line}: {error}");
        }
    }
}
