//! Data files as users have them: several, patterns, tables, packed; held out, sampled, resumed.

mod common;

use std::path::Path;

use common::{Done, fixture, run, steps, write};
use serde_json::Value;

fn model() -> String {
    fixture("llama")
}

/// The fixture's rows: JSON lines of token ids.
fn rows() -> Vec<String> {
    let text = std::fs::read_to_string(format!("{}/rows.jsonl", model())).expect("rows");
    text.lines().map(str::to_owned).collect()
}

/// The rows as CSV, under other names.
fn csv(rows: &[String]) -> String {
    let quoted = |value: &Value| format!("\"{value}\"");
    let line = |row: &String| {
        let row: Value = serde_json::from_str(row).expect("JSON");
        format!("{},{}\r\n", quoted(&row["labels"]), quoted(&row["input_ids"]))
    };
    format!("answers,ids\r\n{}", rows.iter().map(line).collect::<String>())
}

const NAMED: [&str; 2] = ["--columns", "input_ids=ids,labels=answers"];

fn eval(more: &[&str]) -> Done {
    run(["eval", "--device", "cpu", "--model", &model(), "--json"].iter().chain(more))
}

fn train(output: &Path, more: &[&str]) -> Done {
    let flags =
        ["train", "--device", "cpu", "--model", &model(), "--rank", "2", "--output", &output.display().to_string()];
    run(flags.iter().chain(more))
}

fn run_json(output: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(output.join("run.json")).expect("run.json")).expect("JSON")
}

#[test]
fn files_of_every_kind_and_number_are_the_same_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows();
    let at = |name: &str, text: &str| write(folder.path(), name, text).display().to_string();
    let whole = at("all.jsonl", &rows.join("\n"));
    let table = at("all.csv", &csv(&rows));
    let (first, second) = (at("part-1.jsonl", &rows[..3].join("\n")), at("part-2.jsonl", &rows[3..].join("\n")));
    at("part-9.JSONL.kept", "not rows");
    std::fs::create_dir(folder.path().join("part-3.jsonl")).expect("a folder");
    let expected = eval(&["--data", &whole]).json();
    assert_eq!(eval(&["--data", &table, NAMED[0], NAMED[1]]).json(), expected);
    assert_eq!(eval(&["--data", &first, "--data", &second]).json(), expected);
    let pattern = format!("{}/part-*.jsonl", folder.path().display());
    assert_eq!(eval(&["--data", &pattern]).json(), expected);
    // Of several, a share is measured, the same each time.
    let some = |seed: &str| eval(&["--data", &pattern, "--max-samples", "4", "--sample-seed", seed]).json();
    assert_eq!(some("1")["samples"], 4);
    assert_eq!(some("1"), some("1"));
    assert!((2..9).any(|seed| some(&seed.to_string())["nll"] != some("1")["nll"]));
    // A name that is a pattern, and a file.
    let odd = at("odd[1].jsonl", &rows.join("\n"));
    assert_eq!(eval(&["--data", &odd]).json(), expected);
}

#[test]
fn a_run_holds_out_by_what_rows_say_and_goes_on_with_the_same_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows();
    let at = |name: &str, text: &str| write(folder.path(), name, text).display().to_string();
    let (a, b) = (at("a.csv", &csv(&rows[..5])), at("b.csv", &csv(&rows[5..])));
    let backwards: Vec<String> = rows.iter().rev().cloned().collect();
    let other = at("other.jsonl", &backwards.join("\n"));
    let flags = ["--data", &a, "--data", &b, "--val-size", "3", "--max-samples", "4", NAMED[0], NAMED[1]];
    let output = folder.path().join("tuned");
    let done = train(&output, &[&flags[..], &["--steps", "2", "--eval-every", "1"]].concat());
    assert!(done.ok().stderr.contains("held-out nll"), "{done:?}");
    assert!(done.stderr.contains("4 of 5 rows drawn by seed 0"), "{done:?}");
    let run = run_json(&output);
    assert_eq!((&run["data"]["rows"], &run["eval_data"]["rows"]), (&4.into(), &3.into()));
    assert_eq!(run["data"]["file"], format!("{a} and 1 more file"));
    let files: Vec<&str> =
        run["data"]["files"].as_array().expect("files").iter().filter_map(|f| f["file"].as_str()).collect();
    assert_eq!(files, [&a, &b]);
    assert_eq!(run["settings"]["data"], serde_json::json!([a, b]));
    // The same rows in another file and order: the same are held out.
    let turned = folder.path().join("turned");
    train(&turned, &["--data", &other, "--val-size", "3", "--max-samples", "4", "--steps", "1"]).ok();
    for key in ["trained_tokens", "tokens", "rows"] {
        assert_eq!(run["data"][key], run_json(&turned)["data"][key], "{key}");
        assert_eq!(run["eval_data"][key], run_json(&turned)["eval_data"][key], "{key}");
    }
    // Going on takes files, columns and split from run.json.
    train(&output, &["--resume", "--steps", "4"]).ok();
    assert_eq!(steps(&output), [1, 2, 3, 4]);
    for (more, expected) in [
        (vec!["--val-size", "2"], "val-size is 2, was 3"),
        (vec!["--sample-seed", "7"], "sample-seed is 7, was 0"),
        (vec!["--data", &other, "--columns", "input_ids=input_ids"], "the data "),
        (vec!["--data", &b, "--data", &a], "the data "),
    ] {
        let done = train(&output, &[&["--resume", "--steps", "6"][..], &more[..]].concat());
        assert!(done.error().contains(expected), "{more:?}: {done:?}");
    }
    let missing = train(&folder.path().join("n"), &["--data", &a, "--eval-every", "2", NAMED[0], NAMED[1]]);
    assert!(missing.error().contains("--eval-data or --val-size is missing, which --eval-every needs"), "{missing:?}");
    assert_eq!(missing.code, Some(2));
    let both = train(&folder.path().join("n"), &["--data", &a, "--eval-data", &b, "--val-size", "1"]);
    assert!(both.error().contains("--val-size") && both.error().contains("--eval-data"), "{both:?}");
}

#[test]
fn what_cannot_be_read_is_said_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows();
    let at = |name: &str, text: &str| write(folder.path(), name, text).display().to_string();
    let table = at("all.csv", &csv(&rows));
    let ragged = at("ragged.csv", "input_ids,labels\n\"[1, 2]\",\"[1, 2]\"\n\"[1]\"\n");
    let words = at("words.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
    let text = at("b.jsonl", "{\"text\": \"a\"}\n");
    let here = folder.path().display().to_string();
    let pattern = |end: &str| format!("{here}/{end}");
    let bomb = format!("{here}/bomb.jsonl.gz");
    {
        use std::io::Write;
        let file = std::fs::File::create(&bomb).expect("a file");
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::best());
        (0..80).for_each(|_| packed.write_all(&vec![b'\n'; 1 << 20]).expect("written"));
    }
    let whole = format!("{}/rows.jsonl", model());
    let packed = std::fs::read(format!("{here}/bomb.jsonl.gz")).expect("bytes");
    let cut = format!("{here}/cut.jsonl.gz");
    std::fs::write(&cut, &packed[..packed.len() / 2]).expect("a file");
    let empty = at("empty.csv", "sep=;\ntext;n\na;1\n;2\n");
    for (flags, expected) in [
        (vec![format!("{table}/rows.jsonl")], "all.csv is a file, and nothing is below it"),
        (vec![cut], "the gzip stream ends in the middle: check it with gunzip -t, or fetch it again"),
        (vec![empty], "empty.csv:4: the cell under \"text\" is empty, and every row needs one"),
        (vec![pattern("*.jsnol")], "no file matches this pattern"),
        (vec![pattern("a[.csv")], "is no pattern of file names"),
        (vec![here.clone()], "is a folder: name its files, for example with --data '"),
        (vec![pattern("al.csv")], "no such file or folder; did you mean "),
        (vec![table.clone(), pattern("*.csv")], "all.csv twice: name it once"),
        (vec![table.clone()], "all.csv:1: found keys \"answers\", \"ids\"; expected"),
        (vec![ragged], "ragged.csv:3: found 1 cells, expected 2 as the header has"),
        (vec![words], "words.jsonl:1: chosen belongs to a preference pair"),
        (vec![whole, text], "b.jsonl:1: a row of format text, where the first row ("),
        (vec![bomb], "it unpacks to more than 100 times its size"),
    ] {
        let data: Vec<&str> = flags.iter().flat_map(|file| ["--data", file.as_str()]).collect();
        let done = eval(&data);
        assert!(done.error().contains(expected), "{flags:?}: {done:?}");
        let of_the_line = ["no pattern", "name it once"].iter().any(|words| expected.contains(words));
        assert_eq!(done.code, Some(if of_the_line { 2 } else { 1 }), "{done:?}");
    }
    let done = eval(&["--data", &table, "--columns", "input_ids=id,labels=answers"]);
    let expected = "all.csv:1: there is no \"id\", which --columns input_ids=id asks for; did you mean \"ids\"?";
    assert!(done.error().contains(expected), "{done:?}");
    let done = eval(&["--data", &table, "--columns", "text=ids,text=answers"]);
    assert!(done.error().contains("columns: the key \"text\" is given twice"), "{done:?}");
    assert_eq!(done.code, Some(2), "{done:?}");
    let done = eval(&["--data", &format!("{}/rows.jsonl", model()), "--sample-seed", "3"]);
    assert!(done.ok().stderr.contains("sample-seed does nothing without max-samples"), "{done:?}");
    let embed = |input: &str, output: &str, more: &[&str]| {
        let model = fixture("qwen2");
        let flags = ["embed", "--device", "cpu", "--model", &model, "--input", input, "--output", output];
        run(flags.iter().chain(more))
    };
    let (id, output) = (at("id.jsonl", "{\"id\": 1}\n"), pattern("v.npy"));
    let done = embed(&id, &output, &[]);
    let expected = "found key \"id\"; expected \"text\" or \"input_ids\"; --columns text=NAME names another";
    assert!(done.error().ends_with(expected), "{done:?}");
    let done = embed(&id, &output, &["--columns", "prompt=id"]);
    let expected = "--columns prompt=… names a key of rows to train on: embed reads \"text\", \"input_ids\" and \"id\"";
    assert_eq!(done.error(), expected);
    let done = embed(&id, &format!("{id}/v.npy"), &[]);
    assert!(done.error().ends_with("id.jsonl is a file, and nothing is below it"), "{done:?}");
    if cfg!(target_os = "linux") {
        // Nobody can make a file there, and it is said before a device is opened.
        let done = embed(&id, "/proc/v.npy", &[]);
        let said = done.error().contains("--output /proc/v.npy: cannot be written: no file can be made in /proc: ");
        assert!(said && !done.stderr.contains("device:"), "{done:?}");
    }
}

#[test]
fn texts_are_embedded_from_tables_and_packed_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str, text: &str| write(folder.path(), name, text).display().to_string();
    let model = fixture("qwen2");
    let vectors = |input: &str, more: &[&str]| {
        let output = folder.path().join("out.jsonl").display().to_string();
        let flags = ["embed", "--device", "cpu", "--model", &model, "--input", input, "--output", &output];
        run(flags.iter().chain(more)).ok();
        let text = std::fs::read_to_string(output).expect("vectors");
        let parsed = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        parsed.collect::<Vec<serde_json::Map<String, Value>>>()
    };
    let expected =
        vectors(&at("t.jsonl", "{\"id\": \"x\", \"text\": \"a, b\"}\n{\"id\": \"y\", \"text\": \"c\"}\n"), &[]);
    let table = at("t.csv", "pmid,abstract\nx,\"a, b\"\ny,c\n");
    assert_eq!(vectors(&table, &["--columns", "text=abstract,id=pmid"]), expected);
    let packed = folder.path().join("t.txt.gz");
    {
        use std::io::Write;
        let file = std::fs::File::create(&packed).expect("a file");
        flate2::write::GzEncoder::new(file, flate2::Compression::best()).write_all(b"a, b\nc\n").expect("written");
    }
    let packed = packed.display().to_string();
    let values =
        |rows: &[serde_json::Map<String, Value>]| rows.iter().map(|row| row["embedding"].clone()).collect::<Vec<_>>();
    assert_eq!(values(&vectors(&packed, &[])), values(&expected));
}
