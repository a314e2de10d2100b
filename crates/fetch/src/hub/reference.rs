//! Names of models on the hub, as people write them.

use std::fmt;

use super::error::HubError;

/// A model on the hub, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag or a commit; the hub's main branch where nothing is said.
    pub revision: Option<String>,
    /// Which of its files.
    pub which: Which,
}

/// Which files of a model's repository are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The folder with safetensors, else the only GGUF file.
    Model,
    /// This GGUF file, by its path in the repository.
    File(String),
    /// The GGUF file with this word in its name: Q4_K_M.
    Quantisation(String),
}

impl Reference {
    /// Reads `owner/name`, with `hf:` before it or not, and behind it `@revision` and then
    /// `/file.gguf` or `:Q4_K_M`.
    ///
    /// # Errors
    /// [`HubError::Name`] for anything else.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |problem| HubError::Name { found: text.to_owned(), problem };
        let rest = text.strip_prefix("hf:").unwrap_or(text);
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (owner, rest) = rest.split_once('/').ok_or_else(|| wrong("it has no owner before the name"))?;
        let (name, mut rest) = rest.split_at(rest.find(['/', '@', ':']).unwrap_or(rest.len()));
        if !is_word(owner) || !is_word(name) {
            return Err(wrong("an owner and a name are letters, digits, '-', '_' and '.'"));
        }
        let mut revision = None;
        if let Some(after) = rest.strip_prefix('@') {
            let end = after.find(':').unwrap_or(after.len());
            // A pull request's revision has slashes of its own: refs/pr/7.
            let slashes = if after.starts_with("refs/") { 2 } else { 0 };
            let end = after[..end].match_indices('/').nth(slashes).map_or(end, |(place, _)| place);
            let (found, left) = after.split_at(end);
            if !found.split('/').all(is_word) {
                return Err(wrong("a revision is a branch, a tag or a commit behind '@'"));
            }
            (revision, rest) = (Some(found.to_owned()), left);
        }
        let which = match rest.split_at_checked(1) {
            None => Which::Model,
            Some(("/", file)) if is_safe_path(file) && file.to_ascii_lowercase().ends_with(".gguf") => {
                Which::File(file.to_owned())
            }
            Some(("/", _)) => return Err(wrong("behind '/' stands a .gguf file of the repository")),
            Some((_, word)) if is_word(word) => Which::Quantisation(word.to_owned()),
            Some(_) => return Err(wrong("behind ':' stands a word of a GGUF file's name, such as Q4_K_M")),
        };
        Ok(Self { id: format!("{owner}/{name}"), revision, which })
    }

    /// The revision, or the hub's main branch.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Letters, digits, `-`, `_` and `.`, the first of them a letter or a digit: the name of no folder
/// above and no hidden file.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether a file's name in a repository stays below the folder it is put into, on any system.
pub(super) fn is_safe_path(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(part) && !path.contains(['\\', ':']) && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, Option<String>, Which) {
        let found = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (found.id, found.revision, found.which)
    }

    #[test]
    fn a_reference_says_model_revision_and_file() {
        let id = || "Some-Org/Model-0.6B".to_owned();
        let at = |revision: &str| Some(revision.to_owned());
        let word = |word: &str| Which::Quantisation(word.to_owned());
        let file = |file: &str| Which::File(file.to_owned());
        for text in ["Some-Org/Model-0.6B", "hf:Some-Org/Model-0.6B", "hf://Some-Org/Model-0.6B"] {
            assert_eq!(parse(text), (id(), None, Which::Model));
        }
        assert_eq!(parse("Some-Org/Model-0.6B@v2"), (id(), at("v2"), Which::Model));
        assert_eq!(parse("hf:Some-Org/Model-0.6B:Q4_K_M"), (id(), None, word("Q4_K_M")));
        assert_eq!(parse("hf:Some-Org/Model-0.6B@v2:q8_0"), (id(), at("v2"), word("q8_0")));
        assert_eq!(parse("hf:Some-Org/Model-0.6B/m.Q4_0.gguf"), (id(), None, file("m.Q4_0.gguf")));
        assert_eq!(parse("hf:Some-Org/Model-0.6B@v2/q4/m.gguf"), (id(), at("v2"), file("q4/m.gguf")));
        assert_eq!(parse("hf:Some-Org/Model-0.6B@refs/pr/7"), (id(), at("refs/pr/7"), Which::Model));
        assert_eq!(parse("hf:Some-Org/Model-0.6B@refs/pr/7/m.gguf"), (id(), at("refs/pr/7"), file("m.gguf")));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        for (text, reason) in [
            ("hf:gpt2", "no owner"),
            ("hf:", "no owner"),
            ("hf:../name", "letters, digits"),
            ("hf:owner/", "letters, digits"),
            ("hf:owner/na me", "letters, digits"),
            ("hf:owner/name@", "a revision is"),
            ("hf:owner/name@../up", "a revision is"),
            ("hf:owner/name@refs/../up", "a revision is"),
            ("hf:owner/name/model.bin", "a .gguf file"),
            ("hf:owner/name/../m.gguf", "a .gguf file"),
            ("hf:owner/name//m.gguf", "a .gguf file"),
            ("hf:owner/name:", "behind ':'"),
            ("hf:owner/name:a/b", "behind ':'"),
        ] {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("hf:owner/name"), "{text}: {error}");
        }
    }
}
