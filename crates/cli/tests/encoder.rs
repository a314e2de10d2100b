//! `bft embed` with a sentence encoder: vectors as sentence-transformers makes them, and flags that
//! do not fit.

mod common;

use common::{fixture, run};
use serde_json::{Value, json};

/// The fixture's texts as JSONL rows in a file, and its expected vectors.
fn texts(name: &str, folder: &std::path::Path) -> (String, Vec<f32>) {
    let model = fixture(&format!("encoders/{name}"));
    let rows = std::fs::read(format!("{model}/expected.json")).expect("a file");
    let rows: Vec<Value> = serde_json::from_slice(&rows).expect("JSON");
    let lines: String = rows.iter().map(|row| format!("{}\n", json!({ "text": row["text"] }))).collect();
    let file = folder.join("texts.jsonl");
    std::fs::write(&file, lines).expect("written");
    let bytes = std::fs::read(format!("{model}/expected.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let vectors = tensors.tensor("vectors").expect("a tensor").data();
    let floats = vectors.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (file.display().to_string(), floats.collect())
}

#[test]
fn vectors_are_sentence_transformers_and_cuts_are_counted() {
    for (name, texts_of, truncated) in [
        ("minilm", 11, 2),
        ("bge", 11, 1),
        ("pubmedbert", 11, 1),
        ("xlm_roberta", 14, 3),
        ("roberta", 14, 2),
        ("modernbert", 14, 2),
        ("nomic", 14, 1),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (input, expected) = texts(name, folder.path());
        let output = folder.path().join("out.jsonl").display().to_string();
        let model = fixture(&format!("encoders/{name}"));
        let done =
            run(["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &output, "--json"]);
        let answer = done.json();
        assert_eq!((&answer["rows"], &answer["width"]), (&json!(texts_of), &json!(24)));
        assert_eq!(answer["truncated"], truncated, "{name}");
        assert!(done.stderr.contains("were cut to"), "{done:?}");
        let found: Vec<f32> = std::fs::read_to_string(&output)
            .expect("a file")
            .lines()
            .flat_map(|line| {
                let row: Value = serde_json::from_str(line).expect("JSON");
                serde_json::from_value::<Vec<f32>>(row["embedding"].clone()).expect("numbers")
            })
            .collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{name}: {found} is not {expected}");
        }
    }
}

/// A language model that was made to embed: what its folder says is followed and said, and flags
/// win.
#[test]
fn a_folder_says_how_its_vectors_are_made_and_flags_win() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, expected) = texts("qwen3", folder.path());
    let model = fixture("encoders/qwen3");
    let output = folder.path().join("out.jsonl").display().to_string();
    let embed = |more: &[&str]| {
        let flags =
            ["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &output, "--truncate"];
        let done = run(flags.iter().chain(more));
        let first = std::fs::read_to_string(&output).unwrap_or_default();
        let row: Value = serde_json::from_str(first.lines().next().unwrap_or("null")).expect("JSON");
        (done, serde_json::from_value::<Vec<f32>>(row["embedding"].clone()).unwrap_or_default())
    };
    let is_expected = |found: &[f32]| found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5);
    let (done, vector) = embed(&[]);
    let said = "follows modules.json: last token, scaled to length 1, prompt \"Find the gene: \"";
    assert!(done.ok().stderr.contains(said) && is_expected(&vector), "{done:?}");
    for (more, said) in [
        (vec!["--normalize=false"], "last token, not scaled, prompt"),
        (vec!["--pooling", "mean"], "mean over all tokens, scaled"),
        (vec!["--prompt", ""], "scaled to length 1, no prompt"),
        (vec!["--prompt-name", "document"], "scaled to length 1, no prompt"),
    ] {
        let (done, vector) = embed(&more);
        assert!(done.ok().stderr.contains(said), "{done:?}");
        assert!(!is_expected(&vector), "{more:?} changes the vector");
    }
    let (done, vector) = embed(&["--prompt-name", "query", "--normalize"]);
    assert!(is_expected(&vector), "{done:?}");
    let (done, _) = embed(&["--prompt-name", "qeury"]);
    assert!(done.error().contains("did you mean query?") && done.error().contains("document, query"), "{done:?}");
    // All but embedding needs a head.
    let done = run(["generate", "--device", "cpu", "--model", &model, "--prompt", "a", "--no-chat-template"]);
    assert!(done.error().contains("lm_head.weight is missing"), "{done:?}");
}

/// An encoder's prompts are its folder's, by name; the default one is said.
#[test]
fn an_encoder_takes_the_prompts_of_its_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, _) = texts("minilm", folder.path());
    let output = folder.path().join("out.npy").display().to_string();
    let embed = |name: &str, more: &[&str]| {
        let model = fixture(&format!("encoders/{name}"));
        let flags = ["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &output];
        let done = run(flags.iter().chain(more));
        (done, std::fs::read(&output).unwrap_or_default())
    };
    let (_, plain) = embed("nomic", &[]);
    let (_, written) = embed("nomic", &["--prompt", "search_query: "]);
    let (done, named) = embed("nomic", &["--prompt-name", "search_query"]);
    assert!(done.ok().stderr.contains("prompt \"search_query: \""), "{done:?}");
    assert!(named == written && named != plain);
    let (done, _) = embed("nomic", &["--prompt-name", "search-query"]);
    assert!(done.error().contains("did you mean search_query?"), "{done:?}");
    let (done, query) = embed("xlm_roberta", &[]);
    let said = "follows modules.json: mean over all tokens, scaled to length 1, prompt \"query: \"";
    assert!(done.ok().stderr.contains(said), "{done:?}");
    let (_, passage) = embed("xlm_roberta", &["--prompt-name", "passage"]);
    let (done, none) = embed("xlm_roberta", &["--prompt", ""]);
    assert!(!done.ok().stderr.contains("follows") && query != passage && query != none, "{done:?}");
}

#[test]
fn flags_that_do_not_fit_the_model_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, _) = texts("bge", folder.path());
    let output = folder.path().join("out.npy").display().to_string();
    let refusal = |model: &str, more: &[&str]| {
        let model = fixture(model);
        let mut flags = vec!["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &output];
        flags.extend(more);
        let done = run(flags);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(!std::path::Path::new(&output).exists());
        done.error().to_owned()
    };
    let adapter = fixture("llama/adapter");
    let text = refusal("encoders/bge", &["--adapter", &adapter]);
    assert!(text.starts_with("--adapter: bge is a sentence encoder"), "{text}");
    let text = refusal("llama", &["--pooling", "cls"]);
    assert!(text.starts_with("--pooling cls: the first token"), "{text}");
    let text = refusal("encoders/bge", &["--max-length", "49"]);
    assert!(text.contains("expected 2 to 48"), "{text}");
    let model = fixture("encoders/bge");
    let done = run(["generate", "--device", "cpu", "--model", &model, "--prompt", "a"]);
    assert!(done.error().contains("bft embed"), "{done:?}");
}

/// A folder that names a step which is not implemented is refused, unless the flags say how vectors
/// are to be made.
#[test]
fn a_step_that_cannot_be_followed_is_refused_until_flags_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, _) = texts("qwen3", folder.path());
    let (from, model) = (fixture("encoders/qwen3"), folder.path().join("model"));
    std::fs::create_dir(&model).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(std::path::Path::new(&from).join(name), model.join(name)).expect("a copy");
    }
    let modules = json!([{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.WeightedLayerPooling", "path": "1_Pooling"}]);
    std::fs::write(model.join("modules.json"), modules.to_string()).expect("a file");
    let (model, output) = (model.display().to_string(), folder.path().join("out.npy").display().to_string());
    let flags = ["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &output, "--truncate"];
    let done = run(flags);
    assert!(done.error().contains("\"WeightedLayerPooling\""), "{done:?}");
    let done = run(flags.iter().chain(&["--pooling", "last"]));
    assert!(done.ok().stderr.contains("nothing there is followed"), "{done:?}");
}

#[test]
fn bench_times_an_encoder_up_to_its_longest_text() {
    let model = fixture("encoders/minilm");
    let bench = |flags: &str| {
        let base = ["bench", "--device", "cpu", "--model", &model, "--task"];
        run(base.into_iter().chain(flags.split(' ')))
    };
    let answer = bench("embed --batch-size 3 --length 48 --steps 1 --json").json();
    assert_eq!(answer["tokens"], 3 * 48);
    assert!(answer["gflops"].as_f64() > Some(0.0), "{answer}");
    assert!(answer["processor"]["kernels"].as_array().is_some_and(|kernels| !kernels.is_empty()), "{answer}");
    let long = bench("embed --length 49");
    assert!(long.error().contains("49") && long.error().contains("48"), "{long:?}");
    assert!(!bench("train").error().is_empty());
}
