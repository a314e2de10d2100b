//! Compressed data files: gzip and zstd, told by how they begin, unpacked as they are read.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that any file may unpack to.
pub(super) const FREE: u64 = 64 << 20;
/// Bytes that a file may unpack to for each of its own, beyond that. Rows of text come to about a
/// tenth of it.
pub(super) const RATIO: u64 = 100;

/// A way of compressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A zstd file may begin with a frame that is skipped, as pzstd writes it.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// A problem of the stream, with what to do.
    fn problem(self, problem: &io::Error) -> io::Error {
        let (name, tool) = match self {
            Self::Gzip => ("gzip", "gunzip -t"),
            Self::Zstd => ("zstd", "zstd -t"),
        };
        let found = match ends_early(problem) {
            true => format!("the {name} stream ends in the middle"),
            false => format!("the {name} stream is damaged ({problem})"),
        };
        io::Error::other(format!("{found}: check it with {tool}, or fetch it again"))
    }
}

/// Whether an error comes of bytes that are not there.
fn ends_early(error: &io::Error) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    let mut inner = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    let causes = std::iter::from_fn(|| {
        let cause = inner?;
        inner = cause.source();
        Some(cause)
    });
    is_end(error) || causes.filter_map(|cause| cause.downcast_ref()).any(is_end)
}

/// The name that a file has once it is unpacked.
pub(crate) fn unpacked_name(file: &str) -> &str {
    let lower = file.to_ascii_lowercase();
    let end = [".gz", ".gzip", ".zst", ".zstd"].into_iter().find(|end| lower.ends_with(end));
    &file[..file.len() - end.map_or(0, str::len)]
}

/// The bytes of a file, unpacked if they are packed.
///
/// # Errors
/// A damaged stream; one that unpacks to far more than a file of rows does.
pub(super) fn unpack(bytes: Cow<'_, [u8]>) -> io::Result<Cow<'_, [u8]>> {
    if Packing::of(&bytes).is_none() {
        return Ok(bytes);
    }
    let mut all = Vec::new();
    reader(&*bytes)?.read_to_end(&mut all)?;
    Ok(all.into())
}

/// What `source` holds, unpacked if it is packed; holds a window of it alone.
pub(crate) fn reader<'r>(mut source: impl BufRead + 'r) -> io::Result<Box<dyn BufRead + 'r>> {
    // A pipe may give less than it is asked for, so that the first bytes are read one by one.
    let mut start = Vec::new();
    source.by_ref().take(4).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let source = io::Cursor::new(start).chain(source);
    let Some(packing) = packing else {
        return Ok(Box::new(source));
    };
    let taken = Rc::new(Cell::new(0));
    let source = Counted { source, taken: taken.clone() };
    let inner: Box<dyn Read + 'r> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(source)),
        Packing::Zstd => Box::new(Frames { source, frame: FrameDecoder::new(), open: false }),
    };
    Ok(Box::new(BufReader::with_capacity(1 << 16, Bounded { packing, inner, taken, given: 0 })))
}

/// Counts what is taken.
struct Counted<R> {
    source: R,
    taken: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(into)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.taken.set(self.taken.get() + count as u64);
        self.source.consume(count);
    }
}

/// Ends a stream that unpacks to too much.
struct Bounded<R> {
    packing: Packing,
    inner: R,
    taken: Rc<Cell<u64>>,
    given: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => self.packing.problem(&error),
        })?;
        self.given += count as u64;
        if self.given > FREE + RATIO * self.taken.get() {
            return Err(io::Error::other(too_much("unpack it yourself and give that")));
        }
        Ok(count)
    }
}

/// What is said of a file that unpacks to more than rows do, with what to do if they are right.
pub(super) fn too_much(advice: &str) -> String {
    format!(
        "it unpacks to more than {RATIO} times its size (and {} MiB), as no file of rows does: if it is right, \
         {advice}",
        FREE >> 20
    )
}

/// The frames of a zstd file, one after another, each held against its checksum.
struct Frames<R> {
    source: R,
    frame: FrameDecoder,
    open: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame; `false` at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => {
                    self.open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() && (self.open || self.begin()?) {
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let some = BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&mut self.source, some).map_err(io::Error::other)?;
            }
            let count = self.frame.read(into)?;
            if count > 0 {
                return Ok(count);
            }
            let (written, found) = (self.frame.get_checksum_from_data(), self.frame.get_calculated_checksum());
            if written.is_some() && written != found {
                return Err(io::Error::other("its checksum is another"));
            }
            self.open = false;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn packed_bytes_come_out_as_they_went_in() {
        let text: Vec<u8> = (0..300_000u32).flat_map(|i| (i % 977).to_le_bytes()).collect();
        for packed in [gzip(&text), zstd(&text), [gzip(&text[..9]), gzip(&text[9..])].concat()] {
            assert!(unpack(packed.into()).unwrap() == text);
        }
        assert_eq!(*unpack(b"\x1f".into()).unwrap(), *b"\x1f");
        assert_eq!(unpacked_name("a/b.csv.GZ"), "a/b.csv");
        assert_eq!(unpacked_name("b.jsonl.zst"), "b.jsonl");
        assert_eq!(unpacked_name("b.jsonl"), "b.jsonl");
    }

    #[test]
    fn a_file_that_would_fill_memory_is_refused() {
        let bomb = vec![b' '; FREE as usize + (16 << 20)];
        for packed in [gzip(&bomb), zstd(&bomb)] {
            assert!((packed.len() as u64) < FREE / 700, "{}", packed.len());
            let error = unpack(packed.into()).unwrap_err().to_string();
            assert!(error.starts_with("it unpacks to more than 100 times its size (and 64 MiB)"), "{error}");
        }
        assert_eq!(unpack(gzip(&bomb[..FREE as usize]).into()).unwrap().len() as u64, FREE);
    }

    #[test]
    fn a_damaged_stream_is_named() {
        let text = b"{\"text\": \"a\"}\n".repeat(40);
        for (name, packed) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
            for end in 5..packed.len() {
                let error = unpack(packed[..end].into()).unwrap_err().to_string();
                let said = format!("the {name} stream ends in the middle: check it with ");
                assert!(error.starts_with(&said), "{end} of {}: {error}", packed.len());
            }
        }
        let mut packed = gzip(&text);
        packed[12] ^= 0xff;
        let error = unpack(packed.into()).unwrap_err().to_string();
        assert!(error.starts_with("the gzip stream is damaged (") && error.contains("gunzip -t"), "{error}");
        let mut packed = zstd(&text);
        *packed.last_mut().unwrap() ^= 1;
        let error = unpack(packed.into()).unwrap_err().to_string();
        assert_eq!(
            error,
            "the zstd stream is damaged (its checksum is another): check it with zstd -t, or fetch it again"
        );
    }
}
