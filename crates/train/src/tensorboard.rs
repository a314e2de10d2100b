//! Event files that TensorBoard opens: records of TensorFlow's format around messages of protocol
//! buffers.
//!
//! A record is the length of its data (u64), the masked CRC-32C of that length, the data, and the
//! masked CRC-32C of the data, all little-endian. The data is an `Event` (tensorflow's event.proto):
//! time (1, f64), step (2), and one of a version of the file (3), a summary (5) and a mark of a
//! session (7).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder of a run's event files.
pub(crate) const FOLDER: &str = "tensorboard";

/// A file of events, which each run, and each time it is gone on with, has of its own.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `folder`, which is made if need be. `now` is in seconds since 1970; of
    /// older files TensorBoard then shows the steps up to `step` alone.
    ///
    /// # Errors
    /// With the path that cannot be made or written.
    pub fn create(folder: &Path, now: f64, step: u64) -> Result<Self, (PathBuf, io::Error)> {
        fs::create_dir_all(folder).map_err(|error| (folder.to_owned(), error))?;
        // Files are read in the order of their names; no two begin in one microsecond.
        let path = folder.join(format!("events.out.tfevents.{now:.6}.bft"));
        let file = File::create(&path).map_err(|error| (path.clone(), error))?;
        let mut events = Self { path, file };
        events.write(&[version(now), session_start(now, step + 1)])?;
        Ok(events)
    }

    /// Appends numbers, each with its name, of a step.
    ///
    /// # Errors
    /// With the path that cannot be written.
    pub fn scalars(&mut self, now: f64, step: u64, scalars: &[(&str, f64)]) -> Result<(), (PathBuf, io::Error)> {
        self.write(&[summary(now, step, scalars)])
    }

    fn write(&mut self, events: &[Vec<u8>]) -> Result<(), (PathBuf, io::Error)> {
        // One call: what is there after a crash is whole records, and at most one half.
        let records: Vec<u8> = events.iter().flat_map(|event| record(event)).collect();
        self.file.write_all(&records).map_err(|error| (self.path.clone(), error))
    }
}

/// The first event of every file.
fn version(now: f64) -> Vec<u8> {
    let mut event = head(now, None);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// Says that the run goes on at `step`: what older files have from there on no longer counts.
fn session_start(now: f64, step: u64) -> Vec<u8> {
    let mut event = head(now, Some(step));
    // SessionLog: its status (1) is START (1).
    bytes(&mut event, 7, &[1 << 3, 1]);
    event
}

/// Numbers of a step.
fn summary(now: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut values = Vec::new();
    for (tag, number) in scalars {
        // Summary.Value: its tag (1) and simple_value (2, f32).
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        value.push((2 << 3) | 5);
        value.extend((*number as f32).to_le_bytes());
        bytes(&mut values, 1, &value);
    }
    let mut event = head(now, Some(step));
    bytes(&mut event, 5, &values);
    event
}

/// Time and step of an event.
fn head(now: f64, step: Option<u64>) -> Vec<u8> {
    let mut event = vec![(1 << 3) | 1];
    event.extend(now.to_le_bytes());
    if let Some(step) = step {
        event.push(2 << 3);
        varint(&mut event, step);
    }
    event
}

/// Appends a field that has a length: text, bytes or a message.
fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push((field << 3) | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

/// Appends a whole number, seven bits a byte, the lowest first.
fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

/// An event as it stands in the file.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), event, &masked_crc(event).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted, for a CRC of data that holds CRCs is of little worth.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 1_700_000_000.5, 0).unwrap();
        events.scalars(1_700_000_001.25, 1, &[("train/loss", 0.5), ("train/lr", 2e-4)]).unwrap();
        events.scalars(1_700_000_002.0, 300, &[("eval/nll", 1.75)]).unwrap();
        let found = fs::read(&events.path).unwrap();
        let expected = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tensorboard.tfevents");
        assert_eq!(found, fs::read(expected).unwrap());
        assert_eq!(events.path.file_name().unwrap(), "events.out.tfevents.1700000000.500000.bft");
    }
}
