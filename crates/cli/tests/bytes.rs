//! A fixed seed on the CPU gives the same adapter, byte for byte, whatever becomes of the code.
//!
//! The hashes were made before the weight formats, layers and devices were rebuilt. A change here
//! is a change of results: find out what caused it, and record a new hash only where it is
//! intended.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::{bft, fixture};

/// Model, instruction set, SHA-256 of `adapter_model.safetensors`.
const ADAPTERS: [(&str, &str, &str); 9] = [
    ("llama", "portable", "cf4854101ea32eeb4a92ee0da45dc0b07d0bec0fd6c4610159e30a31b60ba931"),
    ("llama", "avx2", "27503ff3cc1182531b09ec3e1974c9519900b3b6bc2e08b6f96f27574b6f7312"),
    ("llama", "avx512", "283854b8370d317815fa01e147d0d50040503a56d0509d13224b19431c3d2c0d"),
    ("qwen2", "portable", "2c316f747fa3064f6824dca40660db9ec87b2e5abf6fcde70fa65921662b9fba"),
    ("qwen2", "avx2", "72cd1779f71214a0e1c0741ecc16099f0d8129bfdeb1d545ef87da8fbf88cc9b"),
    ("qwen2", "avx512", "d98619432c97cb96047d7485a3021e30770cd798e7825acfe204ff24e32008c2"),
    ("qwen3", "portable", "b9ce2ae08cf4b112eeee80ca7015f546b617d74bbac6ad388d3445c2a2b3e855"),
    ("qwen3", "avx2", "74875209f708d3ac74ea8367439af71717b3f8ce6b9b89bb0338048575a4dd09"),
    ("qwen3", "avx512", "12a754814616e440cd017f8a7267b4031c38a89bed911591007285d526aef419"),
];

#[test]
fn the_adapter_of_a_fixed_seed_keeps_its_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    let mut changed = Vec::new();
    for (name, instructions, expected) in ADAPTERS {
        // A processor without an instruction set would silently take a lesser one.
        let known = match instructions {
            "avx2" => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            "avx512" => is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq"),
            _ => true,
        };
        if !known {
            continue;
        }
        let output = folder.path().join(format!("{name}-{instructions}"));
        let mut command = bft(["train", "--device", "cpu", "--steps", "6", "--group-size", "4", "--rank", "4"]);
        command.args(["--lr", "0.005", "--schedule", "constant", "--lora-dropout", "0.1", "--seed", "3"]);
        command.args(["--model", &fixture(name), "--data", &rows]).arg("--output").arg(&output);
        let done = common::Done::of(command.env("BFT_SIMD", instructions).output().expect("bft starts"));
        done.ok();
        let bytes = std::fs::read(output.join("adapter_model.safetensors")).expect("an adapter");
        let found = bft_formats::sha256_bytes(&bytes);
        if found != expected {
            changed.push(format!("{name} with {instructions}: {found}, expected {expected}"));
        }
    }
    assert!(changed.is_empty(), "adapters changed:\n{}", changed.join("\n"));
}
