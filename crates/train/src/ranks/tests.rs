use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};

use bft_core::device::Device;
use bft_formats::{Model, sha256_file};

use super::*;
use crate::testing::model;
use crate::{Finished, TrainConfig, TrainError, Trainer};

/// Ranks that are threads of one process.
#[derive(Clone)]
struct Thread {
    rank: usize,
    barrier: Arc<Barrier>,
    slots: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Thread {
    fn all(count: usize) -> Vec<Self> {
        let barrier = Arc::new(Barrier::new(count));
        let slots = Arc::new(Mutex::new(vec![Vec::new(); count]));
        (0..count).map(|rank| Self { rank, barrier: barrier.clone(), slots: slots.clone() }).collect()
    }

    fn gather_floats(&self, mine: &[f32]) -> Vec<Vec<f32>> {
        let all = self.gather(bytemuck::cast_slice(mine));
        all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect()
    }
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.slots.lock().unwrap().len()
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.slots.lock().unwrap()[self.rank] = mine.to_vec();
        self.barrier.wait();
        let all = self.slots.lock().unwrap().clone();
        self.barrier.wait();
        all
    }

    fn transpose(&self, values: &[f32], lengths: &[usize]) -> Vec<f32> {
        let start: usize = lengths[..self.rank].iter().sum();
        let all = self.gather_floats(values);
        all.iter().flat_map(|of| of[start..start + lengths[self.rank]].to_vec()).collect()
    }

    fn join(&self, part: &[f32], lengths: &[usize], whole: &mut [f32]) {
        assert_eq!(part.len(), lengths[self.rank]);
        whole.copy_from_slice(&self.gather_floats(part).concat());
    }
}

/// Runs `work` on every rank at once.
fn on_all<T: Send>(count: usize, work: impl Fn(&Thread) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks = Thread::all(count);
        let running: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
        running.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

#[test]
fn work_is_shared_out_evenly_and_always_alike() {
    assert_eq!(share_out(&[5, 5, 5, 5], 2), [0, 1, 0, 1]);
    // The longest alone, against all others.
    assert_eq!(share_out(&[1, 9, 3, 5], 2), [1, 0, 1, 1]);
    assert_eq!(share_out(&[7, 7], 4), [0, 1]);
    assert_eq!(share_out(&[], 3), Vec::<usize>::new());
}

#[test]
fn sums_are_added_in_the_order_of_ranks() {
    // Added in another order, these give other bits.
    let values =
        |rank: usize| -> Vec<f32> { (0..11).map(|i| [1e8, 0.3, -1e8, 7.7][(rank + i) % 4] + i as f32).collect() };
    for count in [1, 2, 3, 4] {
        let mut expected = values(0);
        for rank in 1..count {
            let more = values(rank);
            expected.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
        }
        for found in on_all(count, |ranks| {
            let mut mine = values(ranks.rank);
            ranks.sum(&mut mine);
            mine
        }) {
            assert_eq!(found, expected, "{count} ranks");
        }
    }
    // Fewer values than ranks.
    assert_eq!(
        on_all(4, |ranks| {
            let mut one = [1.0];
            ranks.sum(&mut one);
            one
        }),
        [[4.0]; 4]
    );
}

#[test]
fn a_share_holds_every_sample_once_and_fits_the_buffers() {
    let mut step = vec![Batch::untrained(Vec::new(), vec![0]); 2];
    for sample in 0..7u32 {
        let len = 3 + sample % 4;
        let one = Batch {
            tokens: (0..len).map(|t| 10 * sample + t).collect(),
            segments: vec![0, len],
            trained: (1..len - 1).collect(),
            labels: (2..len).map(|t| 10 * sample + t).collect(),
            trained_segments: vec![0, len - 2],
        };
        push_sample(&mut step[sample as usize / 4], &one, 0);
    }
    let bounds = BatchBounds { tokens: 9, trained: 6, samples: 2 };
    let mut seen = Vec::new();
    for rank in 0..3 {
        for batch in share_of(&step, rank, 3, bounds) {
            let found = BatchBounds {
                tokens: batch.tokens.len(),
                trained: batch.trained.len(),
                samples: batch.segments.len() - 1,
            };
            assert!(found.fits(bounds), "{found:?}");
            batch.check(bounds.into(), 100).unwrap();
            // Each label is the token after its position.
            for (t, label) in batch.trained.iter().zip(&batch.labels) {
                assert_eq!(batch.tokens[*t as usize + 1], *label);
            }
            seen.extend(batch.segments[..found.samples].iter().map(|at| batch.tokens[*at as usize] / 10));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
}

/// Rows of several lengths, room for runs, and a tiny model.
struct Place {
    folder: tempfile::TempDir,
    model: Model,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let row = |i: u32| {
            let ids: Vec<u32> = (0..3 + i % 5).map(|t| 20 + (i * 7 + t * 3) % 50).collect();
            format!("{{\"input_ids\": {ids:?}, \"labels\": {ids:?}}}\n")
        };
        let rows = |range: std::ops::Range<u32>| range.map(row).collect::<String>();
        std::fs::write(folder.path().join("rows.jsonl"), rows(0..13)).unwrap();
        std::fs::write(folder.path().join("held.jsonl"), rows(20..25)).unwrap();
        Self { folder, model: model(None, None) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, output: &Path, steps: u64, dropout: f32) -> TrainConfig {
        TrainConfig {
            data: self.path("rows.jsonl").into(),
            eval_data: Some(self.path("held.jsonl").into()),
            output: output.to_owned(),
            rank: 4,
            lr: 0.01,
            schedule: crate::Schedule::Constant,
            lora_dropout: dropout,
            batch_size: 2,
            grad_accum: 3,
            steps: Some(steps),
            save_every: 2,
            seed: 5,
            group_size: bft_core::GroupSize::Tokens(2),
            ..TrainConfig::default()
        }
    }

    /// Trains on `count` ranks; all but the first name an output folder that they must not touch.
    fn train(
        &self,
        output: &str,
        count: usize,
        change: impl Fn(usize, &mut TrainConfig) + Sync,
    ) -> Vec<Result<Finished, TrainError>> {
        on_all(count, |ranks| {
            let mut config = self.config(&self.path(output), 4, 0.0);
            change(ranks.rank, &mut config);
            if ranks.rank > 0 && !config.resume {
                config.output = self.path("untouched");
            }
            let trainer = Trainer::open(config, &self.model)?;
            let (device, asked) = (Device::cpu(), AtomicBool::new(false));
            pollster::block_on(trainer.tune_together(&device, ranks, &asked, &mut |_| {}))
        })
    }

    fn adapter(&self, output: &str) -> Vec<f32> {
        let adapter = Adapter::load(&self.path(output), &self.model.config).unwrap();
        let pairs = adapter.pairs.into_iter();
        pairs.flat_map(|pair| [pair.a, pair.b].concat()).collect()
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (apart / b.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

#[test]
fn the_result_does_not_depend_on_the_number_of_ranks() {
    let place = Place::new();
    for (dropout, schedule) in [(0.0, &[][..]), (0.25, &[]), (0.0, &["sft:0.5".to_owned()])] {
        let name = |count: usize| format!("{count}-{dropout}-{}", schedule.len());
        let alone = name(0);
        let loss_schedule = schedule.to_vec();
        let config = TrainConfig { loss_schedule, ..place.config(&place.path(&alone), 4, dropout) };
        let trainer = Trainer::open(config, &place.model).unwrap();
        let (device, stop) = (Device::cpu(), AtomicBool::new(false));
        let expected = pollster::block_on(trainer.tune(&device, &stop, &mut |_| {})).unwrap();
        let start = crate::new_adapter(&place.model.config, "tiny", &place.config(Path::new("-"), 4, dropout));
        let start: Vec<f32> = start.unwrap().pairs.into_iter().flat_map(|pair| [pair.a, pair.b].concat()).collect();
        assert!(distance(&start, &place.adapter(&alone)) > 1e-2);
        // 16 is more than a step has samples.
        for count in [1, 2, 4, 16] {
            let results = place.train(&name(count), count, |_, config| {
                config.lora_dropout = dropout;
                config.loss_schedule = schedule.to_vec();
            });
            let apart = distance(&place.adapter(&name(count)), &place.adapter(&alone));
            assert!(apart < 1e-6, "{count} ranks, dropout {dropout}: {apart:.1e}");
            for result in results {
                let found = result.unwrap();
                assert_eq!((found.steps, found.tokens), (4, expected.tokens));
                let close = |a: f64, b: f64| (a - b).abs() < 1e-5 * b.abs();
                assert!(close(found.nll.unwrap(), expected.nll.unwrap()));
                let nll = |finished: &Finished| finished.eval.unwrap().eval_nll;
                assert!(close(nll(&found), nll(&expected)));
            }
        }
        assert!(!place.path("untouched").exists(), "rank 0 alone writes");
    }
}

#[test]
fn the_same_ranks_give_the_same_bytes_and_a_checkpoint_goes_on_with_others() {
    let place = Place::new();
    let all = |output: &str, count, steps, resume| {
        for result in place.train(output, count, |_, config| {
            config.steps = Some(steps);
            config.resume = resume;
        }) {
            assert_eq!(result.unwrap().steps, steps);
        }
    };
    all("once", 2, 4, false);
    all("again", 2, 4, false);
    let bytes = |output: &str| sha256_file(&place.path(output).join("adapter_model.safetensors"));
    assert_eq!(bytes("once").unwrap(), bytes("again").unwrap());
    all("moved", 2, 2, false);
    all("moved", 3, 4, true);
    let apart = distance(&place.adapter("moved"), &place.adapter("once"));
    assert!(apart < 1e-6, "{apart:.1e}");
}

#[test]
fn ranks_with_other_files_are_refused_before_anything_is_written() {
    let place = Place::new();
    let rows = std::fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let fewer = rows.lines().skip(1).collect::<Vec<_>>().join("\n");
    std::fs::write(place.path("fewer.jsonl"), fewer).unwrap();
    let results = place.train("tuned", 3, |rank, config| {
        if rank == 1 {
            config.data = place.path("fewer.jsonl").into();
        }
    });
    for result in results {
        let words = result.expect_err("another file").to_string();
        assert!(words.contains("data") && words.contains("rank 1"), "{words}");
    }
    assert!(!place.path("tuned").exists());
}

#[test]
fn one_rank_that_is_asked_stops_all_after_the_same_step() {
    let place = Place::new();
    let finished = on_all(3, |ranks| {
        let mut config = place.config(&place.path("tuned"), 1_000, 0.0);
        config.eval_data = None;
        if ranks.rank > 0 {
            config.output = place.path("untouched");
        }
        let trainer = Trainer::open(config, &place.model).unwrap();
        let device = Device::cpu();
        // Rank 2 alone hears of it, before its first step.
        let asked = AtomicBool::new(ranks.rank == 2);
        pollster::block_on(trainer.tune_together(&device, ranks, &asked, &mut |_| {})).unwrap()
    });
    for result in finished {
        assert!(result.stopped);
        assert_eq!(result.steps, 1);
    }
    assert!(place.path("tuned/checkpoints/step-000001").is_dir());
}
