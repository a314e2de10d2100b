//! Tables and packed files as pyarrow, pandas, polars and zstandard write them, against the rows
//! that these hold (`tests/fixtures/tables.py`).

use std::collections::BTreeMap;

use bft_train::{Columns, RowOptions, Rows, parse_rows};
use serde_json::{Map, Value};

fn bytes(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tables");
    std::fs::read(folder.join(name)).expect("a fixture")
}

fn read(name: &str) -> Result<Rows, String> {
    parse_rows(name, bytes(name), &RowOptions::default()).map_err(|error| error.to_string())
}

#[test]
fn files_of_every_kind_hold_the_rows_that_python_reads() {
    let expected = String::from_utf8(bytes("expected.json")).unwrap();
    let expected: BTreeMap<String, Vec<Map<String, Value>>> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 16);
    for (name, rows) in expected {
        let lines: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        let expected = parse_rows("d.jsonl", lines.join("\n").into_bytes(), &RowOptions::default()).unwrap();
        let found = read(&name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((found.format, found.rows.len()), (expected.format, rows.len()), "{name}");
        for (row, expected) in found.rows.iter().zip(&expected.rows) {
            assert_eq!(row.content, expected.content, "{}", row.origin);
        }
        assert_eq!((found.files[0].rows, found.skipped.len()), (rows.len(), 0), "{name}");
    }
}

#[test]
fn rows_of_tables_are_named_by_line_or_row() {
    let last = |name: &str| read(name).unwrap().rows.pop().unwrap().origin.to_string();
    assert_eq!(last("pairs_snappy.parquet"), "pairs_snappy.parquet (row 13)");
    // The second row's cell holds three lines.
    let text = "text,n\n\"a\nb\nc\",1\n\nd,2\n";
    let rows = parse_rows("d.csv", text.as_bytes(), &RowOptions::default()).unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.origin.to_string()).collect::<Vec<_>>(), ["d.csv:2", "d.csv:6"]);
}

#[test]
fn columns_that_nobody_reads_may_have_any_type() {
    let rows = read("other_types.parquet").unwrap();
    assert_eq!(rows.rows.len(), 2);
    assert_eq!(rows.ignored.names(), ["created", "day", "price", "hash"]);
    for (name, expected) in [
        (
            "times.parquet",
            "data file times.parquet is Parquet, but column \"text\" is TIMESTAMP_MICROS, which is read neither",
        ),
        ("bytes.parquet", "column \"messages.element.content\" is bytes (BYTE_ARRAY), which is read neither"),
        (
            "pairs_brotli.parquet",
            "column \"prompt\" is compressed with BROTLI(BrotliLevel(1)), which is not unpacked here",
        ),
        (
            "preferences.parquet",
            "preferences.parquet: chosen belongs to a preference pair (DPO and its like), which bft does not train",
        ),
    ] {
        let message = read(name).unwrap_err();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn columns_stand_for_keys_in_every_kind_of_file() {
    let options = |columns: &[&str]| {
        let columns: Vec<String> = columns.iter().map(|pair| (*pair).to_owned()).collect();
        RowOptions { columns: Columns::new(&columns), ..RowOptions::default() }
    };
    let named = options(&["prompt=completion", "completion=prompt"]);
    for name in ["pairs_zstd.parquet", "pairs.jsonl.gz"] {
        let rows = parse_rows(name, bytes(name), &RowOptions { skip_bad_rows: true, ..named.clone() }).unwrap();
        let plain = read(name).unwrap();
        // The one with an empty prompt has an empty answer now.
        assert_eq!((rows.rows.len(), rows.skipped.len()), (plain.rows.len() - 1, 1), "{name}");
        assert_ne!(rows.rows[0].content, plain.rows[0].content);
    }
    for name in ["pairs_zstd.parquet", "pairs.csv", "pairs.jsonl.zst"] {
        let error = parse_rows(name, bytes(name), &options(&["text=complection"])).unwrap_err().to_string();
        let expected =
            "there is no \"complection\", which --columns text=complection asks for; did you mean \"completion\"?";
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// Every byte of a file wrong in turn, and every beginning of it: an answer or an error, and no end
/// of the program.
#[test]
fn damaged_files_are_errors() {
    for name in [
        "chats.parquet",
        "pairs_v2.parquet",
        "tokens.parquet",
        "pairs_gzip.parquet",
        "pairs.jsonl.gz",
        "pairs.jsonl.zst",
        "pairs.csv.gz",
    ] {
        let whole = bytes(name);
        let mut refused = 0;
        for at in 0..whole.len() {
            for wrong in [whole[at] ^ 1, whole[at] ^ 0x80, 0xff, 0] {
                let mut bytes = whole.clone();
                bytes[at] = wrong;
                refused += usize::from(parse_rows(name, bytes, &RowOptions::default()).is_err());
            }
            let cut = parse_rows(name, &whole[..at], &RowOptions::default());
            assert!(cut.is_err() || name.contains("jsonl"), "{name} cut at {at}");
        }
        assert!(refused > whole.len(), "{name}: {refused}");
    }
}
