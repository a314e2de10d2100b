//! Fetched data and the files that users bring.

pub mod genome;
pub mod gmt;
pub mod h5ad;
pub mod ontology;
pub mod pairs;
pub mod response;
pub mod table;
pub mod vectors;
