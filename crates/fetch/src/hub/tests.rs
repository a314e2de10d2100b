use std::path::Path;

use server::{Asked, COMMIT, Faults, Hub as Server, Repository, TOKEN, git_hash};

use super::environment::Token;
use super::*;

#[path = "../../tests/server/mod.rs"]
mod server;

const ID: &str = "some-org/tiny";

/// Bytes that are not all alike.
fn large(count: usize) -> Vec<u8> {
    (0..count).map(|place| (place * place % 251) as u8).collect()
}

fn files(list: &[(&str, &[u8])]) -> Repository {
    let files = list.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    Repository { files, ..Repository::default() }
}

fn folder() -> Repository {
    files(&[
        ("README.md", b"not wanted"),
        ("config.json", b"{}"),
        ("model.safetensors", &large(300_000)),
        ("onnx/model.onnx", b"not wanted"),
        ("tokenizer.json", &large(2000)),
    ])
}

/// A hub's server and a cache.
struct Place {
    server: Server,
    cache: tempfile::TempDir,
}

impl Place {
    fn new(repository: Repository) -> Self {
        let server = Server::start([(ID, repository)]);
        Self { server, cache: tempfile::tempdir().expect("a folder") }
    }

    fn hub(&self, token: Option<&str>, offline: Option<&'static str>) -> Hub {
        let token = token.map(|text| Token { text: text.to_owned(), place: "HF_TOKEN".to_owned() });
        let endpoint = Some(self.server.endpoint());
        let cache = self.cache.path().to_path_buf();
        Hub { record: Some(cache.clone()), environment: Environment { cache, endpoint, token }, offline }
    }

    /// Fetches, and says what was heard.
    fn fetch_as(&self, hub: &Hub, reference: &str) -> (Result<PathBuf, HubError>, Vec<String>) {
        let mut heard = Vec::new();
        let reference = Reference::parse(reference).expect("a reference");
        let done = hub.model(&reference, &mut |event| {
            match event {
                HubEvent::Placed(file) => heard.push(file.to_owned()),
                HubEvent::Unreachable(_) => heard.push("unreachable".to_owned()),
                HubEvent::Checking(file, _) => heard.push(format!("checking {file}")),
                HubEvent::Waiting(_) | HubEvent::Fetching(..) => {}
            }
            ControlFlow::Continue(())
        });
        (done, heard)
    }

    fn fetch(&self, reference: &str) -> Result<PathBuf, HubError> {
        self.fetch_as(&self.hub(None, None), reference).0
    }

    #[track_caller]
    fn fail(&self, reference: &str) -> String {
        self.fetch(reference).expect_err("nothing to fetch").to_string()
    }

    fn model(&self) -> PathBuf {
        self.cache.path().join("models--some-org--tiny")
    }

    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.model().join("blobs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_folder_lies_in_the_cache_as_python_lays_it() {
    let place = Place::new(folder());
    let (path, heard) = place.fetch_as(&place.hub(None, None), ID);
    let path = path.expect("fetched");
    assert_eq!(heard, ["config.json", "tokenizer.json", "model.safetensors"], "weights come last, and nothing else");
    assert_eq!(path, place.model().join("snapshots").join(COMMIT));
    assert_eq!(read(&path.join("model.safetensors")), large(300_000));
    assert_eq!(fs::read_to_string(place.model().join("refs/main")).expect("a reference"), COMMIT);
    let mut blobs = vec![git_hash(b"{}"), crate::sha256(&path.join("tokenizer.json")).expect("a file")];
    blobs.push(crate::sha256(&path.join("model.safetensors")).expect("a file"));
    blobs.sort_unstable();
    assert_eq!(place.blobs(), blobs);
    #[cfg(unix)]
    {
        let link = fs::read_link(path.join("config.json")).expect("a link");
        assert_eq!(link, Path::new(&format!("../../blobs/{}", git_hash(b"{}"))));
    }
    // What is there is not asked for again.
    place.server.asked();
    let (again, heard) = place.fetch_as(&place.hub(None, None), ID);
    assert_eq!((again.expect("there"), heard.len()), (path, 0));
    assert_eq!(place.server.asked().len(), 1, "the list alone");
}

#[test]
fn weights_in_several_files_are_those_that_the_index_names() {
    let index = br#"{"weight_map": {"a": "one.safetensors", "b": "sub/two.safetensors", "c": "one.safetensors"}}"#;
    let place = Place::new(files(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("one.safetensors", &large(5000)),
        ("sub/two.safetensors", b"small"),
        ("three.safetensors", b"not wanted"),
    ]));
    let (path, heard) = place.fetch_as(&place.hub(None, None), "some-org/tiny@v2");
    assert_eq!(heard, ["config.json", "model.safetensors.index.json", "one.safetensors", "sub/two.safetensors"]);
    assert_eq!(read(&path.expect("fetched").join("sub/two.safetensors")), b"small");
    assert!(place.model().join("refs/v2").is_file());
    // Half of a model is none, where the rest cannot be fetched.
    let offline = place.hub(None, Some("--offline"));
    assert!(place.fetch_as(&offline, "some-org/tiny@v2").0.is_ok());
    assert!(place.fetch_as(&offline, &format!("some-org/tiny@{COMMIT}")).0.is_ok());
    fs::remove_file(place.model().join(format!("snapshots/{COMMIT}/one.safetensors"))).expect("removed");
    let error = place.fetch_as(&offline, "some-org/tiny@v2").0.expect_err("incomplete").to_string();
    assert!(error.starts_with("one.safetensors of some-org/tiny@v2 is not in the cache"), "{error}");
    let index = br#"{"weight_map": {"a": "../../../out.safetensors"}}"#;
    place
        .server
        .change(ID, |repository| _ = repository.files.insert("model.safetensors.index.json".into(), index.to_vec()));
    fs::remove_file(place.model().join(format!("snapshots/{COMMIT}/model.safetensors.index.json"))).expect("removed");
    assert!(place.fail(ID).contains("is no file beside it"));
}

#[test]
fn one_gguf_file_is_fetched_and_no_other() {
    let place = Place::new(files(&[
        ("m-Q4_K_M.gguf", &large(3000)),
        ("m Q8_0.gguf", &large(4000)),
        ("p-00001-of-00002.gguf", &large(1500)),
        ("p-00002-of-00002.gguf", &large(1600)),
    ]));
    let path = place.fetch("hf:some-org/tiny:q4_k_m").expect("fetched");
    assert!(path.ends_with("m-Q4_K_M.gguf"));
    assert_eq!((read(&path), place.blobs().len()), (large(3000), 1));
    // A name that addresses write otherwise.
    assert_eq!(read(&place.fetch("hf:some-org/tiny:Q8_0").expect("fetched")), large(4000));
    let path = place.fetch("hf:some-org/tiny/p-00002-of-00002.gguf").expect("fetched");
    assert!(path.ends_with("p-00001-of-00002.gguf") && path.with_file_name("p-00002-of-00002.gguf").is_file());
    assert!(place.fail(ID).contains("several GGUF files: name one as hf:some-org/tiny/FILE"));
    let offline = place.hub(None, Some("HF_HUB_OFFLINE"));
    assert!(place.fetch_as(&offline, "hf:some-org/tiny:Q4_K_M").0.is_ok());
    let error = place.fetch_as(&offline, "hf:some-org/tiny:Q6_K").0.expect_err("not there").to_string();
    assert!(error.contains("HF_HUB_OFFLINE keeps bft off the network"), "{error}");
}

#[test]
fn a_dropped_connection_is_taken_up_where_it_broke() {
    let place = Place::new(folder());
    place.server.set(Faults { drops: vec![2000, 100_000, 50_000], ..Faults::default() });
    let path = place.fetch(ID).expect("fetched");
    assert_eq!(read(&path.join("model.safetensors")), large(300_000));
    let from = |asked: Vec<Asked>| -> Vec<Option<usize>> {
        asked
            .into_iter()
            .filter(|asked| asked.path.ends_with("model.safetensors") && asked.elsewhere)
            .map(|it| it.from)
            .collect()
    };
    assert_eq!(from(place.server.asked()), [None, Some(100_000), Some(150_000)]);

    // A server that gives nothing more ends the run; the next one goes on.
    let place = Place::new(folder());
    place.server.set(Faults { drops: vec![2000, 70_000, 0, 0], ..Faults::default() });
    let error = place.fail(ID);
    assert!(error.starts_with("model.safetensors of some-org/tiny broke off after 70000 of 300000 bytes"), "{error}");
    assert!(error.ends_with("run again, and it goes on from there"), "{error}");
    assert!(place.blobs().iter().any(|name| name.ends_with(".incomplete")));
    assert!(!place.model().join(format!("snapshots/{COMMIT}/model.safetensors")).exists());
    place.server.asked();
    let path = place.fetch(ID).expect("fetched");
    assert_eq!(read(&path.join("model.safetensors")), large(300_000));
    assert_eq!(from(place.server.asked()), [Some(70_000)]);
    assert!(!place.blobs().iter().any(|name| name.ends_with(".incomplete")));

    // A server without ranges starts anew.
    let place = Place::new(folder());
    place.server.set(Faults { drops: vec![2000, 70_000], no_ranges: true, ..Faults::default() });
    assert_eq!(read(&place.fetch(ID).expect("fetched").join("model.safetensors")), large(300_000));
}

/// Changes a file without its size, and has it look as of a minute ago.
#[cfg(unix)]
fn damage(path: &Path) {
    let mut bytes = read(path);
    bytes[0] ^= 1;
    fs::write(path, bytes).expect("damaged");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).expect("a time");
}

#[cfg(unix)]
#[test]
fn what_the_cache_holds_is_checked_when_it_is_used() {
    let place = Place::new(folder());
    let path = place.fetch(ID).expect("fetched");
    let offline = place.hub(None, Some("--offline"));
    let heard = |hub: &Hub| place.fetch_as(hub, ID).1;
    assert_eq!(heard(&offline), [""; 0], "what was fetched is not read again");
    // Another program has fetched it.
    fs::remove_file(place.cache.path().join("verified.json")).expect("a record");
    assert_eq!(heard(&offline), ["checking config.json", "checking tokenizer.json", "checking model.safetensors"]);
    assert_eq!(heard(&offline), [""; 0]);
    let weights = path.join("model.safetensors");
    damage(&weights);
    for hub in [&offline, &place.hub(None, None)] {
        let error = place.fetch_as(hub, ID).0.expect_err("damaged").to_string();
        let blob = weights.canonicalize().expect("a blob");
        assert!(error.starts_with(&format!("{} is damaged: its checksum is ", blob.display())), "{error}");
        assert!(error.ends_with("remove it and run again, which fetches it anew"), "{error}");
    }
    // A small file, which git's hash names, and the way out.
    fs::remove_file(weights.canonicalize().expect("a blob")).expect("removed");
    assert_eq!(place.fetch_as(&place.hub(None, None), ID).1, ["model.safetensors"]);
    damage(&path.join("config.json"));
    assert!(place.fetch_as(&offline, ID).0.expect_err("damaged").to_string().contains(" is damaged: "));
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let place = Place::new(folder());
    place.server.set(Faults { wrong_bytes: true, ..Faults::default() });
    let error = place.fail(ID);
    assert!(error.starts_with("tokenizer.json of some-org/tiny came damaged: its checksum is "), "{error}");
    assert_eq!(place.blobs(), [git_hash(b"{}")], "nothing of it is kept");
    place.server.set(Faults::default());
    assert!(place.fetch(ID).is_ok());
    // So is what an earlier try left, where it is not the file's beginning.
    let place = Place::new(folder());
    place.server.set(Faults { drops: vec![2000, 70_000, 0, 0], ..Faults::default() });
    place.fail(ID);
    let part = place.blobs().into_iter().find(|name| name.ends_with(".incomplete")).expect("a part");
    fs::write(place.model().join("blobs").join(part), [0; 70_000]).expect("damaged");
    place.server.set(Faults::default());
    assert!(place.fail(ID).contains("came damaged"));
    assert!(place.fetch(ID).is_ok());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let place = Place::new(Repository { gated: true, ..folder() });
    let (path, _) = place.fetch_as(&place.hub(Some(TOKEN), None), ID);
    assert_eq!(read(&path.expect("fetched").join("model.safetensors")), large(300_000));
    let asked = place.server.asked();
    let bearer = Some(format!("Bearer {TOKEN}"));
    assert!(asked.iter().filter(|asked| !asked.elsewhere).all(|asked| asked.authorization == bearer), "{asked:?}");
    let elsewhere: Vec<&Asked> = asked.iter().filter(|asked| asked.elsewhere).collect();
    assert_eq!(elsewhere.len(), 2);
    assert!(elsewhere.iter().all(|asked| asked.authorization.is_none()), "{elsewhere:?}");
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new(Repository { gated: true, ..folder() });
    let endpoint = place.server.endpoint();
    let error = place.fail(ID);
    assert_eq!(
        error,
        format!(
            "{ID} is gated: ask for access on {endpoint}/{ID}, then log in (`hf auth login`, or set HF_TOKEN) and try again"
        )
    );
    let error = place.fail("some-org/none");
    assert!(
        error.starts_with(&format!("{endpoint} has no model some-org/none that is open to all; look at")),
        "{error}"
    );
    let (done, _) = place.fetch_as(&place.hub(Some(TOKEN), None), "some-org/none");
    assert!(done.expect_err("missing").to_string().contains("some-org/none that your token may see"));
    let (done, _) = place.fetch_as(&place.hub(Some("hf_expired"), None), ID);
    let error = done.expect_err("no token").to_string();
    assert!(error.contains("does not know the token of HF_TOKEN") && !error.contains("hf_expired"), "{error}");
    assert!(place.fail("some-org/tiny@v9").starts_with("some-org/tiny has no revision 'v9'"));
    place.server.change(ID, |repository| repository.hidden = true);
    assert!(place.fail(ID).contains("log in"));
    place.server.set(Faults { status: Some(418), ..Faults::default() });
    assert!(place.fail(ID).contains("answered 418"));
    // A name that would leave the cache.
    place.server.set(Faults { extra_name: Some("../../../outside.json".to_owned()), ..Faults::default() });
    let (done, _) = place.fetch_as(&place.hub(Some(TOKEN), None), ID);
    assert!(done.expect_err("refused").to_string().contains("which is no name in a folder"));
}

#[test]
fn without_the_hub_the_cache_serves() {
    let place = Place::new(folder());
    assert!(place.fetch(ID).is_ok());
    // A hub that is overloaded.
    place.server.set(Faults { status: Some(503), ..Faults::default() });
    let (done, heard) = place.fetch_as(&place.hub(None, None), ID);
    assert!(done.is_ok() && heard == ["unreachable"], "{heard:?}");
    // No hub at all.
    let mut hub = place.hub(None, None);
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr()).expect("a port");
    hub.environment.endpoint = Some(format!("http://{closed}"));
    let (done, heard) = place.fetch_as(&hub, ID);
    assert!(done.is_ok() && heard == ["unreachable"], "{heard:?}");
    let error = place.fetch_as(&hub, "some-org/other").0.expect_err("nothing").to_string();
    assert!(error.starts_with(&format!("http://{closed} cannot be reached: ")), "{error}");
    // Nothing is asked where that is forbidden.
    place.server.asked();
    let offline = place.hub(None, Some("--offline"));
    assert!(place.fetch_as(&offline, ID).0.is_ok());
    let error = place.fetch_as(&offline, "some-org/other").0.expect_err("nothing").to_string();
    assert!(error.contains("some-org/other is not in the cache") && error.contains("--offline keeps"), "{error}");
    assert_eq!(place.server.asked(), []);
    hub.environment.endpoint = Some("hub.example".to_owned());
    let error = place.fetch_as(&hub, ID).0.expect_err("no address").to_string();
    assert!(error.starts_with("HF_ENDPOINT is 'hub.example', expected an address"), "{error}");
}

#[test]
fn a_renamed_model_is_found_under_its_old_name() {
    let place = Place::new(folder());
    place.server.set(Faults { renamed: Some(("old/name".into(), ID.into())), ..Faults::default() });
    let path = place.fetch("old/name").expect("fetched");
    assert_eq!(read(&path.join("model.safetensors")), large(300_000));
    place.server.set(Faults { renamed: Some(("old/name".into(), "old/name".into())), ..Faults::default() });
    assert!(place.fail("old/name").contains("one redirection after another"));
}

#[test]
fn two_processes_fetch_a_file_once() {
    let place = Place::new(folder());
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| place.fetch(ID));
        let two = scope.spawn(|| place.fetch(ID));
        (one.join().expect("no panic"), two.join().expect("no panic"))
    });
    assert_eq!(one.expect("fetched"), two.expect("fetched"));
    let large = place.server.asked().into_iter().filter(|asked| asked.elsewhere).count();
    assert_eq!(large, 2, "tokenizer.json and model.safetensors, once each");
}

#[test]
fn who_has_enough_stops_it() {
    let place = Place::new(folder());
    let reference = Reference::parse(ID).expect("a reference");
    let done = place.hub(None, None).model(&reference, &mut |event| match event {
        HubEvent::Fetching("model.safetensors", have, _) if have > 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(done.expect_err("stopped").to_string().starts_with("stopped; what was fetched is kept"));
    assert!(place.fetch(ID).is_ok());
}
