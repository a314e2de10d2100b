//! Texts written together, each in a slot of the cache: against PyTorch, against each alone, and
//! against the forward pass where a window's keys lie in a ring.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicBool;

use bft_core::device::Device;
use bft_core::{Batch, Capacity, Runner, RunnerOptions, Slots};
use bft_formats::Model;
use bft_tests::fixture::{Fixture, Row, relative_norm};
use bft_tests::templates::bytes_tokenizer;
use bft_train::{BatchWriter, Finish, SamplingConfig, TextWriter, WriteError, Written, write_answers};
use pollster::block_on;

fn everywhere(check: impl Fn(&Device, &Fixture)) {
    let devices: Vec<Device> = [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten().collect();
    for fixture in Fixture::all() {
        devices.iter().for_each(|device| check(device, &fixture));
    }
}

fn options(tokens: usize, texts: usize) -> RunnerOptions {
    RunnerOptions { capacity: Capacity { tokens, trained: texts, samples: 1 }, max_length: 128 }
}

/// A row whose tokens are taken one by one behind the first few, from a step on.
struct Text<'f> {
    slot: usize,
    row: &'f Row,
    begins: usize,
    taken: usize,
    /// `[N, V]` after each token.
    logits: Vec<f32>,
}

impl<'f> Text<'f> {
    fn new(slot: usize, row: &'f Row, begins: usize) -> Self {
        Self { slot, row, begins, taken: 0, logits: Vec::new() }
    }

    fn left(&self) -> bool {
        self.taken < self.row.input_ids.len()
    }
}

/// Takes all texts to their ends.
fn run(slots: &mut Slots<'_, '_>, texts: &mut [Text<'_>]) {
    for step in 0.. {
        for text in texts.iter_mut().filter(|text| text.begins == step) {
            slots.clear(text.slot);
            text.taken = 1;
            text.logits = block_on(slots.read(text.slot, &text.row.input_ids[..1])).unwrap();
        }
        let mut going: Vec<&mut Text> = texts.iter_mut().filter(|text| text.begins < step && text.left()).collect();
        let next: Vec<_> = going.iter().map(|text| (text.slot, text.row.input_ids[text.taken])).collect();
        if !next.is_empty() {
            let logits = block_on(slots.step(&next)).unwrap();
            let each = logits.chunks_exact(logits.len() / next.len());
            for (text, logits) in going.iter_mut().zip(each) {
                text.taken += 1;
                text.logits.extend_from_slice(logits);
            }
        }
        if texts.iter().all(|text| text.begins <= step && !text.left()) {
            return;
        }
    }
}

#[test]
fn texts_that_come_and_go_say_what_pytorch_says() {
    everywhere(|device, fixture| {
        let runner = Runner::new(device, &fixture.model, Some(&fixture.adapter), options(5, 3)).unwrap();
        let mut slots = runner.slots(3).unwrap();
        // The slots are used again, in another order.
        for [a, b, other] in [[0, 1, 2], [2, 0, 1]] {
            let rows = &fixture.rows;
            let mut texts = [Text::new(a, &rows[7], 0), Text::new(other, &rows[3], 1), Text::new(b, &rows[0], 3)];
            run(&mut slots, &mut texts);
            for (text, name) in [(&texts[0], "logits.7"), (&texts[2], "logits.0")] {
                let error = relative_norm(&text.logits, fixture.tensor(name));
                assert!(error <= 1e-5, "{} {name} on {}: {error:.2e}", fixture.name, device.info().name);
            }
        }
    });
}

#[test]
fn on_a_cpu_neighbours_change_no_bit() {
    let device = Device::cpu();
    for fixture in Fixture::all() {
        let runner = Runner::new(&device, &fixture.model, Some(&fixture.adapter), options(16, 16)).unwrap();
        let rows: Vec<&Row> = fixture.rows.iter().cycle().take(16).collect();
        let all = |texts: Vec<(usize, usize)>| {
            let mut slots = runner.slots(16).unwrap();
            let mut texts: Vec<_> = texts.iter().map(|(slot, begins)| Text::new(*slot, rows[*slot], *begins)).collect();
            run(&mut slots, &mut texts);
            texts.into_iter().map(|text| text.logits).collect::<Vec<_>>()
        };
        let together = all((0..16).map(|slot| (slot, slot % 3)).collect());
        for (slot, together) in together.iter().enumerate() {
            assert!(all(vec![(slot, 0)])[0] == *together, "{} slot {slot}", fixture.name);
        }
    }
}

/// Log p of every token but the first, all read at once.
fn whole(device: &Device, model: &Model, tokens: &[u32]) -> Vec<f32> {
    let count = tokens.len();
    let batch = Batch {
        tokens: tokens.to_vec(),
        segments: vec![0, count as u32],
        trained: (0..count as u32 - 1).collect(),
        labels: tokens[1..].to_vec(),
        trained_segments: vec![0, count as u32 - 1],
    };
    let capacity = Capacity { tokens: count, trained: count, samples: 1 };
    let mut runner = Runner::new(device, model, None, RunnerOptions { capacity, max_length: 128 }).unwrap();
    block_on(runner.log_probs(&batch)).unwrap()
}

/// Log p of the next token.
fn log_p(logits: &[f32], next: u32) -> f32 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    (f64::from(logits[next as usize]) - sum.ln()) as f32
}

/// Keys rotate otherwise in a text of more than 31 tokens: two grow so long at once, beside one that
/// does not.
#[test]
fn texts_that_grow_long_say_what_the_whole_text_says() {
    const SHORT: usize = 31;
    everywhere(|device, fixture| {
        if fixture.name != "phi3_longrope" {
            return;
        }
        let vocab = fixture.model.config.vocab_size;
        let (long, short) = (&fixture.rows[3], &fixture.rows[4]);
        let runner = Runner::new(device, &fixture.model, None, options(7, 3)).unwrap();
        let mut slots = runner.slots(3).unwrap();
        // The slots are used again, by texts that are short at first.
        for _ in 0..2 {
            let mut texts = [Text::new(2, long, 0), Text::new(0, short, 15), Text::new(1, long, 0)];
            run(&mut slots, &mut texts);
            for text in texts {
                let tokens = &text.row.input_ids;
                let found = text.logits.chunks_exact(vocab).zip(&tokens[1..]);
                let found: Vec<f32> = found.map(|(logits, next)| log_p(logits, *next)).collect();
                let expected = whole(device, &fixture.model, tokens);
                let from = if tokens.len() > SHORT { SHORT } else { 0 };
                let error = relative_norm(&found[from..], &expected[from..]);
                assert!(error <= 1e-5, "{} tokens on {}: {error:.2e}", tokens.len(), device.info().name);
            }
        }
    });
}

/// Every layer sees a window: the cache of a long text in one slot of several is a ring that goes
/// round many times, whatever the pieces.
#[test]
fn a_ring_of_a_window_s_keys_says_what_the_whole_text_says() {
    everywhere(|device, fixture| {
        let config = &fixture.model.config;
        if fixture.name != "llama" && config.layers.iter().all(|layer| layer.window.is_none()) {
            return;
        }
        let mut model: Model = fixture.model.clone();
        if fixture.name == "llama" {
            model.config.layers.iter_mut().for_each(|layer| layer.window = Some(11));
        }
        let vocab = model.config.vocab_size as u32;
        let tokens: Vec<u32> = (0..120).map(|i| (i * 37 + 5) % vocab).collect();
        let expected = whole(device, &model, &tokens);
        for piece in [1, 3, 7] {
            let runner = Runner::new(device, &model, None, options(7, 2)).unwrap();
            let mut slots = runner.slots(2).unwrap();
            let mut found = Vec::new();
            for (at, taken) in tokens.chunks(piece).enumerate() {
                let logits = block_on(slots.read(1, taken)).unwrap();
                found.extend(tokens.get(at * piece + taken.len()).map(|next| log_p(&logits, *next)));
            }
            let expected: Vec<f32> = expected.iter().skip(piece - 1).step_by(piece).copied().collect();
            assert_eq!(found.len(), expected.len());
            let error = relative_norm(&found, &expected);
            assert!(error <= 1e-5, "{} in pieces of {piece}: {error:.2e}", fixture.name);
        }
    });
}

#[test]
fn a_window_s_cache_does_not_grow_with_the_text() {
    let fixture = Fixture::load("mistral_window");
    let bytes = |max_length: usize, slots: usize| {
        let counting = Device::planning();
        let options = RunnerOptions { max_length, ..options(7, 4) };
        let runner = Runner::new(&counting, &fixture.model, None, options).unwrap();
        let before = counting.allocated_bytes();
        runner.slots(slots).unwrap();
        counting.allocated_bytes() - before
    };
    assert_eq!(bytes(64, 1), bytes(4096, 1));
    assert!(bytes(4096, 4) > 3 * bytes(4096, 1));
}

#[test]
fn what_does_not_fit_the_plan_is_refused() {
    let (device, fixture) = (Device::cpu(), Fixture::load("llama"));
    let runner = Runner::new(&device, &fixture.model, None, options(4, 2)).unwrap();
    let message = |result: Result<Vec<f32>, bft_core::ModelError>| result.unwrap_err().to_string();
    assert!(runner.slots(3).unwrap_err().to_string().contains("3 texts at once, the run was planned for 2"));
    assert!(runner.slots(0).is_err());
    let mut slots = runner.slots(2).unwrap();
    assert!(message(block_on(slots.read(2, &[1]))).contains("slot 2"));
    assert!(message(block_on(slots.read(0, &[]))).contains("no tokens"));
    assert!(message(block_on(slots.read(0, &[9999]))).contains("token id 9999"));
    assert!(message(block_on(slots.read(0, &[1; 129]))).contains("129 tokens after 0"));
    assert!(message(block_on(slots.step(&[(1, 1), (1, 2)]))).contains("slot 1"));
    assert!(message(block_on(slots.step(&[]))).contains("no tokens"));
    block_on(slots.read(1, &[1; 128])).unwrap();
    assert!(message(block_on(slots.step(&[(0, 1), (1, 1)]))).contains("1 tokens after 128"));
    // What was refused has changed nothing.
    assert_eq!((slots.length(0), slots.length(1), slots.length(7)), (0, 128, 0));
    let first = block_on(slots.read(0, &[5, 6])).unwrap();
    slots.clear(0);
    assert!(block_on(slots.read(0, &[5, 6])).unwrap() == first);
}

/// Answers of the little Llama to some prompts, by id.
fn answers(sampling: &SamplingConfig, count: usize, prompts: &[Vec<u32>]) -> Vec<(u64, Vec<u32>, String, Finish)> {
    let (device, fixture) = (Device::cpu(), Fixture::load("llama"));
    let runner = Runner::new(&device, &fixture.model, None, options(16, 16)).unwrap();
    let tokenizer = bytes_tokenizer(&[]).unwrap();
    let mut writer = BatchWriter::new(&runner, count, &fixture.model, &tokenizer, sampling, 128).unwrap();
    let mut found = Vec::new();
    let keep = |id, written: Written| {
        found.push((id, written.tokens, written.text, written.finish));
        Ok::<_, Box<WriteError>>(())
    };
    let prompts = (0..).zip(prompts.iter().cloned());
    let all = block_on(write_answers(&mut writer, prompts, 7, &AtomicBool::new(false), keep)).unwrap();
    assert!(all && writer.is_idle());
    found
}

/// Prompts of many lengths, some of which leave little room for an answer.
fn prompts() -> Vec<Vec<u32>> {
    let tokenizer = bytes_tokenizer(&[]).unwrap();
    let words = ["The gene", "a", "TP53 encodes the tumor suppressor", "Why?", "b c d e f g"];
    let mut prompts: Vec<_> = words.iter().map(|words| tokenizer.encode(words, false).unwrap()).collect();
    prompts.push(vec![3; 127]);
    prompts.push(vec![4; 120]);
    prompts.iter().cycle().take(21).cloned().collect()
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    let greedy = SamplingConfig { max_new_tokens: 20, ..SamplingConfig::default() };
    let warm = SamplingConfig { temperature: 1.5, ..greedy.clone() };
    for sampling in [greedy, warm] {
        let alone = answers(&sampling, 1, &prompts());
        assert_eq!(alone.iter().map(|answer| answer.0).collect::<Vec<_>>(), (0..21).collect::<Vec<_>>());
        assert_eq!((alone[5].1.len(), alone[5].3), (1, Finish::Length));
        for count in [2, 5, 16] {
            assert!(answers(&sampling, count, &prompts()) == alone, "{count} at once");
        }
        if sampling.temperature > 0.0 {
            // The same prompt, with seeds of its own.
            assert_ne!(alone[0].1, alone[7].1);
        }
    }
}

#[test]
fn a_greedy_answer_is_that_of_a_text_alone() {
    let sampling = SamplingConfig { max_new_tokens: 20, ..SamplingConfig::default() };
    let together = answers(&sampling, 4, &prompts());
    let (device, fixture) = (Device::cpu(), Fixture::load("llama"));
    let runner = Runner::new(&device, &fixture.model, None, options(16, 16)).unwrap();
    let tokenizer = bytes_tokenizer(&[]).unwrap();
    let mut alone = TextWriter::new(&runner, &fixture.model, &tokenizer, &sampling, 128).unwrap();
    for (prompt, (_, tokens, text, finish)) in prompts().iter().zip(together) {
        let written = block_on(alone.go_on(prompt, &AtomicBool::new(false), |_| {})).unwrap();
        assert_eq!((written.tokens, written.text, written.finish), (tokens, text, finish));
    }
}

#[test]
fn texts_may_be_taken_out_and_a_stopped_run_says_so() {
    let (device, fixture) = (Device::cpu(), Fixture::load("llama"));
    let runner = Runner::new(&device, &fixture.model, None, options(16, 16)).unwrap();
    let tokenizer = bytes_tokenizer(&[]).unwrap();
    let sampling = SamplingConfig { max_new_tokens: 20, ..SamplingConfig::default() };
    let mut writer = BatchWriter::new(&runner, 2, &fixture.model, &tokenizer, &sampling, 128).unwrap();
    let mut heard = Vec::new();
    assert!(block_on(writer.add(10, &[3, 4, 5], 0, |id, _| heard.push(id))).unwrap().is_none());
    assert!(block_on(writer.add(11, &[6, 7], 0, |id, _| heard.push(id))).unwrap().is_none());
    let full = block_on(writer.add(12, &[6], 0, |_, _| {})).unwrap_err();
    assert!(matches!(full, WriteError::Of { id: 12, .. }), "{full}");
    assert!(block_on(writer.step(|id, _| heard.push(id))).unwrap().is_empty());
    let taken = writer.remove(10).unwrap().unwrap();
    assert_eq!((taken.tokens.len(), taken.finish), (2, Finish::Cancelled));
    assert!(writer.has_room() && !writer.is_idle() && writer.remove(10).unwrap().is_none());
    let empty = block_on(writer.add(13, &[], 0, |_, _| {})).unwrap_err();
    assert!(empty.to_string().contains("the prompt has no tokens"), "{empty}");
    let stop = AtomicBool::new(true);
    let nothing = |_, _| Err(Box::new(WriteError::Empty));
    assert!(!block_on(write_answers(&mut writer, [(0, vec![3])], 0, &stop, nothing)).unwrap());
}
