//! core

pub mod cpu;
pub mod real;
