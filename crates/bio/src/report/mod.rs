//! Results as tables for people and programs.

pub mod table;

pub use table::{Cell, Report};
