//! Times of each kernel of an encoder on the CPU: `encoder_kernels MODEL TEXTS [BATCH_TOKENS]`, TEXTS a file of a text a line.
#![allow(clippy::unwrap_used)]

use bft_core::device::Device;
use bft_formats::EmbeddingModel;
use bft_train::{EmbedEngine, EmbedOptions, embed_texts};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = EmbeddingModel::open(arguments[0].as_ref()).unwrap();
    let texts = std::fs::read_to_string(&arguments[1]).unwrap();
    let mut options = EmbedOptions::of(&model, None).unwrap();
    if let Some(tokens) = arguments.get(2) {
        options.batch_tokens = tokens.parse().unwrap();
        options.batch_rows = options.batch_tokens;
    }
    let device = Device::cpu();
    let mut engine = EmbedEngine::new(&device, &model, None, &options).unwrap();
    let start = std::time::Instant::now();
    let report =
        pollster::block_on(embed_texts(&model, &mut engine, "texts", texts.lines(), &options, |_, _| Ok(()))).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let tokens = report.tokens as f64;
    println!("{tokens} tokens in {seconds:.3} s, {:.0} a second", tokens / seconds);
    let mut times = device.kernel_times();
    times.sort_by(|a, b| b.3.total_cmp(&a.3));
    let all: f64 = times.iter().map(|time| time.3).sum();
    for (shader, entry, calls, time) in times {
        let share = 100.0 * time / seconds;
        println!("{shader:>12} {entry:<10} {calls:>6} calls {time:>8.3} s {share:>5.1} %");
    }
    println!("outside of kernels {:.3} s", seconds - all);
}
