//! Jobs of several ranks, started with the real mpirun: `cargo test -p bft-cli --features mpi
//! --test mpi`.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Done, finish, fixture, last_checkpoint, run, steps, tiny_training, wait_until, write};
use serde_json::Value;

/// `mpirun` with `count` ranks on this machine, whatever its number of processors.
fn mpirun(count: usize) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"])
        // One machine needs no network.
        .args(["--mca", "btl", "self,vader", "-np", &count.to_string()])
        .arg(env!("CARGO_BIN_EXE_bft"))
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ranks(count: usize, arguments: &[String]) -> Done {
    let output = mpirun(count).args(arguments).output();
    Done::of(output.expect("mpirun starts: install openmpi-bin"))
}

/// A run whose steps have work for four ranks.
fn training(output: &Path, steps: usize) -> Vec<String> {
    let mut flags = tiny_training(output, steps);
    flags.extend(["--grad-accum", "2", "--save-every", "1"].map(str::to_owned));
    flags
}

/// The adapter's values, in a fixed order of tensors.
fn adapter(output: &Path) -> Vec<f32> {
    let bytes = std::fs::read(output.join("adapter_model.safetensors")).expect("an adapter");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let bytes = tensors.iter().flat_map(|(_, it)| it.data().as_chunks::<4>().0.to_vec());
    bytes.map(f32::from_le_bytes).collect()
}

#[track_caller]
fn assert_same_but_for_rounding(a: &Path, b: &Path) {
    let (a, b) = (adapter(a), adapter(b));
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = a.iter().zip(&b).map(|(a, b)| square(a - b)).sum();
    let apart = (apart / b.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
    assert!(apart < 1e-5, "{apart:.1e}");
}

#[test]
fn two_and_four_ranks_train_what_one_process_trains() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name);
    run(training(&place("alone"), 5)).ok();
    for count in [2, 4] {
        let output = place(&format!("{count}-ranks"));
        let mut flags = training(&output, 5);
        flags.push("--json".to_owned());
        let done = ranks(count, &flags);
        assert_eq!(done.json()["steps"], 5);
        assert_eq!(done.stdout.lines().count(), 1, "rank 0 alone answers: {done:?}");
        assert!(done.stderr.contains(&format!("ranks: {count}")), "{done:?}");
        assert_eq!(done.stderr.matches("data: ").count(), 1, "{done:?}");
        assert_eq!(steps(&output), [1, 2, 3, 4, 5]);
        assert_same_but_for_rounding(&output, &place("alone"));
    }
}

#[test]
fn ranks_measure_no_kernels_so_that_all_compute_with_the_same() {
    if std::env::var_os("BFT_TEST_NO_GPU").is_some_and(|value| value == "1") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = "{\"input_ids\": [1, 2, 3], \"id\": 1}\n";
    let input = write(folder.path(), "rows.jsonl", row).display().to_string();
    let kept = |verb: &str, count: usize| {
        let place = |what: &str| folder.path().join(format!("{verb}-{count}-{what}"));
        let (cache, output) = (place("cache"), place("output"));
        let mut flags = training(&output, 1);
        if verb == "embed" {
            let output = output.with_extension("npy").display().to_string();
            let model = fixture("llama");
            let line = ["embed", "--device", "gpu", "--model", &model, "--input", &input, "--output", &output];
            flags = line.map(str::to_owned).to_vec();
        }
        flags[2] = "gpu".to_owned();
        flags.push("--measure-kernels".to_owned());
        let done = mpirun(count).args(&flags).env("BFT_CACHE", &cache).output();
        Done::of(done.expect("mpirun starts")).ok();
        let files = std::fs::read_dir(cache.join("gpu")).expect("a cache");
        let names = files.map(|file| file.expect("a file").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".kernels.json")).count()
    };
    for verb in ["train", "embed"] {
        assert_eq!(kept(verb, 1), 1, "one process measures: {verb}");
        assert_eq!(kept(verb, 2), 0, "{verb}");
    }
}

#[test]
fn a_rank_that_dies_stops_the_job_and_the_last_checkpoint_goes_on_with_other_ranks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let job = mpirun(4).args(training(&output, 1_000_000)).spawn().expect("mpirun starts");
    wait_until("the first checkpoints", || last_checkpoint(&output) >= Some(2));
    // The last child of mpirun is a rank.
    let rank = children(job.id()).pop().expect("ranks");
    // SAFETY: kill has no memory to misuse; the process is a rank of the job started above.
    assert_eq!(unsafe { libc::kill(rank, libc::SIGKILL) }, 0);
    let done = finish(job);
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("signal 9"), "{done:?}");
    let saved = last_checkpoint(&output).expect("checkpoints stay");
    let target = saved as usize + 3;
    let mut resumed = training(&output, target);
    resumed.push("--resume".to_owned());
    ranks(2, &resumed).ok();
    assert_eq!(last_checkpoint(&output), Some(target as u64));
    let done: Vec<u64> = (1..=target as u64).collect();
    assert_eq!(steps(&output), done, "no step is missing or there twice");
}

/// Child processes, oldest first.
fn children(parent: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let list = list.expect("a Linux machine");
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[test]
fn one_rank_that_is_interrupted_saves_and_stops_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let job = mpirun(2).args(training(&output, 1_000_000)).spawn().expect("mpirun starts");
    wait_until("the first steps", || !steps(&output).is_empty());
    let rank = children(job.id()).pop().expect("ranks");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(rank, libc::SIGINT) }, 0);
    let done = finish(job);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("everything is saved"), "{done:?}");
    assert_eq!(last_checkpoint(&output), steps(&output).pop());
}

#[test]
fn what_is_wrong_is_said_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut flags = training(&folder.path().join("tuned"), 2);
    flags.extend(["--eval-data", "/nowhere/held.jsonl"].map(str::to_owned));
    let eval = format!("eval --model {0} --data {0}/rows.jsonl", fixture("llama"));
    let eval: Vec<String> = eval.split(' ').map(str::to_owned).collect();
    let mut pipe = training(&folder.path().join("tuned"), 2);
    let data = pipe.iter().position(|flag| flag == "--data").expect("a flag");
    pipe[data + 1] = "/dev/stdin".into();
    let none_can = "several processes cannot each read a pipe";
    for (flags, words) in [(flags, "no such file"), (pipe, none_can), (eval, "only train and embed")] {
        let done = ranks(2, &flags);
        assert_ne!(done.code, Some(0), "{done:?}");
        assert_eq!(done.stderr.matches("error: ").count(), 1, "{done:?}");
        assert!(done.stderr.contains(words), "{done:?}");
        assert!(!done.stderr.contains("panicked"), "{done:?}");
        // Ranks that fail alike end in order: rank 0 need not win a race to be the one that speaks.
        assert!(!done.stderr.contains("MPI_ABORT"), "{done:?}");
    }
    assert!(!folder.path().join("tuned").exists());
}

/// Names and contents of a folder's shards.
fn shards(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut shards: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "npy"))
        .map(|path| (path.file_name().expect("a name").into(), std::fs::read(&path).expect("a file")))
        .collect();
    shards.sort();
    shards
}

#[test]
fn shards_are_the_same_whoever_writes_them_and_a_second_start_writes_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows: String = (0..23).map(|i| format!("{{\"input_ids\": [{i}, {}, 7, 9], \"id\": {i}}}\n", i + 3)).collect();
    let input = write(folder.path(), "rows.jsonl", &rows);
    let flags = |name: &str, more: &str| -> Vec<String> {
        let output = folder.path().join(name);
        std::fs::create_dir_all(&output).expect("a folder");
        let line = format!(
            "embed --device cpu --json --shard-rows 4 --model {} --input {} --output {}/v.npy{more}",
            fixture("llama"),
            input.display(),
            output.display()
        );
        line.split(' ').map(str::to_owned).collect()
    };
    let alone = run(flags("alone", "")).json();
    assert_eq!((&alone["rows"], &alone["shards"]["all"]), (&23.into(), &6.into()));
    let expected = shards(&folder.path().join("alone"));
    assert_eq!(expected.len(), 6);
    for count in [2, 4] {
        let name = format!("{count}");
        let answer = ranks(count, &flags(&name, "")).json();
        assert_eq!((&answer["rows"], &answer["shards"]["kept"]), (&23.into(), &0.into()));
        assert_eq!(shards(&folder.path().join(&name)), expected);
    }
    let place = folder.path().join("2");
    std::fs::remove_file(place.join("v-00003.npy")).expect("a shard");
    let answer = ranks(4, &flags("2", "")).json();
    assert_eq!((&answer["rows"], &answer["shards"]["kept"]), (&4.into(), &5.into()));
    assert_eq!(shards(&place), expected);
    let manifest = std::fs::read_to_string(place.join("v.shards.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!((&manifest["rows"], &manifest["shards"]), (&23.into(), &6.into()));
    // As a job leaves them that was killed: each rank's own manifest counts.
    let mut of_rank = manifest.clone();
    let mut of_first = manifest.clone();
    for (manifest, odd) in [(&mut of_first, false), (&mut of_rank, true)] {
        (manifest["rows"], manifest["shards"]) = (Value::Null, Value::Null);
        let written = manifest["written"].as_object_mut().expect("a map");
        written.retain(|name, _| (name.ends_with("1.npy") || name.ends_with("3.npy")) == odd);
    }
    std::fs::write(place.join("v.shards.json"), of_first.to_string()).expect("written");
    std::fs::write(place.join("v.shards.1.json"), of_rank.to_string()).expect("written");
    let answer = ranks(2, &flags("2", "")).json();
    assert_eq!((&answer["rows"], &answer["shards"]["kept"]), (&0.into(), &6.into()));
    assert!(!place.join("v.shards.1.json").exists(), "one manifest is left");
    let joined = std::fs::read_to_string(place.join("v.shards.json")).expect("a manifest");
    assert_eq!(serde_json::from_str::<Value>(&joined).expect("JSON"), manifest);
    let other = ranks(2, &flags("2", " --normalize"));
    assert_ne!(other.code, Some(0));
    assert!(other.stderr.contains("another run") || other.stderr.contains("another model"), "{other:?}");
    assert_eq!(shards(&place), expected);
}

/// Two network namespaces with a cable between them: as far as MPI can see, two hosts. Removed when
/// dropped.
struct Hosts {
    names: [String; 2],
    folder: tempfile::TempDir,
}

impl Hosts {
    /// `None` where namespaces may not be made: that takes root and iproute2.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [format!("bft-{id}-a"), format!("bft-{id}-b")];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hosts = Self { names, folder };
        let [a, b] = &hosts.names;
        let ip = |line: String| {
            let done = Command::new("ip").args(line.split(' ')).stderr(Stdio::null()).status();
            done.is_ok_and(|status| status.success())
        };
        let ready = ip(format!("netns add {a}"))
            && ip(format!("netns add {b}"))
            && ip(format!("link add bft0 netns {a} type veth peer name bft0 netns {b}"))
            && ip(format!("-n {a} addr add 10.77.0.1/24 dev bft0"))
            && ip(format!("-n {b} addr add 10.77.0.2/24 dev bft0"))
            && [a, b]
                .into_iter()
                .all(|name| ip(format!("-n {name} link set lo up")) && ip(format!("-n {name} link set bft0 up")));
        ready.then_some(hosts)
    }

    /// mpirun on the first host; it reaches the second through a script in the place of ssh.
    fn mpirun(&self, arguments: &[String]) -> Done {
        let [a, b] = &self.names;
        let agent = write(
            self.folder.path(),
            "agent",
            &format!(
                "#!/bin/sh\nshift\nexec ip netns exec {b} unshare --uts sh -c 'hostname {b}; exec sh -c \"$0\"' \"$*\"\n"
            ),
        );
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o700)).expect("a script");
        let agent = agent.display().to_string();
        let output = Command::new("ip")
            .args(["netns", "exec", a, "unshare", "--uts", "sh", "-c"])
            .args(["hostname \"$0\"; exec mpirun \"$@\"", a])
            .args(["--allow-run-as-root", "--bind-to", "none", "-x", "RAYON_NUM_THREADS"])
            .args(["--host", "10.77.0.1:1,10.77.0.2:1", "--mca", "plm_rsh_agent", &agent])
            .args(["--mca", "oob_tcp_if_include", "10.77.0.0/24", "--mca", "btl", "tcp,self"])
            .args(["--mca", "btl_tcp_if_include", "10.77.0.0/24", "-np", "2"])
            .arg(env!("CARGO_BIN_EXE_bft"))
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .output();
        Done::of(output.expect("mpirun starts"))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn two_hosts_train_what_one_process_trains() {
    let Some(hosts) = Hosts::new() else {
        eprintln!("left out: network namespaces take root and iproute2");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name);
    run(training(&place("alone"), 5)).ok();
    let done = hosts.mpirun(&training(&place("hosts"), 5));
    done.ok();
    assert!(done.stderr.contains("ranks: 2, 1 of them on this machine"), "{done:?}");
    assert_same_but_for_rounding(&place("hosts"), &place("alone"));
}
