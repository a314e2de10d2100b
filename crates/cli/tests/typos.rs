//! A typo in every place a typo can be, and files that are not there or not what they should be.

mod common;

use common::{fixture, line, run, write};

#[test]
fn a_mistyped_word_names_the_nearest_and_exits_with_2() {
    let cases = [
        ("trian", "did you mean bft train?"),
        ("TRAIN", "did you mean bft train?"),
        ("help", "bft has no verb 'help'"),
        ("eval --modle m --data d", "did you mean --model?"),
        ("generate --model m --prmpt hi", "did you mean --prompt?"),
        ("generate --model m --prompt hi --max-tokens 4", "did you mean --max-new-tokens?"),
        ("chat --model m --temp 1", "did you mean --temperature?"),
        ("embed --model m --input a --output b.npy --poolin mean", "did you mean --pooling?"),
        ("inspect --modle m", "did you mean --model?"),
        ("estimate --model m --bach-size 2", "did you mean --batch-size?"),
        ("devices --jsn", "did you mean --json?"),
        ("bench --task trian --model m", "did you mean train?"),
        ("train --model m --data d --output o --loss btf", "did you mean bft?"),
        ("train --model m --data d --output o --schedule cosin", "did you mean cosine?"),
        ("train --model m --data d --output o --device gqu", "did you mean gpu?"),
        ("train --model m --data d --output o --target-modules q_proj,v_porj", "did you mean v_proj?"),
        ("train --model m --data d --output o --checkpoint-activations yes", "expected auto, on or off"),
        ("embed --model m --input a --output b.npy --pooling maen", "did you mean mean?"),
        ("embed --model m --input a --output b.paquet", "did you mean .parquet?"),
        ("eval --model m", "--data <FILE> is missing"),
        ("eval --model m --data d --metric exakt", "did you mean exact?"),
        ("eval --model m --data d --metrik f1", "did you mean --metric?"),
        ("eval --model m --data d --metric f1 --redraw 3", "did you mean --redraws?"),
        ("eval --model m --data d --metric f1 --batch-siz 3", "did you mean --batch-size?"),
        ("eval --model m --data d --metric f1 --max-new-token 3", "did you mean --max-new-tokens?"),
        ("eval --model m --data d --max-new-tokens 3", "--metric <METRIC> is missing, which --max-new-tokens needs"),
        ("eval --model m --data d --redraws 3", "--metric <METRIC> is missing"),
        ("bio mqc --model m --data d", "did you mean bft bio mcq?"),
        ("bio mcq --model m", "--data <FILE> is missing"),
        ("bio mcq --model m --data d --form letter", "did you mean letters?"),
        ("bio mcq --model m --data d --frm cloze", "did you mean --form?"),
        ("bio mcq --model m --data d --answers from1", "did you mean from-1?"),
        ("bio mcq --model m --data d --anwers text", "did you mean --answers?"),
        ("bio mcq --model m --data d --shots 2", "--shots-from <FILE> is missing"),
        ("bio mcq --model m --data d --shot 2 --shots-from f", "did you mean --shots?"),
        ("bio mcq --model m --data d --shots 2 --shots-form f", "did you mean --shots-from?"),
        ("bio mcq --model m --data d --limt 2", "did you mean --limit?"),
        ("bio mcq --model m --data d --skip-bad-row", "did you mean --skip-bad-rows?"),
        ("bio mcq --model m --data d --column question=q", "did you mean --columns?"),
        ("bio mcq --model m --data d --columns qestion=q", "did you mean question?"),
        ("bio mcq --model m --data d --columns question", "expected KEY=COLUMN"),
        ("bio mcq --model m --data d --limit 0", "--limit: found '0'"),
        ("train --model m --data d --output o --lr -1", "--lr: found '-1'"),
        ("train --model m --data d --output o --rank 0", "--rank: found '0'"),
        ("train --model m --data d --output o --lora-dropout 1", "--lora-dropout: found '1'"),
        ("generate --model m --prompt a --top-p 0", "--top-p: found '0'"),
        ("inspect", "--model <PATH>"),
        ("inspect --data d", "--model <PATH>"),
        ("bench --task train", "--model <PATH> is missing"),
    ];
    for (arguments, expected) in cases {
        let done = line(arguments);
        assert_eq!(done.code, Some(2), "{arguments}: {done:?}");
        assert!(done.error().contains(expected), "{arguments}: {}", done.error());
        assert_eq!(done.stdout, "", "{arguments}");
    }
}

#[test]
fn no_verb_at_all_is_a_bad_command_line() {
    let done = run::<[&str; 0], &str>([]);
    assert_eq!(done.code, Some(2));
    assert!(done.error().contains("use one of train, eval"), "{}", done.error());
}

#[test]
fn help_and_version_are_results() {
    for verb in ["train", "eval", "generate", "chat", "embed", "inspect", "estimate", "devices", "bench"] {
        let done = run([verb, "--help"]);
        assert!(done.ok().stdout.contains(&format!("Usage: bft {verb}")), "{done:?}");
        assert!(done.stdout.contains(&format!("Examples:\n  bft {verb}")), "{done:?}");
        assert!(!done.stdout.contains('\u{1b}'), "no colours in a pipe: {done:?}");
    }
    assert!(line("--version").ok().stdout.starts_with("bft "));
    assert!(line("--help").ok().stdout.contains("estimate"));
}

#[test]
fn a_config_file_s_mistakes_name_the_file_and_exit_with_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = [
        ("leraning-rate = 1e-4", "unknown key `leraning-rate` for bft train; did you mean `lr`?"),
        ("batch_sise = 4", "did you mean `batch-size`?"),
        ("rank = 'ten'", "key `rank`: found the text \"ten\", expected a whole number"),
        ("no-shuffle = 'yes'", "expected true or false"),
        ("loss = 'bfft'", "did you mean bft?"),
        ("rank = ", "line 1: not TOML"),
    ];
    for (text, expected) in cases {
        let path = write(folder.path(), "run.toml", text);
        let done =
            run(["train", "--model", "m", "--data", "d", "--output", "o", "--config", &path.display().to_string()]);
        assert_eq!(done.code, Some(2), "{text}: {done:?}");
        assert!(done.error().contains(expected), "{text}: {}", done.error());
        assert!(done.error().contains("run.toml"), "{text}: {}", done.error());
    }
    let missing = folder.path().join("rnu.toml").display().to_string();
    let done = run(["train", "--config", &missing]);
    assert_eq!(done.code, Some(2));
    assert!(done.error().contains("did you mean") && done.error().contains("run.toml?"), "{}", done.error());
}

#[test]
fn a_mistyped_path_names_its_neighbour_and_exits_with_1() {
    let model = fixture("llama");
    let rows = format!("{model}/rows.jsonl");
    let wrong_model = model.replace("/llama", "/lama");
    let cases = [
        (vec!["eval", "--model", &wrong_model, "--data", &rows], "--model"),
        (vec!["eval", "--model", &model, "--data", &rows[..rows.len() - 1]], "--data"),
        (vec!["eval", "--model", &model, "--data", &rows, "--adapter", "no-such-folder-at-all"], "--adapter"),
        (vec!["inspect", "--adapter", "no-such-folder-at-all"], "--adapter"),
        (vec!["embed", "--model", &model, "--input", "/no/such.txt", "--output", "/tmp/x.npy"], "--input"),
        (
            vec!["train", "--model", &model, "--data", &rows, "--output", "/tmp/never", "--init-adapter", "/no/such"],
            "--init-adapter",
        ),
    ];
    for (arguments, flag) in cases {
        let done = run(&arguments);
        assert_eq!(done.code, Some(1), "{arguments:?}: {done:?}");
        let error = done.error();
        assert!(error.starts_with(flag) && error.contains("no such file or folder"), "{error}");
    }
    let done = run(["eval", "--model", &wrong_model, "--data", &rows]);
    let expected = format!("did you mean {model}?");
    assert!(done.error().ends_with(&expected), "{}", done.error());
}

#[test]
fn what_is_no_model_adapter_or_data_is_said_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = fixture("llama");
    let rows = format!("{model}/rows.jsonl");
    write(folder.path(), "not.gguf", "this is no model");
    write(folder.path(), "empty.jsonl", "");
    write(folder.path(), "bad.jsonl", "{\"promt\": \"a\", \"completion\": \"b\"}\n");
    write(folder.path(), "text.jsonl", "{\"text\": \"this model has no tokenizer\"}\n");
    write(folder.path(), "masked.jsonl", "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}\n");
    write(folder.path(), "beyond.jsonl", "{\"input_ids\": [1, 9999], \"labels\": [1, 9999]}\n");
    let long: Vec<String> = (0..200).map(|id| (id % 100).to_string()).collect();
    let long = format!("{{\"input_ids\": [{0}], \"labels\": [{0}]}}\n", long.join(","));
    write(folder.path(), "long.jsonl", &long);
    let eval = |data: &str| run(["eval", "--device", "cpu", "--model", &model, "--data", &at(data)]);
    for (done, expected) in [
        (run(["inspect", "--model", &at("not.gguf")]), "not.gguf"),
        (run(["inspect", "--model", &folder.path().display().to_string()]), "config.json"),
        (run(["inspect", "--adapter", &model]), "adapter_config.json"),
        (
            run(["eval", "--model", &fixture("qwen3"), "--adapter", &format!("{model}/adapter"), "--data", &rows]),
            "adapter",
        ),
        (eval("empty.jsonl"), "is empty"),
        (eval("bad.jsonl"), "bad.jsonl:1"),
        (eval("text.jsonl"), "no tokenizer"),
        (eval("masked.jsonl"), "masked.jsonl"),
        (eval("beyond.jsonl"), "9999"),
        (eval("long.jsonl"), "200"),
        (run(["generate", "--device", "cpu", "--model", &model, "--prompt", "a"]), "no chat template"),
        (run(["chat", "--device", "cpu", "--model", &model]), "no tokenizer"),
        (
            run(["eval", "--device", "cpu", "--model", &model, "--data", &rows, "--max-length", "4096"]),
            "max-length is 4096",
        ),
        (run(["devices", "--device", "gpu:99"]), "adapter"),
    ] {
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.error().contains(expected), "expected {expected}: {}", done.error());
        assert_eq!(done.stdout, "", "{done:?}");
    }
}

#[test]
fn a_name_on_a_hub_is_told_from_a_folder() {
    let model = fixture("llama");
    let rows = format!("{model}/rows.jsonl");
    let generate = |name: &str| run(["generate", "--device", "cpu", "--prompt", "a", "--model", name]);
    for (name, said) in [
        (
            "Some-Org/Model-0.6B",
            "no such file or folder; as a model on the hub: Some-Org/Model-0.6B is not in the cache",
        ),
        ("https://hub.example/Some-Org/Model-0.6B/tree/main", "give its name: --model hf:Some-Org/Model-0.6B"),
        ("hf:Some-Org/Model-0.6B:Q4_K_M", "--model hf:Some-Org/Model-0.6B:Q4_K_M: Some-Org/Model-0.6B is not in"),
        ("hf://Some-Org/Model-0.6B@v2", "Some-Org/Model-0.6B@v2 is not in the cache"),
        ("hf:Some-Org", "'hf:Some-Org' names no model on the hub: it has no owner before the name"),
    ] {
        let done = generate(name);
        assert_eq!(done.code, Some(if said.contains("has no owner") { 2 } else { 1 }), "{done:?}");
        assert!(done.error().contains(said), "{done:?}");
    }
    // One word is what other programs take for a model without its owner; these are a person's own
    // paths.
    let said = "a model is a folder, a .gguf file, or OWNER/NAME on the hub";
    assert!(generate("Model-0.6B").error().ends_with(said), "{:?}", generate("Model-0.6B"));
    for name in [
        "./Model-0.6B",
        "../up/Model-0.6B",
        "a/b/Model-0.6B",
        "/no-such/Model-0.6B",
        "here/model.gguf",
        "src/model.gguf",
    ] {
        assert!(!generate(name).error().contains("on the hub"), "{:?}", generate(name));
    }
    // Where its first folder is here, a name is a path, which may not be what was meant.
    let here = |name: &str, said: &str| {
        assert!(generate(name).error().ends_with(said), "{:?}", generate(name));
    };
    here("src/Model-0.6B", "so that this is a path: hf:src/Model-0.6B is the model on the hub");
    here("src/generate", "; this is the folder here, and hf:src/generate is the model on the hub");
    let eval = |more: &[&str]| run(["eval", "--device", "cpu"].iter().chain(more));
    let done = eval(&["--model", &model, "--data", "some-lab/rows-52k"]);
    let said = "(`hf download some-lab/rows-52k --repo-type dataset --local-dir rows-52k`, then --data rows-52k/FILE)";
    assert!(done.error().ends_with(said), "{done:?}");
    assert!(!eval(&["--model", &model, "--data", "heldout/rows.jsonl"]).error().contains("hub"));
    let done = eval(&["--model", &model, "--data", &rows, "--adapter", "some-lab/tuned"]);
    assert!(
        done.error().contains("an adapter on a hub") && done.error().ends_with("then --adapter tuned)"),
        "{done:?}"
    );
}
