//! What is said to the hub and what it answers.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use super::cache::is_commit;
use super::environment::Token;
use super::error::HubError;
use super::reference::{Reference, is_safe_path};

/// Speaks to one hub.
///
/// hf-hub knows the hub's addresses; its own client takes no checksum, resumes unseen, and knows
/// one set of certificates, so that requests are made here.
pub(super) struct Client {
    api: Api,
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// What a repository holds.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub says of a file before it is fetched.
pub(super) struct FileFacts {
    /// SHA-256 of large files, git's hash of small ones; the name of the blob in the cache.
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

/// Longest answer that is read into memory: the list of a repository's files.
const LONGEST_LIST: u64 = 32 << 20;
/// A hub redirects once or twice.
const MOST_REDIRECTS: usize = 8;

impl Client {
    /// `endpoint` is the hub's address where it is not the one that hf-hub knows.
    pub fn new(cache: &Path, endpoint: Option<&str>, token: Option<Token>) -> Result<Self, HubError> {
        let mut builder = ApiBuilder::from_cache(Cache::new(cache.to_path_buf())).with_progress(false).with_token(None);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        let api = builder.build().map_err(|error| HubError::Endpoint { found: error.to_string() })?;
        // What hf-hub's address has before the part that is known.
        let url = api.model("a/b".to_owned()).url("c");
        let endpoint = url.strip_suffix("/a/b/resolve/main/c").unwrap_or(&url).to_owned();
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        if uri.is_none_or(|uri| uri.host().is_none()) {
            return Err(HubError::Endpoint { found: endpoint });
        }
        // The system's certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR; a proxy comes from
        // the environment.
        let tls = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("bft/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { api, agent: agent.into(), endpoint, token })
    }

    /// The commit of a revision, and the files in it.
    pub fn list(&self, wanted: &Reference) -> Result<Listing, HubError> {
        let repo = Repo::with_revision(wanted.id.clone(), RepoType::Model, wanted.revision().to_owned());
        let request = self.api.repo(repo).info_request();
        let url = request.uri_ref().map(Uri::to_string).unwrap_or_default();
        let mut response = self.send(Method::GET, &url, None)?;
        self.check(&response, wanted, "")?;
        let list = response.body_mut().with_config().limit(LONGEST_LIST).read_json::<RepoInfo>();
        let problem = |problem: String| HubError::Answer { url: url.clone(), problem };
        let list = list.map_err(|error| problem(format!("with a list of files that cannot be read: {error}")))?;
        if !is_commit(&list.sha) {
            return Err(problem(format!("with '{}' for a commit, expected 40 hexadecimal digits", plain(&list.sha))));
        }
        let files: Vec<String> = list.siblings.into_iter().map(|file| file.rfilename).collect();
        match files.iter().find(|file| !is_safe_path(file)) {
            Some(file) => Err(problem(format!("with a file '{}', which is no name in a folder", plain(file)))),
            None => Ok(Listing { commit: list.sha, files }),
        }
    }

    /// Checksum and size of a file.
    pub fn facts(&self, wanted: &Reference, commit: &str, file: &str) -> Result<FileFacts, HubError> {
        let mut url = self.file_url(wanted, commit, file);
        for _ in 0..MOST_REDIRECTS {
            let response = self.send_once(Method::HEAD, &url, None)?;
            let headers = response.headers();
            // Where it redirects, it says itself what the file is, or else who it redirects to does.
            let is_said = ["x-linked-etag", "x-linked-size"].iter().all(|name| headers.contains_key(*name));
            if response.status().is_redirection() && !is_said {
                url = self.redirected(&url, headers)?;
                continue;
            }
            if !response.status().is_redirection() {
                self.check(&response, wanted, file)?;
            }
            let problem = |problem: &str| HubError::Answer { url: url.clone(), problem: problem.to_owned() };
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
            let safe = |etag: &&str| {
                !etag.is_empty() && etag.len() <= 128 && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            let etag = etag.filter(safe).ok_or_else(|| problem("without a checksum (ETag) that can be used"))?;
            let size = text(headers, "x-linked-size").or_else(|| text(headers, CONTENT_LENGTH.as_str()));
            let size = size.and_then(|size| size.parse().ok());
            let size = size.ok_or_else(|| problem("without the size of the file"))?;
            return Ok(FileFacts { etag: etag.to_owned(), size });
        }
        Err(HubError::Answer { url, problem: "with one redirection after another".to_owned() })
    }

    /// The bytes of a file from one on, and the first byte's place: 0 where the server cannot start
    /// elsewhere.
    pub fn bytes(
        &self,
        wanted: &Reference,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<(u64, impl Read + use<>), HubError> {
        let url = self.file_url(wanted, commit, file);
        let response = self.send(Method::GET, &url, (from > 0).then_some(from))?;
        self.check(&response, wanted, file)?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
                let start = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')?.0.parse().ok());
                let wrong = || HubError::Answer { url, problem: format!("with the range '{}'", plain(range)) };
                start.filter(|start| *start == from).ok_or_else(wrong)?
            }
            _ => 0,
        };
        Ok((start, response.into_body().into_with_config().limit(u64::MAX).reader()))
    }

    fn file_url(&self, wanted: &Reference, commit: &str, file: &str) -> String {
        let repo = Repo::with_revision(wanted.id.clone(), RepoType::Model, commit.to_owned());
        self.api.repo(repo).url(&encoded(file))
    }

    /// Sends a request, and again wherever the answer leads.
    fn send(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..MOST_REDIRECTS {
            let response = self.send_once(method.clone(), &url, from)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.redirected(&url, response.headers())?;
        }
        Err(HubError::Answer { url, problem: "with one redirection after another".to_owned() })
    }

    /// The token goes to the hub itself and to nobody whom it redirects to.
    fn send_once(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut request = Request::builder().method(method).uri(url).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| self.is_ours(url)) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.text));
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request =
            request.body(()).map_err(|error| HubError::Answer { url: url.to_owned(), problem: error.to_string() })?;
        self.agent.run(request).map_err(|error| self.unreachable(url, &error.to_string()))
    }

    fn unreachable(&self, url: &str, problem: &str) -> HubError {
        let place = if self.is_ours(url) { self.endpoint.clone() } else { origin(url).unwrap_or_default() };
        HubError::Unreachable { endpoint: place, problem: plain(problem) }
    }

    fn is_ours(&self, url: &str) -> bool {
        origin(url).is_some_and(|found| Some(found) == origin(&self.endpoint))
    }

    /// Where an answer leads.
    fn redirected(&self, url: &str, headers: &HeaderMap) -> Result<String, HubError> {
        let location = text(headers, LOCATION.as_str()).unwrap_or_default();
        let from = origin(url).unwrap_or_default();
        let to = if location.starts_with('/') && !location.starts_with("//") {
            format!("{from}{location}")
        } else {
            location.to_owned()
        };
        let downgraded = url.starts_with("https:") && !to.starts_with("https:");
        if origin(&to).is_none() || downgraded {
            let problem = format!("with a redirection to '{}', which is not followed", plain(location));
            return Err(HubError::Answer { url: url.to_owned(), problem });
        }
        Ok(to)
    }

    /// Turns a refusal into what to do about it. `file` is empty where the list was asked for.
    fn check(&self, response: &Response<Body>, wanted: &Reference, file: &str) -> Result<(), HubError> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let (id, endpoint) = (wanted.id.clone(), self.endpoint.clone());
        let with_token = self.token.is_some();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let said = text(response.headers(), "x-error-message").unwrap_or_default();
        Err(match (status.as_u16(), code) {
            (_, "GatedRepo") => HubError::Gated { endpoint, id, with_token },
            (_, "RevisionNotFound") => HubError::NoRevision { id, revision: wanted.revision().to_owned() },
            (_, "EntryNotFound") => HubError::NoFile { id, file: file.to_owned(), known: "see its page".to_owned() },
            (401, "") if said.starts_with("Invalid credentials") => {
                let place = self.token.as_ref().map_or("nobody", |token| token.place.as_str()).to_owned();
                HubError::Token { endpoint, place }
            }
            (403, _) => HubError::Gated { endpoint, id, with_token },
            (401 | 404, _) => HubError::NoModel { endpoint, id, with_token },
            (429 | 500.., _) => self.unreachable(&endpoint, &format!("it answers {status}; try again later")),
            _ => HubError::Answer { url: format!("{endpoint}/{id}"), problem: plain(&format!("{status} {said}")) },
        })
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<String> {
    let uri = url.parse::<Uri>().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{host}:{port}"))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A file's name as addresses have it.
fn encoded(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    file.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What a stranger said, fit for one line of a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
