//! Pairs of genes with labels, and what can be wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{BioError, Result};
use crate::genes::list::is_header;
use crate::genes::resolver::{Resolved, Resolver};

use super::genome::GeneId;
use super::gmt::GeneSets;
use super::table::Table;

/// Two genes, the smaller id first.
pub type Pair = (GeneId, GeneId);

/// Pairs that interact, pairs that are said not to, and what was left out.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Interacting pairs, each once, sorted.
    pub positives: Vec<Pair>,
    /// Pairs labelled 0; empty where the file has none and they are to be drawn.
    pub negatives: Vec<Pair>,
    /// What was left out and why.
    pub notes: Vec<String>,
}

impl Pairs {
    /// Reads a table: two columns of genes and, if there is a third, a label 1 or 0.
    pub fn read(path: &Path, resolver: &Resolver<'_>) -> Result<Self> {
        let table = Table::read(path)?;
        let mut found = Self { notes: table.note().into_iter().collect(), ..Self::default() };
        let mut rows = table.rows.as_slice();
        if let Some(((line, first), rest)) = rows.split_first() {
            let gene = |cell: Option<&String>| {
                cell.is_some_and(|cell| !matches!(resolver.resolve(cell), Resolved::Unmapped(_)))
            };
            let named = first.iter().any(|cell| {
                is_header(cell) || cell.to_lowercase().contains("gene") || cell.eq_ignore_ascii_case("label")
            });
            if named || !(gene(first.first()) || gene(first.get(1))) {
                found.notes.push(format!("line {line} was taken for a header: {}", first.join(" ")));
                rows = rest;
            }
        }
        if rows.is_empty() {
            return Err(BioError::file(
                path,
                "holds no pairs: expected two genes a line and, if you like, a label 1 or 0",
            ));
        }
        let mut labels: BTreeMap<Pair, BTreeSet<bool>> = BTreeMap::new();
        let (mut unknown, mut missing, mut selves, mut twice) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (line, row) in rows {
            let [a, b, ..] = row.as_slice() else {
                return Err(BioError::file(
                    path,
                    format!("line {line} has {} column, expected two genes and, if you like, a label", row.len()),
                ));
            };
            let label = match row.get(2).map(String::as_str) {
                None | Some("" | "1" | "1.0" | "true" | "True") => true,
                Some("0" | "0.0" | "false" | "False") => false,
                Some(other) => {
                    return Err(BioError::file(path, format!("line {line}: label '{other}', expected 1 or 0")));
                }
            };
            if resolver.is_missing(a) || resolver.is_missing(b) {
                missing.push(format!("line {line} ({a}, {b})"));
                continue;
            }
            match (resolver.gene(a), resolver.gene(b)) {
                (Some(x), Some(y)) if x == y => selves.push(format!("line {line} ({a}, {b})")),
                (Some(x), Some(y)) => {
                    let known = labels.entry((x.min(y), x.max(y))).or_default();
                    twice += usize::from(!known.insert(label));
                }
                (x, _) => {
                    let word = if x.is_none() { a } else { b };
                    unknown.push(format!("line {line} ({word})"));
                }
            }
        }
        let mut contradicting = Vec::new();
        for (pair, labels) in labels {
            match (labels.contains(&true), labels.contains(&false)) {
                (true, true) => contradicting.push(pair),
                (true, false) => found.positives.push(pair),
                _ => found.negatives.push(pair),
            }
        }
        let symbol = |gene: GeneId| resolver.genome().genes[gene].symbol.as_str();
        found.note(&selves, "pairs of a gene with itself left out");
        let contradicting: Vec<String> =
            contradicting.iter().map(|(a, b)| format!("{} {}", symbol(*a), symbol(*b))).collect();
        found.note(&contradicting, "pairs labelled both 1 and 0 left out");
        found.note(&unknown, "pairs left out for a gene that is not known or not clear");
        found.note(&missing, "pairs left out for a missing value (--keep-na takes NA, NaN and the like for names)");
        if twice > 0 {
            found.notes.push(format!("{twice} repeated pairs counted once"));
        }
        if found.positives.is_empty() {
            return Err(BioError::file(path, "holds no interacting pair (label 1) of two known genes"));
        }
        Ok(found)
    }

    fn note(&mut self, list: &[String], what: &str) {
        if !list.is_empty() {
            let shown: Vec<&str> = list.iter().take(5).map(String::as_str).collect();
            let more = if list.len() > 5 { ", …" } else { "" };
            self.notes.push(format!("{} {what}: {}{more}", list.len(), shown.join(", ")));
        }
    }

    /// All pairs inside complexes of `least` to `most` genes.
    pub fn of_complexes(complexes: &GeneSets, least: usize, most: usize) -> Self {
        let sized = complexes.sets.iter().filter(|set| (least..=most).contains(&set.genes.len()));
        let mut pairs = BTreeSet::new();
        let mut count = 0;
        for set in sized {
            count += 1;
            for (i, a) in set.genes.iter().enumerate() {
                pairs.extend(set.genes[i + 1..].iter().map(|b| (*a, *b)));
            }
        }
        let left = complexes.sets.len() - count;
        let mut notes = vec![format!("{count} complexes of {least} to {most} genes; {left} of other sizes left out")];
        if !complexes.notes.is_empty() {
            notes.push(format!(
                "{} complexes with words that are no known gene, the first: {}",
                complexes.notes.len(),
                complexes.notes[0]
            ));
        }
        Self { positives: pairs.into_iter().collect(), negatives: Vec::new(), notes }
    }

    /// The consensus of ligands and receptors; rows of other resources (mouse among them) are left
    /// out.
    pub fn read_ligands(path: &Path, resolver: &Resolver<'_>) -> Result<Self> {
        let table = Table::read(path)?;
        let column = |name: &str| table.column(path, name);
        let (from, to, resource) = (column("source_genesymbol")?, column("target_genesymbol")?, column("resource")?);
        let mut found = Self::default();
        let (mut rows, mut complexes, mut unknown, mut pairs) = (0, 0, 0, BTreeSet::new());
        for (_, row) in
            table.rows.iter().skip(1).filter(|(_, row)| row.get(resource).is_some_and(|it| it == "consensus"))
        {
            rows += 1;
            let cell = |column: usize| row.get(column).map_or("", String::as_str);
            let (a, b) = (cell(from), cell(to));
            // An underscore joins the parts of a complex.
            if a.contains('_') || b.contains('_') {
                complexes += 1;
                continue;
            }
            match (resolver.gene(a), resolver.gene(b)) {
                (Some(x), Some(y)) if x != y => {
                    pairs.insert((x.min(y), x.max(y)));
                }
                _ => unknown += 1,
            }
        }
        found.positives = pairs.into_iter().collect();
        found.notes.push(format!(
            "{rows} consensus rows; {complexes} with a complex on a side and {unknown} with an unknown gene left out"
        ));
        Ok(found)
    }

    /// Every gene of any pair, sorted.
    pub fn genes(&self) -> Vec<GeneId> {
        let all = self.positives.iter().chain(&self.negatives);
        all.flat_map(|(a, b)| [*a, *b]).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
