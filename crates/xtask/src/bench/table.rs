//! The table that `cargo xtask bench` prints and writes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

/// Rows, and what made them.
pub struct Table {
    command: String,
    rows: Vec<String>,
    /// Programs with their versions, and adapters.
    with: BTreeSet<String>,
}

impl Table {
    pub fn new(command: String) -> Self {
        Self { command, rows: Vec::new(), with: BTreeSet::new() }
    }

    /// Notes the versions and the adapter of a program by its first line.
    pub fn note(&mut self, about: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(versions) = about["versions"].as_object() {
            let named = versions.iter().filter_map(|(name, version)| Some(format!("{name} {}", version.as_str()?)));
            self.with.extend(named);
        }
        if let (Some(tool), Some(version)) = (text(&about["tool"]), text(&about["version"])) {
            self.with.insert(format!("{tool} {version}"));
        }
        if let (Some(tool), Some(device)) = (text(&about["tool"]), text(&about["device"])) {
            self.with.insert(format!("{tool} on {device}"));
        }
    }

    pub fn rows(&mut self, rows: Vec<String>) {
        self.rows.extend(rows);
    }

    pub fn markdown(&self) -> String {
        let with: Vec<&str> = self.with.iter().map(String::as_str).collect();
        format!(
            "`{}` on {}, bft {} with {}. Each case's programs ran in turn.\n\n\
             | case | bft | bft peak | against | there | peak | ratio |\n|---|---|---|---|---|---|---|\n{}\n",
            self.command,
            machine(),
            env!("CARGO_PKG_VERSION"),
            with.join(", "),
            self.rows.join("\n")
        )
    }

    /// Writes it whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let problem = |error: std::io::Error| format!("{}: cannot be written: {error}", path.display());
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(problem)?;
        let mut file = tempfile::Builder::new().prefix(".bft-").tempfile_in(folder).map_err(problem)?;
        file.write_all(self.markdown().as_bytes()).map_err(problem)?;
        file.as_file().sync_all().map_err(problem)?;
        file.persist(path).map_err(|failed| problem(failed.error))?;
        Ok(())
    }
}

/// Cores, processor and system, as far as they are known.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{cores} cores of {name}, {}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_names_its_command_machine_and_programs_and_replaces_the_last() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("new/table.md");
        let mut table = Table::new("cargo xtask bench embed".to_owned());
        table.note(&json!({"tool": "pytorch", "versions": {"torch": "2.1", "peft": "0.9"}}));
        table.note(&json!({"tool": "burn", "version": "0.22.1", "device": "llvmpipe"}));
        table.rows(vec!["| embed | 1 | 2 | 3 | 4 | 5 | 6 |".to_owned()]);
        table.write(&path).expect("written");
        table.write(&path).expect("written again");
        let text = std::fs::read_to_string(&path).expect("there");
        for part in [
            "`cargo xtask bench embed` on ",
            " cores of ",
            "burn 0.22.1, burn on llvmpipe, peft 0.9, torch 2.1",
            "| embed | 1 | 2 | 3 | 4 | 5 | 6 |\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new")).expect("a folder").count(), 1);
    }
}
