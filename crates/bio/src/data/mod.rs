//! Fetched data and the files that users bring.

/// Bytes that what is read of any file may take, and for each byte of the file beyond that: a few
/// bytes can say that a value is repeated a billion times.
const FREE: u64 = 64 << 20;
const RATIO: u64 = 100;

pub mod genome;
pub mod gmt;
pub mod h5ad;
pub mod ontology;
pub mod pairs;
pub mod questions;
pub mod response;
pub mod table;
pub mod vectors;
