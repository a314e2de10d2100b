//! Threads that wait awake for the next of many short kernels.
//!
//! A product for one token takes tens of microseconds: as long as it takes to wake a thread.
//! Members of the team look for work a while before they sleep. Nobody waits for a member that has
//! not come: the caller does what is left itself, so that a busy machine costs it the help and no
//! more.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::thread::{self, Thread};

/// Looks for work before a member sleeps: some ten microseconds.
const LOOKS: usize = 500;
/// In the state: whether there is a job that members may join.
const OPEN: u64 = 1 << 16;
/// In the state: counts the jobs. The bits below [`OPEN`] count the members at work.
const JOB: u64 = 1 << 17;

/// What the members share.
struct Team {
    /// Taken by the one caller whose job this is.
    taken: AtomicBool,
    state: AtomicU64,
    /// The job: written while no member is at work, read by those that joined.
    work: UnsafeCell<Work>,
    /// The next task of the job, and how many it has.
    next: AtomicUsize,
    tasks: AtomicUsize,
    asleep: AtomicUsize,
    failed: AtomicBool,
    members: OnceLock<Vec<Thread>>,
}

/// A borrowed closure. [`Job`] waits, before the borrow ends, until no member runs it.
type Work = *const (dyn Fn(usize) + Sync);

// SAFETY: `work` is the only field that is not Sync. It is written only by the thread that set
// `taken`, while no member is at work, and read only by members that joined the job that was opened
// after the write.
unsafe impl Sync for Team {}
// SAFETY: `work` is the only field that is not Send. It is called only while its closure, which is
// Sync, is borrowed.
unsafe impl Send for Team {}

fn idle(_task: usize) {}

static TEAM: Team = Team {
    taken: AtomicBool::new(false),
    state: AtomicU64::new(0),
    work: UnsafeCell::new(&idle),
    next: AtomicUsize::new(0),
    tasks: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    failed: AtomicBool::new(false),
    members: OnceLock::new(),
};

/// Runs `work(0)`, …, `work(tasks − 1)`, each once, on as many threads as there are and come in
/// time.
pub(super) fn for_each(tasks: usize, work: impl Fn(usize) + Sync) {
    let alone = tasks < 2 || rayon::current_num_threads() < 2;
    if alone || TEAM.taken.swap(true, Acquire) {
        return (0..tasks).for_each(work);
    }
    let members = TEAM.members.get_or_init(start);
    let work: &(dyn Fn(usize) + Sync) = &work;
    // SAFETY: this thread set `taken`, and the last `Job` waited until no member was at work, so
    // that nobody reads what is written here. The lifetime may be extended because `Job` waits,
    // before the borrow ends, until no member is.
    unsafe { *TEAM.work.get() = std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Work>(work) };
    TEAM.next.store(0, Relaxed);
    TEAM.tasks.store(tasks, Relaxed);
    TEAM.failed.store(false, Relaxed);
    let job = Job;
    TEAM.state.fetch_add(JOB | OPEN, SeqCst);
    if TEAM.asleep.load(SeqCst) > 0 {
        members.iter().for_each(Thread::unpark);
    }
    take_tasks(work);
    job.close();
    // Before the team is another caller's, who would find it, or clear it.
    let failed = TEAM.failed.load(Relaxed);
    drop(job);
    assert!(!failed, "a kernel's task failed");
}

/// An open job; closed when dropped, also where a task panics.
struct Job;

impl Job {
    /// Waits for the members at work; no other can join.
    fn close(&self) {
        TEAM.state.fetch_and(!OPEN, SeqCst);
        let mut looks = 0;
        while TEAM.state.load(Acquire) & (OPEN - 1) > 0 {
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.close();
        TEAM.taken.store(false, Release);
    }
}

fn take_tasks(work: &(dyn Fn(usize) + Sync)) {
    let tasks = TEAM.tasks.load(Relaxed);
    loop {
        let task = TEAM.next.fetch_add(1, Relaxed);
        if task >= tasks {
            return;
        }
        work(task);
    }
}

/// Starts the members; fewer, or none, where the system gives no threads.
fn start() -> Vec<Thread> {
    (1..rayon::current_num_threads())
        .filter_map(|i| {
            let member = thread::Builder::new().name(format!("bft-{i}"));
            Some(member.spawn(serve).ok()?.thread().clone())
        })
        .collect()
}

/// What a member does for as long as the process lives.
fn serve() {
    let mut last = 0;
    loop {
        last = join(last);
        // SAFETY: this member is counted in `state`, so that `Job` waits for it and the closure is
        // still borrowed.
        let work = unsafe { &**TEAM.work.get() };
        if catch_unwind(AssertUnwindSafe(|| take_tasks(work))).is_err() {
            TEAM.failed.store(true, Relaxed);
        }
        TEAM.state.fetch_sub(1, Release);
    }
}

/// Waits for a job other than `last` and joins it.
fn join(last: u64) -> u64 {
    let mut looks = 0;
    loop {
        let state = TEAM.state.load(SeqCst);
        let job = state / JOB;
        if state & OPEN > 0 && job != last {
            if TEAM.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_ok() {
                return job;
            }
        } else if looks < LOOKS {
            looks += 1;
            std::hint::spin_loop();
        } else {
            TEAM.asleep.fetch_add(1, SeqCst);
            // A caller that saw nobody asleep opened its job before this look.
            let state = TEAM.state.load(SeqCst);
            if state & OPEN == 0 || state / JOB == last {
                thread::park();
            }
            TEAM.asleep.fetch_sub(1, SeqCst);
            looks = 0;
        }
    }
}
