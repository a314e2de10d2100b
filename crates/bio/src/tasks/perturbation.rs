//! How will perturbing unseen genes change every readout? Ridge regression on gene vectors, beside
//! simple answers.

mod folds;
mod score;

use bft_train::Pca;
use nalgebra::DMatrix;

use crate::data::genome::{GeneId, Genome, NOT_BY_MUTANT};
use crate::data::response::Response;
use crate::error::{BioError, Result};
use crate::genes::vectors::GeneVectors;
use crate::report::{Cell, Report};
use crate::stats::features::Features;
use crate::stats::ridge;

use super::shape::{Options, Task, in_all, kind};

pub use folds::{Fold, Kind, folds};
pub use score::Tally;

/// Penalty of the ridge on vectors of length 1.
const RIDGE: f64 = 1.0;
/// Penalty and components of the linear model Δ ≈ G·K·Pᵀ + mean.
const LINEAR_RIDGE: f64 = 0.1;
const COMPONENTS: usize = 10;

/// One way to predict.
enum Model<'v> {
    NoChange,
    TrainMean,
    Additive,
    LinearPca,
    Ridge(&'v GeneVectors),
    Linear(&'v GeneVectors),
}

impl Model<'_> {
    fn names(&self) -> (String, &'static str, bool) {
        match self {
            Self::NoChange => ("none".into(), "no change", true),
            Self::TrainMean => ("none".into(), "train mean", true),
            Self::Additive => ("none".into(), "additive", true),
            Self::LinearPca => ("PCA of the training changes".into(), "linear", true),
            Self::Ridge(set) => (set.label.clone(), "ridge", set.baseline),
            Self::Linear(set) => (set.label.clone(), "linear", set.baseline),
        }
    }
}

impl Task for Response {
    fn genes(&self) -> Vec<GeneId> {
        Response::genes(self)
    }

    fn evidence(&self) -> &'static [&'static str] {
        &NOT_BY_MUTANT
    }

    /// Every set of vectors on the conditions whose genes all of them have.
    fn run(&self, _: &Genome, sets: &[GeneVectors], options: Options) -> Result<Report> {
        let known = in_all(sets);
        let kept: Vec<usize> =
            (0..self.conditions.len()).filter(|row| self.conditions[*row].genes.iter().all(&known)).collect();
        let genes: Vec<Vec<GeneId>> = kept.iter().map(|row| self.conditions[*row].genes.clone()).collect();
        let truth = self.deltas.select_rows(&kept);
        let folds = folds(&genes, options)?;

        let mut report = Report::new(
            "Perturbation response",
            &[
                "vectors",
                "model",
                "kind",
                "split",
                "conditions",
                "MSE / train mean",
                "MSE",
                "MSE top 20",
                "Pearson",
                "Pearson top 20",
            ],
        );
        report.say_input(&self.notes);
        let lost = self.conditions.len() - kept.len();
        if lost > 0 {
            report.say("conditions whose genes have no vector in some row, left out of all rows", lost.to_string());
        }
        report.say(
            "split",
            format!("{}-fold by perturbed gene: a fold's genes are perturbed in no training condition", options.folds),
        );
        report.say("leakage", "0 unseen genes in training (checked); the same conditions in every row");
        report.say(
            "annotation",
            "what was inferred from mutant phenotypes (IMP), which such a screen may be the source of, is in no baseline; vectors of a file may hold it, as those of --profile annotation do",
        );
        report.say("models", format!("ridge: alpha = {RIDGE} on vectors of length 1 (pairs: their sum); linear: Δ = G·K·Pᵀ + mean, G of {COMPONENTS} components, ridge {LINEAR_RIDGE}; additive: the sum of both single changes, the train mean for an unseen one"));
        report.say("metrics", "per condition, then the mean; top 20: the readouts that truly changed most");
        options.describe(&mut report, "conditions", "nothing should beat the train mean");

        let mut mean = Tally::default();
        let mut rows = Vec::new();
        for model in self.models(&genes, sets) {
            let mut tally = Tally::default();
            for fold in &folds {
                let mut order = fold.train.clone();
                options.shuffle(&mut order, "shuffled changes");
                let predicted = predict(&model, fold, &genes, &truth.select_rows(&order), self)
                    .map_err(|problem| BioError::data(format!("{}: {problem}", model.names().0)))?;
                tally.add(fold, &truth, &predicted);
            }
            if matches!(model, Model::TrainMean) {
                mean = tally.clone();
            }
            rows.push((model.names(), tally));
        }
        for split in Kind::ALL {
            for ((vectors, name, baseline), tally) in &rows {
                if let Some(metrics) = tally.metrics(split, &mean, options) {
                    let mut row = vec![
                        Cell::from(vectors.as_str()),
                        Cell::from(*name),
                        kind(*baseline),
                        Cell::from(split.words()),
                        Cell::Count(metrics.conditions),
                    ];
                    row.extend(metrics.values.into_iter().map(Cell::from));
                    report.rows.push(row);
                }
            }
        }
        Ok(report)
    }
}

impl Response {
    /// The ways to predict that this data and these vectors allow.
    fn models<'v>(&self, genes: &[Vec<GeneId>], sets: &'v [GeneVectors]) -> Vec<Model<'v>> {
        let pairs = genes.iter().any(|genes| genes.len() > 1);
        let mut models = vec![Model::NoChange, Model::TrainMean];
        models.extend(pairs.then_some(Model::Additive));
        models.extend(self.readout_genes.iter().any(Option::is_some).then_some(Model::LinearPca));
        models.extend(sets.iter().map(Model::Ridge));
        // One number a gene gives the linear model nothing to project.
        models.extend(sets.iter().filter(|set| set.features.width() > 1).map(Model::Linear));
        models
    }
}

/// Predictions for a fold's test conditions, `[test, readouts]`.
fn predict(
    model: &Model<'_>,
    fold: &Fold,
    genes: &[Vec<GeneId>],
    targets: &DMatrix<f64>,
    response: &Response,
) -> std::result::Result<DMatrix<f64>, String> {
    let test = fold.test.len();
    let mean = targets.row_mean();
    let repeated = |row: &nalgebra::RowDVector<f64>| DMatrix::from_fn(test, targets.ncols(), |_, j| row[j]);
    match model {
        Model::NoChange => Ok(DMatrix::zeros(test, targets.ncols())),
        Model::TrainMean => Ok(repeated(&mean)),
        Model::Additive => {
            let single = |gene: GeneId| {
                let row = fold.train.iter().position(|condition| genes[*condition] == [gene]);
                row.map_or_else(|| mean.clone(), |row| targets.row(row).into_owned())
            };
            let mut predicted = DMatrix::zeros(test, targets.ncols());
            for (row, (condition, _)) in fold.test.iter().enumerate() {
                for gene in &genes[*condition] {
                    let mut target = predicted.row_mut(row);
                    target += single(*gene);
                }
            }
            Ok(predicted)
        }
        Model::LinearPca => {
            // A gene's vector is its own row of G: how it is itself changed by the training
            // perturbations.
            let pca = Pca::fit(targets, COMPONENTS);
            let row = |gene: &GeneId| response.readout_genes.iter().position(|readout| readout.as_ref() == Some(gene));
            let width = pca.axes.ncols();
            let mut values = vec![0.0; genes.len() * width];
            for (condition, genes) in genes.iter().enumerate() {
                for readout in genes.iter().filter_map(row) {
                    for (component, value) in values[condition * width..][..width].iter_mut().enumerate() {
                        *value += pca.axes[(readout, component)] as f32;
                    }
                }
            }
            let vectors = Features::Dense { width, values };
            Ok(project(&fitted(&vectors, fold, targets, LINEAR_RIDGE)?, &pca, &mean))
        }
        Model::Ridge(set) => fitted(&of_conditions(set, genes), fold, targets, RIDGE),
        Model::Linear(set) => {
            let pca = Pca::fit(targets, COMPONENTS);
            Ok(project(&fitted(&of_conditions(set, genes), fold, targets, LINEAR_RIDGE)?, &pca, &mean))
        }
    }
}

/// Sums of the perturbed genes' vectors.
fn of_conditions(set: &GeneVectors, genes: &[Vec<GeneId>]) -> Features {
    let rows: Vec<Vec<usize>> =
        genes.iter().map(|genes| genes.iter().filter_map(|gene| set.row(*gene)).collect()).collect();
    set.features.sums(&rows)
}

fn fitted(
    vectors: &Features,
    fold: &Fold,
    targets: &DMatrix<f64>,
    alpha: f64,
) -> std::result::Result<DMatrix<f64>, String> {
    let test: Vec<usize> = fold.test.iter().map(|(condition, _)| *condition).collect();
    Ok(ridge::predict(&ridge::weights(vectors, &fold.train, &test, alpha)?, targets))
}

/// Keeps what lies along G's components, shrunk by G's own ridge: (GᵀG + λ)⁻¹ with orthonormal G is
/// 1 / (1 + λ).
fn project(predicted: &DMatrix<f64>, pca: &Pca, mean: &nalgebra::RowDVector<f64>) -> DMatrix<f64> {
    let mut centred = predicted.clone();
    for mut row in centred.row_iter_mut() {
        row -= mean;
    }
    let mut projected = (centred * &pca.axes) * pca.axes.transpose() / (1.0 + LINEAR_RIDGE);
    for mut row in projected.row_iter_mut() {
        row += mean;
    }
    projected
}
