//! Which rows are held out and which are sampled: told by what a row says, so that neither the
//! order of rows and files nor the format that they are written in matters.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use bft_formats::{Conversation, Sha256};
use serde_json::{Map, Value, json};

use super::{Chat, DataError, Row, RowContent, Rows};

impl Rows {
    /// Splits rows into those to train on and those to hold out: about the share `size` where it is
    /// below 1, at least that many rows else. Equal rows are on the same side, and with a share a
    /// row's side stays what it is whatever rows are beside it.
    ///
    /// # Errors
    /// [`DataError::OneSided`] where one side is empty.
    pub fn hold_out(mut self, size: f64) -> Result<(Self, Self), DataError> {
        let hashes: Vec<u64> = self.rows.iter().map(hash).collect();
        // The largest hash that is held out.
        let last = if size < 1.0 { Some(last_held(size)) } else { nth(&hashes, size as usize) };
        let count = self.rows.len() + self.left_out;
        let held = |hash: &u64| last.is_some_and(|last| *hash <= last);
        let (out, train): (Vec<_>, Vec<_>) = self.rows.into_iter().zip(&hashes).partition(|(_, hash)| held(hash));
        let [out, train] = [out, train].map(|side| side.into_iter().map(|(row, _)| row).collect::<Vec<Row>>());
        if out.is_empty() || train.is_empty() {
            return Err(DataError::OneSided { file: self.file.to_string(), size, held: out.len(), count });
        }
        self.rows = train;
        let file = format!("{} (held out)", self.file).into();
        let held = Self { file, rows: out, skipped: Vec::new(), ignored: Default::default(), ..self.clone_empty() };
        Ok((self, held))
    }

    /// Keeps `most` rows, every choice of them as likely as another, and the same for the same
    /// `seed`. Rows keep their order.
    pub fn sample(&mut self, most: usize, seed: u64) {
        if self.rows.len() <= most {
            return;
        }
        let mut choice = Choice::new(Some(Cap { most, seed, val_size: None }));
        std::mem::take(&mut self.rows).into_iter().for_each(|row| choice.add(row));
        (self.rows, _) = choice.finish();
    }

    /// The same file without its rows.
    fn clone_empty(&self) -> Self {
        let Self { file, files, format, .. } = self;
        let (file, files, format) = (file.clone(), files.clone(), *format);
        Self { file, files, format, rows: Vec::new(), left_out: 0, skipped: Vec::new(), ignored: Default::default() }
    }
}

/// How many of a run's rows are kept as they are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// As in [`Rows::sample`].
    pub most: usize,
    /// As in [`Rows::sample`].
    pub seed: u64,
    /// Beside these, what [`Rows::hold_out`] of this size holds out.
    pub val_size: Option<f64>,
}

/// A row among others that are drawn from.
struct Drawn {
    lot: u64,
    /// Where it stood among all rows.
    index: usize,
    row: Row,
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.lot, self.index).cmp(&(other.lot, other.index))
    }
}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Drawn {}

/// Rows while they are chosen one after another; holds no more than are kept. Without a cap these
/// are all.
pub(super) struct Choice {
    cap: Option<Cap>,
    all: Vec<Row>,
    /// How many rows came.
    count: usize,
    /// How often a hash came: equal rows draw lots each for itself.
    times: HashMap<u64, u32>,
    /// Those with the smallest lots, the largest of these on top.
    drawn: BinaryHeap<Drawn>,
    /// Those that are held out, by their hashes, and how many they are.
    held: BTreeMap<u64, Vec<Drawn>>,
    held_count: usize,
}

impl Choice {
    pub fn new(cap: Option<Cap>) -> Self {
        let (all, times, drawn, held) = Default::default();
        Self { cap, all, count: 0, times, drawn, held, held_count: 0 }
    }

    /// Looks at the next row.
    pub fn add(&mut self, row: Row) {
        self.count += 1;
        let Some(Cap { most, seed, val_size }) = self.cap else {
            self.all.push(row);
            return;
        };
        let hash = hash(&row);
        let time = self.times.entry(hash).or_default();
        let drawn = Drawn { lot: first_of(&format!("{seed} {hash} {time}")), index: self.count, row };
        *time += 1;
        match val_size {
            Some(share) if share < 1.0 && hash <= last_held(share) => self.hold(hash, drawn),
            Some(size) if size >= 1.0 => {
                self.hold(hash, drawn);
                // The largest hash goes once the others are enough without it.
                while let Some(last) = self.held.last_entry() {
                    if self.held_count - last.get().len() < size as usize {
                        break;
                    }
                    let rows = last.remove();
                    self.held_count -= rows.len();
                    rows.into_iter().for_each(|row| self.draw(row, most));
                }
            }
            _ => self.draw(drawn, most),
        }
    }

    fn hold(&mut self, hash: u64, row: Drawn) {
        self.held.entry(hash).or_default().push(row);
        self.held_count += 1;
    }

    fn draw(&mut self, row: Drawn, most: usize) {
        self.drawn.push(row);
        if self.drawn.len() > most {
            self.drawn.pop();
        }
    }

    /// The rows that are kept, in the order in which they came, and how many are not.
    pub fn finish(self) -> (Vec<Row>, usize) {
        if self.cap.is_none() {
            return (self.all, 0);
        }
        let mut kept = self.drawn.into_vec();
        kept.extend(self.held.into_values().flatten());
        kept.sort_unstable_by_key(|drawn| drawn.index);
        let left_out = self.count - kept.len();
        (kept.into_iter().map(|drawn| drawn.row).collect(), left_out)
    }
}

/// The largest hash that is held out where this share of the rows is.
fn last_held(share: f64) -> u64 {
    (share * 2f64.powi(64)) as u64
}

/// The largest hash among those of the `count` rows with the smallest.
fn nth(hashes: &[u64], count: usize) -> Option<u64> {
    let mut sorted = hashes.to_vec();
    sorted.sort_unstable();
    sorted.get(count.min(sorted.len()).checked_sub(1)?).copied()
}

/// The first eight bytes of a text's SHA-256.
fn first_of(text: &str) -> u64 {
    let mut hasher = Sha256::default();
    hasher.update(text.as_bytes());
    u64::from_str_radix(&hasher.finish()[..16], 16).unwrap_or_default()
}

/// A number that equal rows have in common, on every machine and in every version.
fn hash(row: &Row) -> u64 {
    let content = match &row.content {
        RowContent::Text(text) => json!(["text", text]),
        RowContent::PromptCompletion { prompt, completion } => json!(["prompt", prompt, completion]),
        RowContent::Tokens { input_ids, labels } => json!(["tokens", input_ids, labels]),
        RowContent::Chat(Chat { conversation, masked }) => {
            let Conversation { messages, tools, documents, variables } = conversation;
            sorted(json!(["chat", messages, masked, tools, documents, variables]))
        }
    };
    first_of(&content.to_string())
}

/// The same value with the keys of its objects in order: columns have another order than keys.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(entries) => entries.into_iter().map(sorted).collect(),
        Value::Object(entries) => {
            let entries: BTreeMap<String, Value> = entries.into_iter().collect();
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rows::{RowOptions, parse_rows};

    fn rows(texts: impl IntoIterator<Item = usize>) -> Rows {
        let lines: Vec<String> = texts.into_iter().map(|i| format!("{{\"text\": \"row {i}\"}}\n")).collect();
        parse_rows("d", lines.concat().into_bytes(), &RowOptions::default()).unwrap()
    }

    fn texts(rows: &Rows) -> Vec<String> {
        let text = |row: &Row| match &row.content {
            RowContent::Text(text) => text.clone(),
            other => panic!("not a text: {other:?}"),
        };
        rows.rows.iter().map(text).collect()
    }

    #[test]
    fn a_row_is_on_its_side_whatever_is_beside_it() {
        let (train, held) = rows(0..1000).hold_out(0.1).unwrap();
        assert_eq!(train.rows.len() + held.rows.len(), 1000);
        assert!((70..130).contains(&held.rows.len()), "{}", held.rows.len());
        let held: BTreeSet<String> = texts(&held).into_iter().collect();
        // Backwards, twice each, and half of them.
        for some in [(0..1000).rev().chain(0..1000).collect::<Vec<_>>(), (0..1000).step_by(2).collect()] {
            let (train, again) = rows(some).hold_out(0.1).unwrap();
            assert!(texts(&again).iter().all(|text| held.contains(text)));
            assert!(texts(&train).iter().all(|text| !held.contains(text)));
        }
        // A larger share holds the same rows and more.
        let (_, more) = rows(0..1000).hold_out(0.2).unwrap();
        assert!(held.is_subset(&texts(&more).into_iter().collect()));
        // As it was when this was written.
        let (_, first) = rows(0..20).hold_out(3.0).unwrap();
        assert_eq!(texts(&first), FIRST);
    }

    const FIRST: [&str; 3] = ["row 10", "row 11", "row 15"];

    #[test]
    fn a_count_is_held_out_and_equal_rows_stay_together() {
        let (train, held) = rows(0..50).hold_out(7.0).unwrap();
        assert_eq!((train.rows.len(), held.rows.len()), (43, 7));
        let (train, held) = rows((0..50).flat_map(|i| [i, i, i])).hold_out(7.0).unwrap();
        assert_eq!((train.rows.len(), held.rows.len()), (141, 9));
        let sides = [&train, &held].map(|side| texts(side).into_iter().collect::<BTreeSet<_>>());
        assert!(sides[0].is_disjoint(&sides[1]));
        for size in [50.0, 1e300, 1e-9] {
            let error = rows(0..50).hold_out(size).unwrap_err().to_string();
            assert!(error.contains("of the 50 rows of d, and both sides need some"), "{error}");
        }
    }

    #[test]
    fn what_a_row_says_counts_and_not_how_it_is_written() {
        let one = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
        let other = r#"{"id": 7, "conversations": [{"from": "human", "value": "q"}, {"value": "a", "from": "gpt"}]}"#;
        let masked =
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}"#;
        let hash = |text: &str| hash(&parse_rows("d", text.as_bytes(), &RowOptions::default()).unwrap().rows[0]);
        assert_eq!(hash(one), hash(other));
        assert_ne!(hash(one), hash(masked));
    }

    #[test]
    fn what_is_chosen_while_reading_is_what_is_chosen_of_all() {
        let several = |order: &[usize]| order.iter().flat_map(|i| [*i, i / 2, i / 3]).collect::<Vec<_>>();
        let up: Vec<usize> = (0..60).collect();
        let down: Vec<usize> = (0..60).rev().collect();
        let text = |numbers: &[usize]| {
            numbers.iter().map(|i| format!("{{\"text\": \"row {i}\"}}\n")).collect::<String>().into_bytes()
        };
        for val_size in [None, Some(0.2), Some(1.0), Some(9.0), Some(150.0)] {
            for most in [1, 5, 40, 1000] {
                let chosen = |order: &[usize], cap: Option<Cap>| {
                    let options = RowOptions { cap, ..RowOptions::default() };
                    let read = parse_rows("d", text(&several(order)), &options).unwrap();
                    let all = read.rows.len() + read.left_out;
                    let (mut train, held) = match val_size {
                        None => (read, None),
                        Some(size) => read.hold_out(size).map(|(train, held)| (train, Some(held))).unwrap(),
                    };
                    let before = train.rows.len() + train.left_out;
                    train.sample(most, 7);
                    (all, before, train.rows, held.map(|held| held.rows))
                };
                let cap = Some(Cap { most, seed: 7, val_size });
                assert_eq!(chosen(&up, cap), chosen(&up, None), "{val_size:?} {most}");
                let texts = |order: &[usize]| {
                    let (_, _, train, held) = chosen(order, cap);
                    let text = |row: Row| format!("{:?}", row.content);
                    let mut texts =
                        [train, held.unwrap_or_default()].map(|rows| rows.into_iter().map(text).collect::<Vec<_>>());
                    texts.iter_mut().for_each(|texts| texts.sort());
                    texts
                };
                assert_eq!(texts(&up), texts(&down), "{val_size:?} {most}");
            }
        }
        // As SHA-256 of seed, hash and time draws them.
        let mut drawn = rows((0..12).chain([3]));
        drawn.sample(4, 7);
        assert_eq!(texts(&drawn), ["row 3", "row 7", "row 9", "row 10"]);
    }

    #[test]
    fn every_choice_is_as_likely_as_another() {
        let sample = |seed| {
            let mut rows = rows([0, 1, 2, 2, 3]);
            rows.sample(2, seed);
            texts(&rows)
        };
        assert_eq!(sample(5), sample(5));
        let mut counts: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        (0..4000).for_each(|seed| *counts.entry(sample(seed)).or_default() += 1);
        // Ten pairs, of which three are alike, one is of the twin rows, and the order is kept.
        assert_eq!(counts.len(), 7);
        for (pair, count) in counts {
            let twins = pair.iter().filter(|text| text.as_str() == "row 2").count();
            let expected = if twins == 1 { 800 } else { 400 };
            assert!(count.abs_diff(expected) < 100, "{pair:?}: {count}");
            assert!(pair.is_sorted());
        }
        let mut few = rows(0..3);
        few.sample(9, 0);
        assert_eq!(few.rows.len(), 3);
    }
}
