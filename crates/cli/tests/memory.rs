//! What `bft` says it will need, against what it came to hold: SmolLM2 at what `cargo xtask bench`
//! measures, on the CPU.
#![cfg(target_os = "linux")]

mod common;

use common::run;
use serde_json::Value;

/// Runs the one step that a server runs before it answers, and checks its peak against the
/// estimate.
fn bench(flags: &str) -> Value {
    let model = bft_tests::smollm2().display().to_string();
    let base = ["bench", "--device", "cpu", "--model", &model, "--serve"];
    let flags = base.into_iter().chain(flags.split_whitespace());
    let answer = run(flags.collect::<Vec<_>>()).json();
    close(&answer["estimated_bytes"], &answer["peak_rss_bytes"]);
    answer
}

/// Within a tenth of what was held.
#[track_caller]
fn close(estimated: &Value, held: &Value) {
    let bytes = |value: &Value| value.as_f64().expect("bytes");
    let ratio = bytes(estimated) / bytes(held);
    assert!((0.9..=1.1).contains(&ratio), "{estimated} bytes estimated, {held} held: {ratio:.3}");
}

#[test]
fn a_step_holds_what_was_estimated() {
    let whole = bench("--task train");
    let model = bft_tests::smollm2().display().to_string();
    let line = "estimate --batch-size 4 --max-length 256 --json --model";
    let flags = line.split_whitespace().chain([model.as_str()]);
    let estimate = run(flags.collect::<Vec<_>>()).json();
    close(&estimate["total_bytes"], &whole["peak_rss_bytes"]);
    assert!(whole["peak_rss_bytes"].as_u64() <= Some(1_000_000_000), "4 × 256 tokens train within 1.0 GB: {whole}");
    bench("--task train --trained-share 0.25");
    bench("--task train --lengths 512,290,100,16 --trained-share 0.34");
    bench("--task train --lengths 256,128,64,32");
    bench("--task train --checkpoint-activations on --lengths 128,128");
    // One after the other, for all use every core.
    bench("--task embed --batch-size 16 --length 128");
    bench("--task generate --length 64");
}
