//! A job's ranks over MPI.

use std::time::{Duration, Instant};

use bft_train::Ranks;
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::error::CliError;
use crate::ui;

/// How long a rank that fails waits for the others to fail too, before it ends them.
const PATIENCE: Duration = Duration::from_secs(2);

/// This process as a rank of its job.
pub struct Job {
    world: SimpleCommunicator,
    /// For ranks that fail, wherever the others are in what `world` carries.
    failures: SimpleCommunicator,
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
        Ok(Self {
            here: (size(here.rank()), size(here.size())),
            failures: world.duplicate(),
            world,
            _universe: universe,
        })
    }

    /// This rank's place on its machine, and how many ranks share that.
    pub fn here(&self) -> (usize, usize) {
        self.here
    }

    /// Does this rank's part. Where it fails on all ranks, rank 0 says why and all of them end;
    /// where it fails on some, these say why and end the job.
    pub fn run<T>(self, work: impl FnOnce(&Job) -> Result<T, CliError>) -> Result<T, CliError> {
        let error = match work(&self) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !self.all_fail() {
            ui::error(&error.to_string());
            self.world.abort(error.exit_code().into());
        }
        let errors = gather(&self.failures, error.to_string().as_bytes());
        if self.rank() > 0 {
            return Err(CliError::Echo);
        }
        for (rank, other) in errors.iter().enumerate().filter(|(_, other)| **other != errors[0]) {
            ui::error(&format!("rank {rank}: {}", String::from_utf8_lossy(other)));
        }
        Err(error)
    }

    /// Whether all ranks come here, soon after each other.
    fn all_fail(&self) -> bool {
        let since = Instant::now();
        let mut waiting = self.failures.immediate_barrier();
        loop {
            match waiting.test() {
                Ok(_) => return true,
                Err(again) => waiting = again,
            }
            if since.elapsed() > PATIENCE {
                // It stays open for as long as this process lives, which is not long.
                std::mem::forget(waiting);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
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
        gather(&self.world, mine)
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

/// Every rank's bytes, on every rank.
fn gather(ranks: &SimpleCommunicator, mine: &[u8]) -> Vec<Vec<u8>> {
    let mut lengths: Vec<u64> = vec![0; size(ranks.size())];
    ranks.all_gather_into(&(mine.len() as u64), &mut lengths[..]);
    let lengths: Vec<usize> = lengths.into_iter().map(|len| len as usize).collect();
    let mut bytes = vec![0u8; lengths.iter().sum()];
    let (counts, starts) = layout(&lengths);
    ranks.all_gather_varcount_into(mine, &mut PartitionMut::new(&mut bytes[..], counts, starts));
    let mut rest = &bytes[..];
    lengths.iter().map(|len| rest.split_off(..*len).unwrap_or_default().to_vec()).collect()
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
