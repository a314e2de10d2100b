//! `bft bio mcq` from the command line: what it prints and writes, and what it refuses before a model
//! is opened. That its numbers are the harness's is tested in `tests/tests/mcq.rs`.

mod common;

use std::path::Path;

use common::{Done, fixture, run, write};
use serde_json::Value;

const QUIZ: &str = concat!(
    "{\"question\": \"Gene?\", \"options\": [\"the gene\", \"DNA\"], \"answer\": \"A\", \"subject\": \"s\", \"id\": 7}\n",
    "{\"question\": \"Cell?\", \"options\": [\"a cell\", \"the cell\", \"cycle\"], \"answer\": \"C\", \"subject\": \"t\"}\n",
    "{\"question\": \"Why?\", \"options\": [\"it is\", \"it is done\"], \"answer\": \"B\", \"subject\": \"t\"}\n",
);

fn mcq(model: &str, data: &Path, more: &[&str]) -> Done {
    let data = data.display().to_string();
    run(["bio", "mcq", "--device", "cpu", "--model", model, "--data", &data].iter().chain(more))
}

#[test]
fn tables_and_lines_say_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = write(folder.path(), "quiz.jsonl", QUIZ);
    let (model, output) = (fixture("qwen2"), folder.path().join("lines.jsonl").display().to_string());
    let adapter = format!("{model}/adapter");
    let flags = ["--adapter", &adapter, "--output", &output, "--redraws", "50"];
    let found = mcq(&model, &data, &[&flags[..], &["--json"]].concat()).json();
    let text = std::fs::read_to_string(&output).expect("a file");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["id"], &lines[1]["row"]), (3, &"7".into(), &2.into()));
    let rows = found["table"]["rows"].as_array().expect("rows");
    let forms: Vec<String> = rows.iter().map(|row| format!("{} {}", row["form"], row["metric"])).collect();
    assert_eq!(forms, ["\"letters\" \"acc\"", "\"cloze\" \"acc\"", "\"cloze\" \"acc_norm\""]);
    for row in rows {
        let (form, metric) = (row["form"].as_str().expect("a form"), row["metric"].as_str().expect("a metric"));
        let right = |arm: &str| lines.iter().filter(|line| line[form][arm][metric] == line["answer"]).count() as f64;
        for arm in ["base", "adapter"] {
            assert_eq!(row[arm]["value"].as_f64(), Some(right(arm) / 3.0), "{row}");
        }
        let difference = (right("adapter") - right("base")) / 3.0;
        assert!((row["difference"]["value"].as_f64().expect("a number") - difference).abs() < 1e-12, "{row}");
        let count = |column: &str| row[column].as_f64().expect("a count");
        let counts = count("adapter alone right") - count("base alone right");
        assert!((counts / 3.0 - difference).abs() < 1e-12, "{row}");
    }
    assert_eq!(found["subjects"]["rows"].as_array().expect("rows").len(), 4);
    assert!(found["tokens"].as_u64() > Some(100), "{found}");
    // In words; one arm and one form alone.
    let done = mcq(&model, &data, &["--form", "cloze", "--limit", "2"]);
    assert!(done.ok().stdout.contains("data") && !done.stdout.contains("difference"), "{done:?}");
    assert!(!done.stdout.contains("letters") && done.stderr.contains(" tokens/s"), "{done:?}");
    assert!(
        done.stderr.contains("3 questions, laid out as question, options and answer, answers by letter"),
        "{done:?}"
    );
    // What comes before a question changes what is answered.
    let shots =
        write(folder.path(), "shots.csv", "question,A,B,answer\nDNA?,x,y,x\nRNA?,x,y,y\n").display().to_string();
    let shown = ["--shots", "1", "--shots-from", &shots];
    let other = mcq(&model, &data, &[&flags[..], &["--json"], &shown].concat()).json();
    assert!(other["tokens"].as_u64() > found["tokens"].as_u64(), "{other}");
}

#[test]
fn what_is_wrong_is_said_before_a_model_is_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let quiz = write(folder.path(), "quiz.jsonl", QUIZ);
    let at = |name: &str, text: &str| write(folder.path(), name, text);
    for (data, more, said) in [
        (at("a.jsonl", &QUIZ.replace("\"C\"", "\"D\"")), vec![], "a.jsonl:2: the answer is \"D\", expected a letter"),
        (at("b.jsonl", &QUIZ.replace(", \"it is done\"", "")), vec![], "b.jsonl:3: has 1 option, expected 2 to 26"),
        (at("c.jsonl", &QUIZ.replace("\"Why?\"", "\"\"")), vec![], "c.jsonl:3: question is empty"),
        (
            at("d.jsonl", "{\"text\": \"a\"}\n"),
            vec![],
            "d.jsonl:1: found the keys \"text\"; expected \"question\" with",
        ),
        (at("e.csv", "question,A,B,answer\nq,1,2,1\n"), vec![], "the answers of "),
        (at("f.csv", "question,A,B,answer\nq,x,y,x\n"), vec!["--columns", "answer=anser"], "did you mean \"answer\"?"),
        (quiz.clone(), vec!["--answers", "text"], "quiz.jsonl:1: the answer is \"A\", expected the text of one of its"),
        (folder.path().join("quizz.jsonl"), vec![], "did you mean "),
    ] {
        let done = mcq("none", &data, &more);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.error().contains(said), "{said}: {done:?}");
    }
    let same = quiz.display().to_string();
    let done = mcq("none", &quiz, &["--shots", "1", "--shots-from", &same]);
    assert!(done.error().contains("is also --data"), "{done:?}");
    let few = at("few.csv", "question,A,B,answer\nq,x,y,x\n").display().to_string();
    let done = mcq("none", &quiz, &["--shots", "2", "--shots-from", &few]);
    assert!(done.error().contains("has 1 questions, --shots asks for 2"), "{done:?}");
    let done = mcq("none", &quiz, &["--output", &same]);
    assert!(done.error().contains("is what --data names"), "{done:?}");
    // Bad rows are left out where that is said, and the model is missed then.
    let done = mcq("none", &folder.path().join("a.jsonl"), &["--skip-bad-rows"]);
    assert!(done.error().starts_with("--model none") && done.stderr.contains("1 rows were skipped"), "{done:?}");
    // A prompt that the model has no room for.
    let long = at("long.jsonl", &QUIZ.replace("Why?", &"Why? ".repeat(60)));
    let done = mcq(&fixture("qwen2"), &long, &[]);
    assert!(
        done.error().contains("long.jsonl:3: question and option A have ") && done.error().contains("at most 128"),
        "{done:?}"
    );
    let done = mcq(&fixture("llama"), &quiz, &[]);
    assert!(done.error().contains("has no tokenizer"), "{done:?}");
}
