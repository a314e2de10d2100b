//! Columns, or keys, of a user's rows that stand for keys of the formats.

use serde_json::{Map, Value};

use super::fields::{found_keys, is_known, is_refused, nearest_of, says_something};
use super::{KeyList, RowFormat, RowProblem};

/// Which column stands for which key: `prompt=question`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns(Vec<(String, String)>);

impl Columns {
    /// Pairs as users write them, which [`check_pair`] has let pass.
    pub fn new(pairs: &[String]) -> Self {
        let pair = |pair: &String| pair.split_once('=').map(|(key, column)| (key.trim().to_owned(), column.to_owned()));
        Self(pairs.iter().filter_map(pair).collect())
    }

    /// Pairs as users write them, each for one of `keys`.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn of_keys(pairs: &[String], keys: &[&str]) -> Result<Self, String> {
        pairs.iter().try_for_each(|pair| check_key(pair, keys.iter().copied()))?;
        check_once(pairs)?;
        Ok(Self::new(pairs))
    }

    /// Whether none is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the pairs of columns for which `keep` holds.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(_, column)| keep(column));
    }

    /// Keys that a column stands for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// The column that stands for a key: that of its own name, unless another does.
    pub(super) fn column<'c>(&'c self, key: &'c str) -> &'c str {
        self.0.iter().find(|(it, _)| it == key).map_or(key, |(_, column)| column)
    }

    /// Whether a column of this name is read, under its own name or another.
    pub(super) fn read(&self, column: &str) -> bool {
        self.reads(column, |column| is_known(column) || is_refused(column))
    }

    /// Whether a column of this name is read, where those of the keys `known` are.
    pub(crate) fn reads(&self, column: &str, known: impl Fn(&str) -> bool) -> bool {
        let stands = self.0.iter().any(|(_, it)| it == column);
        stands || (known(column) && !self.keys().any(|key| key == column))
    }

    /// The first pair whose column is not among `names`, as a problem.
    pub(crate) fn missing(&self, names: &Map<String, Value>) -> Option<RowProblem> {
        let (key, column) = self.0.iter().find(|(_, column)| !names.contains_key(column))?;
        let near = nearest_of(column, names.keys().map(String::as_str));
        Some(RowProblem::NoColumn {
            column: column.clone(),
            pair: format!("{key}={column}"),
            hint: near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?")),
            found: found_keys(names),
        })
    }

    /// Gives each column the key that it stands for. What stood there before is read past.
    pub(crate) fn rename(&self, row: &mut Map<String, Value>, ignored: &mut KeyList) {
        let taken: Vec<(&String, Option<Value>)> =
            self.0.iter().map(|(key, column)| (key, row.shift_remove(column))).collect();
        for (key, value) in taken {
            if row.shift_remove(key).is_some_and(|before| says_something(&before)) {
                ignored.add(key);
            }
            if let Some(value) = value {
                row.insert(key.clone(), value);
            }
        }
    }
}

/// Says what is wrong with one pair of `--columns`.
pub(crate) fn check_pair(pair: &str) -> Result<(), String> {
    let formats = RowFormat::ALL.iter();
    let keys = formats.flat_map(|format| format.required_keys().iter().chain(format.optional_keys())).copied();
    // Of texts that are embedded.
    check_key(pair, keys.chain(["id"]))
}

/// As [`check_pair`], where these are the keys.
fn check_key<'k>(pair: &str, mut keys: impl Iterator<Item = &'k str> + Clone) -> Result<(), String> {
    match pair.split_once('=').map(|(key, column)| (key.trim(), column)) {
        Some((key, column)) if !column.is_empty() && keys.clone().any(|known| known == key) => Ok(()),
        Some((key, column)) if !column.is_empty() => {
            let near = nearest_of(key, &mut keys).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            Err(format!("no format of rows has a key \"{key}\"{near}"))
        }
        _ => Err("expected KEY=COLUMN, such as prompt=question".into()),
    }
}

/// Says what is wrong with all pairs together.
pub(crate) fn check_pairs(pairs: &[String]) -> Result<(), String> {
    pairs.iter().try_for_each(|pair| check_pair(pair))?;
    check_once(pairs)
}

/// Says which key or column is there twice.
fn check_once(pairs: &[String]) -> Result<(), String> {
    let Columns(pairs) = Columns::new(pairs);
    for (i, (key, column)) in pairs.iter().enumerate() {
        if pairs[..i].iter().any(|(before, _)| before == key) {
            return Err(format!("the key \"{key}\" is given twice"));
        }
        if pairs[..i].iter().any(|(_, before)| before == column) {
            return Err(format!("the column \"{column}\" is given twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_before_and_behind_a_key_say_nothing() {
        let pairs = [" prompt =a question".to_owned(), " completion=answer".to_owned()];
        assert_eq!(check_pairs(&pairs), Ok(()));
        assert_eq!(Columns::new(&pairs).keys().collect::<Vec<_>>(), ["prompt", "completion"]);
        let twice = ["text=a".to_owned(), " text=b".to_owned()];
        assert_eq!(check_pairs(&twice), Err("the key \"text\" is given twice".into()));
    }
}
