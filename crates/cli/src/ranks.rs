//! `mpirun -np N bft train …`: one job in several processes that MPI joins, the job's ranks.
//!
//! Rank 0 alone speaks and writes. What fails on one rank ends all of them, for the others would
//! wait for it.

#[cfg(feature = "mpi")]
#[path = "ranks/mpi.rs"]
mod job;
#[cfg(not(feature = "mpi"))]
#[path = "ranks/none.rs"]
mod job;

use bft_core::device::{DeviceRequest, list_adapters, set_cpu_threads};
use bft_train::Ranks;

use crate::error::CliError;
use crate::ui::{self, DIM};
pub use job::Job;

/// Rank and number of processes, as launchers tell them: Open MPI, MPICH and Slurm's PMI, Slurm's
/// PMIx.
const LAUNCHERS: [(&str, &str); 3] =
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("PMIX_RANK", "SLURM_NTASKS")];

/// This process's rank and how many there are, where a launcher started more than one.
fn launched() -> Option<(usize, usize)> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    LAUNCHERS.iter().find_map(|(rank, count)| Some((number(rank)?, number(count)?))).filter(|(_, count)| *count > 1)
}

/// The job that this process is a rank of; `None` where it runs alone.
///
/// # Errors
/// Where a launcher started several processes of a `bft` that was built without MPI.
pub fn job() -> Result<Option<Job>, CliError> {
    let Some((rank, count)) = launched() else {
        return Ok(None);
    };
    ui::speak_as(rank);
    let job = Job::join(count).map_err(said_once)?;
    job.share_processors();
    ui::note(&format!("{DIM}ranks: {count}, {} of them on this machine{DIM:#}", job.here().1));
    Ok(Some(job))
}

/// Refuses several processes where a verb can use only one.
pub fn refuse() -> Result<(), CliError> {
    let Some((rank, count)) = launched() else {
        return Ok(());
    };
    ui::speak_as(rank);
    Err(said_once(CliError::failed(format!(
        "{count} processes were started, but of bft's verbs only train and embed take more than one: leave mpirun out"
    ))))
}

/// What all ranks find alike before they are joined is said by rank 0.
fn said_once(error: CliError) -> CliError {
    match launched() {
        Some((1.., _)) => CliError::Echo,
        _ => error,
    }
}

impl Job {
    /// `--device` for this rank: where it may be any GPU, each rank of a machine takes one of its
    /// own, as far as they go.
    pub fn device(&self, wanted: &DeviceRequest) -> DeviceRequest {
        if !matches!(wanted, DeviceRequest::Auto | DeviceRequest::Gpu(None)) {
            return *wanted;
        }
        let adapters = pollster::block_on(list_adapters());
        let real: Vec<usize> =
            adapters.iter().filter(|adapter| !adapter.software).map(|adapter| adapter.index).collect();
        own(&real, self.here().0).map_or(*wanted, |index| DeviceRequest::Gpu(Some(index)))
    }

    /// Divides a machine's processors between its ranks, unless the launcher bound each to its own
    /// or the user has said how many threads there are to be.
    fn share_processors(&self) {
        let ours = std::thread::available_parallelism().map_or(1, usize::from);
        let bound = online_processors().is_some_and(|all| ours < all);
        if !bound && std::env::var_os("RAYON_NUM_THREADS").is_none() {
            set_cpu_threads((ours / self.here().1).max(1));
        }
    }

    /// Warns where ranks will have nothing to do.
    pub fn check_work(&self, pieces: usize, what: &str, advice: &str) {
        let count = self.count();
        if pieces < count {
            ui::warn(&format!("a step has {pieces} {what} for {count} ranks, some will have nothing to do: {advice}"));
        }
    }
}

/// The adapter of a machine's `place`th rank.
fn own(adapters: &[usize], place: usize) -> Option<usize> {
    adapters.get(place % adapters.len().max(1)).copied()
}

/// Processors of this machine, those that this process may not use included.
fn online_processors() -> Option<usize> {
    #[cfg(unix)]
    {
        // SAFETY: sysconf has no preconditions.
        let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        usize::try_from(count).ok().filter(|count| *count > 0)
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn ranks_of_a_machine_take_its_adapters_in_turn() {
        assert_eq!(own(&[], 3), None);
        let taken: Vec<_> = (0..5).map(|place| own(&[0, 2], place)).collect();
        assert_eq!(taken, [Some(0), Some(2), Some(0), Some(2), Some(0)]);
    }
}
