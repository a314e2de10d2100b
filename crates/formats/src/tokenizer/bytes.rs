//! GPT-2's alphabet: one printable character for each byte.

/// True when the tokenizer's decoder is, or has among its steps, the one of this name.
pub(super) fn decoder_has(inner: &tokenizers::Tokenizer, name: &str) -> bool {
    let json = inner.get_decoder().and_then(|d| serde_json::to_string(d).ok());
    json.is_some_and(|json| json.contains(&format!("\"{name}\"")))
}

/// The bytes a token stands for; `None` when a character is not of the alphabet.
pub(super) fn token_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// Printable Latin-1 characters stand for themselves; the 68 others come in order from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        33..=126 | 161..=172 | 174..=255 => Some(code as u8),
        256..=288 => Some((code - 256) as u8),
        289..=322 => Some((code - 289 + 127) as u8),
        323 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen: Vec<u8> = (0..400).filter_map(|c| byte_of(char::from_u32(c)?)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(token_bytes("ĠtheĊ"), Some(b" the\n".to_vec()));
        assert_eq!(token_bytes("｜"), None);
    }
}
