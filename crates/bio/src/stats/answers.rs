//! Exact match and F1 of answers, as SQuAD's evaluation defines them: in lower case, without ASCII
//! punctuation and English articles, words parted by white space.

use std::collections::HashMap;

/// A text as both measures compare it.
pub fn normalized(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut kept, mut rest) = (String::with_capacity(plain.len()), plain.as_str());
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether an answer is the reference, both normalised.
pub fn exact(reference: &str, answer: &str) -> bool {
    normalized(reference) == normalized(answer)
}

/// F1 of words, each counted as often as it occurs; where one of both has none, whether neither
/// has.
pub fn token_f1(reference: &str, answer: &str) -> f64 {
    let [reference, answer] = [reference, answer].map(normalized);
    let words = |text: &str| text.split_whitespace().count();
    let total = words(&reference) + words(&answer);
    if reference.is_empty() || answer.is_empty() {
        return f64::from(reference == answer);
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    reference.split_whitespace().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut shared = 0;
    for word in answer.split_whitespace() {
        if let Some(left) = counts.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            shared += 1;
        }
    }
    f64::from(2 * shared) / total as f64
}
