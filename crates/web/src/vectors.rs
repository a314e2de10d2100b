//! Embeddings as files.

use std::fmt::Write;

use serde_json::json;

use crate::contract::VectorFormat;

/// The vectors of the last embedding.
pub struct Vectors {
    pub ids: Vec<String>,
    pub width: usize,
    /// `[ids, width]`
    pub values: Vec<f32>,
}

impl Vectors {
    /// The contents of a file.
    pub fn file(&self, format: VectorFormat) -> Vec<u8> {
        match format {
            VectorFormat::Npy => {
                let mut file = Vec::new();
                bft_formats::npy::write(&mut file, self.width, &self.values).expect("memory takes all bytes");
                file
            }
            VectorFormat::Jsonl => self.lines(|id, vector| {
                let mut line = json!({ "id": id, "embedding": vector }).to_string();
                line.push('\n');
                line
            }),
            VectorFormat::Tsv => self.lines(|id, vector| {
                // What would break a line or a column becomes a space.
                let mut line = id.replace(['\t', '\n', '\r'], " ");
                for value in vector {
                    let _ = write!(line, "\t{value}");
                }
                line.push('\n');
                line
            }),
        }
    }

    fn lines(&self, line: impl Fn(&str, &[f32]) -> String) -> Vec<u8> {
        let vectors = self.values.chunks_exact(self.width.max(1));
        let lines = self.ids.iter().zip(vectors);
        let text: String = lines.map(|(id, vector)| line(id, vector)).collect();
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> Vectors {
        Vectors { ids: vec!["TP53".into(), "a\tb".into()], width: 2, values: vec![1.0, -0.5, 0.25, 3.0] }
    }

    #[test]
    fn each_format_holds_every_number() {
        let text = |format| String::from_utf8(vectors().file(format)).unwrap();
        assert_eq!(text(VectorFormat::Tsv), "TP53\t1\t-0.5\na b\t0.25\t3\n");
        assert_eq!(text(VectorFormat::Jsonl).lines().next().unwrap(), r#"{"id":"TP53","embedding":[1.0,-0.5]}"#);
        let npy = vectors().file(VectorFormat::Npy);
        assert_eq!(npy.len() % 64, 16, "data start at a multiple of 64");
        assert!(String::from_utf8_lossy(&npy[10..]).contains("'shape': (2, 2)"));
        assert_eq!(npy[npy.len() - 4..], 3.0f32.to_le_bytes());
        assert!(bft_train::word::<VectorFormat>("csv").is_none());
    }
}
