//! Models by their names on the hub, from a server that plays it, and verbs without a network.

mod common;
#[path = "../../fetch/tests/server/mod.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Done, bft, fixture, tiny_training};
use serde_json::Value;
use server::{COMMIT, Faults, Hub, Repository, TOKEN};

const ID: &str = "some-org/tiny-qwen2";

/// A fixture's folder as a repository.
fn repository(name: &str) -> Repository {
    let entries = std::fs::read_dir(fixture(name)).expect("a folder").flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let files = files
        .map(|entry| (entry.file_name().into_string().expect("text"), std::fs::read(entry.path()).expect("a file")));
    Repository { files: files.collect(), ..Repository::default() }
}

/// A hub, and a home for its cache.
struct Place {
    hub: Hub,
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { hub: Hub::start([(ID, repository("qwen2"))]), home: tempfile::tempdir().expect("a folder") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bft(arguments);
        command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", self.home.path()).env("HF_ENDPOINT", self.hub.endpoint());
        for other in ["HF_TOKEN", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(other);
        }
        command.current_dir(self.home.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().expect("bft starts"))
    }

    fn snapshot(&self) -> PathBuf {
        self.home.path().join("hub/models--some-org--tiny-qwen2/snapshots").join(COMMIT)
    }
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_run_on_a_hub_s_model_says_which_it_was() {
    let place = Place::new();
    let output = place.home.path().join("tuned");
    let flags = tiny_training(&output, 2);
    let model = fixture("llama");
    let flags: Vec<&str> = flags.iter().map(|flag| if *flag == model { ID } else { flag.as_str() }).collect();
    let done = place.run(&flags);
    assert!(done.ok().stderr.contains(&format!("fetching {ID} from the hub\n")), "{done:?}");
    let config = json(&output.join("adapter_config.json"));
    assert_eq!((&config["base_model_name_or_path"], &config["revision"]), (&ID.into(), &COMMIT.into()));
    let run = json(&output.join("run.json"));
    assert_eq!((&run["model"]["hub"], &run["model"]["commit"]), (&ID.into(), &COMMIT.into()));
    let pinned = format!("hf:{ID}@{COMMIT}");
    assert_eq!((&run["model"]["name"], &run["settings"]["model"]), (&"tiny-qwen2".into(), &pinned.into()));
    let kept = |name: &str| place.snapshot().join(name).is_file();
    assert!(kept("config.json") && kept("model.safetensors") && kept("tokenizer.json") && !kept("rows.jsonl"));

    // It goes on with that commit, from the cache.
    place.hub.asked();
    let output = output.display().to_string();
    place.run(&["train", "--output", &output, "--resume", "--steps", "3", "--offline"]).ok();
    assert_eq!(json(&Path::new(&output).join("adapter_config.json"))["revision"], COMMIT);
    let rows = format!("{}/rows.jsonl", fixture("qwen2"));
    let line = ["eval", "--device", "cpu", "--adapter", &output, "--data", &rows, "--json", "--offline", "--model"];
    let by = |model: &str| place.run(&[&line[..], &[model]].concat()).json();
    assert_eq!(by(ID), by(&fixture("qwen2")));
    assert_eq!(place.hub.asked(), [], "no connection");
}

#[cfg(unix)]
#[test]
fn a_download_that_a_signal_stops_goes_on() {
    let place = Place::new();
    place.hub.change(ID, |repository| {
        // Long enough to be stopped on its way; nothing reads it before it is there.
        repository.files.insert("model.safetensors".into(), vec![7; 2_000_000]);
    });
    let blobs = place.home.path().join("hub/models--some-org--tiny-qwen2/blobs");
    let have = || {
        let files = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        let part = files.filter(|file| file.path().extension().is_some_and(|end| end == "incomplete"));
        part.filter_map(|file| file.metadata().ok()).map(|facts| facts.len()).max().unwrap_or(0)
    };
    // `train` catches the signal, and `inspect`, which has nothing to save, does not.
    let output = place.home.path().join("tuned").display().to_string();
    let rows = format!("{}/rows.jsonl", fixture("qwen2"));
    let train = ["train", "--model", ID, "--data", &rows, "--output", &output];
    for arguments in [&train[..], &["inspect", "--model", ID]] {
        place.hub.set(Faults { slow: true, ..Faults::default() });
        let before = have();
        let child = place.command(arguments).stderr(std::process::Stdio::piped()).spawn().expect("bft starts");
        common::wait_until("some of the file", || have() > before + 10_000);
        common::signal(&child, libc::SIGTERM);
        let done = common::finish(child);
        if arguments[0] == "train" {
            let said =
                format!("--model {ID}: stopped; what was fetched is kept, and the same command goes on from there");
            assert_eq!((done.code, done.error()), (Some(143), said.as_str()), "{done:?}");
        }
        assert_ne!(done.code, Some(0));
        assert!(have() > before && have() < 2_000_000, "{}", have());
    }
    place.hub.set(Faults::default());
    place.hub.asked();
    let kept = have();
    // These bytes are no model, which only shows once all of them are there.
    let said = place.run(&["inspect", "--model", ID]).error().to_owned();
    assert!(said.contains("model.safetensors"), "{said}");
    let parts = place.hub.asked().into_iter().filter(|asked| asked.elsewhere);
    let from: Vec<usize> = parts.filter_map(|asked| asked.from).collect();
    assert_eq!(from, [kept as usize]);
}

#[test]
fn every_verb_that_takes_a_model_takes_its_name() {
    let place = Place::new();
    let rows = format!("{}/rows.jsonl", fixture("qwen2"));
    let token = place.command(&["inspect", "--model", ID, "--json"]);
    Done::of({ token }.env("HF_TOKEN", TOKEN).output().expect("bft starts")).ok();
    for line in [
        format!("estimate --model {ID} --json"),
        format!("inspect --model hf:{ID}@v2 --json"),
        format!("eval --device cpu --model {ID}@{COMMIT} --data {rows} --json"),
        format!("generate --device cpu --model {ID} --prompt gene --max-new-tokens 2 --json"),
        format!("chat --device cpu --model {ID} --json"),
        format!("embed --device cpu --model {ID} --input {rows} --output v.npy --json"),
        format!("bench --device cpu --model {ID} --task generate --steps 1 --json"),
    ] {
        let done = place.run(&line.split(' ').collect::<Vec<_>>());
        assert!(!done.ok().stderr.contains("fetching"), "{line}: {done:?}");
    }
    let fetches = |asked: &server::Asked| !asked.path.starts_with("/api/") && !asked.elsewhere;
    assert!(place.hub.asked().iter().all(|asked| !fetches(asked) || asked.authorization.is_some()));
}

#[test]
fn both_readings_of_a_name_are_said() {
    let place = Place::new();
    let error = |model: &str| place.run(&["inspect", "--model", model]).error().to_owned();
    let said = error("some-org/tiny-qwen3");
    assert!(
        said.starts_with("--model some-org/tiny-qwen3: no such file or folder; as a model on the hub: http"),
        "{said}"
    );
    assert!(said.contains("has no model some-org/tiny-qwen3 that is open to all; look at the name"), "{said}");
    // A neighbour on this machine is still named.
    std::fs::create_dir(place.home.path().join("some-orgs")).expect("a folder");
    assert!(error("some-org/tiny-qwen3").contains("no such file or folder; did you mean some-orgs?; as a model"));
    // What lies here wins, and a folder of the owner's name says that a path was meant.
    place.hub.asked();
    std::fs::create_dir_all(place.home.path().join(ID)).expect("a folder");
    assert!(error(ID).contains("config.json"));
    let said = error("some-org/tiny-qwen");
    assert!(said.contains("did you mean some-org/tiny-qwen2?"), "{said}");
    assert!(said.ends_with("so that this is a path: hf:some-org/tiny-qwen is the model on the hub"), "{said}");
    assert_eq!(place.hub.asked(), []);
    place.hub.set(Faults { status: Some(403), ..Faults::default() });
    let said = error("hf:some-org/other");
    assert!(said.starts_with("--model hf:some-org/other: some-org/other is gated: ask for access on http"), "{said}");
}

#[test]
fn offline_is_a_flag_of_every_verb_and_a_key_of_its_file() {
    let place = Place::new();
    let config = common::write(place.home.path(), "run.toml", "offline = true\n").display().to_string();
    for more in [&["--offline"][..], &["--config", &config]] {
        let done = place.run(&[&["estimate", "--model", ID][..], more].concat());
        let said = format!("as a model on the hub: {ID} is not in the cache");
        assert!(done.error().contains(&said) && done.error().contains("--offline keeps bft off"), "{done:?}");
    }
    let mut command = place.command(&["bio", "fetch", "--only", "ligands", "--offline"]);
    let done = Done::of(command.env("BFT_CACHE", place.home.path()).output().expect("bft starts"));
    assert!(
        done.error().contains("--offline keeps bft off the network") && done.error().contains("--from"),
        "{done:?}"
    );
    let done = place.run(&["estimate", "--model", ID, "--ofline"]);
    assert!(done.error().contains("did you mean --offline?"), "{done:?}");
    assert_eq!(place.hub.asked(), []);
}

/// `bft` where there is no network interface but a loopback that is down; `None` where this system
/// lets nobody make such a place.
#[cfg(target_os = "linux")]
fn without_network(command: &Command) -> Option<Command> {
    let mut probe = Command::new("unshare");
    probe.args(["-rn", "true"]).stderr(std::process::Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        eprintln!("this system allows no network namespaces: verbs are not run in one");
        return None;
    }
    let mut apart = Command::new("unshare");
    apart.arg("-rn").arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => apart.env(name, value),
            None => apart.env_remove(name),
        };
    }
    command.get_current_dir().map(|folder| apart.current_dir(folder));
    Some(apart)
}

/// A cache with the gene data and without the encoder, which would embed thousands of names.
#[cfg(target_os = "linux")]
fn genes_alone(home: &Path) -> PathBuf {
    let cache = std::env::var_os("BFT_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache/bft"))).expect("a cache");
    let lean = home.join("lean");
    std::fs::create_dir_all(lean.join("bio")).expect("a folder");
    for file in ["bio/org.Hs.eg.sqlite", "bio/GO.sqlite"] {
        let _ = std::os::unix::fs::symlink(cache.join(file), lean.join(file));
    }
    lean
}

/// A file of pairs of ribosomal proteins, enough that a part without common genes can be held out.
#[cfg(target_os = "linux")]
fn pairs(folder: &Path) -> PathBuf {
    let genes: Vec<String> = (5..=20).flat_map(|number| [format!("RPS{number}"), format!("RPL{number}")]).collect();
    let near = |place: usize| (place + 1..genes.len().min(place + 6)).map(move |other| (place, other));
    let lines = (0..genes.len()).flat_map(near).map(|(one, other)| format!("{}\t{}\n", genes[one], genes[other]));
    common::write(folder, "pairs.tsv", &lines.collect::<String>())
}

#[cfg(target_os = "linux")]
#[test]
fn every_verb_works_where_there_is_no_network() {
    let place = Place::new();
    place.run(&["inspect", "--model", ID]).ok();
    let rows = format!("{}/rows.jsonl", fixture("qwen2"));
    let genes = common::write(place.home.path(), "genes.txt", "TP53\nBRCA1\nEGFR\n").display().to_string();
    let quiz = "{\"question\": \"Q?\", \"options\": [\"x\", \"y\"], \"answer\": \"B\"}\n";
    let quiz = common::write(place.home.path(), "quiz.jsonl", quiz).display().to_string();
    let mut lines = vec![
        format!("train --device cpu --model {ID} --data {rows} --output tuned --steps 1 --rank 4 --group-size 4"),
        format!("eval --device cpu --model {ID} --adapter tuned --data {rows}"),
        format!("generate --device cpu --model {ID} --prompt gene --max-new-tokens 2"),
        format!("chat --device cpu --model {ID}"),
        format!("embed --device cpu --model {ID} --input {rows} --output v.npy"),
        format!("inspect --model {ID} --adapter tuned"),
        format!("estimate --model {ID}"),
        "devices --device cpu".to_owned(),
        format!("bench --device cpu --model {ID} --task generate --steps 1"),
        "bio fetch --list".to_owned(),
        format!("bio mcq --device cpu --model {ID} --data {quiz}"),
    ];
    // What stands on the fetched gene data is run where that was fetched; `perturbation` and `study`,
    // which take minutes, are not.
    if std::env::var_os("BFT_TEST_NO_GENES").is_none() {
        let cells = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bio/tests/fixtures/gears_counts.h5ad");
        lines.extend([
            "bio fetch --only genes,ontology,benchmarks,encoder,model".to_owned(),
            "bio instruct --output data --facts 20".to_owned(),
            format!("bio embed-genes {genes} --device cpu -o genes.parquet"),
            format!("bio celltype {} --device cpu --redraws 0", cells.display()),
            format!("bio interaction {} --device cpu --redraws 0", pairs(place.home.path()).display()),
            "bio process go --device cpu --no-model --sets 3 --redraws 0".to_owned(),
        ]);
    }
    for line in &lines {
        let arguments: Vec<&str> = line.split(' ').chain(["--offline"]).collect();
        let mut command = place.command(&arguments);
        if ["bio celltype", "bio interaction", "bio process"].iter().any(|verb| line.starts_with(verb)) {
            command.env("BFT_CACHE", genes_alone(place.home.path()));
        }
        let Some(mut command) = without_network(&command) else { return };
        let done = Done::of(command.output().expect("unshare starts"));
        assert_eq!(done.code, Some(0), "{line}: {done:?}");
    }
    // Without the flag the hub is missed, and the cache serves.
    let generate = ["estimate", "--model", ID];
    let Some(mut command) = without_network(&place.command(&generate)) else { return };
    let done = Done::of(command.output().expect("unshare starts"));
    assert!(done.ok().stderr.contains("cannot be reached"), "{done:?}");
}
