//! The nearest known word to a mistyped one: verbs, flags, values, keys, files.

use std::path::{Path, PathBuf};

use clap::Command;

/// Flags that go by another name in other tools, and what they are called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("learning-rate", "lr"),
    ("lora-rank", "rank"),
    ("lora-r", "rank"),
    ("r", "rank"),
    ("lora-alpha", "alpha"),
    ("dropout", "lora-dropout"),
    ("per-device-train-batch-size", "batch-size"),
    ("micro-batch-size", "batch-size"),
    ("gradient-accumulation-steps", "grad-accum"),
    ("num-train-epochs", "epochs"),
    ("num-epochs", "epochs"),
    ("max-steps", "steps"),
    ("iters", "steps"),
    ("lr-scheduler-type", "schedule"),
    ("lr-schedule", "schedule"),
    ("max-seq-length", "max-length"),
    ("max-seq-len", "max-length"),
    ("cutoff-len", "max-length"),
    ("context", "max-length"),
    ("gradient-checkpointing", "checkpoint-activations"),
    ("clip", "max-grad-norm"),
    ("out", "output"),
    ("output-dir", "output"),
    ("train-data", "data"),
    ("dataset", "data"),
    ("model-name-or-path", "model"),
    ("base-model", "model"),
    ("lora", "adapter"),
    ("adapter-path", "adapter"),
    ("max-tokens", "max-new-tokens"),
    ("n-predict", "max-new-tokens"),
    ("temp", "temperature"),
    ("pool", "pooling"),
    ("loss-type", "loss"),
    ("window", "group-size"),
    ("group", "group-size"),
    ("eval-steps", "eval-every"),
    ("save-steps", "save-every"),
    ("load-best-model-at-end", "save-best"),
    ("early-stopping-patience", "patience"),
    ("eval-size", "val-size"),
    ("validation-split", "val-size"),
    ("validation-split-percentage", "val-size"),
    ("test-size", "val-size"),
    ("test-split", "val-size"),
    ("split-dataset-ratio", "val-size"),
    ("max-train-samples", "max-samples"),
    ("num-samples", "max-samples"),
    ("column-mapping", "columns"),
];

/// The long flags of a verb, without dashes.
pub fn long_flags(verb: &Command) -> impl Iterator<Item = &str> {
    verb.get_arguments().filter_map(clap::Arg::get_long)
}

/// The candidate nearest to `word`, if one is near enough that it was probably meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = normal(word);
    if word.is_empty() {
        return None;
    }
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let theirs = OTHER_NAMES.iter().filter(|(_, ours)| *ours == candidate);
        let near =
            theirs.map(|(theirs, _)| likeness(&word, theirs)).fold(likeness(&word, &normal(candidate)), f64::max);
        if near >= NEAR && best.is_none_or(|(score, _)| near > score) {
            best = Some((near, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `; did you mean X?` with each name shown by `show`, or nothing.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    show: impl Fn(&str) -> String,
) -> String {
    nearest(word, candidates).map_or_else(String::new, |found| format!("; did you mean {}?", show(found)))
}

/// The path beside `path` whose name is nearest, for "no such file" messages.
pub fn nearest_path(path: &Path) -> Option<PathBuf> {
    // Walk to the deepest folder that exists: a typo may sit in any part of a path.
    let mut existing = path.parent()?;
    let mut missing = path.file_name()?;
    while !existing.as_os_str().is_empty() && !existing.is_dir() {
        missing = existing.file_name()?;
        existing = existing.parent()?;
    }
    let folder = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .take(10_000)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let found = nearest(&missing.to_string_lossy(), names.iter().map(String::as_str))?;
    Some(existing.join(found))
}

/// Likeness from which on a word was probably meant: one letter of three may differ.
const NEAR: f64 = 0.65;

/// From 0 (nothing in common) to 1 (the same word).
fn likeness(word: &str, candidate: &str) -> f64 {
    let edits = strsim::normalized_damerau_levenshtein(word, candidate);
    // What is alike in the one part and of another meaning in the other (`min-length`,
    // `max-length`) is no typo.
    let parts = |text: &str| text.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (parts(word), parts(candidate));
    let far = |(our, their): (&String, &String)| {
        our.len().min(their.len()) > 1 && strsim::normalized_damerau_levenshtein(our, their) < 0.5
    };
    if ours.len() == theirs.len() && ours.len() > 1 && !candidate.starts_with(word) && ours.iter().zip(&theirs).any(far)
    {
        return 0.0;
    }
    // A word that starts another ("checkpoint" for "checkpoint-activations") is near it.
    let shorter = word.len().min(candidate.len());
    let prefix = shorter >= 3 && word != candidate && (candidate.starts_with(word) || word.starts_with(candidate));
    if prefix { edits.max(0.75) } else { edits }
}

/// Case, leading dashes and `_` for `-` are no difference.
fn normal(word: &str) -> String {
    word.trim_start_matches('-').to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [&str; 6] = ["lr", "rank", "batch-size", "max-length", "lora-dropout", "loss"];

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(nearest("--rnak", FLAGS), Some("rank"));
        assert_eq!(nearest("batchsize", FLAGS), Some("batch-size"));
        assert_eq!(nearest("batch_size", FLAGS), Some("batch-size"));
        assert_eq!(nearest("LOSS", FLAGS), Some("loss"));
        assert_eq!(nearest("max", FLAGS), Some("max-length"));
    }

    #[test]
    fn other_tools_names_find_ours() {
        assert_eq!(nearest("--learning-rate", FLAGS), Some("lr"));
        assert_eq!(nearest("max_seq_length", FLAGS), Some("max-length"));
        assert_eq!(nearest("leraning-rate", FLAGS), Some("lr"));
        // Only where the verb has the flag.
        assert_eq!(nearest("gradient-accumulation-steps", FLAGS), None);
    }

    #[test]
    fn a_far_word_finds_nothing() {
        assert_eq!(nearest("xylophone", FLAGS), None);
        assert_eq!(nearest("", FLAGS), None);
        assert_eq!(nearest("--", FLAGS), None);
    }

    #[test]
    fn a_mistyped_path_finds_its_neighbour() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = folder.path().join("smollm2");
        std::fs::create_dir_all(&model).expect("a folder");
        std::fs::write(model.join("model.gguf"), b"x").expect("a file");
        assert_eq!(nearest_path(&folder.path().join("smolm2/model.gguf")), Some(model.clone()));
        assert_eq!(nearest_path(&model.join("modle.gguf")), Some(model.join("model.gguf")));
        assert_eq!(nearest_path(&model.join("zzzz")), None);
    }
}
