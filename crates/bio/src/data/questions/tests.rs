use super::*;

fn read(file: &str, text: &str) -> std::result::Result<Questions, String> {
    Questions::parse(file, text.as_bytes(), &ReadOptions::default()).map_err(|error| error.to_string())
}

fn with(file: &str, text: &str, pairs: &[&str], reading: Option<Reading>) -> std::result::Result<Questions, String> {
    let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
    let columns = Columns::of_keys(&pairs, &column_keys())?;
    let options = ReadOptions { columns, reading, skip_bad_rows: false };
    Questions::parse(file, text.as_bytes(), &options).map_err(|error| error.to_string())
}

fn answers(found: &Questions) -> Vec<usize> {
    found.questions.iter().map(|question| question.answer).collect()
}

#[test]
fn medqa_is_read_as_published() {
    let rows = concat!(
        r#"{"question": "Q1?", "answer": "two", "options": {"A": "one", "B": "two", "C": "three", "D": "four"}, "meta_info": "step1", "answer_idx": "B", "metamap_phrases": ["x"]}"#,
        "\n",
        r#"{"question": "Q2?", "answer": "four", "options": {"D": "four", "A": "one", "B": "two", "C": "three"}, "meta_info": "step2&3", "answer_idx": "D", "metamap_phrases": []}"#,
        "\n",
    );
    let found = read("medqa.jsonl", rows).unwrap();
    assert_eq!((found.layout, found.reading, answers(&found)), (Layout::Options, Reading::Letter, vec![1, 3]));
    let first = &found.questions[0];
    assert_eq!((&*first.question, first.subject.as_deref(), first.id.as_deref()), ("Q1?", Some("step1"), None));
    assert_eq!(found.questions[1].options, ["one", "two", "three", "four"]);
    assert_eq!(found.ignored.names(), ["metamap_phrases"]);
    // As another publisher has the same: a list of keys and values.
    let pairs =
        r#"{"question": "Q?", "options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}], "answer_idx": "B"}"#;
    assert_eq!(read("d.jsonl", pairs).unwrap().questions[0].options, ["x", "y"]);
    let error = read("d.jsonl", &rows.replace("\"answer_idx\": \"B\"", "\"answer_idx\": \"C\"")).unwrap_err();
    let said = "d.jsonl:1: answer_idx is \"C\", which is option C, and answer says option B";
    assert!(error.starts_with(said), "{error}");
    let letters = r#"{"question": "Q?", "options": ["x", "y"], "answer_idx": "A", "answer": "B"}"#;
    let error = read("d.jsonl", letters).unwrap_err();
    assert!(error.contains("answer_idx is \"A\", which is option A, and answer says option B"), "{error}");
    // A column that is named for the answer goes before both, and is not taken for another layout's.
    let named = letters.replace("\"answer\"", "\"gold\"");
    assert_eq!(answers(&with("d.jsonl", &named, &["answer=gold"], None).unwrap()), [1]);
    let decided = r#"{"question": "Q?", "context": "C.", "final_decision": "yes", "mine": "no"}"#;
    let error = with("d.jsonl", decided, &["answer=mine"], None).unwrap_err();
    assert!(error.contains("whose answers stand in \"final_decision\""), "{error}");
}

#[test]
fn medmcqa_counts_from_0_or_from_1_as_its_rows_tell() {
    let row = |cop: i64| {
        let options = r#""opa": "w", "opb": "x", "opc": "y", "opd": "z""#;
        format!(
            "{{\"id\": \"q{cop}\", \"question\": \"Q?\", {options}, \"cop\": {cop}, \"subject_name\": \"Anatomy\"}}\n"
        )
    };
    let file = |cops: &[i64]| cops.iter().map(|cop| row(*cop)).collect::<String>();
    let hub = read("hub.jsonl", &file(&[0, 3, 1])).unwrap();
    assert_eq!((hub.layout, hub.reading, answers(&hub)), (Layout::MedMcqa, Reading::FromZero, vec![0, 3, 1]));
    assert_eq!((hub.questions[1].id.as_deref(), hub.questions[1].subject.as_deref()), (Some("q3"), Some("Anatomy")));
    let authors = read("dev.json", &file(&[4, 1, 2])).unwrap();
    assert_eq!((authors.reading, answers(&authors)), (Reading::FromOne, vec![3, 0, 1]));
    // 1 to 3 may be counted from either.
    let error = read("d.json", &file(&[1, 3])).unwrap_err();
    assert_eq!(
        error,
        "the answers of d.json could be read in two ways: d.json:1: 1 is option B as from-0 and option A as from-1; say \
         which with --answers from-0 or --answers from-1"
    );
    for (reading, expected) in [(Reading::FromZero, [1, 3]), (Reading::FromOne, [0, 2])] {
        assert_eq!(answers(&with("d.json", &file(&[1, 3]), &[], Some(reading)).unwrap()), expected);
    }
    let error = read("test.json", &file(&[0, 3, -1])).unwrap_err();
    assert!(error.starts_with("test.json:3: the answer is -1, expected a number from 0 to 3"), "{error}");
}

#[test]
fn pubmedqa_is_read_from_its_authors_and_from_the_hub() {
    let authors = r#"{
  "21645374": {"QUESTION": "Do they?", "CONTEXTS": ["One.", "Two."], "LABELS": ["A", "B"], "MESHES": [], "final_decision": "yes", "LONG_ANSWER": "They do."},
  "16418930": {"QUESTION": "Is it?", "CONTEXTS": ["Three."], "final_decision": "maybe"}
}"#;
    let found = read("ori_pqal.json", authors).unwrap();
    assert_eq!((found.layout, answers(&found)), (Layout::PubMedQaOriginal, vec![0, 2]));
    assert_eq!(
        (found.questions[0].id.as_deref(), found.questions[0].context.as_deref()),
        (Some("21645374"), Some("One.\nTwo."))
    );
    let hub = r#"{"pubid": 21645374, "question": "Do they?", "context": {"contexts": ["One.", "Two."], "labels": ["A", "B"], "meshes": []}, "long_answer": "They do.", "final_decision": "no"}"#;
    let hub = read("pqa.jsonl", hub).unwrap();
    assert_eq!((hub.layout, answers(&hub)), (Layout::PubMedQa, vec![1]));
    assert_eq!(
        (hub.questions[0].id.as_deref(), &hub.questions[0].context),
        (Some("21645374"), &found.questions[0].context)
    );
    let error = read("d.json", &authors.replace("\"maybe\"", "\"perhaps\"")).unwrap_err();
    let said = "d.json (row 2): the answer is \"perhaps\", expected the text of one of its options";
    assert!(error.starts_with(said), "{error}");
    let error = read("d.json", &authors.replace("\"CONTEXTS\": [\"Three.\"], ", "")).unwrap_err();
    assert!(error.starts_with("d.json (row 2): \"16418930\": has no \"CONTEXTS\""), "{error}");
}

#[test]
fn tables_and_lists_of_any_names_are_read() {
    let csv = "id,stem,first,second,third,key,area\n1,Q1?,x,y,z,C,heart\n2,Q2?,x,y,z,a,lung\n";
    let columns = ["question=stem", "A=first", "B=second", "C=third", "answer=key", "subject=area"];
    let found = with("q.csv", csv, &columns, None).unwrap();
    assert_eq!((found.layout, answers(&found)), (Layout::Letters, vec![2, 0]));
    assert_eq!(found.questions[1].subject.as_deref(), Some("lung"));
    let plain = read("q.tsv", "question\tA\tB\tanswer\nQ?\tx\ty\ty\n").unwrap();
    assert_eq!((plain.reading, answers(&plain)), (Reading::Text, vec![1]));
    let mmlu = r#"{"question": "Q?", "subject": "anatomy", "choices": ["x", "y", "z"], "answer": 0}"#;
    assert_eq!(read("mmlu.jsonl", mmlu).unwrap().reading, Reading::FromZero);
    let cell = "question,options,answer\nQ?,\"[\"\"x\"\", \"\"y\"\"]\",x\n";
    assert_eq!(answers(&read("q.csv", cell).unwrap()), [0]);
    let context = r#"{"question": "Q?", "context": "Read this.", "options": ["x", "y"], "answer": "y"}"#;
    assert_eq!(read("q.jsonl", context).unwrap().questions[0].context.as_deref(), Some("Read this."));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_row() {
    let row = |change: &str, to: &str| {
        let good = r#"{"question": "Q?", "options": {"A": "x", "B": "y"}, "answer": "B"}"#;
        format!("{good}\n{}\n", good.replace(change, to))
    };
    for (text, said) in [
        (row(r#""answer": "B""#, r#""answer": "C""#), "d.jsonl:2: the answer is \"C\", expected a letter from A to B"),
        (
            row(r#""answer": "B""#, r#""anser": "B""#),
            "d.jsonl:2: has no \"answer_idx\" or \"answer\", which says the right",
        ),
        (row(r#""answer": "B""#, r#""answer": true"#), "d.jsonl:2: the answer is a boolean, expected a letter"),
        (row(r#", "B": "y""#, ""), "d.jsonl:2: has 1 option, expected 2 to 26"),
        (row(r#""y""#, r#""x ""#), "d.jsonl:2: options A and B are both \"x \""),
        (row(r#""y""#, r#"" ""#), "d.jsonl:2: option B is empty"),
        (row(r#""y""#, "3"), "d.jsonl:2: option B is a number, expected a text"),
        (row(r#""B": "y""#, r#""C": "y""#), "d.jsonl:2: has the option \"C\", expected B: letters follow one another"),
        (row(r#""Q?""#, r#""  ""#), "d.jsonl:2: question is empty"),
        (row(r#""question": "Q?", "#, ""), "d.jsonl:2: has no \"question\""),
        (row(r#"{"A": "x", "B": "y"}"#, r#""x or y""#), "d.jsonl:2: options is a text, expected a list or an object"),
        (row(r#"{"A": "x", "B": "y"}"#, "7"), "d.jsonl:2: options is a number, expected a list"),
        (row(r#""options""#, r#""choices": ["x", "y"], "options""#), "d.jsonl:2: has both \"options\" and \"choices\""),
        (row(r#""options""#, r#""opa": "x", "options""#), "d.jsonl:2: could be read in two ways: as question, options"),
        (row(r#"{"A": "x", "B": "y"}"#, r#"["x", "y"], "QUESTION": "Q?""#), "could be read in two ways"),
        (
            row(r#""options": {"A": "x", "B": "y"}"#, r#""A": "x", "B": "y""#),
            "d.jsonl:2: a row laid out as question, A, B",
        ),
        (
            row(r#""options""#, r#""optoins""#),
            "d.jsonl:2: found the keys \"question\", \"optoins\", \"answer\"; expected",
        ),
    ] {
        let error = read("d.jsonl", &text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    // A letter that is also the text of another option.
    let both = r#"{"question": "Q?", "options": ["B", "A"], "answer": "A"}"#;
    let error = read("d.jsonl", both).unwrap_err();
    assert!(error.contains("\"A\" is option A as letter and option B as text"), "{error}");
    let error = with("d.jsonl", both, &["qestion=q"], None).unwrap_err();
    assert!(error.contains("did you mean question?"), "{error}");
}

#[test]
fn bad_rows_are_left_out_where_that_is_asked_for() {
    let rows = concat!(
        "{\"question\": \"Q?\", \"options\": [\"x\", \"y\"], \"answer\": \"B\"}\n",
        "{\"question\": \"Q?\", \"options\": [\"x\", \"x\"], \"answer\": \"B\"}\n",
        "{\"question\": \"Q?\", \"options\": [\"x\", \"y\"], \"answer\": \"E\"}\n",
    );
    let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
    let found = Questions::parse("d.jsonl", rows.as_bytes(), &options).unwrap();
    assert_eq!((found.questions.len(), found.skipped.len()), (1, 2));
    assert!(found.skipped[1].starts_with("d.jsonl:3: the answer is \"E\""), "{:?}", found.skipped);
    let none = Questions::parse("d.jsonl", rows.lines().nth(1).unwrap().as_bytes(), &options).unwrap_err().to_string();
    assert!(none.starts_with("d.jsonl has no usable question: all 1 rows were skipped"), "{none}");
}
