//! Hand-written statistics against scipy, scikit-learn, rouge-score and NLTK
//! (`fixtures/make_stats.py`), and torchmetrics (`fixtures/make_answers.py`).

use bft_bio::stats::calibration::Calibration;
use bft_bio::stats::enrichment::{benjamini_hochberg, upper_tail};
use bft_bio::stats::features::Features;
use bft_bio::stats::logistic::Logistic;
use bft_bio::stats::ranking::{Ranking, auroc, average_precision, best_threshold, f1};
use bft_bio::stats::{answers, bootstrap, correlation, knn, paired, porter, ridge, rouge, tfidf};
use bft_train::Pca;
use nalgebra::DMatrix;
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/stats.json")).expect("the fixture")
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list");
    list.iter().map(|it| it.as_f64().expect("a number")).collect()
}

fn flags(value: &Value) -> Vec<bool> {
    let list = value.as_array().expect("a list");
    list.iter().map(|it| it.as_bool().expect("a flag")).collect()
}

fn matrix(value: &Value) -> DMatrix<f64> {
    let rows: Vec<Vec<f64>> = value.as_array().expect("rows").iter().map(numbers).collect();
    DMatrix::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
}

fn features(rows: &DMatrix<f64>) -> Features {
    let values = rows.transpose().iter().map(|value| *value as f32).collect();
    Features::Dense { width: rows.ncols(), values }
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{found} against {expected}");
}

#[test]
fn ranking_equals_scikit_learn_with_ties_and_weights() {
    for case in fixture()["ranking"].as_array().expect("cases") {
        let (scores, labels) = (numbers(&case["scores"]), flags(&case["labels"]));
        let weights = numbers(&case["weights"]);
        let value = |key: &str| case[key].as_f64().expect("a number");
        close(auroc(&scores, &labels).expect("both kinds"), value("auroc"), 1e-12);
        close(average_precision(&scores, &labels).expect("both kinds"), value("ap"), 1e-12);
        let ranking = Ranking::new(&scores, &labels);
        close(ranking.auroc(&|i| weights[i]).expect("both kinds"), value("auroc_weighted"), 1e-12);
        close(ranking.average_precision(&|i| weights[i]).expect("both kinds"), value("ap_weighted"), 1e-12);
        close(f1(&scores, &labels, 0.5), value("f1_at_half"), 1e-12);
        close(f1(&scores, &labels, best_threshold(&scores, &labels)), value("best_f1"), 1e-9);
    }
    assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(auroc(&[1.0, 1.0], &[true, false]), Some(0.5));
}

#[test]
fn tails_equal_scipy() {
    for row in fixture()["hypergeometric"].as_array().expect("rows") {
        let row = numbers(row);
        let [overlap, total, marked, drawn] = [0, 1, 2, 3].map(|i| row[i] as usize);
        let found = upper_tail(overlap, total, marked, drawn).expect("a distribution");
        assert!((found / row[4] - 1.0).abs() < 1e-8, "{found} against {}", row[4]);
    }
    let adjusted = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.5, 0.02]);
    for (found, expected) in adjusted.iter().zip(numbers(&fixture()["linear"]["bh"])) {
        close(*found, expected, 1e-12);
    }
}

#[test]
fn linear_models_equal_scikit_learn() {
    let data = &fixture()["linear"];
    let (x, y) = (matrix(&data["x"]), matrix(&data["y"]));
    let rows = features(&x);
    let model = Logistic::fit(&rows, &flags(&data["labels"]), 0.7);
    for (found, expected) in model.weights.iter().zip(numbers(&data["logistic_weights"])) {
        close(*found, expected, 1e-4);
    }
    close(model.bias, data["logistic_bias"].as_f64().expect("a number"), 1e-4);

    let (train, test): (Vec<usize>, Vec<usize>) = ((0..30).collect(), (30..40).collect());
    let weights = ridge::weights(&rows, &train, &test, 0.8).expect("solved");
    let found = ridge::predict(&weights, &y.rows(0, 30).into_owned());
    for (found, expected) in found.iter().zip(matrix(&data["ridge"]).iter()) {
        close(*found, *expected, 1e-5);
    }
    let wide = features(&matrix(&data["wide"]));
    let (train, test): (Vec<usize>, Vec<usize>) = ((0..9).collect(), (9..12).collect());
    let weights = ridge::weights(&wide, &train, &test, 1.5).expect("solved");
    let found = ridge::predict(&weights, &y.rows(0, 9).into_owned());
    for (found, expected) in found.iter().zip(matrix(&data["ridge_wide"]).iter()) {
        close(*found, *expected, 1e-5);
    }
}

#[test]
fn components_neighbours_and_correlations_equal_scikit_learn_and_scipy() {
    let data = &fixture()["linear"];
    let (x, y) = (matrix(&data["x"]), matrix(&data["y"]));
    let pca = Pca::fit(&x, 3);
    for (found, expected) in pca.variance.iter().zip(numbers(&data["pca_variance"])) {
        close(*found, expected, 1e-10);
    }
    for (found, expected) in pca.project(&x).iter().zip(matrix(&data["pca_abs"]).iter()) {
        close(found.abs(), *expected, 1e-8);
    }
    let wide = matrix(&data["wide"]);
    assert_eq!(Pca::fit(&wide, 50).axes.ncols(), 11);

    let classes: Vec<usize> = numbers(&data["classes"]).iter().map(|c| *c as usize).collect();
    let (train, test): (Vec<usize>, Vec<usize>) = ((0..30).collect(), (30..40).collect());
    let found = knn::predict(&features(&x).normalized(), &classes, &train, &test, 1);
    let expected: Vec<usize> = numbers(&data["knn"]).iter().map(|c| *c as usize).collect();
    assert_eq!(found, expected);

    let (a, b): (Vec<f64>, Vec<f64>) = (x.column(0).iter().copied().collect(), y.column(0).iter().copied().collect());
    close(correlation::pearson(&a, &b).expect("varied"), data["pearson"].as_f64().expect("a number"), 1e-12);
    assert_eq!(correlation::pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
    let mut sorted = a;
    sorted.sort_by(f64::total_cmp);
    for (share, expected) in [0.025, 0.5, 0.975].iter().zip(numbers(&data["quantiles"])) {
        close(bootstrap::quantile(&sorted, *share).expect("values"), expected, 1e-12);
    }
}

#[test]
fn texts_are_weighed_scored_and_stemmed_as_elsewhere() {
    let data = fixture();
    let texts: Vec<String> = data["tfidf"]["texts"]
        .as_array()
        .expect("texts")
        .iter()
        .map(|it| it.as_str().expect("a text").to_owned())
        .collect();
    let vectors = tfidf::tfidf(&texts);
    assert_eq!(vectors.width() as u64, data["tfidf"]["width"].as_u64().expect("a number"));
    let gram = matrix(&data["tfidf"]["gram"]);
    for i in 0..texts.len() {
        for j in 0..texts.len() {
            assert!((vectors.inner(i, j) - gram[(i, j)]).abs() < 1e-6);
        }
    }
    for row in data["rouge"].as_array().expect("rows") {
        let text = |i: usize| row[i].as_str().expect("a text");
        let found = rouge::rouge(text(0), text(1));
        for (value, i) in [(found.one, 2), (found.two, 3), (found.l, 4)] {
            close(value, row[i].as_f64().expect("a number"), 1e-12);
        }
    }
    for row in data["stems"].as_array().expect("rows") {
        let (word, stem) = (row[0].as_str().expect("a word"), row[1].as_str().expect("a stem"));
        assert_eq!(porter::stem(word), stem, "{word}");
    }
}

#[test]
fn intervals_hold_the_mean_and_narrow_with_more_units() {
    let width = |n: usize| {
        let values: Vec<f64> = (0..n).map(|i| (i * 10 / n) as f64).collect();
        let found = bootstrap::mean(&values, 500, 1).expect("values");
        let (low, high) = found.range.expect("an interval");
        assert!((found.value - 4.5).abs() < 1e-12 && low < 4.5 && high > 4.5, "{found:?}");
        high - low
    };
    // The standard error of a mean of 100 such values is 0.287: 1.96 times it on either side.
    let hundred = width(100);
    assert!((hundred / (2.0 * 1.96 * 0.287) - 1.0).abs() < 0.15, "{hundred}");
    assert!((width(1600) / hundred - 0.25).abs() < 0.06);
    // Without a redraw there is nothing to say of the spread.
    assert_eq!(bootstrap::mean(&[1.0, 2.0], 0, 1).expect("values").range, None);
}

#[test]
fn answers_are_compared_as_squad_compares_them() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/answers.json")).expect("the fixture");
    for case in cases.as_array().expect("cases") {
        let text = |key: &str| case[key].as_str().expect("a text");
        let (reference, answer) = (text("reference"), text("answer"));
        assert_eq!(f64::from(answers::exact(reference, answer)), case["exact"], "{case}");
        close(answers::token_f1(reference, answer), case["f1"].as_f64().expect("a number"), 1e-6);
    }
}

#[test]
fn paired_differences_and_holm_are_those_of_scipy_and_statsmodels() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/paired.json")).expect("the fixture");
    for case in fixture["holm"].as_array().expect("cases") {
        for (found, expected) in paired::holm(&numbers(&case["p"])).iter().zip(numbers(&case["corrected"])) {
            close(*found, expected, 1e-12);
        }
    }
    for case in fixture["intervals"].as_array().expect("cases") {
        let value = |key: &str| case[key].as_f64().expect("a number");
        let below = numbers(&case["below"]);
        let arm = |key: &str| vec![numbers(&case[key]).into_iter().zip(below.clone()).collect::<Vec<_>>()];
        let found = paired::difference(&arm("one"), &arm("other"), 20_000).expect("a difference");
        close(found.estimate.value, value("value"), 1e-12);
        let (low, high) = found.estimate.range.expect("an interval");
        // A quantile of 20,000 redraws is known to about 0.02 of their standard deviation.
        for (found, key) in [(low, "low"), (high, "high")] {
            assert!((found - value(key)).abs() < 0.06 * value("deviation"), "{found} against {}", value(key));
        }
    }
}

#[test]
fn seeds_are_redrawn_too_and_arms_share_their_redraws() {
    let arm = |seeds: [f64; 3]| seeds.map(|right| vec![(right, 4.0), (right, 4.0)]).to_vec();
    let (one, other) = (arm([1.0, 2.0, 3.0]), arm([0.0, 1.0, 2.0]));
    let found = paired::difference(&one, &other, 999).expect("a difference");
    // Whatever is drawn, the one arm has a quarter more: paired, nothing varies.
    let (low, high) = found.estimate.range.expect("redraws");
    [found.estimate.value, low, high].into_iter().for_each(|value| close(value, 0.25, 1e-12));
    close(found.p, 2.0 / 1000.0, 1e-12);
    let range = paired::interval(&one, 999).expect("an interval").range.expect("redraws");
    assert_eq!(range, (0.25, 0.75), "one seed may be drawn every time");
    assert_eq!(paired::difference(&one, &one, 999).expect("a difference").p, 1.0);
    assert_eq!(paired::difference(&one, &other[..2], 9), None, "other seeds");
    assert_eq!(paired::difference(&one, &vec![vec![(0.0, 1.0)]; 3], 9), None, "other units");
    assert_eq!(paired::interval(&[vec![(0.0, 0.0)]], 9), None);
}

#[test]
fn calibration_error_of_known_predictions() {
    let mut first = Calibration::default();
    // Two at 0.95, one of which is right; four at 0.5, three of which are.
    first.add(0.95, true);
    first.add(0.95, false);
    let mut second = Calibration::default();
    [true, true, true, false].into_iter().for_each(|right| second.add(0.5, right));
    first.merge(&second);
    close(first.error().expect("predictions"), (2.0 * 0.45 + 4.0 * 0.25) / 6.0, 1e-12);
    assert_eq!(Calibration::default().error(), None);
    // The first and last borders have a bin.
    first.add(0.0, false);
    first.add(1.0, true);
}
