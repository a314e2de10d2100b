//! Files made to crash, hang or fill memory: each gets its one line, in a bounded time and memory.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bft_bio::data::h5ad::H5ad;
use bft_bio::data::vectors::NamedVectors;
use bft_formats::{ChatTemplate, Conversation, Message, Tokenizer, gguf, npy};
use bft_train::{RowOptions, parse_rows};
use hdf5_pure::{AttrValue, FileBuilder};
use serde_json::{Value, json};

/// Counts the bytes that are in use, and the most that ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: all is the system's own; counting touches none of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        took(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one attack came to.
struct Cost<T> {
    said: T,
    bytes: usize,
    time: Duration,
}

/// Runs one attack at a time, so that what it takes is its own.
fn attack<T>(work: impl FnOnce() -> T) -> Cost<T> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let start = Instant::now();
    let said = work();
    Cost { said, bytes: MOST.load(Ordering::Relaxed).saturating_sub(before), time: start.elapsed() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks")
}

/// File and words of the table in `attacks/README.md`.
fn table() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let [file, _, words] = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect::<Vec<_>>()[..] else {
            return None;
        };
        file.contains('.').then(|| (file.to_owned(), words.to_owned()))
    });
    rows.collect()
}

fn rendered(source: &str) -> String {
    let conversation = Conversation::from(vec![Message::new("user", "Hi")]);
    let text = ChatTemplate::new(source, &BTreeMap::new()).and_then(|it| it.render(&conversation, true));
    text.unwrap_or_else(|error| error.to_string())
}

/// What a file's reader says of it.
fn said_of(path: &Path) -> String {
    match path.extension().and_then(|it| it.to_str()) {
        Some("jinja") => rendered(&std::fs::read_to_string(path).unwrap()),
        other => panic!("nothing reads files of type {other:?}"),
    }
}

#[test]
fn every_file_of_the_table_gets_its_words() {
    let table = table();
    let mut wrong = Vec::new();
    for (file, words) in &table {
        let cost = attack(|| said_of(&folder().join(file)));
        let megabytes = cost.bytes >> 20;
        eprintln!("{file}: {:.2} s, {megabytes} MB: {:.100}", cost.time.as_secs_f32(), cost.said);
        if !cost.said.contains(words.as_str()) || cost.said.lines().count() != 1 {
            wrong.push(format!("{file}: {:.300}\n   expected {words}", cost.said));
        }
        if cost.time > Duration::from_secs(20) || megabytes > 128 {
            wrong.push(format!("{file} takes {:?} and {megabytes} MB", cost.time));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let files = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(files, table.len() + 1, "every file of the folder is in the table");
}

/// Expects words in one line, in little time and in 8 times a file's size and 64 MB.
fn refuses(name: &str, size: usize, words: &str, read: impl FnOnce() -> String) {
    let cost = attack(read);
    eprintln!("{name}: {size} bytes, {:.2} s, {} MB: {:.150}", cost.time.as_secs_f32(), cost.bytes >> 20, cost.said);
    assert!(cost.said.contains(words) && cost.said.lines().count() == 1, "{name}: {:.300}", cost.said);
    assert!(cost.bytes <= 8 * size + (64 << 20), "{name}: {size} bytes take {} MB", cost.bytes >> 20);
    assert!(cost.time < Duration::from_secs(10), "{name} takes {:?}", cost.time);
}

/// A `tokenizer.json` of three letters, with parts put over it.
fn tokenizer_json(changes: &Value) -> Vec<u8> {
    let model = json!({
        "type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "byte_fallback": false, "fuse_unk": false
    });
    let mut file = json!({"version": "1.0", "added_tokens": [], "model": model});
    for (key, value) in changes.as_object().unwrap() {
        file[key] = value.clone();
    }
    file.to_string().into_bytes()
}

#[test]
fn tokenizers_whose_parts_contradict_one_another_are_errors() {
    let model = |changes: &Value| {
        let mut model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]});
        changes.as_object().unwrap().iter().for_each(|(key, value)| model[key] = value.clone());
        json!({"model": model})
    };
    let files = [
        (model(&json!({"continuing_subword_prefix": "longer than any"})), "contradict one another"),
        (json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}), "says to hold 4294967295"),
        (
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}}),
            "contradict one another",
        ),
        (json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), "contradict one another"),
        (json!({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "xy"}}), "tokenizer"),
        (json!({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""}}), "tokenizer"),
    ];
    for (changes, words) in files {
        let file = tokenizer_json(&changes);
        let name = changes.to_string();
        refuses(&name, file.len(), words, || {
            let text = "ab aab ".repeat(1000) + &"a".repeat(40);
            let ids = Tokenizer::from_json("tokenizer.json", &file).and_then(|it| it.encode(&text, false));
            ids.map_or_else(|error| error.to_string(), |ids| format!("tokenizer makes {} ids", ids.len()))
        });
    }
}

#[test]
fn a_text_that_cannot_be_cut_is_refused_before_it_is_encoded() {
    let tokenizer = Tokenizer::from_json("tokenizer.json", &tokenizer_json(&json!({}))).unwrap();
    let text = "ab".repeat(5 << 20);
    refuses("a long word", text.len(), "cannot encode 10485760 bytes at once", || {
        tokenizer.encode(&text, false).unwrap_err().to_string()
    });
    refuses("a long word, with offsets", text.len(), "divide the text", || {
        tokenizer.encode_with_offsets(&text).unwrap_err().to_string()
    });
}

/// A GGUF file of these entries and no tensors; each is a key, a type number and the value's bytes.
fn gguf_file(entries: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([0, entries.len() as u64].map(u64::to_le_bytes).concat());
    for (key, kind, value) in entries {
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(key.as_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(value);
    }
    file
}

fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn a_vocabulary_whose_tokens_make_up_one_another_is_refused_while_it_is_small() {
    let letters = ('A'..='Z').chain('a'..='z').chain('α'..='ω');
    let tokens: Vec<String> = letters.flat_map(|c| (1..=128).map(move |n| c.to_string().repeat(n))).collect();
    let list = |kind: u32, values: Vec<Vec<u8>>| {
        [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &values.concat()].concat()
    };
    let file = gguf_file(&[
        ("tokenizer.ggml.model", 8, gguf_text("llama")),
        ("tokenizer.ggml.tokens", 9, list(8, tokens.iter().map(|token| gguf_text(token)).collect())),
        ("tokenizer.ggml.scores", 9, list(6, vec![vec![0; 4]; tokens.len()])),
    ]);
    refuses("vocabulary", file.len(), "no trained vocabulary", || {
        let header = gguf::Header::parse(&file).unwrap();
        Tokenizer::from_gguf("a.gguf", &header).map_or_else(|error| error.to_string(), |_| "read".to_owned())
    });
}

/// An AnnData file with a sparse matrix of these parts.
fn h5ad(path: &Path, kind: &str, shape: [i64; 2], indices: &[i32], bounds: &[i32]) {
    let text = |words: &str| AttrValue::VarLenString(words.to_owned());
    let mut builder = FileBuilder::new();
    for frame in ["obs", "var"] {
        let mut group = builder.create_group(frame);
        group.set_attr("_index", text("_index"));
        group.create_dataset("_index").with_vlen_strings(&["a", "b"]);
        builder.add_group(group.finish());
    }
    let mut group = builder.create_group("X");
    group.set_attr("encoding-type", text(kind));
    group.set_attr("shape", AttrValue::I64Array(shape.to_vec()));
    group.create_dataset("data").with_f32_data(&[1.0, 2.0, 3.0]).with_shape(&[3]);
    group.create_dataset("indices").with_i32_data(indices).with_shape(&[indices.len() as u64]);
    group.create_dataset("indptr").with_i32_data(bounds).with_shape(&[bounds.len() as u64]);
    builder.add_group(group.finish());
    std::fs::write(path, builder.finish().unwrap()).unwrap();
}

fn said_of_h5ad(path: &Path) -> String {
    let mut cells = 0;
    let read = H5ad::open(path).and_then(|file| {
        file.index("obs")?;
        file.columns("var")?;
        file.rows(&file.matrix("X")?, |_, row| cells += row.len())
    });
    read.map_or_else(|error| error.to_string(), |()| format!("{cells} cells"))
}

#[test]
fn matrices_larger_than_their_file_and_short_indices_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5ad");
    let refused = |kind: &str, shape: [i64; 2], indices: &[i32], bounds: &[i32], words: &str| {
        h5ad(&path, kind, shape, indices, bounds);
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        refuses(&format!("{kind} {shape:?}"), size, words, || said_of_h5ad(&path));
    };
    let (csr, csc, all) = ("csr_matrix", "csc_matrix", [0, 1, 1]);
    refused(csr, [2, 2], &all, &[0, 2, 3], "3 cells");
    refused(csr, [2, 2], &all[..1], &[0, 2, 3], "3 values with 1 indices");
    refused(csr, [2, 2], &all, &[0, 2], "indptr does not fit");
    refused(csr, [2, 2], &all, &[0, 3, 2], "indptr does not fit");
    refused(csr, [2, 1], &all, &[0, 2, 3], "index 1 of 1");
    for (kind, shape) in [(csc, [20_000_000_000, 2]), (csr, [2, 1 << 40]), (csr, [-1, 2]), (csc, [2, i64::MIN])] {
        refused(kind, shape, &all, &[0, 2, 3], "more than a file of");
    }
}

/// Every byte of a file changed in several ways, one after another: what each change comes to is
/// said, and no change ends the program or takes much.
fn changed(name: &str, file: &[u8], step: usize, read: impl Fn(&[u8]) -> String) {
    let start = Instant::now();
    let mut copy = file.to_vec();
    let mut count = 0;
    for at in (0..file.len()).step_by(step) {
        for change in [0, 1, 0x7f, 0x80, 0xff] {
            copy[at] = change;
            let cost = attack(|| read(&copy));
            let most = 8 * file.len() + (64 << 20);
            assert!(cost.bytes <= most, "{name}, byte {at} = {change}: {} MB, {}", cost.bytes >> 20, cost.said);
            assert!(cost.time < Duration::from_secs(10), "{name}, byte {at} = {change}: {:?}", cost.time);
            count += 1;
        }
        copy[at] = file[at];
    }
    eprintln!("{name}: {count} changes of {} bytes in {:?}", file.len(), start.elapsed());
}

/// Places at which a larger file is changed.
const CHANGED: usize = 60;

#[test]
fn an_h5ad_file_with_a_changed_byte_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5ad");
    h5ad(&path, "csr_matrix", [2, 2], &[0, 1, 1], &[0, 2, 3]);
    let file = std::fs::read(&path).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        said_of_h5ad(&path)
    };
    changed("h5ad", &file, 61, read);
    // As h5py writes them: dense in chunks, packed or not, sparse both ways.
    for name in ["dense", "half", "csr", "csc", "nan"] {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/bio/tests/fixtures");
        let file = std::fs::read(fixtures.join(format!("gears_{name}.h5ad"))).unwrap();
        changed(name, &file, file.len().div_ceil(CHANGED), read);
    }
}

/// Names and vectors as `bio embed-genes` would write them.
fn parquet_file() -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = "message rows { required binary text (UTF8);
        required group vector (LIST) { repeated group list { required float element; } } }";
    let mut file = Vec::new();
    let properties = std::sync::Arc::new(WriterProperties::builder().build());
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let names = ["TP53", "BRCA1", "TP53"].map(ByteArray::from);
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    column.typed::<FloatType>().write_batch(&numbers, Some(&[1; 6]), Some(&[0, 1, 0, 1, 0, 1])).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    file
}

#[test]
fn a_parquet_file_with_a_changed_byte_is_read_or_refused() {
    let file = parquet_file();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let vectors = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let read = NamedVectors::read(&path);
        read.map_or_else(|error| error.to_string(), |found| format!("{} vectors", found.names.len()))
    };
    let rows = |bytes: &[u8]| {
        let read = parse_rows("a.parquet", bytes.to_vec(), &RowOptions::default());
        read.map_or_else(|error| error.to_string(), |found| format!("{} rows", found.rows.len()))
    };
    assert_eq!([vectors(&file), rows(&file)], ["3 vectors", "3 rows"]);
    changed("Parquet vectors", &file, 3, vectors);
    changed("Parquet rows", &file, 1, rows);
}

#[test]
fn an_array_of_rows_without_numbers_is_refused() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 0), }\n";
    let file = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    refuses("npy", file.len(), "rows without numbers", || npy::read(&file).unwrap_err());
}

#[test]
fn sources_too_long_or_too_deep_are_refused_before_they_are_read() {
    let repeated = |before: &str, part: &str, after: &str| format!("{before}{}{after}", part.repeat(60_000));
    let sources = [
        (repeated("{{ 1", "+1", " }}"), "inside one another"),
        (repeated("{{ ", "-", "1 }}"), "inside one another"),
        (repeated("{{ ", "[", "1 }}"), "inside one another"),
        (repeated("{{ x", "|e", " }}"), "inside one another"),
        (repeated("{{ x", ".y", " }}"), "inside one another"),
        ("{{ x".to_owned() + &" and x".repeat(40_000) + " }}", "inside one another"),
        ("{{ 1".to_owned() + &" if 0 else 1".repeat(20_000) + " }}", "inside one another"),
        ("{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(20_000) + "{% endif %}", "blocks and elifs"),
        ("{% if 1 %}".repeat(20_000), "blocks and elifs"),
        ("{% set x = [x] %}".repeat(15_000) + "{{ x }}", "deeper than 256 levels"),
        ("{% macro f() %}{{ f }}{% endmacro %}".repeat(5_000), "macros"),
        ("{% filter e %}".repeat(15_000), "blocks and elifs"),
        ("x".repeat(300_000), "300000 bytes"),
        ("{{ 1 }}".repeat(30_000), "111"),
    ];
    for (source, words) in sources {
        let cost = attack(|| rendered(&source));
        assert!(cost.said.contains(words), "{:.40}: {:.300}", source, cost.said);
        assert!(cost.bytes < 64 << 20 && cost.time < Duration::from_secs(10), "{:.40}: {:?}", source, cost.time);
    }
}
