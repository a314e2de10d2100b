//! A job's ranks over MPI.

use std::time::Duration;

use bft_train::Ranks;
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::error::CliError;
use crate::ui;

/// This process as a rank of its job.
pub struct Job {
    world: SimpleCommunicator,
    here: (usize, usize),
    /// Ends MPI when dropped, which waits for all other ranks to do so too.
    _universe: Universe,
}

impl Job {
    /// Joins the `count` processes that the launcher started.
    pub fn join(count: usize) -> Result<Self, CliError> {
        let universe =
            mpi::initialize().ok_or_else(|| CliError::failed("MPI could not be started; start bft with mpirun"))?;
        let world = universe.world();
        if size(world.size()) != count {
            return Err(CliError::failed(format!(
                "the launcher started {count} processes, MPI joined {}: use the mpirun of the MPI that bft was built with",
                world.size()
            )));
        }
        let here = world.split_shared(world.rank());
        Ok(Self { here: (size(here.rank()), size(here.size())), world, _universe: universe })
    }

    /// This rank's place on its machine, and how many ranks share that.
    pub fn here(&self) -> (usize, usize) {
        self.here
    }

    /// Does this rank's part. Where it fails, says why and ends the job.
    pub fn run<T>(self, work: impl FnOnce(&Job) -> Result<T, CliError>) -> Result<T, CliError> {
        let result = work(&self);
        if let Err(error) = &result {
            // What fails on all ranks alike is said by rank 0, which ends the others before they
            // speak.
            if self.world.rank() > 0 {
                std::thread::sleep(Duration::from_secs(1));
            }
            ui::error(&error.to_string());
            self.world.abort(error.exit_code().into());
        }
        result
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Ending MPI in order would wait for ranks that wait for this one.
        if std::thread::panicking() {
            self.world.abort(101);
        }
    }
}

impl Ranks for Job {
    fn rank(&self) -> usize {
        size(self.world.rank())
    }

    fn count(&self) -> usize {
        size(self.world.size())
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        let mut lengths: Vec<u64> = vec![0; self.count()];
        self.world.all_gather_into(&(mine.len() as u64), &mut lengths[..]);
        let lengths: Vec<usize> = lengths.into_iter().map(|len| len as usize).collect();
        let mut bytes = vec![0u8; lengths.iter().sum()];
        let (counts, starts) = layout(&lengths);
        self.world.all_gather_varcount_into(mine, &mut PartitionMut::new(&mut bytes[..], counts, starts));
        let mut rest = &bytes[..];
        lengths.iter().map(|len| rest.split_off(..*len).unwrap_or_default().to_vec()).collect()
    }

    fn transpose(&self, values: &[f32], lengths: &[usize]) -> Vec<f32> {
        let own = lengths[self.rank()];
        let mut parts = vec![0.0f32; own * self.count()];
        let (counts, starts) = layout(lengths);
        let (own_counts, own_starts) = layout(&vec![own; self.count()]);
        self.world.all_to_all_varcount_into(
            &Partition::new(values, counts, starts),
            &mut PartitionMut::new(&mut parts[..], own_counts, own_starts),
        );
        parts
    }

    fn join(&self, part: &[f32], lengths: &[usize], whole: &mut [f32]) {
        let (counts, starts) = layout(lengths);
        self.world.all_gather_varcount_into(part, &mut PartitionMut::new(whole, counts, starts));
    }
}

/// Lengths and starts of consecutive parts, as MPI takes them. Sums come in pieces and everything
/// else is small, so that 31 bits do.
fn layout(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let mut start = 0;
    lengths
        .iter()
        .map(|len| {
            let at = (*len as Count, start);
            start += at.0;
            at
        })
        .unzip()
}

fn size(count: Count) -> usize {
    usize::try_from(count).unwrap_or(0)
}
