//! Files that are cut off, lie, or belong to something else, and machines that cannot do what is
//! asked: what each verb says of them.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, bft, fixture, run, steps, tiny_training, write};
use serde_json::{Value, json};

/// A copy of a fixture's model that can be damaged.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn of(model: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(fixture(model)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                std::fs::copy(&path, folder.path().join(name)).expect("a copy");
            }
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).expect("a file");
        change(&mut bytes);
        std::fs::write(self.path(name), bytes).expect("written");
    }

    fn change_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.change(name, |bytes| {
            let mut value = serde_json::from_slice(bytes).expect("JSON");
            change(&mut value);
            *bytes = value.to_string().into_bytes();
        });
    }

    /// Puts NaN into the first norm.
    fn break_numbers(&self) {
        self.change("model.safetensors", |bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
            let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
            let norm = &header["model.layers.0.input_layernorm.weight"]["data_offsets"];
            let start = 8 + length + norm[0].as_u64().expect("a number") as usize;
            bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    }

    /// The same flags as [`tiny_training`], with this model.
    fn training(&self, steps: usize) -> Vec<String> {
        let mut flags = tiny_training(&self.path("tuned"), steps);
        let model = flags.iter().position(|flag| flag == "--model");
        flags[model.expect("a flag") + 1] = self.folder.path().display().to_string();
        flags
    }
}

#[track_caller]
fn says(done: &Done, words: &[&str]) {
    assert_eq!(done.code, Some(1), "{done:?}");
    for word in words {
        assert!(done.error().contains(word), "no {word}: {}", done.error());
    }
    assert_eq!(done.stdout, "", "{done:?}");
}

fn inspect(model: &Path) -> Done {
    run(["inspect", "--model", &model.display().to_string()])
}

#[test]
fn a_safetensors_file_that_is_cut_off_or_lies_is_named() {
    for (what, damage) in [
        ("cut in the data", (|bytes| bytes.truncate(bytes.len() / 2)) as fn(&mut Vec<u8>)),
        ("cut in the header", |bytes| bytes.truncate(100)),
        ("cut to nothing", Vec::clear),
        ("a header as long as a disk", |bytes| {
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        }),
        ("a header of other things", |bytes| bytes[8..12].fill(b'!')),
    ] {
        let copy = Copy::of("llama");
        copy.change("model.safetensors", damage);
        let done = inspect(copy.folder.path());
        says(&done, &["model.safetensors"]);
        says(&run(copy.training(1)), &["model.safetensors"]);
        assert!(!copy.path("tuned").exists(), "{what}");
    }
    // Weights of another configuration.
    let copy = Copy::of("llama");
    copy.change_json("config.json", |config| config["intermediate_size"] = json!(128));
    says(&inspect(copy.folder.path()), &["mlp", "[96, 64]", "[128, 64]"]);
}

#[test]
fn a_gguf_file_that_is_cut_off_or_lies_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let header = |tensors: u64, metadata: u64| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        bytes
    };
    for (name, bytes, words) in [
        ("cut.gguf", header(3, 5), "truncated or lies about itself"),
        ("count.gguf", header(u64::MAX, 0), "truncated or lies about itself"),
        ("empty.gguf", header(0, 0), "general.architecture is missing"),
        ("old.gguf", b"GGUF\x01\0\0\0".to_vec(), "version 1 is not supported"),
        ("magic.gguf", b"GGU".to_vec(), "not GGUF"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        says(&inspect(&path), &[name, words]);
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    // A word beyond the embedding's rows.
    let copy = Copy::of("qwen2");
    copy.change_json("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["elsewhere"] = json!(4000);
    });
    let words = ["the tokenizer belongs to another model", "elsewhere", "320 rows"];
    says(&inspect(copy.folder.path()), &words);
    says(&run(copy.training(1)), &words);
    // An added token under an id that the library would not give it.
    let copy = Copy::of("qwen2");
    copy.change_json("tokenizer.json", |tokenizer| {
        let tokens = tokenizer["added_tokens"].as_array_mut().expect("a list");
        let mut token = tokens[0].clone();
        (token["id"], token["content"]) = (json!(4000), json!("<|elsewhere|>"));
        tokens.push(token);
    });
    let words = ["added token \"<|elsewhere|>\"", "found 4000"];
    says(&inspect(copy.folder.path()), &words);
}

#[test]
fn an_adapter_of_another_model_is_refused_before_training() {
    let copy = Copy::of("qwen3");
    let mut flags = copy.training(1);
    let adapter = format!("{}/adapter", fixture("llama"));
    flags.extend(["--init-adapter".to_owned(), adapter.clone()]);
    says(&run(flags), &["adapter", "found", "expected"]);
    assert!(!copy.path("tuned").exists());
}

#[test]
fn rows_that_are_bad_say_where_and_can_be_left_out_and_counted() {
    let copy = Copy::of("llama");
    let good = "{\"input_ids\": [1, 2, 3], \"labels\": [1, 2, 3]}\n";
    for (bad, words) in [
        ("{}\n", "no keys"),
        ("{\"input_id\": [1]}\n", "input_ids"),
        ("{\"input_ids\": [1, \n", "line 2"),
        ("{\"input_ids\": [1, 2], \"labels\": [1]}\n", "labels"),
        ("{\"input_ids\": [], \"labels\": []}\n", "input_ids"),
        ("{\"input_ids\": [1, 9999], \"labels\": [1, 9999]}\n", "9999"),
    ] {
        let data = write(copy.folder.path(), "data.jsonl", &format!("{good}{bad}{good}"));
        let mut flags = copy.training(1);
        let place = flags.iter().position(|flag| flag == "--data");
        flags[place.expect("a flag") + 1] = data.display().to_string();
        let done = run(&flags);
        let place = if words == "line 2" { "data.jsonl" } else { "data.jsonl:2" };
        says(&done, &[place]);
        if words != "line 2" {
            says(&done, &[words]);
        }
        assert!(!copy.path("tuned").exists(), "{bad}");
        flags.push("--skip-bad-rows".into());
        let done = run(&flags);
        assert!(done.ok().stderr.contains("1 bad rows left out, the first: "), "{done:?}");
        std::fs::remove_dir_all(copy.path("tuned")).expect("removed");
    }
}

#[test]
fn long_samples_are_counted_and_cut_only_on_request() {
    let copy = Copy::of("llama");
    let row = |length: usize| {
        let ids: Vec<String> = (0..length).map(|id| (id % 100).to_string()).collect();
        format!("{{\"input_ids\": [{0}], \"labels\": [{0}]}}\n", ids.join(","))
    };
    let data = write(copy.folder.path(), "long.jsonl", &[row(9), row(200), row(150)].concat());
    let mut flags = copy.training(1);
    let place = flags.iter().position(|flag| flag == "--data");
    flags[place.expect("a flag") + 1] = data.display().to_string();
    says(&run(&flags), &["2 of 3 samples are longer than max-length 128", "long.jsonl:2 (200 tokens)", "--truncate"]);
    assert!(!copy.path("tuned").exists());
    flags.push("--truncate".into());
    let done = run(flags);
    assert!(done.ok().stderr.contains("2 of 3 samples cut to max-length"), "{done:?}");
}

#[test]
fn nothing_to_train_on_is_said_before_anything_is_written() {
    let copy = Copy::of("llama");
    let masked = "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}\n";
    for (text, words) in [("", "is empty"), ("\n\n", "is empty"), (masked, "nothing to train on")] {
        let data = write(copy.folder.path(), "data.jsonl", text);
        let mut flags = copy.training(1);
        let place = flags.iter().position(|flag| flag == "--data");
        flags[place.expect("a flag") + 1] = data.display().to_string();
        says(&run(flags), &["data.jsonl", words]);
        assert!(!copy.path("tuned").exists());
    }
}

#[test]
fn numbers_that_are_not_finite_stop_every_verb() {
    let copy = Copy::of("qwen2");
    copy.break_numbers();
    let model = copy.folder.path().display().to_string();
    let rows = copy.shown("rows.jsonl");
    let with = |verb: &str, more: &[&str]| {
        let flags = [verb, "--device", "cpu", "--model", &model];
        run(flags.iter().chain(more))
    };
    let broken = ["rows.jsonl:1", "NaN", "its weights, or the adapter's"];
    says(&with("eval", &["--data", &rows, "--json"]), &broken);
    let done = with("inspect", &["--data", &rows, "--json"]);
    says(&done, &broken);
    let vectors = copy.shown("vectors.npy");
    says(&with("embed", &["--input", &rows, "--output", &vectors]), &broken);
    assert!(!copy.path("vectors.npy").exists());
    let prompt = ["--prompt", "a", "--no-chat-template", "--json"];
    says(&with("generate", &prompt), &["NaN"]);
    // In training, such steps are left out; a run that is nothing but such steps fails.
    for steps in [3, 40] {
        let mut flags = copy.training(steps);
        let place = flags.iter().position(|flag| flag == "--data");
        flags[place.expect("a flag") + 1].clone_from(&rows);
        let done = run(flags);
        says(&done, &["gradient that is not finite", "no checkpoint was made yet"]);
        assert!(!copy.path("tuned/adapter_model.safetensors").exists());
        std::fs::remove_dir_all(copy.path("tuned")).expect("removed");
    }
}

/// As on a machine whose loader finds no driver.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_a_gpu_says_so_and_auto_takes_the_cpu() {
    let without = |arguments: &[&str]| {
        let mut command = bft(arguments);
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, "/nonexistent/driver.json");
        }
        Done::of(command.output().expect("bft starts"))
    };
    let mut flags = tiny_training(Path::new("/nonexistent/never"), 1);
    let place = flags.iter().position(|flag| flag == "cpu").expect("a flag");
    flags[place] = "gpu".into();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    says(&without(&flags), &["no GPU adapter was found", "--device cpu"]);
    says(&without(&["devices", "--device", "gpu:0"]), &["no GPU adapter was found"]);
    let devices = without(&["devices"]);
    assert!(devices.ok().stdout.contains("no GPU adapter was found"), "{devices:?}");
    let taken = without(&["devices", "--json"]).json();
    assert_eq!((&taken["takes"]["kind"], &taken["adapters"]), (&json!("cpu"), &json!([])));
}

/// Flags of a run whose micro-batches are of `samples` long samples.
fn large_batches(copy: &Copy, samples: usize) -> Vec<String> {
    let ids = vec!["7"; 128].join(",");
    let row = format!("{{\"input_ids\": [{ids}], \"labels\": [{ids}]}}\n");
    let data = write(copy.folder.path(), "data.jsonl", &row.repeat(samples));
    let mut flags = copy.training(1);
    let place = flags.iter().position(|flag| flag == "--data");
    flags[place.expect("a flag") + 1] = data.display().to_string();
    flags.extend(["--batch-size".to_owned(), samples.to_string()]);
    flags
}

/// More than a GPU binds in one buffer: refused before the first step.
#[test]
fn a_run_beyond_a_gpu_is_refused_with_what_to_do() {
    if std::env::var_os("BFT_TEST_NO_GPU").is_some_and(|value| value == "1") {
        return;
    }
    let copy = Copy::of("llama");
    let mut flags = large_batches(&copy, 6000);
    let place = flags.iter().position(|flag| flag == "cpu").expect("a flag");
    flags[place] = "gpu".into();
    let done = run(flags);
    assert_eq!(done.code, Some(1), "{done:?}");
    let error = done.error();
    assert!(error.contains("in one buffer") || error.contains("out of memory"), "{error}");
    assert!(error.contains("use a smaller"), "{error}");
    assert!(!copy.path("tuned").exists());
}

/// With less memory than the run needs, which the system refuses when it is asked.
#[cfg(target_os = "linux")]
#[test]
fn a_run_beyond_the_memory_is_refused_with_what_to_do() {
    use std::os::unix::process::CommandExt;

    let copy = Copy::of("llama");
    let mut command = bft(large_batches(&copy, 6000));
    // SAFETY: between fork and exec only this system call is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let most = libc::rlimit { rlim_cur: 1 << 31, rlim_max: 1 << 31 };
            match libc::setrlimit(libc::RLIMIT_AS, &most) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let done = Done::of(command.output().expect("bft starts"));
    says(&done, &["memory", "use a smaller --batch-size"]);
    assert!(!copy.path("tuned").exists());
}

/// Puts another value in a flag's place.
fn set(flags: &mut [String], flag: &str, value: &str) {
    let place = flags.iter().position(|word| word == flag).expect("a flag");
    flags[place + 1] = value.to_owned();
}

#[test]
fn a_flipped_bit_in_the_newest_checkpoint_is_named_and_the_one_before_it_offered() {
    let copy = Copy::of("llama");
    let mut flags = copy.training(4);
    flags.extend(["--save-every", "2"].map(str::to_owned));
    run(&flags).ok();
    let adapter = std::fs::read(copy.path("tuned/adapter_model.safetensors")).expect("an adapter");
    copy.change("tuned/checkpoints/step-000004/optimizer.safetensors", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
    let resume = || run(["train", "--output", &copy.shown("tuned"), "--resume", "--steps", "6"]);
    let last = copy.shown("tuned/checkpoints/step-000004");
    let whole = copy.shown("tuned/checkpoints/step-000002");
    says(
        &resume(),
        &[
            &format!("checkpoint {last}: optimizer.safetensors: SHA-256 is "),
            &format!("; {whole} is whole: remove {last} to go on from it with --resume"),
        ],
    );
    assert_eq!(std::fs::read(copy.path("tuned/adapter_model.safetensors")).expect("an adapter"), adapter);
    std::fs::remove_dir_all(&last).expect("removed");
    resume().ok();
    assert_eq!(steps(&copy.path("tuned")), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_rate_that_breaks_the_adapter_is_a_failure() {
    for (steps, words) in [(1, "the adapter is of no use"), (2, "not finite"), (5, "not finite")] {
        let copy = Copy::of("llama");
        let mut flags = copy.training(steps);
        set(&mut flags, "--lr", "3e38");
        says(&run(flags), &[words, "lower --lr", "no checkpoint was made yet"]);
        assert!(!copy.path("tuned/adapter_model.safetensors").exists());
    }
}

#[test]
fn an_adapter_that_is_not_finite_is_refused_by_every_verb() {
    let copy = Copy::of("llama");
    run(copy.training(2)).ok();
    copy.change("tuned/adapter_model.safetensors", |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    });
    let (model, adapter, rows) =
        (copy.folder.path().display().to_string(), copy.shown("tuned"), copy.shown("rows.jsonl"));
    let with = |verb: &str, more: &[&str]| {
        let flags = [verb, "--model", &model, "--adapter", &adapter];
        run(flags.iter().chain(more))
    };
    let words = ["adapter_model.safetensors: lora_", " holds -inf at element ", "its training diverged"];
    says(&with("eval", &["--device", "cpu", "--data", &rows]), &words);
    says(&with("generate", &["--device", "cpu", "--prompt", "a", "--no-chat-template"]), &words);
    let vectors = copy.shown("v.npy");
    says(&with("embed", &["--device", "cpu", "--input", &rows, "--output", &vectors]), &words);
    says(&with("inspect", &[]), &words);
    let mut flags = copy.training(1);
    set(&mut flags, "--output", &copy.shown("again"));
    flags.extend(["--init-adapter".to_owned(), adapter.clone()]);
    says(&run(flags), &words);
    assert!(!copy.path("again").exists());
}

#[test]
fn a_shard_counts_only_where_a_manifest_vouches_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let rows: String = (0..10).map(|i| format!("{{\"input_ids\": [{i}, {}, 7]}}\n", i + 20)).collect();
    let input = write(folder.path(), "rows.jsonl", &rows);
    let embed = |output: &str, more: &[&str]| {
        let (input, output) = (input.display().to_string(), path(output).display().to_string());
        let model = fixture("llama");
        let flags = ["embed", "--device", "cpu", "--json", "--shard-rows", "4", "--model", &model, "--input", &input];
        run(flags.iter().chain(&["--output", &output]).chain(more))
    };
    let counts = |done: Done| (done.json()["rows"].clone(), done.json()["shards"]["kept"].clone());
    assert_eq!(counts(embed("v.npy", &[])), (10.into(), 0.into()));
    assert_eq!(counts(embed("v.npy", &[])), (0.into(), 3.into()));
    let names = ["v-00000.npy", "v-00001.npy", "v-00002.npy"];
    let all = || names.map(|name| std::fs::read(path(name)).expect("a shard"));
    let good = all();

    // One that is cut, one with a flipped bit, and one that is gone, are written again.
    std::fs::write(path(names[0]), &good[0][..good[0].len() - 4]).expect("written");
    let mut flipped = good[1].clone();
    flipped[200] ^= 1;
    std::fs::write(path(names[1]), flipped).expect("written");
    std::fs::remove_file(path(names[2])).expect("removed");
    let done = embed("v.npy", &[]);
    let told = "is not what its manifest says: it is written again";
    assert_eq!(done.stderr.matches(told).count(), 2, "{done:?}");
    assert_eq!(counts(done), (10.into(), 0.into()));
    assert_eq!(all(), good);

    // One that the manifest does not name, as after a kill between the two.
    let text = std::fs::read_to_string(path("v.shards.json")).expect("a manifest");
    let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
    manifest["written"].as_object_mut().expect("a map").remove(names[1]).expect("named");
    std::fs::write(path("v.shards.json"), manifest.to_string()).expect("written");
    std::fs::write(path(names[1]), "of something else").expect("written");
    assert_eq!(counts(embed("v.npy", &[])), (4.into(), 2.into()));
    assert_eq!(all(), good);

    // Other inputs and flags are refused, and without a manifest no file counts.
    let other = write(folder.path(), "other.jsonl", &rows.replace("7]", "8]")).display().to_string();
    let another = "another model, input, flags or version";
    says(&embed("v.npy", &["--normalize"]), &["v.shards.json", another]);
    says(&embed("v.npy", &["--precision", "f16"]), &[another]);
    let with_other = |output: &str| {
        let (model, output) = (fixture("llama"), path(output).display().to_string());
        run([
            "embed",
            "--device",
            "cpu",
            "--shard-rows",
            "4",
            "--model",
            &model,
            "--input",
            &other,
            "--output",
            &output,
        ])
    };
    says(&with_other("v.npy"), &[another, "remove it and its shards"]);
    std::fs::write(path("v.shards.json"), "{").expect("written");
    says(&with_other("v.npy"), &[another]);
    std::fs::remove_file(path("v.shards.json")).expect("removed");
    says(&with_other("v.npy"), &["v-00000.npy is there, but no ", "v.shards.json says of which run it is"]);
    std::fs::create_dir(path("v.shards.json")).expect("a folder");
    says(&with_other("v.npy"), &["v.shards.json", "cannot be read"]);
    assert_eq!(all(), good);
    std::fs::write(path("w-00001.npy"), "mine").expect("written");
    says(&with_other("w.npy"), &["w-00001.npy is there"]);
    assert_eq!(std::fs::read(path("w-00001.npy")).expect("a file"), b"mine");
}
