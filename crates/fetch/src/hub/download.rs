//! One file of a repository, from the hub into the cache.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::FileFacts;
use super::error::HubError;
use super::{Fetch, Hear, HubEvent};
use crate::verified::Verified;

/// How often a broken connection is tried again before anything more has come through it.
const TRIES: u32 = 3;

impl Fetch<'_> {
    /// Puts a file into the snapshot unless it is there.
    pub(super) fn file(&self, file: &str, verified: &mut Verified, hear: Hear<'_>) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        let place = self.cache.snapshot(commit).join(file);
        if place.is_file() {
            return Ok(());
        }
        let facts = self.client.facts(self.wanted, commit, file)?;
        let _lock = self.cache.lock(&facts.etag, || {
            let _ = hear(HubEvent::Waiting(file));
        })?;
        let blob = self.cache.blob(&facts.etag);
        let is_new = !blob.is_file();
        if is_new {
            self.download(file, &facts, &blob, hear)?;
        }
        self.cache.point(commit, file, &facts.etag)?;
        if is_new {
            verified.add(&place, &facts.etag);
        }
        let _ = hear(HubEvent::Placed(file));
        Ok(())
    }

    /// Loads a blob, going on where an earlier try broke off, and checks it.
    fn download(&self, file: &str, facts: &FileFacts, blob: &Path, hear: Hear<'_>) -> Result<(), HubError> {
        let name = format!("{}.incomplete", facts.etag);
        let path = blob.with_file_name(name);
        let problem = |error| HubError::io(&path, error);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(problem)?;
        let mut part = Part::open(&path, facts).map_err(problem)?;
        let mut tries = 0;
        while part.have < facts.size {
            let before = part.have;
            let broken = match self.client.bytes(self.wanted, &self.listing.commit, file, part.have) {
                Ok((start, bytes)) => {
                    if start != part.have {
                        part.restart(facts).map_err(problem)?;
                    }
                    part.take(bytes, facts.size, &mut |have| hear(HubEvent::Fetching(file, have, facts.size)))
                }
                Err(HubError::Unreachable { problem, .. }) => Err(Break::Connection(problem)),
                Err(other) => return Err(other),
            };
            match broken {
                Ok(()) => {}
                Err(Break::Disk(error)) => return Err(problem(error)),
                Err(Break::Stop) => return Err(HubError::Stopped),
                Err(Break::Connection(problem)) => {
                    tries = if part.have > before { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        let (id, file) = (self.wanted.id.clone(), file.to_owned());
                        return Err(HubError::Broken { id, file, have: part.have, size: facts.size, problem });
                    }
                    std::thread::sleep(Duration::from_millis(300) * tries);
                }
            }
        }
        part.file.sync_all().map_err(problem)?;
        if let Some(found) = part.sum.differs(&facts.etag) {
            let (id, file) = (self.wanted.id.clone(), file.to_owned());
            fs::remove_file(&path).map_err(problem)?;
            return Err(HubError::Checksum { id, file, found, expected: facts.etag.clone() });
        }
        fs::rename(&path, blob).map_err(problem)
    }
}

/// What ends a stream of bytes before its end.
enum Break {
    Connection(String),
    Disk(io::Error),
    Stop,
}

/// A file that is not whole yet.
struct Part {
    file: File,
    /// Bytes that are there.
    have: u64,
    sum: Sum,
}

impl Part {
    /// Opens what an earlier try left, and counts it into the checksum.
    fn open(path: &Path, facts: &FileFacts) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut part = Self { file, have: 0, sum: Sum::new(facts) };
        let length = part.file.metadata()?.len();
        if length > facts.size {
            part.restart(facts)?;
            return Ok(part);
        }
        let mut buffer = vec![0; 1 << 20];
        while part.have < length {
            let count = part.file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            part.sum.update(&buffer[..count]);
            part.have += count as u64;
        }
        Ok(part)
    }

    fn restart(&mut self, facts: &FileFacts) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.have, self.sum) = (0, Sum::new(facts));
        Ok(())
    }

    /// Appends what comes until the file is whole; `hear` learns how much there is.
    fn take(
        &mut self,
        mut bytes: impl Read,
        size: u64,
        hear: &mut dyn FnMut(u64) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Break> {
        let mut buffer = vec![0; 1 << 18];
        while self.have < size {
            if hear(self.have).is_break() {
                return Err(Break::Stop);
            }
            // No more than the hub said, whatever comes.
            let most = buffer.len().min(usize::try_from(size - self.have).unwrap_or(usize::MAX));
            let count = match bytes.read(&mut buffer[..most]) {
                Ok(0) => return Err(Break::Connection("the connection was closed".to_owned())),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Break::Connection(error.to_string())),
            };
            self.file.write_all(&buffer[..count]).map_err(Break::Disk)?;
            self.sum.update(&buffer[..count]);
            self.have += count as u64;
        }
        let _ = hear(self.have);
        Ok(())
    }
}

/// The checksum of a file where it is another than `etag`.
pub(super) fn other_sum(path: &Path, etag: &str) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut sum = Sum::new(&FileFacts { etag: etag.to_owned(), size: file.metadata()?.len() });
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.differs(etag)),
            count => sum.update(&buffer[..count]),
        }
    }
}

/// The checksum that an ETag is.
enum Sum {
    /// 64 digits: SHA-256 of a large file.
    Sha256(Sha256),
    /// 40 digits: the hash that git gives a small file.
    Git(Sha1),
    /// Another server's own, which only says when a file changed.
    Unknown,
}

impl Sum {
    fn new(facts: &FileFacts) -> Self {
        let digits = facts.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match facts.etag.len() {
            64 if digits => Self::Sha256(Sha256::new()),
            40 if digits => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", facts.size))),
            _ => Self::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
            Self::Unknown => {}
        }
    }

    /// The checksum in hexadecimal, where it is another.
    fn differs(self, expected: &str) -> Option<String> {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = match self {
            Self::Sha256(sum) => digits(&sum.finalize()),
            Self::Git(sum) => digits(&sum.finalize()),
            Self::Unknown => return None,
        };
        (!found.eq_ignore_ascii_case(expected)).then_some(found)
    }
}
