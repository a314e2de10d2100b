use super::*;

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
    let folder = tempfile::tempdir().unwrap();
    let state = OptimizerState {
        step: 12,
        passes: 30,
        control: vec![0.5, 1.0 / 3.0],
        first_moment: vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0, 0.1],
        second_moment: vec![3.5e-38, 2.0, 0.0, f32::MAX],
    };
    fs::write(folder.path().join(OPTIMIZER_FILE), crate::checkpoint_files::optimizer_file(&state).unwrap()).unwrap();
    let read = read_optimizer(folder.path()).unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((read.step, read.passes), (12, 30));
    assert_eq!(bits(&read.control), bits(&state.control));
    assert_eq!(bits(&read.first_moment), bits(&state.first_moment));
    assert_eq!(bits(&read.second_moment), bits(&state.second_moment));
}
