//! What is done so far of a long run, a line an answer, so that a stopped run goes on.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use bft_formats::Adapter;
use serde_json::{Value, json};

use crate::error::{BioError, Result, read_text};

/// Answers by name and question.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    known: HashMap<(String, String), Value>,
}

/// A word for settings: answers made with others are not used.
pub fn key(settings: &[&str]) -> String {
    let mut digest = bft_formats::sha256_bytes(settings.join("\0").as_bytes());
    digest.truncate(16);
    digest
}

/// SHA-256 of a model and of the adapter on it: files are moved and tuned again, contents tell.
pub fn fingerprint(model: &str, adapter: Option<&Path>) -> Result<String> {
    let adapter = adapter.map(Adapter::sha256).transpose()?;
    Ok(format!("{model} {}", adapter.unwrap_or_default()))
}

impl Partial {
    /// Opens a file, or begins one; lines of other settings and a line that was cut short are
    /// dropped.
    pub fn open(path: &Path, key: &str) -> Result<Self> {
        let mut known = HashMap::new();
        let mut kept = format!("{}\n", json!({ "settings": key }));
        if path.exists() {
            let text = read_text(path)?;
            let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or(Value::Null));
            if lines.next().is_some_and(|first| first["settings"] == key) {
                for line in lines.take_while(|line| !line.is_null()) {
                    if let (Some(name), Some(asked)) = (line["name"].as_str(), line["asked"].as_str()) {
                        kept.push_str(&format!("{line}\n"));
                        known.insert((name.to_owned(), asked.to_owned()), line["answer"].clone());
                    }
                }
            }
        }
        bft_formats::write_atomic(path, |out| out.write_all(kept.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|error| BioError::file(path, format!("cannot be written: {error}")))?;
        Ok(Self { path: path.to_path_buf(), file, known })
    }

    /// The answer to a question about a name.
    pub fn get(&self, name: &str, asked: &str) -> Option<&Value> {
        self.known.get(&(name.to_owned(), asked.to_owned()))
    }

    /// Keeps an answer.
    pub fn put(&mut self, name: &str, asked: &str, answer: Value) -> Result<()> {
        let line = format!("{}\n", json!({ "name": name, "asked": asked, "answer": answer }));
        let wrote = self.file.write_all(line.as_bytes());
        wrote.map_err(|error| BioError::file(&self.path, format!("cannot be written: {error}")))?;
        self.known.insert((name.to_owned(), asked.to_owned()), answer);
        Ok(())
    }

    /// Removes the file: the run is over.
    pub fn remove(self) {
        drop(self.file);
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_run_goes_on_and_other_settings_begin_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("partial");
        let mut run = Partial::open(&path, "a").expect("opened");
        run.put("TP53", "who?", json!("a gene")).expect("kept");
        drop(run);
        let cut = format!("{}{{\"name\": \"EG", std::fs::read_to_string(&path).expect("a file"));
        std::fs::write(&path, cut).expect("cut short");
        let run = Partial::open(&path, "a").expect("opened");
        assert_eq!(run.get("TP53", "who?"), Some(&json!("a gene")));
        assert_eq!(run.get("TP53", "what?"), None);
        drop(run);
        let run = Partial::open(&path, "b").expect("opened");
        assert_eq!(run.get("TP53", "who?"), None);
    }

    #[test]
    fn an_adapter_that_is_scaled_otherwise_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let tuned = |alpha: u32, weights: &str| {
            let write = |name, text: &str| std::fs::write(folder.path().join(name), text);
            write("adapter_config.json", &format!("{{\"lora_alpha\": {alpha}}}")).expect("written");
            write("adapter_model.safetensors", weights).expect("written");
            fingerprint("model", Some(folder.path())).expect("read")
        };
        let first = tuned(32, "weights");
        assert_ne!(first, tuned(16, "weights"));
        assert_ne!(first, tuned(32, "others"));
        assert_eq!(first, tuned(32, "weights"));
    }
}
