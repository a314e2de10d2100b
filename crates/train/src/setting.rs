//! What a setting is. It is declared once, with its default, in a struct that `settings!` writes;
//! the command line, the files of flags, `run.json`, a resumed run, the page and its TypeScript all
//! read the table of that struct.

use std::fmt;
use std::path::PathBuf;

use bft_core::device::DeviceRequest;
use serde::de::{self, Deserialize, DeserializeOwned, Visitor};
use serde_json::{Map, Value};

use crate::config::ConfigError;
use crate::paths::Files;

/// A setting, for everything that shows or reads it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in Rust and on the page; flags and files have dashes in it.
    pub field: &'static str,
    /// What `--help` says.
    pub help: &'static str,
    /// The part of `--help` that it stands in.
    pub heading: &'static str,
    /// What stands for a value in `--help`.
    pub value_name: &'static str,
    /// The kind of its values.
    pub kind: Kind,
    /// Whether it may be left out without there being a default.
    pub optional: bool,
    /// Numbers that it may be.
    pub range: Range,
    /// Says what is wrong with a word of a list.
    pub check: fn(&str) -> Result<(), String>,
    /// A setting that it cannot be given with.
    pub excludes: Option<&'static str>,
    /// Settings of which it needs one.
    pub requires: &'static [&'static str],
    /// Whether a run may be resumed with another value.
    pub may_change: bool,
    /// Whether the page has it.
    pub on_page: bool,
}

/// The kind of a setting's values.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// True or false; false where nothing is said.
    Switch,
    /// A whole number.
    Whole,
    /// Any finite number of f32.
    Number,
    /// A whole number of tokens, or a part of a sample's such as n/4.
    GroupSize,
    /// One of these words.
    Word(fn() -> &'static [&'static str]),
    /// Several words.
    Words,
    /// A file or folder.
    Path,
    /// One or more files.
    Paths,
    /// A device.
    Device,
    /// Names with values of JSON.
    Variables,
}

/// Numbers that a setting may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Whatever its type holds.
    Any,
    /// A whole number that is no smaller. The upper bound keeps products of two of them countable.
    From(u32),
    /// Above 0.
    Positive,
    /// From 0.
    NotNegative,
    /// From 0 to below 1.
    Chance,
    /// Above 0 and at most 1.
    Share,
    /// From 0 to 1.
    Unit,
    /// A share above 0 and below 1, or a whole number.
    Part,
}

impl Range {
    /// Whether `number` lies in it, as the f32 that devices count in, too.
    pub fn check(self, number: f64) -> Result<(), String> {
        let (holds, expected) = match self {
            Self::Any => return Ok(()),
            Self::From(_) if number > f64::from(u32::MAX) => (false, format!("a whole number, at most {}", u32::MAX)),
            Self::From(least) => (number >= f64::from(least), format!("a whole number from {least}")),
            _ if number.abs() > f64::from(f32::MAX) => (false, "a finite number, at most 3.4e38".to_owned()),
            Self::Positive if number > 0.0 => (number as f32 > 0.0, "a number of at least 1.4e-45".to_owned()),
            Self::Positive => (false, "a number above 0".to_owned()),
            Self::NotNegative => (number >= 0.0, "a number from 0".to_owned()),
            Self::Chance if number < 1.0 && number as f32 >= 1.0 => (false, "0 to at most 0.99999994".to_owned()),
            Self::Chance => ((0.0..1.0).contains(&number), "0 to below 1".to_owned()),
            Self::Share => (number as f32 > 0.0 && number <= 1.0, "a number above 0 and at most 1".to_owned()),
            Self::Unit => ((0.0..=1.0).contains(&number), "0 to 1".to_owned()),
            Self::Part => {
                let expected = "a share below 1, such as 0.1, or a whole number";
                (number > 0.0 && (number < 1.0 || number.fract() == 0.0), expected.to_owned())
            }
        };
        if holds { Ok(()) } else { Err(expected) }
    }
}

impl Setting {
    /// What a declaration need not say.
    pub const PLAIN: Self = Self {
        field: "",
        help: "",
        heading: "",
        value_name: "",
        kind: Kind::Switch,
        optional: false,
        range: Range::Any,
        check: |_| Ok(()),
        excludes: None,
        requires: &[],
        may_change: false,
        on_page: true,
    };

    /// Its name in flags and files.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }
}

/// A struct of settings.
pub trait Settings: Default + Clone + fmt::Debug + serde::Serialize + DeserializeOwned {
    /// Every setting, in the order of `--help`.
    const TABLE: &'static [Setting];

    /// The numbers among the values, in the order of the table.
    fn numbers(&self) -> Vec<Option<f64>>;

    /// Checks each number against its range.
    fn check_ranges(&self) -> Result<(), ConfigError> {
        for (setting, number) in Self::TABLE.iter().zip(self.numbers()) {
            if let Some(number) = number {
                setting.range.check(number).map_err(|expected| ConfigError::Range {
                    setting: setting.name(),
                    found: number.to_string(),
                    expected,
                })?;
            }
        }
        Ok(())
    }

    /// Refuses two numbers that say the same thing differently.
    fn check_exclusions(&self) -> Result<(), ConfigError> {
        let numbers = self.numbers();
        for (setting, number) in Self::TABLE.iter().zip(&numbers) {
            let other = Self::TABLE.iter().zip(&numbers).find(|(other, _)| Some(other.field) == setting.excludes);
            if let (Some(one), Some((excluded, Some(other)))) = (number, other) {
                let shown = |setting: &Setting, number: &f64| format!("{} ({number})", setting.name());
                return Err(ConfigError::Both { one: shown(setting, one), other: shown(excluded, other) });
            }
        }
        Ok(())
    }

    /// Values by their names in files; numbers have the digits that they were typed with.
    fn to_map(&self) -> Map<String, Value> {
        // Numbers, words and paths always serialise. As text, an f32 keeps its own digits.
        serde_json::to_string(self).and_then(|text| serde_json::from_str(&text)).unwrap_or_default()
    }

    /// What stands in a map like that of [`Settings::to_map`]; what is left out has its default.
    fn from_map(map: Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::from_value(Value::Object(map))
    }
}

/// A type that a setting can have.
pub trait Typed {
    /// Its kind.
    const KIND: Kind;
    /// Whether there may be no value.
    const OPTIONAL: bool = false;

    /// The value, where it is a number.
    fn number(&self) -> Option<f64> {
        None
    }
}

/// Says of which kind types are: `typed!(Schedule: words)` of an enum without fields.
macro_rules! typed {
    ($($type:ty: words),+) => {
        $(impl $crate::setting::Typed for $type {
            const KIND: $crate::setting::Kind = $crate::setting::Kind::Word($crate::setting::words::<Self>);
        })+
    };
    ($($type:ty: $kind:ident),+) => {
        $(impl Typed for $type { const KIND: Kind = Kind::$kind; })+
    };
    ($($type:ty: $kind:ident),+; number) => {
        $(impl Typed for $type {
            const KIND: Kind = Kind::$kind;
            fn number(&self) -> Option<f64> {
                // An f32 has the digits that it was typed with, not those of its f64.
                self.to_string().parse().ok()
            }
        })+
    };
}
pub(crate) use typed;

typed!(bft_core::LossKind: words, bft_core::Checkpoint: words, bft_core::device::Precision: words);
impl Typed for bft_formats::Quantization {
    const KIND: Kind = Kind::Word(Self::names);
}

typed!(bft_core::GroupSize: GroupSize, bool: Switch, PathBuf: Path, Files: Paths, Vec<String>: Words, DeviceRequest: Device, Map<String, Value>: Variables);
typed!(usize: Whole, u64: Whole, f32: Number, f64: Number; number);

impl<T: Typed> Typed for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(T::number)
    }
}

/// The names in files and flags of an enum without fields, in its order.
pub fn words<T: DeserializeOwned>() -> &'static [&'static str] {
    /// Asked for an enum, it takes down the names and has no value to give.
    struct Names(&'static [&'static str]);

    impl<'de> de::Deserializer<'de> for &mut Names {
        type Error = de::value::Error;

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            names: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0 = names;
            self.deserialize_any(visitor)
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only names are asked for"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    let mut names = Names(&[]);
    let _ = T::deserialize(&mut names);
    names.0
}

/// The value of an enum without fields by its name in files and flags.
pub fn word<'de, T: Deserialize<'de>>(name: &'de str) -> Option<T> {
    T::deserialize(de::value::BorrowedStrDeserializer::<de::value::Error>::new(name)).ok()
}

/// The name in files and flags of an enum's value.
pub fn word_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// Declares a struct of [`Settings`]: each field with its help, what [`Setting`] holds beside it,
/// and its default.
macro_rules! settings {
    ($(#[$about:meta])* pub struct $name:ident { $(
        $(#[doc = $help:literal])+
        $(#[serde($($serde:tt)*)])?
        #[setting($($more:tt)*)]
        pub $field:ident: $type:ty = $default:expr,
    )+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $help])+ $(#[serde($($serde)*)])? pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $crate::setting::Settings for $name {
            const TABLE: &'static [$crate::setting::Setting] = &[$($crate::setting::Setting {
                field: stringify!($field),
                help: concat!($($help),+),
                kind: <$type as $crate::setting::Typed>::KIND,
                optional: <$type as $crate::setting::Typed>::OPTIONAL,
                $($more)*,
                ..$crate::setting::Setting::PLAIN
            }),+];

            fn numbers(&self) -> Vec<Option<f64>> {
                vec![$($crate::setting::Typed::number(&self.$field)),+]
            }
        }
    };
}
pub(crate) use settings;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use crate::writer::SamplingConfig;

    fn check<S: Settings + PartialEq>() {
        let defaults = S::default();
        assert_eq!(defaults.check_ranges(), Ok(()));
        assert_eq!(S::from_map(defaults.to_map()).unwrap(), defaults);
        for setting in S::TABLE {
            let name = setting.name();
            assert!(setting.help.starts_with(' ') && !setting.heading.is_empty(), "{name}");
            assert_eq!(setting.value_name.is_empty(), matches!(setting.kind, Kind::Switch), "{name}");
            let number = matches!(setting.kind, Kind::Whole | Kind::Number);
            assert_eq!(setting.range != Range::Any, number && !name.ends_with("seed"), "{name}");
            for other in setting.excludes.iter().chain(setting.requires) {
                assert!(S::TABLE.iter().any(|setting| setting.field == *other), "{name}: {other}");
            }
        }
    }

    #[test]
    fn a_declaration_says_all_that_there_is_to_say() {
        check::<TrainConfig>();
        check::<SamplingConfig>();
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert!(Range::Positive.check(0.0).is_err());
        assert!(Range::Positive.check(f64::NAN).is_err());
        assert!(Range::Positive.check(f64::INFINITY).is_err());
        assert_eq!(Range::Positive.check(1e39).unwrap_err(), "a finite number, at most 3.4e38");
        assert_eq!(Range::Positive.check(1e-50).unwrap_err(), "a number of at least 1.4e-45");
        assert_eq!(Range::Positive.check(1.5e-45), Ok(()));
        assert!(Range::NotNegative.check(-1.0).is_err());
        assert_eq!(Range::NotNegative.check(0.0), Ok(()));
        assert!(Range::Chance.check(1.0).is_err());
        assert_eq!(Range::Chance.check(0.5), Ok(()));
        assert_eq!(Range::Chance.check(0.999_999_999_9).unwrap_err(), "0 to at most 0.99999994");
        assert_eq!(Range::Chance.check(0.999_999_94), Ok(()));
        assert!([0.0, 1e-50, 1.1].iter().all(|number| Range::Share.check(*number).is_err()));
        assert_eq!(Range::Share.check(1.0), Ok(()));
        assert!([0.0, 0.5, 1.0].iter().all(|number| Range::Unit.check(*number).is_ok()));
        assert!([-0.1, 1.1, f64::NAN].iter().all(|number| Range::Unit.check(*number).is_err()));
        assert!([0.0, -1.0, 1.5, f64::NAN].iter().all(|number| Range::Part.check(*number).is_err()));
        assert!([0.1, 1.0, 250.0].iter().all(|number| Range::Part.check(*number).is_ok()));
        assert_eq!(Range::From(1).check(0.0).unwrap_err(), "a whole number from 1");
        assert_eq!(Range::From(1).check(1e12).unwrap_err(), "a whole number, at most 4294967295");
    }

    #[test]
    fn words_are_those_of_the_files() {
        use crate::schedule::Schedule;
        assert_eq!(words::<Schedule>(), ["cosine", "linear", "constant", "wsd"]);
        assert_eq!(words::<bft_core::LossKind>(), ["sft", "dft", "bft", "bft-v3", "gce"]);
        assert_eq!(word::<Schedule>("linear"), Some(Schedule::Linear));
        assert_eq!(word::<Schedule>("cosin"), None);
        for name in words::<Schedule>() {
            assert_eq!(word_of(&word::<Schedule>(name).unwrap()), *name);
        }
    }
}
