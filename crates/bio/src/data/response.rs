//! What perturbing genes did: one row a condition, from single cells (`.h5ad` in GEARS form) or
//! from a fitness table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bft_formats::Random;
use nalgebra::DMatrix;

use super::genome::GeneId;
use super::h5ad::{H5ad, Matrix, Scale};
use super::table::Table;
use crate::error::{BioError, Result};
use crate::genes::resolver::{Mapping, Resolver};

/// One perturbation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// As the file names it.
    pub name: String,
    /// The perturbed genes, one or two.
    pub genes: Vec<GeneId>,
}

/// Conditions and how each changed every readout.
#[derive(Debug)]
pub struct Response {
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// What was read out: genes or cell lines.
    pub readouts: Vec<String>,
    /// Gene of each readout, where it is a known one.
    pub readout_genes: Vec<Option<GeneId>>,
    /// Change against control, `[conditions, readouts]`.
    pub deltas: DMatrix<f64>,
    /// What the data is, what was left out.
    pub notes: Vec<String>,
}

/// Conditions with fewer cells are left out: their mean is mostly noise.
const FEWEST_CELLS: usize = 5;

/// The group of all controls, in whatever words the file has them.
const CONTROL: &str = "ctrl";

fn is_control(name: &str) -> bool {
    ["ctrl", "control", "ctrl+ctrl"].contains(&name.to_lowercase().as_str())
}

/// Cells added up by condition.
struct Grouped<'c> {
    /// How many cells, and the sum of each readout.
    groups: BTreeMap<&'c str, (usize, Vec<f64>)>,
    /// How many cells have each word for no condition.
    unnamed: BTreeMap<&'c str, usize>,
    scale: Scale,
}

impl<'c> Grouped<'c> {
    fn read(
        file: &H5ad,
        matrix: &Matrix,
        conditions: &'c [String],
        kept: &[bool],
        resolver: &Resolver<'_>,
    ) -> Result<Self> {
        let mut found = Self { groups: BTreeMap::new(), unnamed: BTreeMap::new(), scale: Scale::default() };
        file.rows(matrix, |row, cells| {
            if !kept[row] {
                return;
            }
            found.scale.see(cells);
            let name = conditions[row].trim();
            if resolver.is_missing(name) {
                *found.unnamed.entry(name).or_default() += 1;
                return;
            }
            let name = if is_control(name) { CONTROL } else { name };
            let (count, sums) = found.groups.entry(name).or_insert_with(|| (0, vec![0.0; matrix.columns]));
            *count += 1;
            for (column, value) in cells {
                sums[*column as usize] += f64::from(*value);
            }
        })?;
        Ok(found)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.scale.note("X").into_iter().collect();
        if !self.unnamed.is_empty() {
            let words = self.unnamed.keys().map(|word| if word.is_empty() { "(empty)" } else { word });
            notes.push(format!(
                "{} cells without a condition left out: obs.condition is {}",
                self.unnamed.values().sum::<usize>(),
                words.collect::<Vec<_>>().join(", ")
            ));
        }
        notes
    }
}

impl Response {
    /// Mean expression changes from an AnnData file in GEARS form: `obs.condition` such as
    /// `FEV+ctrl` or `CBL+CNN1`.
    pub fn read_h5ad(path: &Path, resolver: &Resolver<'_>, cell_type: Option<&str>) -> Result<Self> {
        let file = H5ad::open(path)?;
        let conditions = file.column("obs", "condition").map_err(|error| match error {
            BioError::File { problem, path } if problem.contains("no column") => BioError::file(
                &path,
                format!("{problem}; expected `condition` with values such as FEV+ctrl, CBL+CNN1 and ctrl"),
            ),
            other => other,
        })?;
        let mut notes = Vec::new();
        let kept = Self::cell_type(&file, resolver, cell_type, conditions.len(), &mut notes)?;
        let matrix = file.matrix("X")?;
        if matrix.rows != conditions.len() {
            return Err(file.problem(format!(
                "X has {} rows, obs {}; the file is damaged",
                matrix.rows,
                conditions.len()
            )));
        }
        let readouts = match file.column("var", "gene_name") {
            Ok(names) => names,
            Err(_) => file.index("var")?,
        };
        if readouts.len() != matrix.columns {
            return Err(file.problem(format!(
                "X has {} columns, var {}; the file is damaged",
                matrix.columns,
                readouts.len()
            )));
        }
        let cells = Grouped::read(&file, &matrix, &conditions, &kept, resolver)?;
        let Some((control_cells, control)) = cells.groups.get(CONTROL) else {
            let some: Vec<&str> = cells.groups.keys().take(5).copied().collect();
            return Err(
                file.problem(format!("obs.condition has no `ctrl` cells to compare with; it has {}", some.join(", ")))
            );
        };
        let control: Vec<f64> = control.iter().map(|sum| sum / *control_cells as f64).collect();
        let (mut found, mut deltas, mut few, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, (count, sums)) in cells.groups.iter().filter(|(name, _)| **name != CONTROL) {
            let words: Vec<&str> = name.split('+').map(str::trim).filter(|word| !is_control(word)).collect();
            let mapping = Mapping::new(resolver, words.iter().copied());
            if *count < FEWEST_CELLS {
                few.push((*name).to_owned());
            } else if mapping.genes.len() != words.len() || words.is_empty() || words.len() > 2 {
                unknown.push((*name).to_owned());
            } else {
                let mut genes: Vec<GeneId> = mapping.genes.iter().map(|(gene, _)| *gene).collect();
                genes.sort_unstable();
                found.push(Condition { name: (*name).to_owned(), genes });
                deltas.extend(sums.iter().zip(&control).map(|(sum, control)| sum / *count as f64 - control));
            }
        }
        notes.push(format!(
            "{} cells of control, {} conditions, {} genes read out",
            control_cells,
            found.len(),
            readouts.len()
        ));
        notes.extend(cells.notes());
        for (list, why) in [
            (few, format!("with fewer than {FEWEST_CELLS} cells left out")),
            (unknown, "left out for a gene that is not known, or for more than two".to_owned()),
        ] {
            if !list.is_empty() {
                let shown = list[..list.len().min(5)].join(", ");
                notes.push(format!("{} conditions {why}: {shown}", list.len()));
            }
        }
        let (conditions, deltas) = Self::merged(found, deltas, matrix.columns, &mut notes);
        let readout_genes = readouts.iter().map(|word| resolver.gene(word)).collect();
        Ok(Self { conditions, deltas, readouts, readout_genes, notes })
    }

    /// Which cells to use: those of one type, the commonest unless one is named.
    fn cell_type(
        file: &H5ad,
        resolver: &Resolver<'_>,
        wanted: Option<&str>,
        cells: usize,
        notes: &mut Vec<String>,
    ) -> Result<Vec<bool>> {
        let types = match (file.column("obs", "cell_type"), wanted) {
            (Ok(types), _) => types,
            (Err(error), Some(_)) => return Err(error),
            (Err(_), None) => return Ok(vec![true; cells]),
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for kind in types.iter().filter(|kind| !resolver.is_missing(kind)) {
            *counts.entry(kind).or_default() += 1;
        }
        let typed: usize = counts.values().sum();
        if typed == 0 && wanted.is_none() {
            notes.push("obs.cell_type is empty: all cells are taken".to_owned());
            return Ok(vec![true; cells]);
        }
        if typed < types.len() {
            notes.push(format!("{} cells without a cell type left out", types.len() - typed));
        }
        let commonest = counts.iter().max_by_key(|(_, count)| **count).map_or("", |(kind, _)| *kind);
        let chosen = wanted.unwrap_or(commonest);
        if !counts.contains_key(chosen) {
            let known: Vec<&str> = counts.keys().copied().collect();
            return Err(file.problem(format!("has no cells of type '{chosen}'; it has {}", known.join(", "))));
        }
        if counts.len() > 1 {
            notes.push(format!(
                "cells of type {chosen} alone; {} cells of {} other types left out",
                typed - counts[chosen],
                counts.len() - 1
            ));
        }
        Ok(types.iter().map(|kind| kind == chosen).collect())
    }

    /// Conditions of the same genes (`A+ctrl` and `ctrl+A`) become one, their changes averaged.
    fn merged(
        found: Vec<Condition>,
        deltas: Vec<f64>,
        width: usize,
        notes: &mut Vec<String>,
    ) -> (Vec<Condition>, DMatrix<f64>) {
        let mut groups: BTreeMap<Vec<GeneId>, Vec<usize>> = BTreeMap::new();
        for (index, condition) in found.iter().enumerate() {
            groups.entry(condition.genes.clone()).or_default().push(index);
        }
        if groups.len() < found.len() {
            notes.push(format!("{} conditions of the same genes in other words averaged", found.len() - groups.len()));
        }
        let conditions: Vec<Condition> = groups.values().map(|members| found[members[0]].clone()).collect();
        let members: Vec<&Vec<usize>> = groups.values().collect();
        let matrix = DMatrix::from_fn(conditions.len(), width, |row, column| {
            members[row].iter().map(|member| deltas[member * width + column]).sum::<f64>() / members[row].len() as f64
        });
        (conditions, matrix)
    }

    /// Every perturbed gene, sorted.
    pub fn genes(&self) -> Vec<GeneId> {
        let all = self.conditions.iter().flat_map(|it| it.genes.clone());
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// At most so many of the conditions, drawn by seed.
    pub fn drawn(&self, most: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..self.conditions.len()).collect();
        Random::stream(seed, "conditions").shuffle(&mut order);
        order.truncate(most);
        Self {
            conditions: order.iter().map(|it| self.conditions[*it].clone()).collect(),
            readouts: self.readouts.clone(),
            readout_genes: self.readout_genes.clone(),
            deltas: self.deltas.select_rows(&order),
            notes: self.notes.clone(),
        }
    }

    /// Knock-out fitness: genes × cell lines, from several files with the same genes side by side.
    pub fn read_fitness(paths: &[&Path], resolver: &Resolver<'_>) -> Result<Self> {
        let mut readouts = Vec::new();
        let mut rows: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
        for (file, path) in paths.iter().enumerate() {
            let table = Table::read(path)?;
            let Some(((_, header), body)) = table.rows.split_first() else {
                return Err(BioError::file(path, "is empty; expected genes × cell lines"));
            };
            readouts.extend(header.iter().skip(1).cloned());
            for (line, cells) in body {
                if cells.len() != header.len() {
                    return Err(BioError::file(
                        path,
                        format!("line {line} has {} cells, expected {}", cells.len(), header.len()),
                    ));
                }
                let numbers: Option<Vec<f64>> =
                    cells.iter().skip(1).map(|cell| cell.parse().ok().filter(|n: &f64| n.is_finite())).collect();
                let numbers = numbers.ok_or_else(|| {
                    BioError::file(path, format!("line {line} ({}): a cell is no finite number", cells[0]))
                })?;
                let parts = rows.entry(cells[0].clone()).or_default();
                if parts.len() == file {
                    parts.push(numbers);
                }
            }
        }
        let whole: Vec<(&String, &Vec<Vec<f64>>)> =
            rows.iter().filter(|(_, parts)| parts.len() == paths.len()).collect();
        let mut notes = vec![format!(
            "bulk CRISPR knock-out fitness (not single cells): {} genes × {} cell lines; {} genes missing in a file left out",
            whole.len(),
            readouts.len(),
            rows.len() - whole.len()
        )];
        let mapping = Mapping::new(resolver, whole.iter().map(|(word, _)| word.as_str()));
        notes.push(format!("genes: {}", mapping.summary()));
        let mut deltas = Vec::new();
        let mut conditions = Vec::new();
        for (gene, word) in &mapping.genes {
            conditions.push(Condition { name: word.clone(), genes: vec![*gene] });
            deltas.extend(rows[word].iter().flatten());
        }
        let deltas = DMatrix::from_row_slice(conditions.len(), readouts.len(), &deltas);
        let readout_genes = vec![None; readouts.len()];
        Ok(Self { conditions, readouts, readout_genes, deltas, notes })
    }
}
