//! Settings as flags, flags that several verbs share, and the parsers of values.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::PathBuf;

use bft_core::GroupSize;
use bft_core::device::{Device, DeviceRequest, Precision};
use bft_train::{Kind, Range, Setting, Settings, TrainConfig, path_to_json, word, words};
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::suggest::did_you_mean;
use crate::ui;

/// Which settings a verb takes as flags. [`takes!`] writes it.
pub trait Takes: std::fmt::Debug + Clone {
    /// The struct that declares them.
    type Settings: Settings;
    /// Their names there.
    const FIELDS: &'static [&'static str] = &[];
    /// What holds where nothing is said, where this is not the declared default.
    const DEFAULT: Option<&'static str> = None;

    /// Whether this one is taken.
    fn takes(setting: &Setting) -> bool {
        Self::FIELDS.contains(&setting.field)
    }
}

/// Names the settings of a struct that are flags: `takes!(Lora: TrainConfig = rank, alpha)`.
macro_rules! takes {
    ($(#[$about:meta])* $name:ident: $settings:ty = $($field:ident),+) => {
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub struct $name;

        impl $crate::flags::Takes for $name {
            type Settings = $settings;
            const FIELDS: &'static [&'static str] = {
                // No other name compiles.
                let _ = |settings: $settings| ($(settings.$field,)+);
                &[$(stringify!($field)),+]
            };
        }
    };
}
pub(crate) use takes;

/// Settings of which those that `T` names are flags; the others have their defaults.
#[derive(Debug, Clone)]
pub struct Flags<T: Takes> {
    settings: Box<T::Settings>,
    given: BTreeSet<&'static str>,
    takes: PhantomData<T>,
}

impl<T: Takes> Flags<T> {
    /// Whether a setting was said, and not left at its default.
    pub fn given(&self, field: &str) -> bool {
        self.given.contains(field)
    }

    fn taken() -> impl Iterator<Item = &'static Setting> {
        T::Settings::TABLE.iter().filter(|setting| T::takes(setting))
    }
}

impl<T: Takes> Deref for Flags<T> {
    type Target = T::Settings;

    fn deref(&self) -> &T::Settings {
        &self.settings
    }
}

impl<T: Takes> Args for Flags<T> {
    fn augment_args(command: Command) -> Command {
        let defaults = T::Settings::default().to_map();
        let flag = |setting| flag(setting, defaults.get(&Setting::name(setting)).unwrap_or(&Value::Null), T::DEFAULT);
        let groups = Self::taken().filter(|setting| !setting.requires.is_empty());
        let group = |setting: &'static Setting| ArgGroup::new(needs(setting)).args(setting.requires).multiple(true);
        command.args(Self::taken().map(flag)).groups(groups.map(group))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Takes> FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = |setting: &&Setting| matches.value_source(setting.field) == Some(ValueSource::CommandLine);
        let given: Vec<&Setting> = Self::taken().filter(said).collect();
        let values = given.iter().map(|setting| (setting.name(), value(setting, matches)));
        let settings = T::Settings::from_map(values.collect());
        let settings = settings.map_err(|error| clap::Error::raw(clap::error::ErrorKind::ValueValidation, error))?;
        Ok(Self {
            settings: settings.into(),
            given: given.iter().map(|setting| setting.field).collect(),
            takes: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The name of the group of flags of which one must be given with a setting.
fn needs(setting: &Setting) -> String {
    format!("what {} needs", setting.name())
}

/// The name of the setting that needs one of a group's flags.
pub fn needed_by(group: &ArgGroup) -> Option<&str> {
    group.get_id().as_str().strip_prefix("what ")?.strip_suffix(" needs")
}

/// A verb whose settings do without the flags that they need, for files may still give these.
pub fn without_needs(verb: Command) -> Command {
    let settings: Vec<String> = verb.get_groups().filter_map(needed_by).map(str::to_owned).collect();
    settings.into_iter().fold(verb, |verb, setting| {
        verb.mut_group(format!("what {setting} needs"), |group| group.arg(setting.replace('-', "_")))
    })
}

/// A setting as a flag. `instead` says what holds where it is left out, if that is not the default.
fn flag(setting: &'static Setting, default: &Value, instead: Option<&str>) -> Arg {
    let help = setting.help.trim_start();
    let help = instead.map_or_else(|| help.to_owned(), |instead| format!("{help} [default: {instead}]"));
    let arg = Arg::new(setting.field).long(setting.name()).help(help).help_heading(setting.heading);
    let arg = setting.excludes.into_iter().fold(arg, Arg::conflicts_with);
    let arg = if setting.requires.is_empty() { arg } else { arg.requires(needs(setting)) };
    if matches!(setting.kind, Kind::Switch) {
        return arg.action(ArgAction::SetTrue);
    }
    let range = setting.range;
    let parser: ValueParser = match setting.kind {
        Kind::Switch | Kind::Path | Kind::Paths => clap::value_parser!(PathBuf),
        Kind::Whole => ValueParser::new(move |text: &str| {
            let number = text.parse::<u64>().map_err(|_| "expected a whole number".to_owned())?;
            expected(range.check(number as f64)).map(|()| number)
        }),
        Kind::Number => ValueParser::new(move |text: &str| number(text, range)),
        Kind::GroupSize => ValueParser::new(|text: &str| text.parse::<GroupSize>()),
        Kind::Word(words) => PossibleValuesParser::new(words()).into(),
        Kind::Words => ValueParser::new(|text: &str| (setting.check)(text.trim()).map(|()| text.trim().to_owned())),
        Kind::Device => ValueParser::new(device),
        Kind::Variables => ValueParser::new(|text: &str| bft_formats::parse_variables(text).map(TemplateVars)),
    };
    let arg = arg.value_name(setting.value_name).value_parser(parser);
    let arg = match setting.kind {
        Kind::Words => arg.value_delimiter(',').action(ArgAction::Append),
        Kind::Variables | Kind::Paths => arg.action(ArgAction::Append),
        _ => arg,
    };
    match default {
        _ if setting.optional || instead.is_some() || matches!(setting.kind, Kind::Variables) => arg,
        Value::String(text) if text.is_empty() => arg.required(true),
        Value::String(text) => arg.default_value(text.clone()),
        // A fraction of nothing is not shown.
        Value::Number(number) => arg.default_value(number.to_string().trim_end_matches(".0").to_owned()),
        Value::Array(_) if matches!(setting.kind, Kind::Paths) => arg.required(true),
        Value::Array(words) => arg.default_values(words.iter().filter_map(Value::as_str).map(str::to_owned)),
        _ => arg,
    }
}

/// What was given to a flag, as a setting's struct takes it.
fn value(setting: &Setting, matches: &ArgMatches) -> Value {
    let id = setting.field;
    let word = || matches.get_one::<String>(id);
    match setting.kind {
        Kind::Switch => matches.get_flag(id).into(),
        Kind::Whole => matches.get_one::<u64>(id).copied().into(),
        Kind::Number => matches.get_one::<f64>(id).copied().into(),
        Kind::GroupSize => serde_json::to_value(matches.get_one::<GroupSize>(id)).unwrap_or_default(),
        Kind::Word(_) => word().cloned().into(),
        Kind::Words => matches.get_many::<String>(id).unwrap_or_default().cloned().collect(),
        Kind::Paths => matches.get_many::<PathBuf>(id).unwrap_or_default().map(|path| path_to_json(path)).collect(),
        Kind::Path => matches.get_one::<PathBuf>(id).map_or(Value::Null, |path| path_to_json(path)),
        Kind::Device => matches.get_one::<DeviceRequest>(id).map(ToString::to_string).into(),
        // Of two with one name the later holds.
        Kind::Variables => {
            let all = matches.get_many::<TemplateVars>(id).unwrap_or_default();
            Value::Object(all.flat_map(|vars| vars.0.clone()).collect())
        }
    }
}

/// Variables of one `--template-vars`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateVars(Map<String, Value>);

takes!(OnDevice: TrainConfig = device);
takes!(Exactness: TrainConfig = precision);
takes!(
    /// What the model's matrices become as they load.
    Quantize: TrainConfig = quantize
);
takes!(
    /// What the chat template is told beside the conversation.
    Template: TrainConfig = template_vars
);

/// Where a verb runs.
#[derive(Debug, Clone, Args)]
pub struct DeviceFlag {
    #[command(flatten)]
    settings: Flags<OnDevice>,
}

impl DeviceFlag {
    /// `--device`.
    pub fn device(&self) -> &DeviceRequest {
        &self.settings.device
    }
}

/// Where a verb runs, and the file that may hold its flags.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    #[command(flatten)]
    on: DeviceFlag,
    /// A TOML file with flags of this verb (rank = 16); the command line wins
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
}

impl RunFlags {
    /// `--device`.
    pub fn device(&self) -> &DeviceRequest {
        self.on.device()
    }
}

/// Which kernels a GPU takes.
#[derive(Debug, Clone, Args)]
pub struct KernelFlags {
    /// Measure on a software GPU driver, too, which kernels are fastest; real GPUs are measured
    /// once without being asked
    #[arg(long, help_heading = "Run")]
    pub measure_kernels: bool,
    #[command(flatten)]
    settings: Flags<Exactness>,
}

impl KernelFlags {
    /// `--precision`.
    pub fn precision(&self) -> Precision {
        self.settings.precision
    }

    /// Tells the device how exact to be and whether to measure what was not measured before. One of
    /// several processes measures nothing: each would find other kernels, and others again when the
    /// run is repeated.
    pub fn apply(&self, device: &Device, alone: bool) {
        if !device.is_gpu() && (self.measure_kernels || self.precision() != Precision::F32) {
            ui::note("--precision and --measure-kernels are for GPUs: nothing here follows them");
        }
        let measures = self.measure_kernels || !device.is_software();
        device.set_precision(self.precision());
        device.measure_when_preparing(alone && measures);
    }
}

/// A value of an enum that is known by its name in files.
pub fn word_parser<T: DeserializeOwned + Clone + Send + Sync + 'static>() -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words::<T>()).try_map(|name| word(&name).ok_or("no such word"))
}

/// A whole number no smaller than `least`. The upper bound keeps products of two of them countable.
pub fn at_least(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=u64::from(u32::MAX))
}

fn expected(checked: Result<(), String>) -> Result<(), String> {
    checked.map_err(|expected| format!("expected {expected}"))
}

fn number(text: &str, range: Range) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|_| "expected a number such as 0.1 or 2e-4".to_owned())?;
    expected(range.check(number)).map(|()| number)
}

/// A number above 0 and at most 1.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, Range::Share)
}

/// A device's name.
pub fn device(text: &str) -> Result<DeviceRequest, String> {
    text.parse::<DeviceRequest>().map_err(|_| {
        let guess = did_you_mean(text, ["auto", "cpu", "gpu", "gpu:0"], str::to_owned);
        format!("expected auto, cpu, gpu or gpu:N{guess}")
    })
}
