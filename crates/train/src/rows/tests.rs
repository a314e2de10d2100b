use super::*;

fn parse(text: &str) -> Result<Rows, DataError> {
    parse_rows("d.jsonl", text.as_bytes(), false)
}

fn complaint(text: &str) -> String {
    let message = parse(text).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn only(text: &str) -> RowContent {
    let mut rows = parse(text).unwrap();
    assert_eq!(rows.rows.len(), 1);
    rows.rows.remove(0).content
}

fn chat(turns: &[(&str, &str)]) -> RowContent {
    RowContent::Chat(turns.iter().map(|(role, content)| Message::new(*role, *content)).collect::<Vec<_>>().into())
}

#[test]
fn every_format_is_known_by_its_keys() {
    let expected = chat(&[("system", "s"), ("user", "q"), ("assistant", "a")]);
    let messages = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}]}"#;
    assert_eq!(only(&messages.replace('\n', "")), expected);
    let conversations = r#"{"id": 1, "conversations": [{"from": "system", "value": "s"},
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    assert_eq!(only(&conversations.replace('\n', "")), expected);
    let pair = [("user", "do"), ("assistant", "done")];
    assert_eq!(only(r#"{"instruction": "do", "output": "done"}"#), chat(&pair));
    assert_eq!(only(r#"{"instruction": "do", "input": "", "output": "done"}"#), chat(&pair));
    assert_eq!(
        only(r#"{"instruction": "do", "input": "this", "output": "done"}"#),
        chat(&[("user", "do\n\nthis"), ("assistant", "done")])
    );
    assert_eq!(
        only(r#"{"prompt": "p", "completion": "c"}"#),
        RowContent::PromptCompletion { prompt: "p".into(), completion: "c".into() }
    );
    assert_eq!(only(r#"{"text": "t"}"#), RowContent::Text("t".into()));
    assert_eq!(
        only(r#"{"input_ids": [5, 6], "labels": [-100, 6]}"#),
        RowContent::Tokens { input_ids: vec![5, 6], labels: vec![MASKED, 6] }
    );
}

#[test]
fn a_row_with_keys_of_several_formats_is_the_first_in_the_documented_order() {
    let rows = parse(r#"{"text": "flat", "instruction": "do", "output": "done"}"#).unwrap();
    assert_eq!(rows.format, RowFormat::Instruction);
    let rows = parse(r#"{"prompt": "q", "messages": [{"role": "user", "content": "q"}]}"#).unwrap();
    assert_eq!(rows.format, RowFormat::Messages);
}

#[test]
fn lines_and_arrays_hold_the_same_rows() {
    let lines = parse("\u{feff}{\"text\": \"a\"}\r\n\r\n{\"text\": \"b\"}\r\n").unwrap();
    let array = parse("[\n  {\"text\": \"a\"},\n  {\n \"text\": \"b\"}\n]").unwrap();
    let content = |rows: &Rows| rows.rows.iter().map(|r| r.content.clone()).collect::<Vec<_>>();
    assert_eq!(content(&lines), content(&array));
    let places = |rows: &Rows| rows.rows.iter().map(|r| r.origin.to_string()).collect::<Vec<_>>();
    assert_eq!(places(&lines), ["d.jsonl:1", "d.jsonl:3"]);
    assert_eq!(places(&array), ["d.jsonl:2 (element [0])", "d.jsonl:3 (element [1])"]);
}

#[test]
fn mixed_formats_are_refused_with_both_places() {
    let text = "{\"text\": \"a\"}\n{\"prompt\": \"p\", \"completion\": \"c\"}";
    let message = complaint(text);
    assert!(message.starts_with("d.jsonl:2: a row of format prompt/completion"), "{message}");
    assert!(message.contains("first row (d.jsonl:1) is of format text"), "{message}");
    assert!(matches!(parse_rows("d", text.as_bytes(), true), Err(DataError::Mixed { .. })));
}

#[test]
fn unknown_keys_name_what_was_found_expected_and_near() {
    let message = complaint("{\"text\": \"a\"}\n{\"txet\": \"b\", \"n\": 1}");
    assert!(message.starts_with("d.jsonl:2: found keys \"txet\", \"n\"; expected \"messages\", or"), "{message}");
    assert!(message.contains("did you mean \"text\" instead of \"txet\"?"), "{message}");
    assert!(message.contains("--skip-bad-rows"), "{message}");
    assert!(complaint("{}").starts_with("d.jsonl:1: found no keys; expected"));
}

#[test]
fn half_a_pair_names_the_other_half() {
    let message = complaint(r#"{"prompt": "p", "completon": "c"}"#);
    assert!(message.contains("a row with \"prompt\" also needs \"completion\""), "{message}");
    assert!(message.contains("did you misspell it as \"completon\"?"), "{message}");
    let message = complaint(r#"{"input_ids": [1, 2]}"#);
    assert!(message.contains("also needs \"labels\" (the token ids again"), "{message}");
    let message = complaint(r#"{"instruction": "a", "inputs": "b", "output": "c"}"#);
    assert!(message.contains("unknown key \"inputs\": did you mean \"input\"?"), "{message}");
}

#[test]
fn values_of_the_wrong_type_are_named_by_path() {
    let cases = [
        (r#"{"text": 3}"#, "text is a number, expected a string"),
        (r#"{"text": ""}"#, "text is empty"),
        (r#"{"prompt": "p", "completion": ""}"#, "completion is empty"),
        (r#"{"messages": {}}"#, "messages is an object, expected a list of turns"),
        (r#"{"messages": []}"#, "messages is empty"),
        (r#"{"messages": ["hi"]}"#, "messages[0] is a string, expected an object"),
        (r#"{"messages": [{"role": "user"}]}"#, "messages[0] is an object with key \"role\", expected an object with"),
        (r#"{"messages": [{"role": "user", "content": null}]}"#, "messages[0].content is null, expected a string"),
        (r#"{"messages": [{"role": "assistant", "content": ""}]}"#, "messages[0].content is empty"),
        (r#"{"conversations": [{"role": "user", "content": "a"}]}"#, "name the list \"messages\""),
        (r#"{"input_ids": [1, -2], "labels": [1, 2]}"#, "input_ids[1] is -2, expected a token id"),
        (r#"{"input_ids": [1, 2.5], "labels": [1, 2]}"#, "input_ids[1] is 2.5, expected a token id"),
        (r#"{"input_ids": [1, 4294967296], "labels": [1, 2]}"#, "input_ids[1] is 4294967296"),
        (r#"{"input_ids": [1, 2], "labels": [1, -1]}"#, "labels[1] is -1, expected a token id or -100"),
        (r#"{"input_ids": [1, 2], "labels": [1]}"#, "labels has 1 entries, input_ids has 2"),
        (r#"{"input_ids": [], "labels": []}"#, "input_ids is empty"),
        (r#"{"input_ids": "1 2", "labels": []}"#, "input_ids is a string, expected a list of whole numbers"),
    ];
    for (row, expected) in cases {
        let message = complaint(row);
        assert!(message.starts_with("d.jsonl:1: ") && message.contains(expected), "{row}: {message}");
    }
}

#[test]
fn an_unknown_role_names_the_nearest() {
    let message = complaint(r#"{"messages": [{"role": "asistant", "content": "a"}]}"#);
    assert!(message.contains("messages[0].role is \"asistant\", expected one of system"), "{message}");
    assert!(message.contains("did you mean \"assistant\"?"), "{message}");
    let message = complaint(r#"{"conversations": [{"from": "humna", "value": "a"}]}"#);
    assert!(message.contains("did you mean \"human\"?"), "{message}");
}

#[test]
fn damaged_files_say_where_and_how() {
    let cases: [(&[u8], &str); 11] = [
        (b"", "data file d is empty"),
        (b"\xef\xbb\xbf \n\r\n", "data file d is empty"),
        (b"[]", "data file d is empty"),
        (b"\xff\xfe{\0", "data file d is UTF-16: save it as UTF-8"),
        (b"{\"text\": \"a\"}\n{\"text\": \"b", "d:2: the JSON stops in the middle"),
        (b"{\"text\": \"a\"}\n{\"text\": \"\xe9\"}", "d:2: byte 0xe9 at column 11 is not UTF-8"),
        (b"{\"text\" \"a\"}", "d:1: not valid JSON at column 9: expected `:`"),
        (b"\"a\"", "d:1: expected an object such as {\"prompt\""),
        (b"[{\"text\": \"a\"},\n{\"text\": ", "d:2: the file ends inside element [1]"),
        (b"[{\"text\": \"a\"}\n,\n", "d:3: the file ends before the array's `]`"),
        (b"[{\"text\": \"a\"}]\n{}", "d:2: text after the array's `]`"),
    ];
    for (bytes, expected) in cases {
        let message = parse_rows("d", bytes, false).unwrap_err().to_string();
        assert!(message.starts_with(expected), "expected {expected}, found {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn skipping_bad_rows_counts_and_names_them() {
    let text = "{\"text\": \"a\"}\n{\"text\": 1}\nnonsense\n\n{\"text\": \"b\"}\n{\"te";
    let rows = parse_rows("d", text.as_bytes(), true).unwrap();
    assert_eq!(rows.rows.len(), 2);
    let lines: Vec<usize> = rows.skipped.iter().map(|e| e.origin.line).collect();
    assert_eq!(lines, [2, 3, 6]);
    let error = parse_rows("d", b"{}\n{}", true).unwrap_err().to_string();
    assert!(error.starts_with("data file d has no usable row: all 2 were skipped, the first because d:1"), "{error}");
    let array = parse_rows("d", b"[{\"text\": \"a\"}, {\"text\": 1}, 7]", true).unwrap();
    assert_eq!((array.rows.len(), array.skipped.len()), (1, 2));
}

#[test]
fn very_long_lines_and_very_deep_nesting_are_survived() {
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(5_000_000));
    assert_eq!(parse(&long).unwrap().rows.len(), 1);
    let deep = format!("{{\"text\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(complaint(&deep).contains("recursion limit"), "deep nesting must not overflow the stack");
    let wide = format!("{{{}}}", (0..1000).map(|i| format!("\"k{i}\": 0")).collect::<Vec<_>>().join(","));
    assert!(complaint(&wide).contains("\"k7\", 992 more"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read_rows(std::path::Path::new("no/such/rows.jsonl"), false).unwrap_err().to_string();
    assert!(error.starts_with("cannot read data file no/such/rows.jsonl: "), "{error}");
}
