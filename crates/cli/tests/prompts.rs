//! `bft generate --data`: an answer a row, the same whatever else is written at once, and a run that
//! goes on where it was.

mod common;

use std::path::Path;

use common::{Done, bft, finish, fixture, run, signal, wait_until};
use serde_json::{Value, json};

const ROWS: &str = r#"{"id": 1, "prompt": "The gene TP53", "completion": "a reference"}
{"messages": [{"role": "user", "content": "What is DNA?"}, {"role": "assistant", "content": "old"}], "tag": [2]}
{"instruction": "Name a gene.", "input": "of the liver", "output": ""}

{"prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]}
{"conversations": [{"from": "human", "value": "Hello"}]}
{"prompt": "a"}
"#;

/// A folder with rows, and the flags of a run over them.
fn flags(folder: &Path, more: &[&str]) -> Vec<String> {
    let (data, output) = (folder.join("rows.jsonl"), folder.join("answers.jsonl"));
    let model = fixture("qwen2");
    let mut flags = vec!["generate", "--device", "cpu", "--max-new-tokens", "9", "--model", &model];
    let (data, output) = (data.display().to_string(), output.display().to_string());
    flags.extend(["--data", &data, "--output", &output]);
    flags.extend(more);
    flags.into_iter().map(str::to_owned).collect()
}

fn started(folder: &Path, more: &[&str]) -> Done {
    run(flags(folder, more))
}

fn text(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

fn answers(folder: &Path) -> Vec<Value> {
    text(folder, "answers.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn folder(rows: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    put(&folder.path().join("rows.jsonl"), rows);
    folder
}

#[test]
fn every_row_is_answered_as_it_would_be_alone() {
    let folder = folder(ROWS);
    let summary = started(folder.path(), &["--json"]).json();
    assert_eq!((&summary["rows"], &summary["kept"], &summary["batch_size"]), (&json!(6), &json!(0), &json!(6)));
    let found = answers(folder.path());
    assert_eq!(found.len(), 6);
    // The rows' own keys are there, in their order, and the answer after them.
    assert_eq!(found[0]["completion"], "a reference");
    assert_eq!(found[1]["tag"], json!([2]));
    let keys: Vec<_> = found[0].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["id", "prompt", "completion", "generated"]);
    let tokens: u64 = found.iter().map(|row| row["generated"]["tokens"].as_u64().expect("a number")).sum();
    assert_eq!(summary["tokens"], tokens);
    for (row, prompt) in [(0, "The gene TP53"), (1, "What is DNA?"), (2, "Name a gene.\n\nof the liver"), (5, "a")] {
        let model = fixture("qwen2");
        let alone = run([
            "generate",
            "--device",
            "cpu",
            "--max-new-tokens",
            "9",
            "--json",
            "--model",
            &model,
            "--prompt",
            prompt,
        ]);
        assert_eq!(found[row]["generated"], alone.json(), "{prompt}");
    }
    // However many are written at once; and sampled, too.
    let whole = text(folder.path(), "answers.jsonl");
    for (how, known) in [(&["--temperature", "0"][..], Some(whole)), (&["--temperature", "1.3", "--seed", "4"], None)] {
        let mut known = known;
        for count in ["1", "2", "4"] {
            let other = self::folder(ROWS);
            started(other.path(), &[how, &["--batch-size", count]].concat()).ok();
            let found = text(other.path(), "answers.jsonl");
            assert_eq!(*known.get_or_insert_with(|| found.clone()), found, "{how:?}, {count} at once");
        }
    }
}

#[test]
fn a_run_goes_on_where_it_was() {
    let folder = folder(ROWS);
    let path = folder.path().join("answers.jsonl");
    let first = started(folder.path(), &["--batch-size", "2"]);
    assert!(first.ok().stderr.contains("6 answers in "), "{first:?}");
    let whole = text(folder.path(), "answers.jsonl");
    // The process may have ended at any byte.
    let cuts = [0, 1, whole.find('\n').expect("a line"), whole.find('\n').expect("a line") + 1, whole.len() - 1];
    for cut in cuts {
        put(&path, &whole[..cut]);
        let kept = whole[..cut].matches('\n').count();
        let summary = started(folder.path(), &["--json"]).json();
        assert_eq!((&summary["rows"], &summary["kept"]), (&json!(6), &json!(kept)), "cut at {cut}");
        assert_eq!(text(folder.path(), "answers.jsonl"), whole, "cut at {cut}");
    }
    let done = started(folder.path(), &[]);
    assert!(done.ok().stderr.contains("all 6 answers were in "), "{done:?}");
    assert!(!done.stderr.contains("device:"), "no device is opened for nothing: {done:?}");
}

#[test]
#[cfg(unix)]
fn a_killed_run_and_a_stopped_one_go_on() {
    let rows: String = (0..400).map(|i| format!("{{\"prompt\": \"gene {i}\"}}\n")).collect();
    let (folder, whole) = (folder(&rows), self::folder(&rows));
    let more = ["--max-new-tokens", "60", "--batch-size", "3"];
    let path = folder.path().join("answers.jsonl");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default().matches('\n').count();
    let spawn = || bft(long(folder.path(), &more)).stderr(std::process::Stdio::piped()).spawn().expect("bft starts");
    let mut killed = spawn();
    wait_until("some answers", || lines() > 3);
    // Two at once would write into each other's lines.
    let second = run(long(folder.path(), &more));
    assert!(second.error().contains("another run writes to it"), "{second:?}");
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let kept = lines();
        let stopped = spawn();
        wait_until("more answers", || lines() > kept + 3);
        signal(&stopped, number);
        let stopped = finish(stopped);
        assert_eq!(stopped.code, Some(128 + number), "{stopped:?}");
        assert!(stopped.error().contains("of 400 answers, which are saved: the same command goes on"), "{stopped:?}");
        assert!(lines() < 400, "it was to be stopped before its end");
    }
    run(long(folder.path(), &more)).ok();
    run(long(whole.path(), &more)).ok();
    assert_eq!(text(folder.path(), "answers.jsonl"), text(whole.path(), "answers.jsonl"));
}

fn long(folder: &Path, more: &[&str]) -> Vec<String> {
    let mut flags = flags(folder, more);
    flags.retain(|flag| flag != "9");
    let at = flags.iter().position(|flag| flag == "--max-new-tokens").expect("the flag");
    flags.remove(at);
    flags
}

#[test]
fn another_run_s_answers_are_left_alone() {
    let folder = folder(ROWS);
    let path = folder.path().join("answers.jsonl");
    put(&path, "something\n");
    let done = started(folder.path(), &[]);
    assert!(done.error().contains("is there, but no") && done.error().contains("answers.run.json"), "{done:?}");
    assert_eq!(text(folder.path(), "answers.jsonl"), "something\n");
    std::fs::remove_file(&path).expect("removed");
    started(folder.path(), &[]).ok();
    let whole = text(folder.path(), "answers.jsonl");
    for more in [&["--temperature", "1"][..], &["--system", "Be short."], &["--max-new-tokens", "8"]] {
        let done = match more {
            ["--max-new-tokens", _] => run(long(folder.path(), more)),
            _ => started(folder.path(), more),
        };
        assert!(done.error().contains("is of a run with other rows, another model, other flags"), "{done:?}");
    }
    put(&folder.path().join("rows.jsonl"), &ROWS.replace("DNA", "RNA"));
    assert!(started(folder.path(), &[]).error().contains("is of a run with other rows"));
    put(&folder.path().join("rows.jsonl"), ROWS);
    // A line that is not what this run wrote.
    put(&path, &whole.replacen("\"tag\":[2]", "\"tag\":[3]", 1));
    let done = started(folder.path(), &[]);
    assert!(done.error().contains("answers.jsonl:2: does not answer the row in its place"), "{done:?}");
    put(&path, &format!("{whole}{{\"more\": 1}}\n"));
    assert!(started(folder.path(), &[]).error().contains("answers.jsonl:7: does not answer"));
}

#[test]
fn what_cannot_be_answered_is_refused_before_anything_is_written() {
    let long = "a b ".repeat(500);
    for (rows, more, expected) in [
        ("{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n", &[][..], "rows.jsonl:2: found key \"text\"; expected \"prompt\""),
        (&format!("{{\"prompt\": \"{long}\"}}"), &[], "rows.jsonl:1: the prompt has "),
        ("{\"prompt\": \"a\", \"generated\": 1}", &[], "rows.jsonl:1: the row has a key \"generated\""),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            &["--no-chat-template"],
            "rows.jsonl:1: turns cannot be given without the chat template",
        ),
        ("a,b\n1,2\n", &[], "is a table (CSV) or plain text, not rows"),
        ("", &[], "rows.jsonl is empty"),
    ] {
        let folder = folder(rows);
        let done = started(folder.path(), more);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.error().contains(expected), "{done:?}");
        assert!(!folder.path().join("answers.jsonl").exists() && !folder.path().join("answers.run.json").exists());
    }
    let folder = folder(ROWS);
    std::fs::create_dir(folder.path().join("answers.jsonl")).expect("a folder");
    assert!(started(folder.path(), &[]).error().contains("it is a folder"));
    let model = fixture("qwen2");
    for (flags, expected) in [
        (&["--data", "rows.jsonl"][..], "--output <FILE>"),
        (&["--output", "a.jsonl", "--prompt", "a"], "--data <FILE>"),
        (&["--prompt", "a", "--data", "b", "--output", "c"], "cannot be used with"),
        (&["--prompt", "a", "--batch-size", "2"], "--data <FILE>"),
        (&[], "--prompt <TEXT>"),
        (&["--data", "a", "--output", "b", "--batch-size", "0"], "0"),
    ] {
        let done = run(["generate", "--model", &model].iter().chain(flags));
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.error().contains(expected), "{done:?}");
    }
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}
