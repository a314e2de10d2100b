//! Files that hold flags of a verb: the TOML file of `--config`, and the run.json of a run that is
//! resumed.
//!
//! A key is a flag without its dashes. What a file says is added to the command line unless the
//! flag is there already, so that all of it goes through one parser and one set of checks. The
//! command line wins over `--config`, which wins over run.json.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bft_core::GroupSize;
use bft_train::os_string;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use crate::error::CliError;
use crate::flags::TemplateVars;
use crate::suggest::{did_you_mean, long_flags, nearest_path};

/// Arguments that files add to the command line.
#[derive(Debug, Default)]
pub struct FromFiles {
    /// `--flag=value`, ready to append.
    pub arguments: Vec<OsString>,
    /// Flag (with dashes) and the file it came from, for error messages.
    pub origins: Vec<(String, String)>,
    /// Flags without dashes that are given, on the command line or by a file read before.
    taken: BTreeSet<String>,
}

/// What files add to the flags `given` for `verb`.
///
/// # Errors
/// A file that is missing or cannot be parsed, an unknown key, a value of another type than its
/// flag takes.
pub fn flags(verb: &Command, given: &ArgMatches) -> Result<FromFiles, CliError> {
    let mut added = FromFiles::default();
    let on_line = |arg: &&Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let long = |arg: &Arg| arg.get_long().map(str::to_owned);
    added.taken = verb.get_arguments().filter(on_line).filter_map(long).collect();
    let path = |id: &str| given.try_get_one::<PathBuf>(id).ok().flatten().cloned();

    let mut config = Table::new();
    if let Some(file) = path("config") {
        config = read(&file)?;
        added.add(verb, &config, &file.display().to_string(), Unknown::Refused)?;
    }
    // `--resume` goes on with what the run was given, whatever is not said anew.
    let resumes = config.get("resume").and_then(Value::as_bool) == Some(true)
        || given.try_get_one::<bool>("resume").ok().flatten() == Some(&true);
    let output = path("output").or_else(|| Some(config.get("output")?.as_str()?.into()));
    if let (true, Some(output)) = (resumes, output) {
        let file = output.join("run.json");
        match read_run(&file)? {
            Some(settings) => added.add(verb, &settings, &file.display().to_string(), Unknown::Ignored)?,
            // A job that is started again says everything each time, whether it came to begin or not.
            None if ["model", "data"].iter().all(|flag| added.taken.contains(*flag)) => {}
            // Without it the flags must be there, which would be the first thing to be asked for.
            None if !output.join("checkpoints").is_dir() => return Err(nothing_to_resume(&output)),
            None => {
                return Err(CliError::usage(format!(
                    "{}: is not there, and with it what the run was given: give --model, --data and its other flags again",
                    file.display()
                )));
            }
        }
    }
    Ok(added)
}

fn nothing_to_resume(output: &Path) -> CliError {
    let near = nearest_path(output).filter(|_| !output.exists());
    let near = near.map_or_else(String::new, |near| format!("; did you mean {}?", near.display()));
    let found = if output.exists() { "holds no run" } else { "no such folder" };
    let output = output.display();
    CliError::usage(format!(
        "--output {output}: {found}, so there is nothing to resume{near}; run without --resume to begin one"
    ))
}

/// What becomes of a key that is no flag.
#[derive(PartialEq)]
enum Unknown {
    /// The user wrote it: surely a mistake.
    Refused,
    /// A program wrote it, perhaps another version of this one.
    Ignored,
}

/// The settings of a run; `None` where there is no such file, which is for the trainer to judge.
fn read_run(path: &Path) -> Result<Option<Table>, CliError> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(None);
    };
    let problem = |what: &dyn std::fmt::Display| {
        CliError::failed(format!(
            "{}: {what}; give the flags of the run again, or start anew in another --output",
            path.display()
        ))
    };
    let run: serde_json::Value = serde_json::from_str(&text).map_err(|error| problem(&format!("not JSON: {error}")))?;
    let settings = run.get("settings").and_then(serde_json::Value::as_object);
    let settings = settings.ok_or_else(|| problem(&"holds no settings"))?;
    let mut table = Table::new();
    for (key, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
        // TOML has no whole numbers beyond those of 64 bits with a sign.
        let value = match value.as_u64().filter(|number| i64::try_from(*number).is_err()) {
            Some(number) => Value::String(number.to_string()),
            None => Value::try_from(value).map_err(|error| problem(&error))?,
        };
        table.insert(key.clone(), value);
    }
    Ok(Some(table))
}

fn read(path: &Path) -> Result<Table, CliError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let guess = match nearest_path(path) {
            Some(near) if !path.exists() => format!("; did you mean {}?", near.display()),
            _ => String::new(),
        };
        CliError::usage(format!("--config {shown}: cannot be read: {error}{guess}"))
    })?;
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
        });
        CliError::usage(format!("{shown}, line {line}: not TOML: {}; write one `flag = value` a line", error.message()))
    })
}

impl FromFiles {
    fn add(&mut self, verb: &Command, table: &Table, file: &str, unknown: Unknown) -> Result<(), CliError> {
        let before = self.taken.clone();
        for (key, value) in table {
            let name = key.replace('_', "-");
            let known = |arg: &&Arg| arg.get_long() == Some(name.as_str()) && holdable(arg);
            let arg = match verb.get_arguments().find(known) {
                Some(arg) => arg,
                None if unknown == Unknown::Ignored => continue,
                None => return Err(unknown_key(verb, file, key)),
            };
            if before.contains(&name) || excluded(verb, arg, &before) {
                continue;
            }
            if self.taken.contains(&name) {
                return Err(CliError::usage(format!(
                    "{file}: key `{key}` is there twice, with - and with _: keep one"
                )));
            }
            let text = value_texts(arg, value).map_err(|expected| {
                CliError::usage(format!("{file}: key `{key}`: found {}, expected {expected}", found(value)))
            })?;
            match text {
                Some(texts) => {
                    for text in texts {
                        let mut argument = OsString::from(format!("--{name}="));
                        argument.push(text);
                        self.arguments.push(argument);
                    }
                }
                None if value.as_bool() == Some(true) => self.arguments.push(format!("--{name}").into()),
                // A flag that is false is said, too, and keeps what a file read later has.
                None => {
                    self.taken.insert(name);
                    continue;
                }
            }
            self.origins.push((format!("--{name}"), file.to_owned()));
            self.taken.insert(name);
        }
        Ok(())
    }
}

/// Neither help nor another config file.
fn holdable(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "config" | "help" | "version")
}

/// What was said first wins: `--steps` on the command line silences `epochs` in the file.
fn excluded(verb: &Command, arg: &Arg, taken: &BTreeSet<String>) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        let mut conflicts = verb.get_arg_conflicts_with(one).into_iter();
        conflicts.any(|conflict| conflict.get_id() == other.get_id())
    };
    // clap knows a conflict from the side that declares it.
    verb.get_arguments()
        .filter(|other| other.get_long().is_some_and(|long| taken.contains(long)))
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

/// The values as they would stand after `--flag=`, several where a flag is given several times;
/// `None` for a flag that takes none. The error is what was expected.
fn value_texts(arg: &Arg, value: &Value) -> Result<Option<Vec<OsString>>, &'static str> {
    let paths = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    match value {
        Value::Array(items)
            if paths && matches!(arg.get_action(), ArgAction::Append) && !items.iter().any(Value::is_integer) =>
        {
            items.iter().map(|item| value_text(arg, item)).collect()
        }
        _ => value_text(arg, value).map(|text| text.map(|text| vec![text])),
    }
}

/// One value of a flag. See [`value_texts`].
fn value_text(arg: &Arg, value: &Value) -> Result<Option<OsString>, &'static str> {
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
            Value::Integer(number) => Ok(Some(number.to_string().into())),
            Value::String(text) if text.parse::<u64>().is_ok_and(|number| i64::try_from(number).is_err()) => {
                Ok(Some(text.into()))
            }
            _ => Err("a whole number"),
        };
    }
    if is(TypeId::of::<f32>()) || is(TypeId::of::<f64>()) {
        return match value {
            Value::Integer(number) => Ok(Some(number.to_string().into())),
            Value::Float(number) => Ok(Some(number.to_string().into())),
            _ => Err("a number"),
        };
    }
    if is(TypeId::of::<bool>()) {
        return match value {
            Value::Boolean(truth) => Ok(Some(truth.to_string().into())),
            _ => Err("true or false"),
        };
    }
    match value {
        Value::String(text) => Ok(Some(text.into())),
        Value::Integer(number) if is(TypeId::of::<GroupSize>()) => Ok(Some(number.to_string().into())),
        _ if is(TypeId::of::<GroupSize>()) => Err("a whole number, or a part such as \"n/4\""),
        Value::Table(table) if is(TypeId::of::<TemplateVars>()) => {
            serde_json::to_string(table).map(|json| Some(json.into())).map_err(|_| "a table of plain values")
        }
        _ if is(TypeId::of::<TemplateVars>()) => Err("a table, such as { enable_thinking = false }"),
        Value::Array(items) if arg.get_value_delimiter().is_some() => items
            .iter()
            .map(scalar)
            .collect::<Option<Vec<String>>>()
            .map(|items| Some(items.join(",").into()))
            .ok_or("a list of plain values"),
        // As run.json holds a path that is no UTF-8.
        Value::Array(items) if is(TypeId::of::<PathBuf>()) => items
            .iter()
            .map(|item| u8::try_from(item.as_integer()?).ok())
            .collect::<Option<Vec<u8>>>()
            .and_then(os_string)
            .map(Some)
            .ok_or("a text in quotes"),
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
