//! A server that plays the hub: lists of files, redirections of large files to a second server that
//! knows ranges, gates, and every way in which a download goes wrong.
#![allow(dead_code)] // Each crate's tests use their part.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of every repository's main branch.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The token that opens gated and hidden repositories.
pub const TOKEN: &str = "hf_of_the_test";

/// Files of this many bytes and more are large: they lie on the second server.
const LARGE: usize = 1000;

/// One repository.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// Contents by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether its files are for those with a token alone.
    pub gated: bool,
    /// Whether it shows itself to those with a token alone.
    pub hidden: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Answers of the second server that end after so many bytes, one after another.
    pub drops: Vec<usize>,
    /// The second server starts at the first byte whatever range is asked for.
    pub no_ranges: bool,
    /// The second server's bytes are not those that the hub has the checksum of.
    pub wrong_bytes: bool,
    /// The hub answers every request with this status.
    pub status: Option<u16>,
    /// The hub redirects from here to there: a renamed repository.
    pub renamed: Option<(String, String)>,
    /// The second server takes ten seconds for a megabyte.
    pub slow: bool,
    /// A name that the hub adds to each list of files.
    pub extra_name: Option<String>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whether the second server was asked.
    pub elsewhere: bool,
    /// GET or HEAD.
    pub method: String,
    /// Path without the address.
    pub path: String,
    /// First byte of the range.
    pub from: Option<usize>,
    /// Value of the Authorization header.
    pub authorization: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    faults: Faults,
    asked: Vec<Asked>,
}

/// The two servers, which end with the test's process.
#[derive(Debug, Clone)]
pub struct Hub {
    address: SocketAddr,
    elsewhere: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Starts serving on this machine.
    pub fn start(repositories: impl IntoIterator<Item = (&'static str, Repository)>) -> Self {
        let [main, elsewhere] = [0, 1].map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port"));
        let repositories = repositories.into_iter().map(|(id, repository)| (id.to_owned(), repository)).collect();
        let state = State { repositories, ..State::default() };
        let [address, other] = [&main, &elsewhere].map(|listener| listener.local_addr().expect("an address"));
        let hub = Self { address, elsewhere: other, state: Arc::new(Mutex::new(state)) };
        for (listener, elsewhere) in [(main, false), (elsewhere, true)] {
            let hub = hub.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let hub = hub.clone();
                    std::thread::spawn(move || hub.answer(&stream, elsewhere));
                }
            });
        }
        hub
    }

    /// Its address, for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what goes wrong.
    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Every request since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// Changes a repository.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Repository)) {
        change(self.state().repositories.entry(id.to_owned()).or_default());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no answer panicked")
    }

    /// Answers one request and closes the connection.
    fn answer(&self, stream: &TcpStream, elsewhere: bool) {
        let Some(asked) = Asked::read(stream, elsewhere) else { return };
        let mut state = self.state();
        state.asked.push(asked.clone());
        let (head, body) = if elsewhere { large(&mut state, &asked) } else { self.hub(&state, &asked) };
        let piece = if elsewhere && state.faults.slow { 1000 } else { usize::MAX };
        drop(state);
        let mut stream = stream;
        let written = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        if asked.method != "HEAD" {
            // A client that has heard enough may be gone.
            let _ = written.and_then(|()| {
                body.chunks(piece).try_for_each(|bytes| {
                    if body.len() > piece {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    stream.write_all(bytes)
                })
            });
        }
    }

    /// Status line with headers, and body, of the hub itself.
    fn hub(&self, state: &State, asked: &Asked) -> (String, Vec<u8>) {
        let refuse =
            |status: &str, code: &str| (format!("{status}\r\nX-Error-Code: {code}\r\nContent-Length: 0"), Vec::new());
        if let Some(status) = state.faults.status {
            return refuse(&format!("{status} Fault"), "");
        }
        if let Some((from, to)) = state.faults.renamed.as_ref().filter(|(from, _)| asked.path.contains(from.as_str())) {
            let path = asked.path.replace(from.as_str(), to);
            return (format!("307 Moved\r\nLocation: {path}\r\nContent-Length: 0"), Vec::new());
        }
        let with_token = match asked.authorization.as_deref() {
            None => false,
            Some(bearer) if bearer == format!("Bearer {TOKEN}") => true,
            Some(_) => {
                let said = "X-Error-Message: Invalid credentials in Authorization header";
                return (format!("401 Unauthorized\r\n{said}\r\nContent-Length: 0"), Vec::new());
            }
        };
        let path = asked.path.trim_start_matches('/');
        let (listed, path) = path.strip_prefix("api/models/").map_or((false, path), |path| (true, path));
        let mut parts = path.splitn(4, '/');
        let mut next = || parts.next().unwrap_or_default();
        let id = format!("{}/{}", next(), next());
        let (_, rest) = (next(), next());
        let Some(repository) = state.repositories.get(&id).filter(|it| with_token || !it.hidden) else {
            return refuse("401 Unauthorized", "RepoNotFound");
        };
        let (revision, file) = if listed { (rest, "") } else { rest.split_once('/').unwrap_or((rest, "")) };
        if !["main", "v2", COMMIT].contains(&revision) {
            return refuse("404 Not Found", "RevisionNotFound");
        }
        if listed {
            return list(repository, state.faults.extra_name.as_deref());
        }
        if repository.gated && !with_token {
            return refuse("401 Unauthorized", "GatedRepo");
        }
        let Some(bytes) = repository.files.get(&file.replace("%20", " ")) else {
            return refuse("404 Not Found", "EntryNotFound");
        };
        let commit = format!("X-Repo-Commit: {COMMIT}");
        if bytes.len() < LARGE {
            let etag = git_hash(bytes);
            (format!("200 OK\r\n{commit}\r\nETag: \"{etag}\"\r\nContent-Length: {}", bytes.len()), bytes.clone())
        } else {
            let facts = format!("X-Linked-ETag: \"{}\"\r\nX-Linked-Size: {}", hex(&Sha256::digest(bytes)), bytes.len());
            let place = format!("Location: http://{}/{id}/{file}", self.elsewhere);
            (format!("302 Found\r\n{commit}\r\n{facts}\r\n{place}\r\nContent-Length: 0"), Vec::new())
        }
    }
}

/// The list of a repository's files.
fn list(repository: &Repository, extra: Option<&str>) -> (String, Vec<u8>) {
    let names = repository.files.keys().map(String::as_str).chain(extra);
    let files: Vec<serde_json::Value> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    let body = serde_json::json!({ "id": "ignored", "sha": COMMIT, "siblings": files }).to_string().into_bytes();
    (format!("200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", body.len()), body)
}

/// A large file from the second server.
fn large(state: &mut State, asked: &Asked) -> (String, Vec<u8>) {
    let mut parts = asked.path.trim_start_matches('/').splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    let (id, file) = (format!("{}/{}", next(), next()), next());
    let Some(bytes) = state.repositories.get(&id).and_then(|it| it.files.get(&file.replace("%20", " "))) else {
        return ("404 Not Found\r\nContent-Length: 0".to_owned(), Vec::new());
    };
    let mut bytes = bytes.clone();
    if state.faults.wrong_bytes {
        bytes[0] ^= 1;
    }
    let size = bytes.len();
    let start = asked.from.filter(|_| !state.faults.no_ranges).unwrap_or(0);
    let head = match start {
        0 => format!("200 OK\r\nContent-Length: {size}"),
        _ => {
            let range = format!("bytes {start}-{}/{size}", size - 1);
            format!("206 Partial Content\r\nContent-Range: {range}\r\nContent-Length: {}", size - start)
        }
    };
    let mut bytes = bytes.split_off(start);
    if !state.faults.drops.is_empty() {
        bytes.truncate(state.faults.drops.remove(0));
    }
    (head, bytes)
}

/// What git names a file's bytes by, as the hub does for small files.
pub fn git_hash(bytes: &[u8]) -> String {
    let sum = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hex(&sum)
}

fn hex(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Asked {
    fn read(stream: &TcpStream, elsewhere: bool) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut asked = Self { elsewhere, method, path, from: None, authorization: None };
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(": ") else { continue };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => asked.authorization = Some(value.to_owned()),
                "range" => asked.from = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
                _ => {}
            }
        }
        Some(asked)
    }
}
