use super::*;

fn cut(text: &str, step: u64) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    cut_after(&mut file, step).unwrap();
    file.write_all(b"next\n").unwrap();
    file.rewind().unwrap();
    io::read_to_string(file).unwrap()
}

#[test]
fn metrics_are_cut_after_the_checkpoints_step() {
    let rows = "{\"step\":0,\"eval_nll\":2}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"eval_nll\":1}\n{\"step\":3}\n";
    assert_eq!(cut(rows, 2), format!("{}next\n", &rows[..rows.len() - 11]));
    assert_eq!(cut(rows, 9), format!("{rows}next\n"));
    assert_eq!(cut(rows, 0), "next\n", "a fresh run starts a fresh file");
}

#[test]
fn a_half_written_line_is_dropped() {
    assert_eq!(cut("{\"step\":1}\n{\"step\":2,\"lo", 5), "{\"step\":1}\nnext\n");
    assert_eq!(cut("{\"step\":1}\n{\"step\":2}", 5), "{\"step\":1}\nnext\n");
    assert_eq!(cut("", 5), "next\n");
}
