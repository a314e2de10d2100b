//! Training runs from outside: what they leave on disk, and what stops them.
#![cfg(unix)]

mod common;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Done, bft, finish, fixture, last_checkpoint, line, run, signal, steps, tiny_training, wait_until, write};
use serde_json::Value;

fn start(flags: &[String]) -> std::process::Child {
    bft(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts")
}

fn adapter_bytes(output: &Path) -> Vec<u8> {
    std::fs::read(output.join("adapter_model.safetensors")).expect("an adapter")
}

#[test]
fn a_run_leaves_what_the_contract_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let mut flags = tiny_training(&output, 5);
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    flags.extend(["--eval-data", &rows, "--eval-every", "2", "--json"].map(str::to_owned));
    let done = run(&flags);
    let answer = done.json();
    assert_eq!((&answer["steps"], &answer["stopped"]), (&5.into(), &false.into()));
    for name in ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.json", "checkpoints"] {
        assert!(output.join(name).exists(), "{name}");
    }
    assert_eq!(steps(&output), [1, 2, 3, 4, 5]);
    let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
    let rows: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let step = rows.iter().find(|row| row["step"] == 1 && row.get("nll").is_some()).expect("a step");
    for key in ["loss", "nll", "lr", "grad_norm", "tokens", "tokens_per_second"] {
        assert!(step[key].is_number(), "{key}: {step}");
    }
    let evals: Vec<u64> =
        rows.iter().filter(|row| row.get("eval_nll").is_some()).filter_map(|row| row["step"].as_u64()).collect();
    assert_eq!(evals, [0, 2, 4, 5]);
    // Whatever says what is going on goes to standard error; --json's answer is all there is on
    // standard output.
    assert_eq!(done.stdout.lines().count(), 1);
    assert!(done.stderr.contains("device: cpu") && done.stderr.contains("held-out nll"), "{done:?}");
    // The adapter does something: eval with it differs from eval without.
    let model = fixture("llama");
    let data = format!("{model}/rows.jsonl");
    let eval = |more: &[&str]| {
        let flags = ["eval", "--device", "cpu", "--model", &model, "--data", &data, "--json"];
        run(flags.iter().chain(more)).json()["nll"].as_f64().expect("a number")
    };
    let adapter = output.display().to_string();
    assert!(eval(&["--adapter", &adapter]) < eval(&[]), "training lowers the NLL of its own rows");
}

#[test]
fn a_second_run_does_not_overwrite_the_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    run(tiny_training(&output, 2)).ok();
    let before = adapter_bytes(&output);
    let done = run(tiny_training(&output, 3));
    assert_eq!(done.code, Some(1));
    assert!(done.error().contains("--resume"), "{done:?}");
    assert_eq!(adapter_bytes(&output), before);
}

#[test]
fn a_config_file_runs_and_the_command_line_wins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let model = fixture("llama");
    let text = format!(
        "model = '{model}'\ndata = '{model}/rows.jsonl'\noutput = '{}'\nsteps = 9\nrank = 2\ndevice = 'cpu'\nno-shuffle = true\n",
        output.display()
    );
    let config = write(folder.path(), "run.toml", &text).display().to_string();
    run(["train", "--config", &config, "--steps", "2"]).ok();
    assert_eq!(steps(&output), [1, 2]);
    let text = std::fs::read_to_string(output.join("run.json")).expect("run.json");
    let settings = &serde_json::from_str::<Value>(&text).expect("JSON")["settings"];
    assert_eq!((&settings["rank"], &settings["no-shuffle"]), (&2.into(), &true.into()));
}

#[test]
fn a_signal_saves_and_stops_and_the_shown_command_goes_on_bit_for_bit() {
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        is_stopped_by(number);
    }
}

fn is_stopped_by(number: i32) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let child = start(&tiny_training(&output, 1_000_000));
    wait_until("the first steps", || !steps(&output).is_empty());
    signal(&child, number);
    // As `timeout` and a closing terminal do; both are one request.
    signal(&child, number);
    let done = finish(child);
    assert_eq!(done.code, Some(128 + number), "a stopped run is not a finished one: {done:?}");
    assert!(done.stderr.contains("stopping after this step"), "{done:?}");
    let taken = *steps(&output).last().expect("steps");
    assert_eq!(last_checkpoint(&output), Some(taken));
    let error = done.error().to_owned();
    assert!(error.starts_with(&format!("stopped after step {taken};")), "{error}");

    let command = error.split("bft ").nth(1).expect("the message shows the command");
    let more = (taken + 3).to_string();
    let resumed = run(command.split(' ').chain(["--steps", &more]));
    resumed.ok();
    assert_eq!(steps(&output), (1..=taken + 3).collect::<Vec<u64>>());

    let whole = folder.path().join("whole");
    run(tiny_training(&whole, taken as usize + 3)).ok();
    assert_eq!(adapter_bytes(&output), adapter_bytes(&whole), "stopped and resumed equals uninterrupted");
}

#[test]
fn a_run_that_was_started_without_sighup_outlives_its_terminal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    // As `nohup` starts a program.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_bft")]);
    command.args(tiny_training(&output, 1_000_000)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("a shell");
    wait_until("the first steps", || !steps(&output).is_empty());
    signal(&child, libc::SIGHUP);
    let taken = steps(&output).len();
    wait_until("more steps", || steps(&output).len() > taken + 20);
    signal(&child, libc::SIGTERM);
    let done = finish(child);
    assert_eq!(done.code, Some(143), "{done:?}");
    assert_eq!(last_checkpoint(&output), steps(&output).last().copied());
}

/// Files of that name below a folder.
fn files_named(folder: &Path, name: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: PathBuf| match path.is_dir() {
        true => files_named(&path, name),
        false => usize::from(path.ends_with(name)),
    };
    entries.map(|entry| count(entry.path())).sum()
}

#[test]
fn a_study_that_is_stopped_keeps_what_is_done() {
    if std::env::var_os("BFT_TEST_NO_GENES").is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The fixture, with a context that the study's rows fit into.
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(format!("{}/{name}", fixture("qwen2")), model.join(name)).expect("a file");
    }
    let config = std::fs::read_to_string(model.join("config.json")).expect("text");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["max_position_embeddings"] = 2048.into();
    write(&model, "config.json", &config.to_string());
    let model = model.display().to_string();
    let study = || {
        let output = folder.path().display().to_string();
        start(
            &["bio", "study", "--preset", "tiny", "--device", "cpu", "--model", &model, "-o", &output]
                .map(str::to_owned),
        )
    };
    let results = || files_named(&folder.path().join("runs"), "result.json");
    let child = study();
    wait_until("the first run", || results() > 0);
    signal(&child, libc::SIGTERM);
    let done = finish(child);
    assert_eq!(done.code, Some(143), "{done:?}");
    assert_eq!(done.error(), "stopped; give the same command again to go on");
    let kept = results();
    assert!(folder.path().join("comparisons.txt").exists(), "written before the first run");
    let child = study();
    wait_until("one more", || results() > kept);
    signal(&child, libc::SIGTERM);
    let done = finish(child);
    assert_eq!((done.code, done.stderr.matches("done before").count()), (Some(143), kept), "{done:?}");
}

#[test]
fn a_second_signal_quits_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // One step of these takes long enough to press twice.
    let ids: Vec<String> = (0..128).map(|id| id.to_string()).collect();
    let row = format!("{{\"input_ids\": [{0}], \"labels\": [{0}]}}\n", ids.join(","));
    let data = write(folder.path(), "long.jsonl", &row.repeat(512)).display().to_string();
    let output = folder.path().join("tuned");
    let mut flags = tiny_training(&output, 1000);
    flags.extend(["--batch-size", "512", "--checkpoint-activations", "on"].map(str::to_owned));
    let at = flags.iter().position(|flag| flag.ends_with("rows.jsonl")).expect("the data flag");
    flags[at] = data;
    let child = start(&flags);
    wait_until("the first step", || !steps(&output).is_empty());
    signal(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(200));
    let pressed = Instant::now();
    signal(&child, libc::SIGTERM);
    let done = finish(child);
    assert_eq!(done.code, Some(143), "{done:?}");
    assert!(!done.stderr.contains("stopped after step"), "nothing was saved: {done:?}");
    assert!(pressed.elapsed() < Duration::from_secs(2), "{:?}", pressed.elapsed());
}

#[test]
fn kill_9_leaves_the_last_checkpoint_usable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (round, delay) in [3u64, 40, 130].into_iter().enumerate() {
        let output = folder.path().join(round.to_string());
        let mut flags = tiny_training(&output, 1_000_000);
        flags.extend(["--save-every", "1"].map(str::to_owned));
        let mut child = start(&flags);
        wait_until("a checkpoint", || last_checkpoint(&output).is_some());
        // Somewhere in the middle of a step, a checkpoint or a row of metrics.
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("killed");
        child.wait().expect("ended");
        let saved = last_checkpoint(&output).expect("a checkpoint");
        let more = (saved + 2).to_string();
        let done = run(["train", "--output", &output.display().to_string(), "--resume", "--steps", &more]);
        done.ok();
        assert_eq!(steps(&output), (1..=saved + 2).collect::<Vec<u64>>(), "no step is lost or told twice");
    }
}

#[test]
fn two_runs_with_one_seed_write_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = |name: &str, seed: &str| {
        let output = folder.path().join(name);
        let mut flags = tiny_training(&output, 4);
        flags.extend(["--seed", seed, "--lora-dropout", "0.1"].map(str::to_owned));
        run(flags).ok();
        adapter_bytes(&output)
    };
    let first = train("a", "7");
    assert_eq!(first, train("b", "7"));
    assert_ne!(first, train("c", "8"));
}

/// Runs with the largest file it may write bounded, which looks like a full disk to the program.
fn with_little_room(flags: &[String], bytes: u64) -> Done {
    let mut command = bft(flags);
    // SAFETY: between fork and exec only these two system calls are made, both of which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // The write shall fail, not the process be ended by the signal.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Done::of(command.output().expect("bft starts"))
}

#[test]
fn a_full_disk_is_said_and_loses_no_finished_work() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    run(tiny_training(&output, 2)).ok();
    let before = adapter_bytes(&output);
    // Room for metrics, not for a checkpoint.
    let shown = output.display().to_string();
    let resume = ["train", "--output", &shown, "--resume", "--steps", "4"].map(str::to_owned);
    let done = with_little_room(&resume, 4096);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("write"), "{}", done.error());
    assert_eq!(adapter_bytes(&output), before, "the finished adapter is untouched");
    assert_eq!(last_checkpoint(&output), Some(2));
    let leftovers =
        std::fs::read_dir(&output).expect("a folder").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let leftovers: Vec<String> = leftovers.filter(|name| name.starts_with(".bft-")).collect();
    assert_eq!(leftovers, [""; 0], "no half-written file stays");
    // With room again, it goes on.
    run(resume).ok();
    assert_eq!(steps(&output), [1, 2, 3, 4]);
}

#[test]
fn full_devices_are_written_to_not_replaced() {
    let model = fixture("llama");
    let rows = format!("{model}/rows.jsonl");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("full.npy");
    std::os::unix::fs::symlink("/dev/full", &out).expect("a link");
    let done =
        run(["embed", "--device", "cpu", "--model", &model, "--input", &rows, "--output", &out.display().to_string()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("full.npy"), "{}", done.error());
    assert!(out.is_symlink(), "the link is still there");

    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = bft(["inspect", "--model", &model]).stdout(full).output().expect("bft starts");
    let done = Done::of(output);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("standard output"), "{}", done.error());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let model = fixture("llama");
    let mut child = bft(["inspect", "--model", &model, "--all-tensors"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bft starts");
    drop(child.stdout.take());
    let done = finish(child);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    // A standard error that nobody reads does not stop a training run.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let mut child = start(&tiny_training(&output, 50));
    drop(child.stderr.take());
    assert_eq!(finish(child).code, Some(0));
    assert_eq!(steps(&output).len(), 50);
}

#[test]
fn resuming_where_nothing_was_saved_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("tuned")).expect("a folder");
    let done = run(["train", "--resume", "--output", &folder.path().join("tuned").display().to_string()]);
    assert_eq!(done.code, Some(2));
    assert!(
        done.error().contains("tuned: holds no run, so there is nothing to resume; run without --resume"),
        "{done:?}"
    );
    // A job that is started again says everything each time, whether it came to begin or not.
    for output in ["tuned", "new"] {
        let mut flags = tiny_training(&folder.path().join(output), 2);
        flags.push("--resume".into());
        assert!(run(flags).ok().stderr.contains("no complete checkpoint yet: it begins at step 0"), "{output}");
    }
    std::fs::remove_file(folder.path().join("new/run.json")).expect("a file");
    let done = run(["train", "--resume", "--output", &folder.path().join("new").display().to_string()]);
    let said = "new/run.json: is not there, and with it what the run was given: give --model, --data and its other flags again";
    assert!(done.code == Some(2) && done.error().ends_with(said), "{done:?}");
    let scaled = format!("{}@0.5", folder.path().join("new").display());
    let done = run(["inspect", "--adapter", &scaled]);
    assert!(
        done.error().contains("a scale changes nothing of what is shown of an adapter: give --adapter "),
        "{done:?}"
    );
    // A typo is the first thing to be told, not the flags that run.json would have had.
    let done = run(["train", "--resume", "--output", &folder.path().join("tunde").display().to_string()]);
    assert_eq!(done.code, Some(2));
    assert!(done.error().contains("tunde: no such folder, so there is nothing to resume; did you mean "), "{done:?}");
}

#[test]
fn one_changed_flag_needs_no_other_to_be_said_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let mut flags = tiny_training(&output, 2);
    flags.extend(["--val-size", "1", "--eval-every", "1", "--patience", "9"].map(Into::into));
    run(flags).ok();
    // run.json has the --eval-every that --patience needs, and the rows that this one needs.
    let output = output.display().to_string();
    let again = run(["train", "--resume", "--output", &output, "--patience", "10"]);
    assert!(again.ok().stderr.contains("all 2 steps are done"), "{again:?}");
}

#[test]
fn a_window_of_a_part_of_a_sample_is_read_from_files_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let config = write(folder.path(), "run.toml", "group-size = 'n/4'\nloss = 'bft-v3'\nweight-floor = 0.1\n");
    let mut flags = tiny_training(&output, 2);
    // The command line would win.
    let at = flags.iter().position(|flag| flag == "--group-size").expect("the group size");
    flags.drain(at..at + 2);
    flags.extend(["--config".to_owned(), config.display().to_string()]);
    run(flags).ok();
    let output_flag = output.display().to_string();
    run(["train", "--resume", "--output", &output_flag, "--steps", "3"]).ok();
    let text = std::fs::read_to_string(output.join("run.json")).expect("run.json");
    let settings = &serde_json::from_str::<Value>(&text).expect("JSON")["settings"];
    assert_eq!((&settings["group-size"], &settings["loss"]), (&"n/4".into(), &"bft-v3".into()));
    let other = run(["train", "--resume", "--output", &output_flag, "--steps", "4", "--group-size", "n/2"]);
    assert!(other.error().contains("group-size is n/2, was n/4"), "{other:?}");
    let wrong = write(folder.path(), "wrong.toml", "group-size = 0.25\n").display().to_string();
    let wrong = run(["train", "--model", "m", "--data", "d", "--output", "o", "--config", &wrong]);
    let expected = "key `group-size`: found the number 0.25, expected a whole number, or a part such as \"n/4\"";
    assert!(wrong.error().contains(expected), "{wrong:?}");
}

#[test]
fn losses_in_turn_are_recorded_and_resumed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let mut flags = tiny_training(&output, 4);
    flags.extend(["--loss-schedule", "sft:0.25,gce:0.25,bft"].map(str::to_owned));
    let done = run(&flags);
    assert!(done.ok().stderr.contains("losses in turn: sft to step 1, then gce to step 2, then bft"), "{done:?}");
    let read = |name: &str| std::fs::read_to_string(output.join(name)).expect("a file");
    let kinds = || -> Vec<String> {
        let row = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["loss_kind"].to_string();
        read("metrics.jsonl").lines().map(row).collect()
    };
    assert_eq!(kinds().join(" "), r#""sft" "gce" "bft" "bft""#);
    let settings = &serde_json::from_str::<Value>(&read("run.json")).expect("JSON")["settings"];
    assert_eq!(settings["loss-schedule"].to_string(), r#"["sft:0.25","gce:0.25","bft"]"#);
    let output = output.display().to_string();
    let again = run(["train", "--resume", "--output", &output, "--steps", "6"]);
    let moved = "the losses now share 6 steps instead of 4: they change at other steps than before";
    assert!(again.ok().stderr.contains(moved), "{again:?}");
    assert_eq!(kinds()[4..], [r#""bft""#, r#""bft""#]);
    for (more, expected) in [
        (["--loss-schedule", "sft:0.5"], "loss-schedule is sft:0.5, was sft:0.25,gce:0.25,bft"),
        (["--loss-schedule", "sft:1.5"], "--loss-schedule: found 'sft:1.5': expected LOSS:SHARE with a share"),
        (["--loss-schedule", "stf:0.5"], "--loss-schedule: found 'stf:0.5': no such loss (known: sft, dft"),
        (["--loss", "dft"], "loss-schedule: it ends with bft, and loss is dft: give --loss bft, too"),
    ] {
        let done = run(["train", "--resume", "--output", &output].iter().chain(&more));
        assert!(done.error().contains(expected), "{more:?}: {done:?}");
    }
}

#[test]
fn a_job_that_is_started_again_goes_on_from_wherever_it_came_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    let whole = folder.path().join("whole");
    run(tiny_training(&whole, 4)).ok();
    let mut child = start(&tiny_training(&output, 1_000_000));
    wait_until("the first steps", || !steps(&output).is_empty());
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(last_checkpoint(&output), None);
    let again: Vec<String> = tiny_training(&output, 4).into_iter().chain(["--resume".to_owned()]).collect();
    let done = run(&again);
    done.ok();
    assert!(done.stderr.contains("no complete checkpoint yet: it begins at step 0"), "{done:?}");
    assert_eq!(steps(&output), [1, 2, 3, 4]);
    assert_eq!(adapter_bytes(&output), adapter_bytes(&whole));
    let done = run(&again);
    assert!(done.ok().stderr.contains("all 4 steps are done"), "{done:?}");
}

#[test]
fn a_run_is_resumed_from_any_folder_whatever_its_seed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(format!("{}/rows.jsonl", fixture("llama")), folder.path().join("rows.jsonl")).expect("a copy");
    let train = |name: &str, steps: usize| {
        let mut flags = tiny_training(Path::new(name), steps);
        let data = flags.iter().position(|flag| flag == "--data").expect("the data");
        flags[data + 1] = "rows.jsonl".into();
        flags.extend(["--seed", "18446744073709551615"].map(str::to_owned));
        Done::of(bft(&flags).current_dir(folder.path()).output().expect("bft starts")).ok();
        folder.path().join(name)
    };
    let (whole, parts) = (train("whole", 4), train("parts", 2));
    run(["train", "--resume", "--steps", "4", "--output", &parts.display().to_string()]).ok();
    assert_eq!(steps(&parts), [1, 2, 3, 4]);
    assert_eq!(adapter_bytes(&whole), adapter_bytes(&parts));
}

#[test]
fn the_best_step_is_named_and_left_and_a_run_ends_without_patience_for_more() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("tuned");
    // One row is learnt by heart, which does others no good.
    let rows = std::fs::read_to_string(format!("{}/rows.jsonl", fixture("llama"))).expect("rows");
    let (learnt, held) = rows.split_once('\n').expect("two rows");
    let mut flags = tiny_training(&output, 1000);
    for (flag, name, text) in [("--data", "learnt.jsonl", learnt), ("--eval-data", "held.jsonl", held)] {
        let path = write(folder.path(), name, text).display().to_string();
        match flags.iter().position(|word| word == flag) {
            Some(at) => flags[at + 1] = path,
            None => flags.extend([flag.to_owned(), path]),
        }
    }
    flags.extend(["--eval-every", "1", "--save-best", "--patience", "4", "--loss", "sft", "--json"].map(str::to_owned));
    let done = run(&flags);
    let answer = done.json();
    let best = answer["best"]["step"].as_u64().expect("a step");
    assert_eq!((&answer["steps"], &answer["adapter_step"]), (&(best + 4).into(), &best.into()));
    assert_eq!((&answer["out_of_patience"], &answer["stopped"]), (&true.into(), &false.into()));
    assert!(done.stderr.contains(&format!("no evaluation since step {best} was better")), "{done:?}");
    let eval = |adapter: &Path| {
        let (model, data) = (fixture("llama"), folder.path().join("held.jsonl").display().to_string());
        let adapter = adapter.display().to_string();
        let flags = ["eval", "--device", "cpu", "--json", "--model", &model, "--data", &data, "--adapter", &adapter];
        run(flags).json()["loss"]["sft"].as_f64().expect("a number")
    };
    let last = output.join(format!("checkpoints/step-{:06}", best + 4));
    assert!((eval(&output) - answer["best"]["eval_loss"].as_f64().expect("a number")).abs() < 1e-6);
    assert!(eval(&last) > eval(&output));

    let done = line("train --model m --data d --output o --save-best");
    assert!(done.error().contains("--eval-data or --val-size is missing, which --save-best needs"), "{done:?}");
}

#[test]
fn several_adapters_do_what_they_do_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = fixture("llama");
    let data = format!("{model}/rows.jsonl");
    let [one, two] = ["one", "two"].map(|name| {
        let output = folder.path().join(name);
        let mut flags = tiny_training(&output, 5);
        flags.extend(["--seed", if name == "one" { "1" } else { "2" }].map(str::to_owned));
        run(flags).ok();
        output.display().to_string()
    });
    let nll = |more: &[&str]| {
        let flags = ["eval", "--device", "cpu", "--model", &model, "--data", &data, "--json"];
        run(flags.iter().chain(more)).json()["nll"].as_f64().expect("a number")
    };
    let (base, first) = (nll(&[]), nll(&["--adapter", &one]));
    let together = nll(&["--adapter", &one, "--adapter", &two]);
    assert!(together < first && first < base, "{together} {first} {base}");
    let scaled = |scale: &str| nll(&["--adapter", &one, "--adapter", &format!("{two}@{scale}")]);
    assert!((scaled("0") - first).abs() < 1e-6 && (scaled("1") - together).abs() < 1e-6);
    let half = scaled("0.5");
    assert!(together < half && half < first, "{together} {half} {first}");
    // Taken away again.
    assert!((nll(&["--adapter", &one, "--adapter", &format!("{one}@-1")]) - base).abs() < 1e-5);
    let config = write(folder.path(), "eval.toml", &format!("adapter = ['{one}', '{two}@0.5']\n"));
    assert_eq!(nll(&["--config", &config.display().to_string()]), half);

    for verb in ["generate --prompt x --no-chat-template --max-new-tokens 1", "embed --input rows.txt --output o.npy"] {
        write(folder.path(), "rows.txt", "0 1 2\n");
        let mut command = bft(verb.split(' '));
        command.args(["--device", "cpu", "--model", &fixture("qwen2"), "--adapter", &format!("{one}@half")]);
        let done = Done::of(command.current_dir(folder.path()).output().expect("bft starts"));
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.error().contains("after the @ stands \"half\", expected a scale such as 0.5"), "{done:?}");
    }
}

#[test]
fn an_adapter_to_start_from_keeps_its_shape_and_other_flags_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    run(tiny_training(&first, 1)).ok();
    let mut flags = tiny_training(&second, 1);
    flags.extend(["--init-adapter".to_owned(), first.display().to_string()]);
    let rank = flags.iter().position(|flag| flag == "--rank").expect("a rank") + 1;
    flags[rank] = "8".into();
    let done = run(&flags);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("--rank 8: the adapter of --init-adapter has 4, and keeps it"), "{done:?}");
    assert!(!second.exists());
    flags[rank] = "4".into();
    run(&flags).ok();
}

#[test]
fn dora_trains_and_is_used_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [dora, plain, more] = ["dora", "plain", "more"].map(|name| folder.path().join(name));
    run(tiny_training(&plain, 1)).ok();
    let with_dora = |output: &Path, from: Option<&Path>| {
        let mut flags = tiny_training(output, 3);
        flags.push("--use-dora".to_owned());
        flags.extend(from.into_iter().flat_map(|from| ["--init-adapter".to_owned(), from.display().to_string()]));
        run(&flags)
    };
    with_dora(&dora, None).ok();
    let (dora, plain, model) = (dora.display().to_string(), plain.display().to_string(), fixture("llama"));
    let shown = run(["inspect", "--adapter", &dora, "--model", &model]).ok().stdout.clone();
    assert!(shown.contains("DoRA") && shown.contains("lora_magnitude_vector"), "{shown}");
    let data = format!("{model}/rows.jsonl");
    let eval = |adapters: &[&str]| {
        let flags = ["eval", "--device", "cpu", "--model", &model, "--data", &data, "--json"];
        run(flags.into_iter().chain(adapters.iter().flat_map(|adapter| ["--adapter", adapter])))
    };
    let nll = |done: Done| done.json()["nll"].as_f64().expect("a number");
    assert!(nll(eval(&[&dora])) < nll(eval(&[])), "training lowers the NLL of its own rows");
    for (adapters, at) in [(vec![plain.clone(), dora.clone()], "2 of 2"), (vec![format!("{dora}@0.5")], "1 of 1")] {
        let done = eval(&adapters.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(done.code, Some(1), "{done:?}");
        let said = format!("--adapter: adapter {at}: use_dora true, beside another adapter or with a scale, is not");
        assert!(done.error().contains(&said), "{done:?}");
    }
    let done = with_dora(&more, Some(plain.as_ref()));
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("--use-dora true: the adapter of --init-adapter has false"), "{done:?}");
    with_dora(&more, Some(dora.as_ref())).ok();
    let estimate = |more: &[&str]| {
        let flags = ["estimate", "--json", "--model", &model, "--max-length", "40"];
        let answer = run(flags.iter().chain(more)).json();
        ["trained_values", "total_bytes"].map(|key| answer[key].as_u64().expect("a number"))
    };
    let ([values, bytes], [dora_values, dora_bytes]) = (estimate(&[]), estimate(&["--use-dora"]));
    // 2 layers with 64 + 2·32 + 64 + 2·96 + 64 rows.
    assert_eq!(dora_values - values, 2 * 448);
    assert!(dora_bytes > bytes);
}

#[test]
fn pissa_trains_is_resumed_and_is_read_as_any_adapter() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [output, more, other] = ["pissa", "more", "other"].map(|name| folder.path().join(name));
    let with = |output: &Path, steps, rank: &str, flags: &[&str]| {
        let mut given = tiny_training(output, steps);
        let at = given.iter().position(|flag| flag == "--rank").expect("a rank");
        given[at + 1] = rank.to_owned();
        given.extend(flags.iter().map(|flag| (*flag).to_owned()));
        run(given)
    };
    let json_file = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).expect("a file")).expect("JSON");
    with(&output, 3, "4", &["--lora-init", "pissa"]).ok();
    let (shown, model) = (output.display().to_string(), fixture("llama"));
    let settings = &json_file(&output.join("run.json"))["settings"];
    assert_eq!((&settings["lora-init"], &settings["rank"]), (&"pissa".into(), &4.into()));
    let config = json_file(&output.join("adapter_config.json"));
    assert_eq!(
        (&config["r"], &config["lora_alpha"], &config["init_lora_weights"]),
        (&8.into(), &16.into(), &true.into())
    );
    let nll = |adapters: &[&str]| {
        let flags = ["eval", "--device", "cpu", "--model", &model, "--data", &format!("{model}/rows.jsonl"), "--json"];
        let done = run(flags.into_iter().chain(adapters.iter().flat_map(|adapter| ["--adapter", adapter])));
        done.json()["nll"].as_f64().expect("a number")
    };
    assert!(nll(&[&shown]) < nll(&[]), "training lowers the NLL of its own rows");

    for (rank, flags, said) in [
        (
            "4",
            vec!["--lora-init", "pissa", "--use-dora"],
            "both lora-init pissa and use-dora are given: give one of them",
        ),
        ("33", vec!["--lora-init", "pissa"], "rank is 33, expected 1 to 32 with lora-init pissa: k_proj of "),
        (
            "8",
            vec!["--lora-init", "pissa", "--init-adapter", &shown],
            "--lora-init pissa: the adapter of --init-adapter has default",
        ),
        ("4", vec!["--lora-init", "pisa"], "pissa"),
    ] {
        let done = with(&more, 3, rank, &flags);
        assert!(done.code != Some(0) && done.error().contains(said), "{flags:?}: {done:?}");
        assert!(!more.exists());
    }
    let done = with(&output, 4, "4", &["--resume", "--lora-init", "default"]);
    assert!(done.error().contains("lora-init is default, was pissa"), "{done:?}");
    with(&output, 4, "4", &["--resume"]).ok();
    // What it has learnt is gone on with as with any adapter.
    with(&other, 3, "8", &["--init-adapter", &shown]).ok();
    let settings = &json_file(&other.join("run.json"))["settings"];
    assert_eq!((&settings["lora-init"], &settings["rank"]), (&"default".into(), &8.into()));

    let estimate = |more: &[&str]| {
        let flags = ["estimate", "--json", "--model", &model, "--max-length", "40"];
        let answer = run(flags.iter().chain(more)).json();
        ["trained_values", "adapter_bytes"].map(|key| answer[key].as_u64().expect("a number"))
    };
    let ([values, bytes], [pissa_values, pissa_bytes]) = (estimate(&[]), estimate(&["--lora-init", "pissa"]));
    assert_eq!((pissa_values, pissa_bytes), (values, bytes + 4 * values));
}

/// A model folder, data and an output folder whose names are no UTF-8, as Unix allows.
#[test]
fn paths_need_not_be_utf_8() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let (model, data, output) = (at(b"model-\xff"), at(b"rows-\xfe.jsonl"), at(b"tuned-\xfd"));
    std::os::unix::fs::symlink(fixture("llama"), &model).expect("a link");
    std::fs::copy(model.join("rows.jsonl"), &data).expect("a copy");
    let flags = |steps: usize, output: &Path| -> Vec<OsString> {
        let mut flags: Vec<OsString> =
            tiny_training(Path::new("unused"), steps).into_iter().map(OsString::from).collect();
        for (flag, path) in [("--model", &*model), ("--data", &*data), ("--output", output)] {
            let place = flags.iter().position(|word| word == flag).expect("a flag");
            flags[place + 1] = path.into();
        }
        flags
    };
    let whole = folder.path().join("whole");
    run(flags(4, &whole)).ok();
    let done = run(flags(2, &output).into_iter().chain(["--json".into()]));
    assert_eq!(done.json()["steps"], 2);
    let run_json = std::fs::read(output.join("run.json")).expect("run.json");
    let description: Value = serde_json::from_slice(&run_json).expect("JSON");
    assert_eq!(description["finished"]["steps"], 2);

    // All other settings, the other paths too, are those of run.json.
    let resume = |more: &[&str]| {
        let flags = ["train", "--resume", "--output"].map(OsStr::new);
        let flags = flags.into_iter().chain([output.as_os_str()]);
        run(flags.chain(more.iter().map(OsStr::new)))
    };
    let done = resume(&["--steps", "4", "--lr", "0.1"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("lr is 0.1, was 0.005"), "{done:?}");
    resume(&["--steps", "4"]).ok();
    assert_eq!(steps(&output), [1, 2, 3, 4]);
    assert_eq!(adapter_bytes(&output), adapter_bytes(&whole));

    // What is left can be used and written to such paths.
    let vectors = at(b"vectors-\xfc.npy");
    let mut embed: Vec<OsString> = ["embed", "--device", "cpu", "--json", "--input"].map(OsString::from).to_vec();
    embed.extend([data.clone().into(), "--model".into(), model.clone().into()]);
    embed.extend(["--adapter".into(), output.clone().into()]);
    embed.extend(["--output".into(), vectors.clone().into_os_string()]);
    run(embed).ok();
    assert!(vectors.exists());
    let inspect = ["inspect".into(), "--json".into(), "--adapter".into(), output.into()];
    assert_eq!(run::<_, OsString>(inspect).json()["kind"], "adapter");
}

/// `bft` with these bytes on its standard input, which is a pipe.
fn piped(flags: &[String], bytes: &[u8]) -> Done {
    let mut child =
        bft(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts");
    // Whoever reads nothing closes it.
    let _ = child.stdin.take().expect("a pipe").write_all(bytes);
    finish(child)
}

#[test]
fn inputs_may_be_pipes_and_are_read_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = format!("{}/rows.jsonl", fixture("llama"));
    let rows = std::fs::read(&file).expect("rows");
    let stdin = |mut flags: Vec<String>| {
        let place = flags.iter().position(|flag| *flag == file).expect("the data");
        flags[place] = "/dev/stdin".into();
        flags
    };
    let sha256 = |output: &Path| {
        let text = std::fs::read_to_string(output.join("run.json")).expect("run.json");
        serde_json::from_str::<Value>(&text).expect("JSON")["data"]["sha256"].clone()
    };
    let [from_file, from_pipe, from_two] = ["file", "pipe", "two"].map(|name| folder.path().join(name));
    run(tiny_training(&from_file, 3)).ok();
    piped(&stdin(tiny_training(&from_pipe, 3)), &rows).ok();
    assert_eq!(adapter_bytes(&from_file), adapter_bytes(&from_pipe));
    assert_eq!(sha256(&from_file), sha256(&from_pipe));
    // What came through a pipe is gone on with from a file, and from a pipe again.
    let resume = |steps: &str, data: &str| {
        let output = from_pipe.display().to_string();
        ["train", "--output", &output, "--resume", "--steps", steps, "--data", data].map(str::to_owned)
    };
    run(resume("4", &file)).ok();
    piped(&resume("5", "/dev/stdin"), &rows).ok();
    let done = piped(&resume("6", "/dev/stdin"), &rows[..rows.len() / 2]);
    assert_eq!(done.code, Some(1), "{done:?}");
    // Process substitution, twice over.
    let line =
        tiny_training(&from_two, 3).join(" ").replace(&file, &format!("<(cat {file}) --eval-data <(cat {file})"));
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_bft"));
    Done::of(std::process::Command::new("bash").args(["-c", &line]).output().expect("bash")).ok();
    assert_eq!(sha256(&from_file), sha256(&from_two));
    let mut one = stdin(tiny_training(&folder.path().join("never"), 3));
    one.extend(["--eval-data", "/dev/stdin"].map(str::to_owned));
    let done = piped(&one, &rows);
    assert!(done.error().contains("--data and --eval-data are the same pipe"), "{done:?}");

    let model = fixture("llama");
    for verb in ["eval", "inspect"] {
        let flags = [verb, "--device", "cpu", "--json", "--model", &model, "--data", &file].map(str::to_owned).to_vec();
        assert_eq!(
            run(&flags).ok().stdout,
            piped(&stdin(flags), &rows).ok().stdout.replace("/dev/stdin", &file),
            "{verb}"
        );
    }
    let embed = |input: &str, name: &str, more: &str| {
        let output = folder.path().join(name).display().to_string();
        let line = format!("embed --device cpu --json --model {model} --input {input} --output {output}{more}");
        line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    run(embed(&file, "a.npy", "")).ok();
    piped(&embed("/dev/stdin", "b.npy", ""), &rows).ok();
    let vectors = |name: &str| std::fs::read(folder.path().join(name)).expect("vectors");
    assert_eq!(vectors("a.npy"), vectors("b.npy"));
    let sharded = embed("/dev/stdin", "c.npy", " --shard-rows 2");
    let first = piped(&sharded, &rows).json();
    assert_eq!((&first["rows"], &first["shards"]["kept"]), (&8.into(), &0.into()));
    run(embed(&file, "d.npy", " --shard-rows 2")).ok();
    assert_eq!(vectors("c-00001.npy"), vectors("d-00001.npy"));
    assert_eq!(piped(&sharded, &rows).json()["shards"]["kept"], first["shards"]["all"]);
    let first_row = rows.iter().position(|byte| *byte == b'\n').expect("a row") + 1;
    let other = piped(&sharded, &rows[..first_row]);
    assert!(other.error().contains("another model, input"), "{other:?}");
    // A row that is cut off is said before anything is looked at.
    let other = piped(&sharded, &rows[..rows.len() / 2]);
    assert!(other.error().contains("the JSON stops in the middle"), "{other:?}");
}
