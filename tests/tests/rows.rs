//! Rows as trainers write them, against what transformers makes of what they mean
//! (`tests/fixtures/chat_rows.py`).

use std::collections::BTreeMap;

use bft_formats::{ChatTemplate, Model};
use bft_tests::fixture;
use bft_train::{RowOptions, TextEncoder, labelled_tokens, parse_rows};

#[derive(serde::Deserialize)]
struct Reference {
    template: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    row: String,
    tokens: Vec<u32>,
    labels: Vec<i32>,
}

#[test]
fn rows_of_every_make_become_what_transformers_makes_of_them() {
    let folder = fixture::folder();
    let json = std::fs::read_to_string(folder.join("chat_rows.json")).unwrap();
    let reference: Reference = serde_json::from_str(&json).unwrap();
    let mut model = Model::open(&folder.join("qwen2")).unwrap();
    // Without its marks, the template shows its answers by how it renders; both must mean the same.
    let bare = reference.template.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    assert_ne!(bare, reference.template);
    for source in [&reference.template, &bare] {
        model.chat_template = Some(ChatTemplate::new(source, &BTreeMap::new()).unwrap());
        for case in &reference.cases {
            let rows = parse_rows("d.jsonl", case.row.as_bytes(), &RowOptions::default())
                .unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let made = labelled_tokens(&TextEncoder::new(&model), &rows.rows[0].content);
            let made = made.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            assert_eq!((made.samples.len(), rows.rows.len()), (1, 1), "{}", case.name);
            assert_eq!(made.samples[0].tokens, case.tokens, "{}", case.name);
            assert_eq!(made.samples[0].labels, case.labels, "{}", case.name);
        }
    }
}
