//! A `bft` without MPI: there is no job to join.

use bft_train::Ranks;

use crate::error::CliError;

/// Cannot be.
pub enum Job {}

impl Job {
    /// Says how to get a `bft` with MPI.
    pub fn join(count: usize) -> Result<Self, CliError> {
        Err(CliError::failed(format!(
            "{count} processes were started, but this bft was built without MPI: build it with --features mpi, or leave mpirun out"
        )))
    }

    /// This rank's place on its machine, and how many ranks share that.
    pub fn here(&self) -> (usize, usize) {
        match *self {}
    }

    /// Does this rank's part.
    pub fn run<T>(self, _: impl FnOnce(&Job) -> Result<T, CliError>) -> Result<T, CliError> {
        match self {}
    }
}

impl Ranks for Job {
    fn rank(&self) -> usize {
        match *self {}
    }

    fn count(&self) -> usize {
        match *self {}
    }

    fn gather(&self, _: &[u8]) -> Vec<Vec<u8>> {
        match *self {}
    }

    fn transpose(&self, _: &[f32], _: &[usize]) -> Vec<f32> {
        match *self {}
    }

    fn join(&self, _: &[f32], _: &[usize], _: &mut [f32]) {
        match *self {}
    }
}
