//! TF-IDF vectors of texts, as scikit-learn's `TfidfVectorizer` makes them with its defaults.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::features::Features;

/// Words of at least two letters, digits or underscores, in lower case.
pub fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| word.chars().nth(1).is_some())
        .map(str::to_owned)
        .collect()
}

/// Sparse rows of length 1: term counts × (ln((1 + n) / (1 + df)) + 1).
pub fn tfidf(texts: &[String]) -> Features {
    let tokens: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
    let mut frequency: BTreeMap<&str, u32> = BTreeMap::new();
    for document in &tokens {
        let distinct: HashSet<&str> = document.iter().map(String::as_str).collect();
        for word in distinct {
            *frequency.entry(word).or_default() += 1;
        }
    }
    let documents = texts.len() as f64;
    let columns: HashMap<&str, (u32, f64)> = frequency
        .iter()
        .enumerate()
        .map(|(column, (word, count))| {
            let idf = ((1.0 + documents) / (1.0 + f64::from(*count))).ln() + 1.0;
            (*word, (column as u32, idf))
        })
        .collect();
    let rows = tokens.iter().map(|document| {
        let mut row: BTreeMap<u32, f64> = BTreeMap::new();
        for word in document {
            if let Some((column, idf)) = columns.get(word.as_str()) {
                *row.entry(*column).or_default() += idf;
            }
        }
        row.into_iter().map(|(column, value)| (column, value as f32)).collect()
    });
    Features::Sparse { width: columns.len(), rows: rows.collect() }.normalized()
}
