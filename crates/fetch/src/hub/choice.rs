//! Which files of a repository a model is opened from.

use super::error::HubError;
use super::reference::{Reference, Which};

/// What is to be fetched and then opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A folder: what stands beside the weights, then the weights, or the index that names them.
    Folder {
        /// Configuration, tokenizer, templates.
        beside: Vec<String>,
        /// The one file of weights; none where the index names them.
        weights: Option<String>,
    },
    /// A GGUF file; its parts, where it is split. The first is the one to open.
    Gguf(Vec<String>),
}

/// The index of weights in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const CONFIG: &str = "config.json";

/// Most names that a message lists.
const LISTED: usize = 30;

/// Chooses among the files of a repository.
///
/// # Errors
/// Where nothing fits, or several GGUF files do.
pub(super) fn choose(wanted: &Reference, files: &[String]) -> Result<Choice, HubError> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let id = || wanted.id.clone();
    // Projectors of images and importance matrices are GGUF files, too, and no models.
    let model = |file: &&String| {
        let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
        name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
    };
    let models: Vec<&String> = files.iter().filter(model).collect();
    let listed = |some: &[&String]| {
        let firsts: Vec<&str> = some.iter().filter(|file| is_first(file)).map(|file| file.as_str()).collect();
        let more = if firsts.len() > LISTED { format!(" and {} more", firsts.len() - LISTED) } else { String::new() };
        let shown = firsts[..firsts.len().min(LISTED)].join(", ");
        if shown.is_empty() { "none".to_owned() } else { format!("{shown}{more}") }
    };
    let missing = |file: String| HubError::NoFile { id: id(), file, known: listed(&models) };
    let (fitting, word) = match &wanted.which {
        Which::Model if has(CONFIG) && (has(SINGLE) || has(INDEX)) => {
            let beside = files.iter().filter(|file| is_beside(file)).cloned().collect();
            return Ok(Choice::Folder { beside, weights: has(SINGLE).then(|| SINGLE.to_owned()) });
        }
        Which::Model if models.is_empty() => {
            let other =
                files.iter().find(|file| [".safetensors", ".bin", ".pth", ".pt"].iter().any(|end| file.ends_with(end)));
            let found = other.map_or_else(String::new, |file| format!(", but {file}"));
            return Err(HubError::NoWeights { id: id(), found });
        }
        Which::Model => (models.clone(), String::new()),
        Which::File(file) => (vec![file], String::new()),
        Which::Quantisation(word) => {
            let fitting: Vec<&String> = models.iter().filter(|file| has_word(file, word)).copied().collect();
            if fitting.is_empty() {
                return Err(missing(format!("with '{word}' in its name")));
            }
            (fitting, format!(" with '{word}' in their names"))
        }
    };
    let mut whole: Vec<Vec<String>> = fitting.iter().map(|file| every_part(file)).collect();
    // Each part of a split file stands for all of them.
    whole.sort_unstable();
    whole.dedup();
    match &whole[..] {
        [parts] => match parts.iter().find(|part| !has(part)) {
            Some(part) => Err(missing(part.clone())),
            None => Ok(Choice::Gguf(whole.swap_remove(0))),
        },
        _ => Err(HubError::Several { id: id(), word, known: listed(&fitting) }),
    }
}

/// What the formats read beside weights: texts in the folder itself, further chat templates, and
/// the settings and weights of a sentence encoder's steps.
fn is_beside(file: &str) -> bool {
    match file.rsplit_once('/') {
        // Other programs have indices of their own.
        None if file.ends_with(".index.json") => file == INDEX,
        None => file.ends_with(".json") || file.ends_with(".jinja") || file == "vocab.txt",
        Some(("additional_chat_templates", name)) => name.ends_with(".jinja"),
        Some((folder, "config.json" | SINGLE)) => {
            folder.split_once('_').is_some_and(|(number, _)| number.parse::<u32>().is_ok()) && !folder.contains('/')
        }
        Some(_) => false,
    }
}

/// `name-`, number and count of a split file: `name-00001-of-00003.gguf`.
fn split(file: &str) -> Option<(&str, u32, u32)> {
    let stem = file.get(..file.len().checked_sub(".gguf".len())?)?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<u32>().ok()).flatten();
    Some((name, digits(number)?, digits(count)?))
}

fn is_first(file: &str) -> bool {
    split(file).is_none_or(|(_, number, _)| number == 1)
}

/// The names of all parts of a split file, by the name of one; the name itself for a whole one.
fn every_part(file: &str) -> Vec<String> {
    match split(file) {
        None => vec![file.to_owned()],
        Some((name, _, count)) => (1..=count).map(|number| format!("{name}-{number:05}-of-{count:05}.gguf")).collect(),
    }
}

/// Whether a file's name has a word between its dots and dashes; case is no difference.
fn has_word(file: &str, word: &str) -> bool {
    let name = file.to_ascii_lowercase();
    let word = word.to_ascii_lowercase();
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    name.match_indices(&word)
        .any(|(at, _)| edge(name[..at].chars().next_back()) && edge(name[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(reference: &str, files: &[&str]) -> Result<Choice, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&Reference::parse(reference).expect("a reference"), &files).map_err(|error| error.to_string())
    }

    fn gguf(parts: &[&str]) -> Result<Choice, String> {
        Ok(Choice::Gguf(parts.iter().map(|part| (*part).to_owned()).collect()))
    }

    #[test]
    fn a_folder_is_what_the_formats_read_and_no_more() {
        let beside = [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "additional_chat_templates/tool_use.jinja",
            "chat_template.jinja",
            "config.json",
            "tokenizer.json",
            "vocab.txt",
        ];
        let rest = [
            "README.md",
            "coreml/config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/model.safetensors",
            "original/params.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "m.Q4_0.gguf",
        ];
        let all: Vec<&str> = beside.iter().chain(&rest).copied().collect();
        let Ok(Choice::Folder { beside: found, weights }) = chosen("o/n", &all) else { panic!("a folder") };
        assert_eq!(found, beside);
        assert_eq!(weights.as_deref(), Some("model.safetensors"));
        let sharded = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"];
        let Ok(Choice::Folder { beside: found, weights }) = chosen("o/n", &sharded) else { panic!("a folder") };
        assert_eq!((found.len(), weights), (2, None));
    }

    #[test]
    fn one_gguf_file_is_taken_and_of_several_the_one_that_is_named() {
        let files =
            ["README.md", "mmproj-f16.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.q8_0.gguf", "sub/m-BF16.gguf"];
        assert_eq!(chosen("o/n", &["a.gguf", "mmproj-a.gguf", "a.imatrix.gguf"]), gguf(&["a.gguf"]));
        assert_eq!(chosen("o/n:q4_k_m", &files), gguf(&["m-Q4_K_M.gguf"]));
        assert_eq!(chosen("o/n:Q8_0", &files), gguf(&["m.q8_0.gguf"]));
        assert_eq!(chosen("o/n:bf16", &files), gguf(&["sub/m-BF16.gguf"]));
        assert_eq!(chosen("hf:o/n/m-Q4_K_S.gguf", &files), gguf(&["m-Q4_K_S.gguf"]));
        let error = chosen("o/n", &files).expect_err("several");
        assert!(error.contains("several GGUF files: name one") && error.contains("m-Q4_K_S.gguf"), "{error}");
        assert!(!error.contains("mmproj"), "{error}");
        // A word is whole: Q4 is in none of these, nor is K_M.
        for word in ["Q4", "K_M", "Q6_K"] {
            let error = chosen(&format!("o/n:{word}"), &files).expect_err(word);
            assert!(error.contains(&format!("no file with '{word}' in its name")), "{error}");
        }
        let error = chosen("o/n:Q8_0", &["a-Q8_0.gguf", "b-Q8_0.gguf"]).expect_err("two");
        assert!(error.contains("with 'Q8_0' in their names") && error.contains("a-Q8_0.gguf, b-Q8_0.gguf"), "{error}");
        let error = chosen("hf:o/n/other.gguf", &files).expect_err("missing");
        assert!(error.contains("no file other.gguf") && error.contains("m-Q4_K_M.gguf"), "{error}");
    }

    #[test]
    fn a_split_file_is_one_file() {
        let files = ["q/m-Q8_0-00002-of-00002.gguf", "q/m-Q8_0-00001-of-00002.gguf", "n-Q8_0-00001-of-00003.gguf"];
        let whole = gguf(&["q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf"]);
        assert_eq!(chosen("hf:o/n/q/m-Q8_0-00002-of-00002.gguf", &files), whole);
        assert_eq!(chosen("o/n:Q8_0", &files[..2]), whole);
        let error = chosen("o/n:Q8_0", &files).expect_err("two files");
        assert!(error.ends_with("there are q/m-Q8_0-00001-of-00002.gguf, n-Q8_0-00001-of-00003.gguf"), "{error}");
        let error = chosen("hf:o/n/n-Q8_0-00001-of-00003.gguf", &files).expect_err("a part is missing");
        assert!(error.contains("no file n-Q8_0-00002-of-00003.gguf"), "{error}");
    }

    #[test]
    fn weights_of_another_kind_are_named() {
        let error = chosen("o/n", &["config.json", "pytorch_model.bin"]).expect_err("no weights");
        assert!(error.contains("but pytorch_model.bin"), "{error}");
        assert!(chosen("o/n", &["README.md"]).expect_err("nothing").contains("nor a GGUF file;"));
    }
}
