//! A table with what was done to get it: shown as text, written as TSV, printed as JSON.

use serde_json::{Map, Value, json};

use crate::stats::bootstrap::Estimate;

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(usize),
    /// A number.
    Number(f64),
    /// A number with its 95 % interval.
    Estimate(Estimate),
    /// Nothing can be said.
    None,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Option<Estimate>> for Cell {
    fn from(estimate: Option<Estimate>) -> Self {
        estimate.map_or(Self::None, Self::Estimate)
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Self {
        number.map_or(Self::None, Self::Number)
    }
}

impl Cell {
    /// As people read it.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Number(number) => shown(*number),
            Self::Estimate(it) => match it.range {
                Some((low, high)) => {
                    format!("{} [{}, {}]", shown(it.value), shown(low), shown(high))
                }
                None => shown(it.value),
            },
            Self::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(count) => json!(count),
            Self::Number(number) => json!(number),
            Self::Estimate(it) => json!(it),
            Self::None => Value::Null,
        }
    }
}

/// Three decimals; very small numbers, as p-values are, with an exponent.
fn shown(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 { format!("{number:.1e}") } else { format!("{number:.3}") }
}

/// A table, with the split, the checks and the data it came from.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What it is about.
    pub title: String,
    /// Names and values of what was done: data, split, leakage checks, seed.
    pub about: Vec<(String, String)>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of cells.
    pub rows: Vec<Vec<Cell>>,
}

impl Report {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Says something of how the table came to be.
    pub fn say(&mut self, what: &str, value: impl Into<String>) {
        self.about.push((what.to_owned(), value.into()));
    }

    /// Says what was found in the input, a line a note.
    pub fn say_input(&mut self, notes: &[String]) {
        notes.iter().for_each(|note| self.say("input", note.as_str()));
    }

    /// The number in a column of the row that begins with these words.
    pub fn value(&self, row: &[&str], column: &str) -> Option<f64> {
        let column = self.columns.iter().position(|name| name == column)?;
        let begins = |cells: &&Vec<Cell>| row.iter().zip(*cells).all(|(a, b)| *a == b.text());
        match self.rows.iter().find(begins)?.get(column)? {
            Cell::Number(number) => Some(*number),
            Cell::Estimate(it) => Some(it.value),
            _ => None,
        }
    }

    /// Rows of text, the names of the columns first.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::text).collect());
        std::iter::once(self.columns.clone()).chain(rows).collect()
    }

    /// Tab-separated; estimates take three columns; what was done stands before, after `#`.
    pub fn tsv(&self) -> String {
        let mut text = format!("# {}\n", self.title);
        for (what, value) in &self.about {
            text.push_str(&format!("# {what}: {}\n", value.replace('\n', " ")));
        }
        let wide: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().any(|row| matches!(row.get(column), Some(Cell::Estimate(_)))))
            .collect();
        let names = self
            .columns
            .iter()
            .zip(&wide)
            .map(|(name, wide)| if *wide { format!("{name}\t{name} low\t{name} high") } else { name.clone() });
        text.push_str(&(names.collect::<Vec<_>>().join("\t") + "\n"));
        for row in &self.rows {
            let cells = row.iter().zip(&wide).map(|(cell, wide)| {
                let one = match cell {
                    Cell::Text(text) => text.replace(['\t', '\n'], " "),
                    Cell::Count(count) => count.to_string(),
                    Cell::Number(number) => number.to_string(),
                    Cell::Estimate(it) => match it.range {
                        Some((low, high)) => return format!("{}\t{low}\t{high}", it.value),
                        None => it.value.to_string(),
                    },
                    Cell::None => String::new(),
                };
                if *wide { format!("{one}\t\t") } else { one }
            });
            text.push_str(&(cells.collect::<Vec<_>>().join("\t") + "\n"));
        }
        text
    }

    /// An object: title, about, and a row an object.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let cells = self.columns.iter().zip(row);
                Value::Object(cells.map(|(name, cell)| (name.clone(), cell.json())).collect::<Map<_, _>>())
            })
            .collect();
        let about: Map<String, Value> = self.about.iter().map(|(what, value)| (what.clone(), json!(value))).collect();
        json!({ "title": self.title, "about": about, "rows": rows })
    }
}
