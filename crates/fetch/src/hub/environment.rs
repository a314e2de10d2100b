//! What the environment says about the hub, as Python's huggingface_hub reads it.

use std::env;
use std::path::PathBuf;

use super::error::HubError;

/// A token, and where it was found.
#[derive(Clone)]
pub(super) struct Token {
    pub text: String,
    pub place: String,
}

/// What the environment says.
pub(super) struct Environment {
    /// The folder with `models--owner--name/`.
    pub cache: PathBuf,
    /// The hub's address, where it is said.
    pub endpoint: Option<String>,
    pub token: Option<Token>,
}

/// The variable of the environment that keeps programs off the network, where one does.
pub fn offline() -> Option<&'static str> {
    // The first that is set holds, also where it says no.
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| set(name).is_some()).filter(is_on)
}

impl Environment {
    /// Reads variables and the token's file.
    pub fn read() -> Result<Self, HubError> {
        let home = match path("HF_HOME") {
            Some(home) => home,
            None => path("XDG_CACHE_HOME")
                .or_else(|| Some(env::home_dir()?.join(".cache")))
                .ok_or(HubError::NoHome)?
                .join("huggingface"),
        };
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let endpoint = set("HF_ENDPOINT").map(|text| text.trim_end_matches('/').to_owned());
        let token = if is_on(&"HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token(&home) };
        Ok(Self { cache: cache.unwrap_or_else(|| home.join("hub")), endpoint, token })
    }
}

fn token(home: &std::path::Path) -> Option<Token> {
    // A token is one line of plain characters, or no header can hold it.
    let clean = |text: String| {
        let text = text.trim().to_owned();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
    };
    let named = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
    let from_environment =
        named.into_iter().find_map(|name| Some(Token { text: clean(set(name)?)?, place: name.to_owned() }));
    from_environment.or_else(|| {
        let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let text = clean(std::fs::read_to_string(&file).ok()?)?;
        Some(Token { text, place: file.display().to_string() })
    })
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    // Shells leave a ~ in quotes to the program.
    match value.to_str().and_then(|text| text.strip_prefix("~/")) {
        Some(below) => Some(env::home_dir()?.join(below)),
        None => Some(value.into()),
    }
}

/// Whether a variable says yes.
fn is_on(name: &&str) -> bool {
    set(name).is_some_and(|text| ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str()))
}
