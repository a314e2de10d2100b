//! Models in the hub's cache, as Python's huggingface_hub lays it out.

use std::path::{Component, Path};

/// What the cache's folders say about a model in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPlace {
    /// `owner/name`, or the name alone of a model that has no owner.
    pub id: String,
    /// The commit of its files.
    pub commit: String,
    /// The file in the commit, with `/` between folders; empty for the folder itself.
    pub file: String,
}

impl HubPlace {
    /// Where a path lies in a cache: at or below `models--owner--name/snapshots/COMMIT`.
    pub fn of(path: &Path) -> Option<Self> {
        let parts: Vec<&str> = path
            .components()
            .map(|part| match part {
                Component::Normal(name) => name.to_str().unwrap_or_default(),
                _ => "",
            })
            .collect();
        parts.windows(3).enumerate().find_map(|(start, three)| {
            let [model, "snapshots", commit] = three else { return None };
            let id = model.strip_prefix("models--")?.replace("--", "/");
            let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            let file = parts[start + 3..].join("/");
            is_commit.then(|| Self { id, commit: (*commit).to_owned(), file })
        })
    }

    /// What to ask the hub for to have the same files: `hf:owner/name@commit`, and the file.
    pub fn reference(&self) -> String {
        let Self { id, commit, file } = self;
        if file.is_empty() { format!("hf:{id}@{commit}") } else { format!("hf:{id}@{commit}/{file}") }
    }

    /// The name without its owner.
    pub fn name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_folders() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let of = |path: String| HubPlace::of(Path::new(&path)).map(|place| place.id);
        let id = || Some("some-org/a-model".to_owned());
        assert_eq!(of(format!("/h/hub/models--some-org--a-model/snapshots/{commit}")), id());
        assert_eq!(of(format!("models--some-org--a-model/snapshots/{commit}/q4/m.gguf")), id());
        assert_eq!(of(format!("/h/models--gpt2/snapshots/{commit}/")), Some("gpt2".to_owned()));
        for other in ["models--a--b/snapshots/main", "models--a--b/refs/main", "a/b", ""] {
            assert_eq!(of(other.to_owned()), None, "{other}");
        }
        assert_eq!(of(format!("datasets--a--b/snapshots/{commit}")), None);
        let place = |path: String| HubPlace::of(Path::new(&path)).expect("a place");
        let found = place(format!("models--o--n/snapshots/{commit}"));
        assert_eq!((found.name(), found.commit.as_str()), ("n", commit));
        assert_eq!(found.reference(), format!("hf:o/n@{commit}"));
        let found = place(format!("models--o--n/snapshots/{commit}/q4/m.gguf"));
        assert_eq!(found.reference(), format!("hf:o/n@{commit}/q4/m.gguf"));
    }
}
