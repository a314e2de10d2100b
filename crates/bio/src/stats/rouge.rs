//! ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), F measures, as Google's rouge-score counts them with
//! stemming.

use std::collections::HashMap;

use super::porter::stem;

/// The three F measures, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Rouge {
    /// Single words.
    pub one: f64,
    /// Pairs of words.
    pub two: f64,
    /// The longest common subsequence.
    pub l: f64,
}

/// Scores a prediction against a reference.
pub fn rouge(reference: &str, prediction: &str) -> Rouge {
    let (reference, prediction) = (tokens(reference), tokens(prediction));
    Rouge {
        one: overlap(&reference, &prediction, 1),
        two: overlap(&reference, &prediction, 2),
        l: f_measure(longest_common(&reference, &prediction), reference.len(), prediction.len()),
    }
}

/// Runs of ASCII letters and digits in lower case; those of more than three are stemmed.
fn tokens(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .map(|word| if word.len() > 3 { stem(word) } else { word.to_owned() })
        .collect()
}

fn overlap(reference: &[String], prediction: &[String], n: usize) -> f64 {
    let mut counts: HashMap<&[String], (usize, usize)> = HashMap::new();
    for gram in reference.windows(n) {
        counts.entry(gram).or_default().0 += 1;
    }
    for gram in prediction.windows(n) {
        counts.entry(gram).or_default().1 += 1;
    }
    let shared = counts.values().map(|(a, b)| a.min(b)).sum();
    let grams = |words: &[String]| (words.len() + 1).saturating_sub(n);
    f_measure(shared, grams(reference), grams(prediction))
}

fn f_measure(shared: usize, reference: usize, prediction: usize) -> f64 {
    if shared == 0 { 0.0 } else { 2.0 * shared as f64 / (reference + prediction) as f64 }
}

fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
