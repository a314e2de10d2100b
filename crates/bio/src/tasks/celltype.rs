//! Do gene vectors tell cell types? A cell is the mean of its genes' vectors, weighted by
//! expression.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bft_train::Pca;
use nalgebra::DMatrix;
use rayon::prelude::*;

use crate::data::genome::{GeneId, Genome};
use crate::data::h5ad::{H5ad, Scale};
use crate::error::{BioError, Result};
use crate::genes::resolver::{Mapping, Resolver};
use crate::genes::vectors::GeneVectors;
use crate::report::{Cell, Report};
use crate::stats::features::Features;
use crate::stats::knn;
use crate::stats::logistic::Logistic;

use super::shape::{Options, Task, kind};

/// Neighbours that vote.
const NEIGHBOURS: usize = 15;
/// Principal components of the baseline.
const COMPONENTS: usize = 50;
/// Penalty of the regressions.
const C: f64 = 0.1;

/// Cells with labels, and the genes that their expression is known of.
#[derive(Debug)]
pub struct Cells {
    /// Expression by cell: column and value.
    pub rows: Vec<Vec<(u32, f32)>>,
    /// The gene of each column, if it is a known one.
    pub genes: Vec<Option<GeneId>>,
    /// Label of each cell, by number.
    pub labels: Vec<usize>,
    /// Names of the labels.
    pub names: Vec<String>,
    /// What the data is, what was left out.
    pub notes: Vec<String>,
}

impl Cells {
    /// Reads expression and labels; `label` is a column of `obs`, found by its usual names where it
    /// is not given.
    pub fn read(path: &Path, resolver: &Resolver<'_>, label: Option<&str>) -> Result<Self> {
        const USUAL: [&str; 6] = ["cell_type", "celltype", "cell_types", "bulk_labels", "louvain", "leiden"];
        let file = H5ad::open(path)?;
        let columns = file.columns("obs")?;
        let chosen = match label {
            Some(label) => label,
            None => USUAL.into_iter().find(|name| columns.iter().any(|column| column == name)).ok_or_else(|| {
                file.problem(format!(
                    "obs has none of {}; name the column of labels with --label (it has {})",
                    USUAL.join(", "),
                    columns.join(", ")
                ))
            })?,
        };
        let words = file.column("obs", chosen)?;
        // Scaled expression has negative values, which cannot weigh a mean; raw/X keeps the
        // measured ones.
        let raw = file.has("raw/X");
        let (place, var) = if raw { ("raw/X", "raw/var") } else { ("X", "var") };
        let matrix = file.matrix(place)?;
        let symbols = file.index(var)?;
        if symbols.len() != matrix.columns || words.len() != matrix.rows {
            return Err(file.problem(format!(
                "{place} is {} × {}, obs × {var} is {} × {}; the file is damaged",
                matrix.rows,
                matrix.columns,
                words.len(),
                symbols.len()
            )));
        }
        let genes: Vec<Option<GeneId>> = symbols.iter().map(|word| resolver.gene(word)).collect();
        let mut rows = Vec::with_capacity(matrix.rows);
        let (mut negative, mut scale) = (None, Scale::default());
        file.rows(&matrix, |row, cells| {
            if cells.iter().any(|(_, value)| *value < 0.0) {
                negative.get_or_insert(row);
            }
            scale.see(cells);
            rows.push(cells.to_vec());
        })?;
        if let Some(row) = negative {
            return Err(file.problem(format!(
                "{place}, row {row} has negative expression (scaled data?): put counts or log counts into X or raw/X"
            )));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in words.iter().filter(|word| !resolver.is_missing(word)) {
            *counts.entry(word).or_default() += 1;
        }
        let labelled: usize = counts.values().sum();
        let known: Vec<&str> = counts.iter().filter(|(_, count)| **count >= 5).map(|(word, _)| *word).collect();
        let mut notes = vec![format!(
            "{} cells × {} genes from {place}, labels of obs.{chosen}: {}",
            matrix.rows,
            matrix.columns,
            known.len()
        )];
        notes.extend(scale.note(place));
        let kept: Vec<usize> = (0..rows.len()).filter(|row| known.contains(&words[*row].as_str())).collect();
        if labelled < rows.len() {
            notes.push(format!("{} cells without a label left out", rows.len() - labelled));
        }
        if kept.len() < labelled {
            notes.push(format!("{} cells of labels with fewer than 5 cells left out", labelled - kept.len()));
        }
        notes.push(format!("genes of {var}: {}", Mapping::new(resolver, symbols.iter().map(String::as_str)).summary()));
        if known.len() < 2 {
            return Err(file.problem(format!(
                "obs.{chosen} has {} labels with 5 cells or more, expected at least 2",
                known.len()
            )));
        }
        Ok(Self {
            labels: kept.iter().map(|row| known.iter().position(|word| *word == words[*row]).unwrap_or(0)).collect(),
            rows: kept.iter().map(|row| std::mem::take(&mut rows[*row])).collect(),
            names: known.iter().map(|word| (*word).to_owned()).collect(),
            genes,
            notes,
        })
    }

    /// Means of gene vectors weighted by expression, of length 1.
    pub fn embed(&self, set: &GeneVectors) -> Features {
        let rows: Vec<Option<usize>> = self.genes.iter().map(|gene| gene.and_then(|gene| set.row(gene))).collect();
        let width = set.features.width();
        let sums: Vec<Vec<f64>> = self
            .rows
            .par_iter()
            .map(|cell| {
                let mut sum = vec![0.0; width];
                for (column, value) in cell {
                    if let Some(row) = rows[*column as usize] {
                        set.features.add(row, f64::from(*value), &mut sum);
                    }
                }
                sum
            })
            .collect();
        let values = sums.iter().flatten().map(|value| *value as f32).collect();
        Features::Dense { width, values }.normalized()
    }
}

impl Task for Cells {
    fn genes(&self) -> Vec<GeneId> {
        self.genes.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn run(&self, _: &Genome, sets: &[GeneVectors], options: Options) -> Result<Report> {
        let count = self.labels.len();
        if options.folds < 2 || count < 2 * options.folds {
            return Err(BioError::data(format!("{count} labelled cells cannot be split into {} folds", options.folds)));
        }
        let folds = options.folds(count, "cells");
        let mut report = Report::new(
            "Cell type",
            &["vectors", "kind", "kNN accuracy", "kNN macro F1", "logistic accuracy", "logistic macro F1"],
        );
        report.say_input(&self.notes);
        report.say("split", format!("{}-fold by cell", options.folds));
        report.say("leakage", "vectors know no cell; PCA is fitted on training cells alone");
        report.say("models", format!("cells: expression-weighted mean of gene vectors, length 1; kNN by cosine, k = {NEIGHBOURS}; logistic regression, one label against the rest, C = {C}, columns scaled"));
        options.describe(&mut report, "cells", "accuracy should be the commonest label's share");
        let commonest = (0..self.names.len()).map(|label| self.labels.iter().filter(|it| **it == label).count()).max();
        report.say("commonest label", format!("{:.3} of cells", commonest.unwrap_or(0) as f64 / count as f64));
        let mut rows = vec![("PCA of expression", true, None)];
        let judged = sets.iter().filter(|set| set.features.width() > 1);
        rows.extend(judged.map(|set| (set.label.as_str(), set.baseline, Some(self.embed(set)))));
        for (label, baseline, features) in rows {
            let (mut near, mut fitted) = (vec![0; count], vec![0; count]);
            for (train, test) in &folds {
                let features = features.as_ref().map_or_else(|| Cow::Owned(components(self, train)), Cow::Borrowed);
                let mut seen: Vec<usize> = train.iter().map(|cell| self.labels[*cell]).collect();
                options.shuffle(&mut seen, "shuffled cells");
                let mut labels = self.labels.clone();
                train.iter().zip(seen).for_each(|(cell, label)| labels[*cell] = label);
                let predicted = [
                    (&mut near, knn::predict(&features, &labels, train, test, NEIGHBOURS)),
                    (&mut fitted, one_against_rest(&features, &labels, train, test, self.names.len())),
                ];
                for (found, labels) in predicted {
                    test.iter().zip(labels).for_each(|(cell, label)| found[*cell] = label);
                }
            }
            let mut row = vec![Cell::from(label), kind(baseline)];
            for found in [&near, &fitted] {
                let right: Vec<f64> = found.iter().zip(&self.labels).map(|(a, b)| f64::from(a == b)).collect();
                row.push(options.mean(&right).into());
                row.push(Cell::Number(macro_f1(found, &self.labels, self.names.len())));
            }
            report.rows.push(row);
        }
        Ok(report)
    }
}

/// Principal components of expression, fitted on the training cells, of length 1.
fn components(cells: &Cells, train: &[usize]) -> Features {
    let mut all = DMatrix::<f64>::zeros(cells.rows.len(), cells.genes.len());
    for (cell, row) in cells.rows.iter().enumerate() {
        for (column, value) in row {
            all[(cell, *column as usize)] = f64::from(*value);
        }
    }
    let pca = Pca::fit(&all.select_rows(train), COMPONENTS);
    let projected = pca.project(&all);
    let values = projected.transpose().iter().map(|value| *value as f32).collect();
    Features::Dense { width: projected.ncols(), values }.normalized()
}

fn one_against_rest(
    features: &Features,
    labels: &[usize],
    train: &[usize],
    test: &[usize],
    kinds: usize,
) -> Vec<usize> {
    let scaled = features.scaled(train);
    let (seen, asked) = (scaled.select(train), scaled.select(test));
    let scores: Vec<Vec<f64>> = (0..kinds)
        .into_par_iter()
        .map(|kind| {
            let own: Vec<bool> = train.iter().map(|cell| labels[*cell] == kind).collect();
            Logistic::fit(&seen, &own, C).scores(&asked)
        })
        .collect();
    (0..test.len())
        .map(|cell| (0..kinds).max_by(|a, b| scores[*a][cell].total_cmp(&scores[*b][cell])).unwrap_or(0))
        .collect()
}

/// Mean over labels of F1.
fn macro_f1(found: &[usize], truth: &[usize], kinds: usize) -> f64 {
    let f1 = |kind: usize| {
        let both = found.iter().zip(truth).filter(|(a, b)| **a == kind && **b == kind).count();
        let all =
            found.iter().filter(|label| **label == kind).count() + truth.iter().filter(|label| **label == kind).count();
        if all == 0 { 0.0 } else { 2.0 * both as f64 / all as f64 }
    };
    (0..kinds).map(f1).sum::<f64>() / kinds.max(1) as f64
}
