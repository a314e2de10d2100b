//! `--quantize`: which verbs take it, what they say, and how a run remembers it.

mod common;

use common::{fixture, line, run, tiny_training};
use serde_json::Value;

#[test]
fn every_verb_that_opens_a_model_takes_it() {
    for verb in ["train", "eval", "generate", "chat", "embed", "inspect", "estimate", "bench"] {
        let help = run([verb, "--help"]);
        // Wherever the lines are broken.
        let words: Vec<&str> = help.ok().stdout.split_whitespace().collect();
        let words = words.join(" ");
        assert!(words.contains("--quantize <FORMAT>"), "{verb}: {words}");
        assert!(words.contains("[possible values: q8_0, q4_0, q5_0, q4_k]"), "{verb}: {words}");
    }
    let typo = line("inspect --model m --quantize q4k");
    assert_eq!(typo.code, Some(2));
    assert!(typo.error().contains("did you mean q4_k?"), "{}", typo.error());
    let nothing = line("inspect --adapter a --quantize q8_0");
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.error().contains("--model <PATH>"), "{}", nothing.error());
}

#[test]
fn what_became_of_the_weights_is_said_and_counted() {
    let model = fixture("qwen3");
    let answer = run(["inspect", "--model", &model, "--json", "--quantize", "q4_k"]);
    let said = "quantised as they load, the matrices are 11 in Q5_0 (rows of 32 are not whole blocks of 256), \
                4 in Q5_0 (rows of 64 are not whole blocks of 256), 1 in Q8_0 (the head)";
    assert!(answer.ok().stderr.contains(&format!("weights: {said}")), "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["notes"][0], said);
    let tensors = answer["tensors"].as_array().expect("tensors");
    let dtype = |name: &str| tensors.iter().find(|tensor| tensor["name"] == name).map(|tensor| &tensor["dtype"]);
    assert_eq!(dtype("lm_head.weight"), Some(&Value::from("Q8_0")));

    let bytes = |more: &[&str]| {
        let flags = ["estimate", "--model", &model, "--json", "--max-length", "16"];
        run(flags.iter().chain(more)).json()["model_bytes"].as_u64().expect("bytes")
    };
    assert_eq!(answer["bytes"].as_u64(), Some(bytes(&["--quantize", "q4_k"])));
    assert!(bytes(&["--quantize", "q8_0"]) * 3 < bytes(&[]));

    let encoder = fixture("encoders/minilm");
    let input = format!("{encoder}/config.json");
    let refused = run(["embed", "--model", &encoder, "--input", &input, "--output", "b.npy", "--quantize", "q8_0"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.error().contains("quantising a sentence encoder is not supported"), "{}", refused.error());
}

#[test]
fn a_run_goes_on_with_the_format_that_it_began_with() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let mut flags = tiny_training(&output, 2);
    flags.extend(["--quantize".into(), "q8_0".into()]);
    let done = run(&flags);
    assert!(done.ok().stderr.contains("weights: quantised as they load, the matrices are 15 in Q8_0"), "{done:?}");
    let text = std::fs::read_to_string(output.join("run.json")).expect("run.json");
    let settings: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(settings["settings"]["quantize"], "q8_0");

    let output = output.display().to_string();
    let resume = ["train", "--device", "cpu", "--output", &output, "--resume", "--steps", "3"];
    let other = run(resume.iter().chain(&["--quantize", "q4_0"]));
    assert!(other.error().contains("quantize is q4_0, was q8_0"), "{}", other.error());
    let done = run(resume);
    assert!(done.ok().stderr.contains("going on after step 2"), "{done:?}");
    assert!(done.stderr.contains("15 in Q8_0"), "{done:?}");
}
