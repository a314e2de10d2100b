//! The perturbation task on synthetic cells (`fixtures/make_gears.py`), whose effect is known.

mod common;

use std::path::PathBuf;

use bft_bio::data::genome::GeneId;
use bft_bio::data::h5ad::{H5ad, Layout};
use bft_bio::data::response::Response;
use bft_bio::genes::resolver::Resolver;
use bft_bio::genes::vectors::{GeneVectors, random};
use bft_bio::report::{Cell, Report};
use bft_bio::stats::features::Features;
use bft_bio::tasks::celltype::Cells;
use bft_bio::tasks::{Options, Task};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn dense_csr_and_csc_hold_the_same_cells() {
    let cells = |name: &str, layout| {
        let file = H5ad::open(&fixture(name)).expect("a file");
        let matrix = file.matrix("X").expect("a matrix");
        assert_eq!(matrix.layout, layout);
        let mut rows = Vec::new();
        file.rows(&matrix, |row, cells| {
            assert_eq!(row, rows.len());
            rows.push(cells.to_vec());
        })
        .expect("rows");
        rows
    };
    let csr = cells("gears_csr.h5ad", Layout::Csr);
    assert!(csr.len() > 300 && csr.iter().flatten().count() > 10_000);
    assert_eq!(csr, cells("gears_csc.h5ad", Layout::Csc));
    assert_eq!(csr, cells("gears_dense.h5ad", Layout::Dense));
}

/// Vectors that say which family of six a gene is in.
fn families(genes: &[GeneId], symbols: &[String]) -> GeneVectors {
    let mut values = Vec::new();
    for symbol in symbols {
        let number: usize = symbol[1..].parse().expect("a number");
        values.extend((0..4).map(|family| if (number - 1) / 6 == family { 1.0f32 } else { 0.0 }));
    }
    GeneVectors::new("families", false, genes, Features::Dense { width: 4, values })
}

fn value(report: &Report, vectors: &str, model: &str, split: &str) -> f64 {
    let row =
        report.rows.iter().find(|row| row[0].text() == vectors && row[1].text() == model && row[3].text() == split);
    match row.map(|row| &row[5]) {
        Some(Cell::Estimate(it)) => it.value,
        other => panic!("{vectors}, {model}, {split}: {other:?}"),
    }
}

#[test]
fn the_planted_effect_is_recovered_and_shuffled_labels_give_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let response = Response::read_h5ad(&fixture("gears_csr.h5ad"), &resolver, None).expect("a response");
    assert_eq!(response.conditions.iter().filter(|it| it.genes.len() == 1).count(), 24);
    let mut genes: Vec<GeneId> = response.conditions.iter().flat_map(|it| it.genes.clone()).collect();
    genes.sort_unstable();
    genes.dedup();
    let symbols: Vec<String> = genes.iter().map(|gene| genome.genes[*gene].symbol.clone()).collect();
    let sets = [random(&genes, &genome, 1), families(&genes, &symbols)];
    let options = Options { redraws: 50, ..Options::default() };
    let report = response.run(&genome, &sets, options).expect("a table");
    // The family is all there is to know; what stays is the noise of eight cells.
    assert!(value(&report, "families", "ridge", "unseen single") < 0.2);
    assert!(value(&report, "families", "linear", "unseen single") < 0.2);
    assert!(value(&report, "random vectors", "ridge", "unseen single") > 0.9);
    assert_eq!(value(&report, "none", "train mean", "unseen single"), 1.0);
    // Effects add up, so that the sum of two seen changes is right but for noise. NumPy on the same
    // file, the mean taken over all conditions, gives 0.180 / 0.450 = 0.40: a cell's variance of
    // 0.39 in 8 cells of three conditions, and the control's.
    let additive = value(&report, "none", "additive", "pair, 2 seen");
    assert!((0.3..0.45).contains(&additive), "{additive}");
    assert!(value(&report, "none", "additive", "pair, 0 seen") > additive);
    for split in ["pair, 0 seen", "pair, 1 seen"] {
        assert!(value(&report, "families", "ridge", split) < 0.3, "{split}");
    }
    let shuffled = response.run(&genome, &sets, Options { shuffle_labels: true, ..options }).expect("a table");
    assert!(value(&shuffled, "families", "ridge", "unseen single") > 0.8);
}

#[test]
fn bad_files_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let problem = |path: &PathBuf| Response::read_h5ad(path, &resolver, None).expect_err("a bad file").to_string();
    let nan = problem(&fixture("gears_nan.h5ad"));
    assert!(nan.contains("X, row 3, column 5: not a finite number"), "{nan}");
    let bare = problem(&fixture("gears_bare.h5ad"));
    assert!(
        bare.contains("no column `condition`") && bare.contains("cell_type") && bare.contains("FEV+ctrl"),
        "{bare}"
    );
    let whole = std::fs::read(fixture("gears_csr.h5ad")).expect("a file");
    let cut = folder.path().join("cut.h5ad");
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 100] {
        std::fs::write(&cut, &whole[..length]).expect("a file");
        let text = problem(&cut);
        assert!(text.contains("cut.h5ad") && !text.contains('\n'), "{length}: {text}");
    }
    let other = Response::read_h5ad(&fixture("gears_csr.h5ad"), &resolver, Some("HeLa")).expect_err("no such cells");
    assert!(other.to_string().contains("no cells of type 'HeLa'; it has K562"));
}

#[test]
fn counts_and_missing_conditions_get_their_notes() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let path = fixture("gears_counts.h5ad");
    let response = Response::read_h5ad(&path, &resolver, None).expect("a response");
    let notes = response.notes.join("\n");
    for part in [
        "2 cells without a cell type left out",
        "cells of type K562 alone; 6 cells of 1 other types left out",
        "X holds whole numbers alone, up to ",
        "raw counts, it seems; log-normalised expression is expected",
        "4 cells without a condition left out: obs.condition is (empty), nan",
    ] {
        assert!(notes.contains(part), "{part} in {notes}");
    }
    let cells = Cells::read(&path, &resolver, Some("condition")).expect("cells");
    assert_eq!(cells.names, ["G01+ctrl", "G02+ctrl", "G03+ctrl", "G04+ctrl", "ctrl"]);
    let notes = cells.notes.join("\n");
    for part in ["4 cells without a label left out", "raw counts", "40 words: 0 genes"] {
        assert!(notes.contains(part), "{part} in {notes}");
    }
    let file = H5ad::open(&path).expect("a file");
    assert_eq!(file.column("obs", "batch").expect("text with a mask")[..4], ["one", "", "one", ""]);
    // Logarithms are what is expected.
    let logs = Response::read_h5ad(&fixture("gears_csr.h5ad"), &resolver, None).expect("a response");
    assert!(!logs.notes.join("\n").contains("expected"), "{:?}", logs.notes);
}

#[test]
fn half_precision_is_read_and_foreign_compression_is_named() {
    let rows = |name: &str| {
        let file = H5ad::open(&fixture(name)).expect("a file");
        let matrix = file.matrix("X").expect("a matrix");
        let mut rows = Vec::new();
        file.rows(&matrix, |_, cells| rows.push(cells.to_vec())).map(|()| rows)
    };
    let whole = rows("gears_dense.h5ad").expect("cells");
    let half = rows("gears_half.h5ad").expect("cells");
    assert_eq!(half.len(), 20);
    for (half, whole) in half.iter().zip(&whole) {
        assert_eq!(half.len(), whole.len());
        for ((a, half), (b, whole)) in half.iter().zip(whole) {
            // Eleven bits of a number below 8.
            assert!(a == b && (half - whole).abs() <= 0.002, "{half} {whole}");
            assert_ne!(*half, 0.0);
        }
    }
    for (name, filter, id) in [("zstd", "zstd", 32_015), ("lz4", "lz4", 32_004)] {
        let problem = rows(&format!("gears_{name}.h5ad")).expect_err("a foreign filter").to_string();
        assert!(problem.contains(&format!("X/data is compressed with {filter} (HDF5 filter {id})")), "{problem}");
        assert!(problem.contains("compression=\"gzip\"") && !problem.contains('\n'), "{problem}");
    }
}
