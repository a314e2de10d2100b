//! The baselines on the pinned data land where others' code put them: splits and metrics are right.
//!
//! Expected: AUROC of pairs in CORUM 0.50 for popularity and random vectors, 0.678 for TF-IDF of
//! the name, about 0.71 for MiniLM of it; fitness, MSE over the train mean's: 1.13, 0.996
//! (popularity) and 0.80, from Python on the same files with other seeds.

use std::path::PathBuf;

use bft_bio::data::genome::Genome;
use bft_bio::data::gmt::GeneSets;
use bft_bio::data::ontology::Ontology;
use bft_bio::data::pairs::Pairs;
use bft_bio::data::response::Response;
use bft_bio::genes::baselines::baselines;
use bft_bio::genes::encode::TextModel;
use bft_bio::genes::profile;
use bft_bio::genes::resolver::Resolver;
use bft_bio::genes::vectors::GeneVectors;
use bft_bio::report::Report;
use bft_bio::stats::features::Features;
use bft_bio::tasks::{Options, Task};
use bft_core::device::Device;
use bft_fetch::sources::Dataset;

const NAME: &str = "MiniLM of the name";

fn path(dataset: Dataset) -> PathBuf {
    let cache = bft_fetch::cache().expect("a cache");
    dataset.path(&cache).expect("cargo xtask test fetches it")
}

struct Data {
    genome: Genome,
    ontology: Ontology,
}

impl Data {
    /// `None` where `BFT_TEST_NO_GENES=1` says that this machine cannot have the data.
    fn open() -> Option<Self> {
        if std::env::var_os("BFT_TEST_NO_GENES").is_some_and(|value| value == "1") {
            eprintln!("BFT_TEST_NO_GENES=1: tests on pinned gene data are left out");
            return None;
        }
        Some(Self {
            genome: Genome::open(&path(Dataset::Genes)).expect("genes"),
            ontology: Ontology::open(&path(Dataset::Ontology)).expect("terms"),
        })
    }

    /// Every baseline, MiniLM of the name the last.
    fn sets(&self, task: &impl Task) -> Vec<GeneVectors> {
        let genes = &task.genes();
        let mut sets = baselines(&self.genome, &self.ontology, genes, task.evidence(), 0).expect("baselines");
        let model = TextModel::open(&path(Dataset::MiniLm), None).expect("MiniLM");
        let names: Vec<String> = genes.iter().map(|gene| profile::name(&self.genome, *gene)).collect();
        let (mut values, width) = (Vec::new(), model.width());
        model
            .embed(&Device::cpu(), &names, |_, vector| {
                values.extend_from_slice(vector);
            })
            .expect("vectors");
        sets.push(GeneVectors::new(NAME, true, genes, Features::Dense { width, values }));
        sets
    }
}

#[track_caller]
fn near(report: &Report, row: &[&str], column: &str, expected: std::ops::Range<f64>) {
    let found = report.value(row, column).expect("a number");
    assert!(expected.contains(&found), "{row:?}: {found}");
}

#[test]
fn complexes_land_where_they_should_and_shuffled_labels_at_chance() {
    let Some(data) = Data::open() else {
        return;
    };
    let resolver = Resolver::new(&data.genome);
    let sets = GeneSets::read_complexes(&path(Dataset::Complexes), &resolver).expect("complexes");
    let pairs = Pairs::of_complexes(&sets, 2, 15);
    let sets = data.sets(&pairs);
    let run = |shuffle_labels| {
        let options = Options { redraws: 0, shuffle_labels, ..Options::default() };
        pairs.run(&data.genome, &sets, options).expect("a table")
    };
    let (report, shuffled) = (run(false), run(true));
    near(&report, &["popularity (PubMed)"], "AUROC", 0.46..0.54);
    near(&report, &["random vectors"], "AUROC", 0.46..0.54);
    near(&report, &["TF-IDF of the name"], "AUROC", 0.65..0.75);
    near(&report, &[NAME], "AUROC", 0.67..0.75);
    near(&report, &["TF-IDF of name and processes"], "AUROC of cosine", 0.76..0.84);
    for set in sets.iter().filter(|set| set.features.width() > 1) {
        near(&shuffled, &[&set.label], "AUROC", 0.46..0.54);
    }
}

#[test]
fn fitness_lands_where_it_should_and_shuffled_changes_tell_nothing() {
    let Some(data) = Data::open() else {
        return;
    };
    let resolver = Resolver::new(&data.genome);
    let files = [Dataset::FitnessMelanoma, Dataset::FitnessLiver, Dataset::FitnessNeuroblastoma].map(path);
    let files: Vec<&std::path::Path> = files.iter().map(PathBuf::as_path).collect();
    let response = Response::read_fitness(&files, &resolver).expect("fitness");
    let sets = data.sets(&response);
    let run = |shuffle_labels| {
        let options = Options { redraws: 0, shuffle_labels, ..Options::default() };
        response.run(&data.genome, &sets, options).expect("a table")
    };
    let (report, shuffled) = (run(false), run(true));
    let column = "MSE / train mean";
    near(&report, &["none", "train mean"], column, 0.999..1.001);
    near(&report, &["random vectors", "ridge"], column, 1.05..1.2);
    near(&report, &["popularity (PubMed)", "ridge"], column, 0.98..1.01);
    near(&report, &[NAME, "ridge"], column, 0.77..0.84);
    for set in &sets {
        near(&shuffled, &[&set.label, "ridge"], column, 0.97..1.3);
    }
}
