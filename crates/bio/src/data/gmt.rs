//! Gene sets: GMT files (name, description, genes), and the complexes of CORUM.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::error::{BioError, Result, read_text};
use crate::genes::resolver::{Mapping, Resolver};
use bft_formats::Random;

use super::genome::GeneId;
use super::table::Table;

/// One set of genes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneSet {
    /// Its name.
    pub name: String,
    /// Its genes, each once, sorted.
    pub genes: Vec<GeneId>,
}

/// Sets of a file with what was found wrong.
#[derive(Debug, Default)]
pub struct GeneSets {
    /// Sets with at least one gene.
    pub sets: Vec<GeneSet>,
    /// What was left out and why, one line each.
    pub notes: Vec<String>,
}

impl GeneSets {
    /// Reads a GMT file.
    pub fn read_gmt(path: &Path, resolver: &Resolver<'_>) -> Result<Self> {
        let text = read_text(path)?;
        let mut found = Self::default();
        let mut named: HashMap<&str, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("line {}", index + 1);
            if line.starts_with('#') {
                found.notes.push(format!("{place} begins with # and is left out as a comment"));
                continue;
            }
            let cells: Vec<&str> = line.trim_end_matches(['\r', '\t']).split('\t').collect();
            if named.is_empty() && cells.len() == 1 {
                return Err(BioError::file(
                    path,
                    format!("{place} has no tabs: expected GMT, name, description and genes between tabs"),
                ));
            }
            if let Some(first) = named.insert(cells[0], index + 1) {
                found.notes.push(format!(
                    "{place}, {}: a set of this name stands on line {first}, too; each is taken as a set of its own",
                    cells[0]
                ));
            }
            let words = cells.iter().skip(2).copied().filter(|word| !word.trim().is_empty());
            found.add(cells[0], &place, words, resolver);
        }
        found.checked(path)
    }

    /// Reads the table of complexes: ID, Name, Genes between semicolons.
    pub fn read_complexes(path: &Path, resolver: &Resolver<'_>) -> Result<Self> {
        let table = Table::read(path)?;
        let mut found = Self::default();
        let (name, genes) = (table.column(path, "Name")?, table.column(path, "Genes")?);
        for (line, row) in table.rows.iter().skip(1) {
            let cell = |column: usize| row.get(column).map_or("", String::as_str);
            let words = cell(genes).split(';').filter(|word| !word.trim().is_empty());
            found.add(cell(name), &format!("line {line}"), words, resolver);
        }
        found.checked(path)
    }

    /// Sets of 2 to 15 genes, drawn by seed until they hold so many genes.
    pub fn drawn(&self, genes: usize, seed: u64) -> Self {
        let mut order: Vec<&GeneSet> = self.sets.iter().collect();
        order.retain(|set| (2..=15).contains(&set.genes.len()));
        Random::stream(seed, "sets").shuffle(&mut order);
        let mut held: BTreeSet<GeneId> = BTreeSet::new();
        let mut sets = Vec::new();
        for set in order {
            if held.len() >= genes {
                break;
            }
            held.extend(set.genes.iter().copied());
            sets.push(set.clone());
        }
        Self { sets, notes: Vec::new() }
    }

    fn add<'w>(&mut self, name: &str, place: &str, words: impl Iterator<Item = &'w str>, resolver: &Resolver<'_>) {
        let mapping = Mapping::new(resolver, words);
        let mut genes: Vec<GeneId> = mapping.genes.iter().map(|(gene, _)| *gene).collect();
        genes.sort_unstable();
        let lost: Vec<&str> = mapping
            .unmapped
            .iter()
            .map(|(word, _)| word.as_str())
            .chain(mapping.ambiguous.iter().map(|(word, _)| word.as_str()))
            .collect();
        if !lost.is_empty() {
            self.notes.push(format!("{place}, {name}: no gene for {}", lost.join(", ")));
        }
        if !mapping.missing.is_empty() {
            self.notes.push(format!("{place}, {name}: missing values left out: {}", mapping.missing.join(", ")));
        }
        if !mapping.duplicates.is_empty() {
            let twice: Vec<&str> = mapping.duplicates.iter().map(|(word, _)| word.as_str()).collect();
            self.notes.push(format!("{place}, {name}: of genes that are there already: {}", twice.join(", ")));
        }
        if genes.is_empty() {
            self.notes.push(format!("{place}, {name}: an empty set, left out"));
            return;
        }
        self.sets.push(GeneSet { name: name.to_owned(), genes });
    }

    fn checked(self, path: &Path) -> Result<Self> {
        if self.sets.is_empty() {
            return Err(BioError::file(path, "holds no set with a known gene"));
        }
        Ok(self)
    }
}
