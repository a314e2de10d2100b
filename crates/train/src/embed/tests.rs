use super::*;
use crate::testing::{Around, model, tokenizer};

fn read(file: &str, text: &[u8]) -> Result<Vec<EmbedRow>, EmbedError> {
    EmbedInput::open(file, text, Columns::default())?.collect()
}

fn complaint(file: &str, text: &[u8]) -> String {
    read(file, text).unwrap_err().to_string()
}

/// The vector of a row is its length and its first token.
struct Toy {
    batches: Vec<usize>,
}

impl Embedder for Toy {
    async fn embed(&mut self, batch: &Batch, _: Pooling) -> Result<Vec<f32>, EngineError> {
        let (tokens, segments) = (&batch.tokens, &batch.segments);
        assert_eq!(*segments.last().unwrap() as usize, tokens.len());
        self.batches.push(segments.len() - 1);
        Ok(segments.windows(2).flat_map(|s| [(s[1] - s[0]) as f32, tokens[s[0] as usize] as f32]).collect())
    }
}

const OPTIONS: EmbedOptions = EmbedOptions {
    batch_tokens: 8,
    batch_rows: 3,
    max_length: 10,
    truncate: false,
    pooling: Pooling::Mean,
    normalize: false,
    prompt: String::new(),
};

/// Vectors, counts, rows of each batch.
type Embedded = (Vec<Vec<f32>>, EmbedReport, Vec<usize>);

fn embed(text: &[u8], options: EmbedOptions) -> Result<Embedded, EmbedError> {
    let model = model(Some(tokenizer(Around::Nothing)), None);
    let mut toy = Toy { batches: Vec::new() };
    let mut vectors = Vec::new();
    let rows = EmbedInput::open("in.jsonl", text, Columns::default())?;
    let sink = |_: &EmbedRow, vector: &[f32]| {
        vectors.push(vector.to_vec());
        Ok(())
    };
    let report = pollster::block_on(embed_rows(&model, &mut toy, rows, &options, sink))?;
    Ok((vectors, report, toy.batches))
}

#[test]
fn lines_of_text_and_rows_are_told_apart() {
    let content = |file, text: &str| -> Vec<EmbedContent> {
        read(file, text.as_bytes()).unwrap().into_iter().map(|r| r.content).collect()
    };
    let text = |t: &str| EmbedContent::Text(t.into());
    assert_eq!(content("a.txt", "\u{feff}TP53: x\r\n{odd\n\n"), [text("TP53: x"), text("{odd")]);
    assert_eq!(
        content("a", "{\"text\": \"b\"}\n\n{\"input_ids\": [4, 5]}"),
        [text("b"), EmbedContent::Tokens(vec![4, 5])]
    );
    let rows = read("a.jsonl", b"{\"id\": \"g1\", \"text\": \"b\"}\n{\"text\": \"c\", \"id\": 7}").unwrap();
    assert_eq!(rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>(), [Some("g1".into()), Some(7.into())]);
}

#[test]
fn bad_input_is_named_by_line() {
    assert_eq!(complaint("a.txt", b"one\n\ntwo"), "a.txt:2: the line is empty");
    assert!(complaint("a.txt", b"\n \n").starts_with("a.txt is empty: expected lines of text, or JSON rows"));
    // A vector is told by its line, from the first on; rows are told by their order.
    assert_eq!(complaint("a.txt", b"\n\none"), "a.txt:1: the line is empty");
    assert_eq!(read("a.x", b"\n\n{\"text\": \"b\"}\n\n{\"text\": \"c\"}").unwrap().len(), 2);
    assert!(complaint("a.txt", b"one\rtwo\rthree\r\n").contains("a.txt:1: the line holds carriage returns"));
    assert!(complaint("a.txt", b"[\"one\", \"two\"]").contains("is a JSON array"));
    assert_eq!(read("a.txt", b"[1] one\ntwo").unwrap().len(), 2);
    let masked = b"{\"input_ids\": [5, 6, 0], \"attention_mask\": [1, 1, 0]}";
    assert!(complaint("a.jsonl", masked).contains("attention_mask hides tokens"));
    assert_eq!(read("a.jsonl", b"{\"input_ids\": [5], \"attention_mask\": [1]}").unwrap().len(), 1);
    assert!(complaint("a.txt", b"one\n\xff").starts_with("a.txt:2: byte 0xff at column 1 is not UTF-8"));
    let gzip = b"\x1f\x8b\x08\0\0";
    assert_eq!(
        complaint("a.jsonl", gzip),
        "cannot read a.jsonl: the gzip stream ends in the middle: check it with gunzip -t, or fetch it again"
    );
    assert!(complaint("a", b"PAR1\x15\x04\x15 \n").starts_with("data file a is Parquet, but it cannot be read ("));
    assert_eq!(read("a.txt", b"PAR1 is a name of F2R").unwrap().len(), 1);
    assert!(complaint("a.jsonl", b"plain").starts_with("a.jsonl:1: not valid JSON"));
    assert!(complaint("a.jsonl", b"{\"txt\": 1}").contains("found key \"txt\"; expected \"text\" or \"input_ids\""));
    assert!(complaint("a.jsonl", b"{\"text\": 1}").contains("text is a number, expected a string"));
    assert!(complaint("a.jsonl", b"{\"input_ids\": [-1]}").contains("input_ids[0] is -1, expected a token id"));
    assert!(complaint("a.json", b"[{\"text\": \"a\"}]").contains("is a JSON array: expected lines of text"));
}

#[test]
fn rows_keep_their_order_in_batches_within_the_budget() {
    let rows: String = [2, 3, 3, 1, 9, 1].map(|n| format!("{{\"input_ids\": {:?}}}\n", vec![n; n])).concat();
    let (vectors, report, batches) = embed(rows.as_bytes(), OPTIONS).unwrap();
    assert_eq!(vectors, [2, 3, 3, 1, 9, 1].map(|n| vec![n as f32; 2]));
    assert_eq!(report, EmbedReport { rows: 6, tokens: 19, truncated: 0 });
    assert_eq!(batches, [3, 1, 1, 1], "a row above the budget goes alone");
}

#[test]
fn a_long_row_is_refused_or_cut_on_request_and_vectors_can_be_scaled_to_one() {
    let row = format!("{{\"input_ids\": {:?}}}", [3; 12]);
    let message = embed(row.as_bytes(), OPTIONS).unwrap_err().to_string();
    assert_eq!(message, "in.jsonl:1: the text has 12 tokens, at most 10 are allowed: cut it with --truncate");
    let (vectors, report, _) = embed(row.as_bytes(), EmbedOptions { truncate: true, ..OPTIONS }).unwrap();
    assert_eq!((vectors[0].as_slice(), report.truncated), ([10.0, 3.0].as_slice(), 1));
    let (vectors, ..) = embed(b"{\"input_ids\": [4, 4, 4]}", EmbedOptions { normalize: true, ..OPTIONS }).unwrap();
    assert_eq!(vectors[0], [0.6, 0.8]);
}

#[test]
fn ids_beyond_the_vocabulary_and_empty_rows_are_named() {
    let message = embed(b"{\"input_ids\": [1]}\n{\"input_ids\": [9999]}", OPTIONS).unwrap_err().to_string();
    assert!(message.starts_with("in.jsonl:2: input_ids[0] is 9999, but the vocabulary"), "{message}");
    let message = embed(b"{\"text\": \"\"}", OPTIONS).unwrap_err().to_string();
    assert_eq!(message, "in.jsonl:1: the text is empty");
}
