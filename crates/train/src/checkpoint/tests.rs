use bft_core::OptimizerState;

use super::*;
use crate::checkpoint_files::{optimizer_file, parse_optimizer};

#[test]
fn only_complete_checkpoints_are_listed_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(folder.path());
    assert_eq!(checkpoints.list().unwrap(), []);
    let inside = folder.path().join("checkpoints");
    for name in ["step-000100", "step-000020", ".incomplete-step-000200", "step-x", "notes", "step-1000000"] {
        fs::create_dir_all(inside.join(name)).unwrap();
    }
    let steps: Vec<u64> = checkpoints.list().unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [20, 100, 1_000_000]);
    checkpoints.prepare().unwrap();
    assert!(!inside.join(".incomplete-step-000200").exists());
    assert!(inside.join("notes").exists(), "what is not ours stays");
}

#[test]
fn moments_come_back_bit_for_bit() {
    let state = OptimizerState {
        step: 12,
        passes: 30,
        control: vec![0.5, 1.0 / 3.0],
        first_moment: vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0, 0.1],
        second_moment: vec![3.5e-38, 2.0, 0.0, f32::MAX],
    };
    let read = parse_optimizer(&optimizer_file(&state).unwrap()).unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((read.step, read.passes), (12, 30));
    assert_eq!(bits(&read.control), bits(&state.control));
    assert_eq!(bits(&read.first_moment), bits(&state.first_moment));
    assert_eq!(bits(&read.second_moment), bits(&state.second_moment));
}

#[test]
fn moments_that_are_no_numbers_are_named() {
    let good = OptimizerState {
        step: 1,
        passes: 1,
        control: vec![1.0],
        first_moment: vec![0.5, -0.5],
        second_moment: vec![0.25, 0.0],
    };
    let read = |change: fn(&mut OptimizerState)| {
        let mut state = good.clone();
        change(&mut state);
        parse_optimizer(&optimizer_file(&state).unwrap()).map(|_| ()).unwrap_err()
    };
    let message = read(|state| state.first_moment[1] = f32::NAN);
    assert_eq!(message, "optimizer.safetensors: first_moment holds NaN at element 1, expected a finite number");
    assert!(read(|state| state.second_moment[0] = f32::INFINITY).contains("second_moment holds inf at element 0"));
    assert!(read(|state| state.second_moment[1] = -1e-9).contains("expected a finite number, 0 or more"));
}
