//! What a driver made of the shaders, kept between runs where a backend lets it be kept (Vulkan).

use bft_formats::sha256_bytes;

/// What a file of ours begins with.
const MAGIC: &[u8; 8] = b"bftpipe1";
/// A SHA-256 in hexadecimal.
const HASH: usize = 64;

/// Data with a checksum, because a driver may trust what it is given.
pub(super) fn seal(data: &[u8]) -> Vec<u8> {
    [MAGIC, sha256_bytes(data).as_bytes(), data].concat()
}

/// The data of a sealed file; `None` where it is damaged or not one of ours.
pub(super) fn unseal(file: &[u8]) -> Option<&[u8]> {
    let (hash, data) = file.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (hash == sha256_bytes(data).as_bytes()).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_damage_is_seen() {
        let whole = seal(b"some pipelines");
        assert_eq!(unseal(&whole), Some(&b"some pipelines"[..]));
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            assert_eq!(unseal(&bad), None, "byte {at}");
            assert_eq!(unseal(&whole[..at]), None, "cut at {at}");
        }
    }
}
