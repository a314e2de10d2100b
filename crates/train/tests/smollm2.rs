//! The real SmolLM2-135M-Instruct, where it is at hand: its own template and tokenizer make the
//! masks.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bft_formats::{Message, Model};
use bft_train::{MASKED, RowOptions, SampleOptions, TextEncoder, make_samples, parse_rows};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// `$BFT_SMOLLM2_GGUF`, or the cache that `cargo xtask test` fills. Without it there is nothing to
/// test here.
fn smollm2() -> Option<Model> {
    let given = std::env::var_os("BFT_SMOLLM2_GGUF").map(PathBuf::from);
    let cache = || {
        let folder = std::env::var_os("BFT_CACHE").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/bft"));
        Some(folder.or_else(home)?.join(FILE)).filter(|path| path.exists())
    };
    let Some(path) = given.or_else(cache) else {
        eprintln!("left out: no {FILE}; set BFT_SMOLLM2_GGUF, or run cargo xtask test");
        return None;
    };
    Some(Model::open(&path).unwrap())
}

#[test]
fn chats_train_their_answers_as_generation_will_meet_them() {
    let Some(model) = smollm2() else { return };
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let turns = [
        ("user", "Which chromosome carries TP53?"),
        ("assistant", "Chromosome 17, at 17p13.1."),
        ("user", "And BRCA2?"),
        ("assistant", "\n\nChromosome 13."),
    ];
    let messages: Vec<Message> = turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    let text = TextEncoder::new(&model);
    let sample = text.chat_samples(&messages.clone().into()).unwrap().samples.remove(0);
    let answers: Vec<String> = sample
        .labels
        .split(|label| *label == MASKED)
        .filter(|run| !run.is_empty())
        .map(|run| tokenizer.decode(&run.iter().map(|id| *id as u32).collect::<Vec<_>>(), false).unwrap())
        .collect();
    assert_eq!(answers, ["Chromosome 17, at 17p13.1.<|im_end|>", "\n\nChromosome 13.<|im_end|>"]);
    for turn in [1, 3] {
        let prompt = text.chat_prompt(&messages[..turn].to_vec().into()).unwrap();
        assert_eq!(sample.tokens[..prompt.len()], prompt, "before answer [{turn}]");
    }
    // The template greets with a system turn of its own where there is none.
    let whole = tokenizer.decode(&sample.tokens, false).unwrap();
    assert!(whole.starts_with("<|im_start|>system\nYou are a helpful AI assistant"), "{whole}");
}

#[test]
fn completions_end_with_the_end_of_text_and_continue_the_prompts_own_ids() {
    let Some(model) = smollm2() else { return };
    let rows = "{\"prompt\": \"The gene TP53 encodes\", \"completion\": \" a tumor suppressor.\"}";
    let rows = parse_rows("rows.jsonl", rows.as_bytes(), &RowOptions::default()).unwrap();
    let made = make_samples(&model, rows, &SampleOptions::default()).unwrap();
    let sample = &made.samples[0];
    assert_eq!(sample.tokens[..6], [504, 4675, 39009, 37, 35, 46685]);
    assert!(sample.labels[..6].iter().all(|label| *label == MASKED));
    assert_eq!(sample.tokens.last(), model.config.eos_token_ids.first());
    assert_eq!(made.report.trained_tokens, sample.tokens.len() - 6);
}
