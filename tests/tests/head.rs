//! The head as training uses it, chunk after chunk, against a softmax over the whole vocabulary in
//! f64.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, Elem, Recording, View};
use bft_core::ops::head;
use bft_formats::Random;
use pollster::block_on;

/// A head's inputs, the same for every device and chunking.
struct Problem {
    rows: usize,
    hidden: usize,
    vocabulary: usize,
    h: Vec<f64>,
    w: Vec<f64>,
    labels: Vec<u32>,
    coefficients: Vec<f64>,
}

impl Problem {
    fn new(rows: usize, hidden: usize, vocabulary: usize, scale: f32) -> Self {
        let mut random = Random::from_text(&format!("{rows} {hidden} {vocabulary} {scale}"));
        let mut floats = |len, scale: f32| -> Vec<f64> {
            let values = random.floats(len, -scale, scale);
            values.into_iter().map(f64::from).collect()
        };
        let (h, w) = (floats(rows * hidden, scale), floats(vocabulary * hidden, 1.0));
        let coefficients = floats(rows, 1.0);
        let labels = (0..rows).map(|_| random.below(vocabulary) as u32);
        Self { rows, hidden, vocabulary, h, w, labels: labels.collect(), coefficients }
    }

    /// Logits of the columns, row-major.
    fn logits(&self, columns: std::ops::Range<usize>) -> Vec<f64> {
        let rows = self.h.chunks_exact(self.hidden);
        rows.flat_map(|h| {
            let columns = self.w[columns.start * self.hidden..columns.end * self.hidden].chunks_exact(self.hidden);
            columns.map(move |w| w.iter().zip(h).map(|(w, h)| w * h).sum::<f64>())
        })
        .collect()
    }

    /// log p of the labels and the gradient of Σ c·(−log p) with respect to h, the plain way.
    fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let logits = self.logits(0..self.vocabulary);
        let (mut log_p, mut dh) = (Vec::new(), Vec::new());
        for (row, logits) in logits.chunks_exact(self.vocabulary).enumerate() {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
            let label = self.labels[row] as usize;
            log_p.push(logits[label] - max - sum.ln());
            let mut gradient = vec![0.0; self.hidden];
            for (v, (logit, w)) in logits.iter().zip(self.w.chunks(self.hidden)).enumerate() {
                let onehot = if v == label { 1.0 } else { 0.0 };
                let pull = self.coefficients[row] * ((logit - max).exp() / sum - onehot);
                for (gradient, w) in gradient.iter_mut().zip(w) {
                    *gradient += pull * w;
                }
            }
            dh.extend(gradient);
        }
        (log_p, dh)
    }

    /// The same through the ops, with the products of the chunks made here in f64.
    fn chunked(&self, device: &Device, chunk: usize) -> (Vec<f64>, Vec<f64>) {
        let (rows, hidden) = (self.rows, self.hidden);
        let alloc = |len| device.alloc("tensor", Elem::F32, len).unwrap().view();
        let upload = |values: &[f64]| -> View {
            let view = alloc(values.len());
            device.write_f64(&view, values).unwrap();
            view
        };
        let run = |record: &dyn Fn(&mut Recording)| {
            let mut rec = Recording::new();
            record(&mut rec);
            device.run(&rec).unwrap();
        };
        let labels = device.alloc("labels", Elem::U32, rows).unwrap().view();
        device.write_u32(&labels, &self.labels).unwrap();
        // Contents before the sweep must not matter.
        let state = upload(&vec![f64::NAN; rows * head::STATE]);
        let acc = upload(&vec![f64::NAN; rows * hidden]);
        run(&|rec| {
            head::begin(rec, &state);
            rec.clear(&acc);
        });
        for first in (0..self.vocabulary).step_by(chunk) {
            let columns = first..(first + chunk).min(self.vocabulary);
            let logits = upload(&self.logits(columns.clone()));
            run(&|rec| {
                head::online_softmax(rec, &logits, &labels, &state, first, self.vocabulary);
                head::rescale(rec, &acc, &state, hidden);
            });
            let weights = block_on(device.read_f64(&logits)).unwrap();
            let mut sums = block_on(device.read_f64(&acc)).unwrap();
            for (row, weights) in weights.chunks_exact(columns.len()).enumerate() {
                for (weight, v) in weights.iter().zip(columns.clone()) {
                    for i in 0..hidden {
                        sums[row * hidden + i] += weight * self.w[v * hidden + i];
                    }
                }
            }
            device.write_f64(&acc, &sums).unwrap();
        }
        let rows_of_labels = self.labels.iter().flat_map(|label| {
            let start = *label as usize * hidden;
            self.w[start..start + hidden].iter().copied()
        });
        let targets = upload(&rows_of_labels.collect::<Vec<_>>());
        let coefficients = upload(&self.coefficients);
        let (log_p, dh) = (upload(&vec![f64::NAN; rows]), alloc(rows * hidden));
        run(&|rec| {
            head::log_prob(rec, &state, &log_p);
            head::gradient(rec, &acc, &state, &coefficients, &targets, &dh, hidden);
        });
        let read = |view| block_on(device.read_f64(view)).unwrap();
        (read(&log_p), read(&dh))
    }
}

/// Largest |difference| relative to the largest |expected|.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30, |max: f64, x| max.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, difference| {
        assert!(difference.is_finite(), "a result is not finite");
        f64::max(max, difference / largest)
    })
}

fn check(device: &Device, tolerance: f64) {
    for (rows, hidden, vocabulary, scale) in [(1, 1, 1, 1.0), (1, 8, 5, 1.0), (9, 24, 131, 1.0), (9, 24, 131, 20.0)] {
        let problem = Problem::new(rows, hidden, vocabulary, scale);
        let (log_p, dh) = problem.expected();
        for chunk in [1, 7, 64, 130, 131, 500] {
            let (found_log_p, found_dh) = problem.chunked(device, chunk);
            let what = format!("{rows} x {hidden} x {vocabulary} x {scale} by {chunk}");
            let distances = (distance(&found_log_p, &log_p), distance(&found_dh, &dh));
            assert!(distances.0 < tolerance, "{what}: log p {distances:?}");
            assert!(distances.1 < tolerance, "{what}: dh {distances:?}");
        }
    }
}

#[test]
fn chunks_equal_one_softmax_in_f64() {
    check(&Device::cpu_f64(), 1e-12);
}

#[test]
fn chunks_equal_one_softmax_on_the_cpu() {
    check(&Device::cpu(), 1e-5);
}

#[test]
fn chunks_equal_one_softmax_on_the_gpu() {
    if let Some(device) = bft_tests::gpu() {
        check(&device, 1e-5);
    }
}

/// A target that is almost certain keeps the digits of log p and of its small gradient.
#[test]
fn a_sure_target_keeps_its_digits() {
    let gpu = bft_tests::gpu();
    for device in [Some(Device::cpu()), gpu].into_iter().flatten() {
        let mut problem = Problem::new(1, 2, 6, 1.0);
        problem.labels = vec![3];
        problem.h = vec![1.0, 0.0];
        problem.w =
            [-9.0, -7.5, -8.0, 9.0, -9.5, -8.25].into_iter().flat_map(|logit| [logit, 0.5 + logit / 64.0]).collect();
        let (log_p, dh) = problem.expected();
        assert!(log_p[0] > -1e-6 && log_p[0] < 0.0);
        let others: f64 = [-18.0, -16.5, -17.0, -18.5, -17.25f64].map(f64::exp).iter().sum();
        let (found, gradient) = problem.chunked(&device, 4);
        assert!((found[0] / -others.ln_1p() - 1.0).abs() < 1e-5, "{found:?}");
        assert!(distance(&gradient, &dh) < 1e-5, "{gradient:?} {dh:?}");
    }
}

#[test]
fn the_gradient_is_that_of_log_p() {
    let device = Device::cpu_f64();
    let mut problem = Problem::new(3, 5, 40, 2.0);
    let (_, gradient) = problem.chunked(&device, 16);
    let loss = |problem: &Problem| -> f64 {
        let (log_p, _) = problem.chunked(&device, 16);
        let terms = log_p.iter().zip(&problem.coefficients);
        terms.map(|(log_p, c)| -c * log_p).sum()
    };
    for (i, analytic) in gradient.iter().enumerate() {
        let (middle, step) = (problem.h[i], 1e-5);
        problem.h[i] = middle + step;
        let above = loss(&problem);
        problem.h[i] = middle - step;
        let below = loss(&problem);
        problem.h[i] = middle;
        let numeric = (above - below) / (2.0 * step);
        assert!((numeric - analytic).abs() < 1e-8, "d h[{i}] is {}, central difference {numeric}", analytic);
    }
}
