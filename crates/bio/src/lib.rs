//! Gene knowledge, gene vectors and the tasks they are judged by, each beside its baselines.
//!
//! | what | module |
//! |---|---|
//! | pinned public data, and the files that users bring | `data` |
//! | any name of a gene → the gene; genes → texts and vectors | `genes` |
//! | Gene Ontology and gene names → instruction data | `instruct` |
//! | metrics and small models | `stats` |
//! | interaction, perturbation, process naming, cell types, multiple choice | `tasks` |
//! | tables and pages | `report` |
//! | where a loss helps: arms under several regimes | `study` |
//!
//! Nothing here is for clinical use.

pub mod data;
mod error;
pub mod genes;
pub mod instruct;
pub mod report;
pub mod stats;
pub mod study;
pub mod tasks;

pub use error::{BioError, Result};
