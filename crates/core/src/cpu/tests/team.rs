use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cpu::team;

#[test]
fn every_task_runs_once_in_job_after_job() {
    for round in 0..2000 {
        let tasks = round % 7;
        let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team::for_each(tasks, |i| {
            runs[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "round {round}: {runs:?}");
        if round % 500 == 0 {
            // Long enough for the members to fall asleep.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_job_inside_a_job_is_done_too() {
    let runs = AtomicUsize::new(0);
    team::for_each(4, |_| {
        team::for_each(4, |_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(runs.into_inner(), 16);
}

#[test]
fn a_task_that_fails_fails_its_caller_and_nobody_else() {
    let failed = catch_unwind(|| {
        team::for_each(8, |i| assert_ne!(i, 5));
    });
    assert!(failed.is_err());
    every_task_runs_once_in_job_after_job();
}
