use super::*;

fn parse(text: &str) -> Result<Rows, DataError> {
    parse_rows("d.jsonl", text.as_bytes(), &RowOptions::default())
}

fn skipping() -> RowOptions {
    RowOptions { skip_bad_rows: true, ..RowOptions::default() }
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
    assert!(matches!(parse_rows("d", text.as_bytes(), &skipping()), Err(DataError::Mixed { .. })));
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
        let message = parse_rows("d", bytes, &RowOptions::default()).unwrap_err().to_string();
        assert!(message.starts_with(expected), "expected {expected}, found {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn skipping_bad_rows_counts_and_names_them() {
    let text = "{\"text\": \"a\"}\n{\"text\": 1}\nnonsense\n\n{\"text\": \"b\"}\n{\"te";
    let rows = parse_rows("d", text.as_bytes(), &skipping()).unwrap();
    assert_eq!(rows.rows.len(), 2);
    let lines: Vec<usize> = rows.skipped.iter().map(|e| e.origin.number()).collect();
    assert_eq!(lines, [2, 3, 6]);
    let error = parse_rows("d", b"{}\n{}", &skipping()).unwrap_err().to_string();
    assert!(error.starts_with("data file d has no usable row: all 2 were skipped, the first because d:1"), "{error}");
    let array = parse_rows("d", b"[{\"text\": \"a\"}, {\"text\": 1}, 7]", &skipping()).unwrap();
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
    let error = read_rows(&["no/such/rows.jsonl".into()], &RowOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read data file no/such/rows.jsonl: "), "{error}");
}

/// The conversation of the one row of a text, and its masked turns.
fn talk(text: &str) -> Chat {
    match only(text) {
        RowContent::Chat(chat) => chat,
        other => panic!("no chat: {other:?}"),
    }
}

#[test]
fn what_a_turn_says_of_its_training_is_obeyed_and_taken_from_it() {
    let keys = ["\"weight\": 0", "\"train\": false", "\"training\": 0", "\"loss\": 0.0", "\"masked\": true"];
    for key in keys {
        let chat = talk(&format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"q\"}}, {{\"role\": \"assistant\", \"content\": \"a\", {key}}}]}}"
        ));
        assert_eq!(chat.masked.iter().copied().collect::<Vec<_>>(), [1], "{key}");
        assert_eq!(chat.conversation.messages[1], Message::new("assistant", "a"), "{key}");
    }
    let trained =
        talk(r#"{"conversations": [{"from": "gpt", "value": "a", "weight": 1, "train": null, "masked": false}]}"#);
    assert!(trained.masked.is_empty());
}

#[test]
fn a_turn_that_says_of_its_training_what_is_not_done_is_refused() {
    let turn = |keys: &str| complaint(&format!("{{\"messages\": [{{\"content\": \"a\", {keys}}}]}}"));
    let cases = [
        (r#""role": "assistant", "weight": 0.5"#, "messages[0].weight is 0.5, expected 0 or 1"),
        (r#""role": "assistant", "train": "no""#, "messages[0].train is a string, expected 0 or 1"),
        (r#""role": "assistant", "weight": 1, "train": false"#, "messages[0].train contradicts another key"),
        (
            r#""role": "user", "train": true"#,
            "messages[0] is to be trained, but bft trains the assistant's turns alone",
        ),
        (r#""role": "assistant", "train_detail": [{"begin_offset": 0}]"#, "messages[0].train_detail is not read"),
        (r#""role": "assistant", "function_call": {"name": "f"}"#, "messages[0].function_call is the older form"),
        (r#""role": "user", "images": ["a.png"]"#, "messages[0].images is given, but bft reads text only"),
        (
            r#""role": "assistant", "tool_calls": "f()""#,
            "messages[0].tool_calls is a string, expected a list of objects",
        ),
    ];
    for (keys, expected) in cases {
        assert!(turn(keys).contains(expected), "{keys}: {}", turn(keys));
    }
    let part = r#"{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a", "train": false}]}]}"#;
    assert!(complaint(part).contains("messages[0].content[0] is a part that is not to be trained"));
    let prompt = r#"{"prompt": [{"role": "assistant", "content": "a", "weight": 1}], "completion": [{"role": "assistant", "content": "b"}]}"#;
    assert!(complaint(prompt).contains("prompt[0] is to be trained, but only the answers of \"completion\" are"));
}

#[test]
fn content_may_be_parts_of_text_or_missing_beside_something_else() {
    let assistant = |keys: &str| format!("{{\"messages\": [{{\"role\": \"assistant\", {keys}}}]}}");
    let parts = talk(&assistant(r#""content": [{"type": "text", "text": "a"}]"#));
    assert!(parts.conversation.messages[0].get("content").unwrap().is_array());
    for keys in
        [r#""content": null, "tool_calls": [{}]"#, r#""content": "", "reasoning_content": "r""#, r#""thinking": "r""#]
    {
        talk(&assistant(keys));
    }
    let cases = [
        (
            r#""content": [{"type": "image_url", "image_url": {}}]"#,
            "messages[0].content[0].type is \"image_url\", expected \"text\"",
        ),
        (r#""content": ["a"]"#, "messages[0].content[0] is a string, expected a part"),
        (r#""content": [{"type": "text", "text": ""}]"#, "messages[0].content is empty"),
        (r#""content": "", "tool_calls": []"#, "messages[0].content is empty"),
        (r#""content": {}"#, "messages[0].content is an object, expected a string or a list"),
        (r#""content": "a", "thinking": [1]"#, "messages[0].thinking is an array, expected a string"),
    ];
    for (keys, expected) in cases {
        assert!(complaint(&assistant(keys)).contains(expected), "{keys}: {}", complaint(&assistant(keys)));
    }
    let tool = r#"{"messages": [{"role": "tool", "content": null, "tool_calls": [{}]}]}"#;
    assert!(complaint(tool).contains("messages[0].content is null"), "{}", complaint(tool));
}

#[test]
fn speakers_of_other_makers_are_mapped_or_named() {
    let chat = talk(r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "[{\"name\": \"f\", \"arguments\": {}}]"},
        {"from": "observation", "value": "o"}, {"from": "bot", "value": "a"}]}"#.replace('\n', "").as_str());
    let roles: Vec<&str> = chat.conversation.messages.iter().map(Message::role).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
    let swift = talk(
        r#"{"messages": [{"role": "tool_call", "content": {"name": "f", "arguments": {}}}, {"role": "tool_response", "content": "o"}]}"#,
    );
    assert_eq!(swift.conversation.messages[0], chat.conversation.messages[1]);
    let cases = [
        (r#"{"messages": [{"role": "model", "content": "a"}]}"#, "(write \"assistant\")"),
        (r#"{"messages": [{"role": "ipython", "content": "a"}]}"#, "(write \"tool\")"),
        (r#"{"messages": [{"role": "function_call", "content": "a"}]}"#, "(write \"assistant\" with \"tool_calls\")"),
        (
            r#"{"conversations": [{"from": "function_call", "value": "f()"}]}"#,
            "conversations[0].value is a string that is no JSON, expected the JSON of",
        ),
        (
            r#"{"conversations": [{"from": "function_call", "value": "{\"f\": 1}"}]}"#,
            "conversations[0].value is an object with key \"f\"",
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": "a", "content": "b"}]}"#,
            "conversations[0].content stands beside",
        ),
    ];
    for (row, expected) in cases {
        assert!(complaint(row).contains(expected), "{row}: {}", complaint(row));
    }
}

#[test]
fn a_rows_own_system_text_tools_documents_and_variables_reach_the_conversation() {
    let row = r#"{"instruction": "i", "output": "o", "system": "s", "tools": "[{\"name\": \"f\"}]", "documents": [{"text": "d"}],
        "chat_template_kwargs": {"mood": "calm"}, "history": [["q", "a"]]}"#;
    let chat = talk(&row.replace('\n', ""));
    let turns = |chat: &Chat| RowContent::Chat(chat.conversation.messages.clone().into());
    let expected = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "i"), ("assistant", "o")];
    assert_eq!(turns(&chat), self::chat(&expected));
    let tool = serde_json::json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(chat.conversation.tools, Some(vec![tool]));
    assert_eq!(chat.conversation.documents.unwrap().len(), 1);
    assert_eq!(chat.conversation.variables["mood"], "calm");
    let same = talk(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "system": "s", "tools": []}"#,
    );
    assert_eq!((turns(&same), same.conversation.tools), (self::chat(&[("system", "s"), ("user", "q")]), None));
    // A system text before the turns moves those that are masked.
    let moved = talk(r#"{"conversations": [{"from": "gpt", "value": "a", "weight": 0}], "system": "s"}"#);
    assert_eq!(moved.masked.iter().copied().collect::<Vec<_>>(), [1]);
    let cases = [
        (
            r#"{"messages": [{"role": "system", "content": "t"}], "system": "s"}"#,
            "system is given, and the first turn is another system text",
        ),
        (r#"{"messages": [{"role": "user", "content": "t"}], "tools": "f"}"#, "tools is a string that is no JSON"),
        (
            r#"{"messages": [{"role": "user", "content": "t"}], "tools": ["f"]}"#,
            "tools[0] is a string, expected a list of objects",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "t"}], "chat_template_kwargs": 3}"#,
            "chat_template_kwargs is a number",
        ),
        (
            r#"{"instruction": "i", "output": "o", "history": [["q"]]}"#,
            "history[0] is an array, expected a list of a question and its answer",
        ),
        (r#"{"instruction": "i", "output": "o", "history": [["q", ""]]}"#, "history[0][1] is empty"),
        (r#"{"prompt": "p", "completion": "c", "tools": [{}]}"#, "tools is for rows of turns"),
        (r#"{"prompt": "p", "completion": "c", "system": "s"}"#, "system is for rows of turns"),
        (
            r#"{"prompt": "p", "completion": [{"role": "assistant", "content": "c"}]}"#,
            "prompt is a string, expected a list of turns",
        ),
    ];
    for (row, expected) in cases {
        assert!(complaint(row).contains(expected), "{row}: {}", complaint(row));
    }
}

#[test]
fn a_prompt_of_turns_is_masked_and_its_completion_trained() {
    let text = r#"{"prompt": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "c", "weight": 0},
        {"role": "assistant", "content": "d"}]}"#;
    let text = text.replace('\n', "");
    assert_eq!(parse(&text).unwrap().format, RowFormat::PromptCompletionTurns);
    assert_eq!(talk(&text).trained_turns().collect::<Vec<_>>(), [2, 5]);
    let mixed = complaint(&format!("{{\"prompt\": \"p\", \"completion\": \"c\"}}\n{text}"));
    assert!(mixed.contains("a row of format prompt/completion turns, where the first row"), "{mixed}");
}

#[test]
fn keys_that_other_trainers_act_on_are_refused_by_name() {
    let chat = r#""messages": [{"role": "user", "content": "q"}]"#;
    let pair =
        r#""chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]"#;
    let cases = [
        (format!("{{{pair}}}"), "chosen belongs to a preference pair"),
        (format!("{{\"prompt\": \"p\", {pair}}}"), "chosen belongs to a preference pair"),
        (format!("{{{chat}, \"rejected_response\": \"b\"}}"), "rejected_response belongs to a preference pair"),
        (r#"{"prompt": "p", "completion": "c", "label": false}"#.into(), "label says whether an answer is a good one"),
        (format!("{{{chat}, \"kto_tag\": true}}"), "kto_tag says whether"),
        (format!("{{{chat}, \"images\": [\"a.png\"]}}"), "images is given, but bft reads text only"),
        (format!("{{{chat}, \"functions\": [{{\"name\": \"f\"}}]}}"), "functions is the older form of \"tools\""),
        (format!("{{{chat}, \"parallel_tool_calls\": false}}"), "parallel_tool_calls means nothing"),
        (
            r#"{"input_ids": [1, 2], "completion_mask": [0, 1]}"#.into(),
            "completion_mask is not read: say in \"labels\"",
        ),
        (
            r#"{"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 0]}"#.into(),
            "attention_mask[1] is 0, expected 1",
        ),
    ];
    for (row, expected) in cases {
        let message = complaint(&row);
        assert!(message.starts_with("d.jsonl:1: ") && message.contains(expected), "{row}: {message}");
    }
    // Places that a table leaves empty, and numbers that only have the name of a verdict.
    parse(&format!("{{{chat}, \"images\": [], \"rejected\": null, \"functions\": \"\", \"label\": 3}}")).unwrap();
    parse(r#"{"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 1]}"#).unwrap();
    assert_eq!(parse(r#"{"text": "a", "label": true}"#).unwrap().ignored.names(), ["label"]);
}

#[test]
fn keys_that_nobody_acts_on_are_listed_once_and_not_without_end() {
    let text = "{\"id\": 1, \"text\": \"a\", \"source\": \"s\"}\n{\"source\": \"t\", \"text\": \"a\", \"empty\": null, \"a\\nb\": 1}";
    assert_eq!(parse(text).unwrap().ignored.names(), ["id", "source", "a\\nb"]);
    let wide: Vec<String> = (0..1000).map(|i| format!("\"k{i}\": 0")).collect();
    let rows = parse(&format!("{{\"text\": \"a\", {}}}", wide.join(", "))).unwrap();
    assert_eq!((rows.ignored.names().len(), rows.ignored.names()[20].as_str()), (21, "…"));
    let chat = r#"{"text": "flat", "system": "", "messages": [{"role": "user", "content": "q", "mood": "calm"}]}"#;
    assert_eq!(parse(chat).unwrap().ignored.names(), ["text"], "a turn's keys are the template's");
}

#[test]
fn files_that_are_no_rows_are_named_for_what_they_are() {
    let cases: [(&str, &[u8], &str); 7] = [
        ("d.xlsx", b"PK\x03\x04\x14\0", "is a ZIP archive or an XLSX table"),
        ("d.arrow", b"\xff\xff\xff\xff\x10", "is an Arrow stream"),
        ("d.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("d.jsonl", b"<!DOCTYPE html>", "is HTML or XML"),
        ("d", b"text\tlabel\nhello\t1\n", "is a table of values between tabs (TSV), not rows: name it .csv or .tsv"),
        ("d", b"instruction,output\na,b\n", "is a table (CSV) or plain text"),
        ("d.txt", b"Once upon a time\n", "is plain text, not rows: write one object a line"),
    ];
    for (file, bytes, expected) in cases {
        for skip_bad_rows in [false, true] {
            let options = RowOptions { skip_bad_rows, ..RowOptions::default() };
            let message = parse_rows(file, bytes, &options).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("data file {file} {expected}")),
                "expected {expected}, found {message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
    }
    // One bad line before good ones is a bad row.
    assert_eq!(parse_rows("d", b"a, b\n{\"text\": \"a\"}", &skipping()).unwrap().skipped.len(), 1);
}
