//! Chat templates: messages to the text a model was tuned on.
//!
//! Templates are rendered as transformers renders them: Jinja with `trim_blocks` and
//! `lstrip_blocks`, loop controls, Python's string and list methods, `raise_exception`,
//! `strftime_now`, a `tojson` that does not escape HTML, and the variables `messages`,
//! `add_generation_prompt`, `bos_token` and `eos_token`.

mod python;

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};

use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result, Tokenizer};

const NAME: &str = "chat_template";

/// Instructions a template may run; a conversation takes some hundred for each turn.
const FUEL: u64 = 1_000_000;

/// Enough to drop a list nested in itself as often as the fuel allows.
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 64 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or whatever else the template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's own Jinja chat template; cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template; `bos_token` and `eos_token` are what its variables of that name hold.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| FormatError::ChatTemplate(format!("Jinja's syntax: {e}")))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", python::strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| FormatError::ChatTemplate(format!("cannot be compiled: {}", one_line(&e))))?;
        Ok(Self {
            environment: Arc::new(environment),
            source: source.into(),
            bos_token: bos_token.map(str::to_string),
            eos_token: eos_token.map(str::to_string),
        })
    }

    /// Text of a conversation; `add_generation_prompt` ends it with the opening of an assistant's turn.
    ///
    /// A template may refuse a conversation (roles that do not alternate, a system turn it does not
    /// know); the error then carries its own words.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let turn = |m: &Message| Value::from_pairs([("role", &*m.role), ("content", &*m.content)]);
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        // A token the model lacks is undefined, which prints as nothing, rather than none.
        let defined = |token: &Option<String>| token.as_deref().map_or(Value::UNDEFINED, Value::from);
        let render = || {
            self.environment.get_template(NAME)?.render(context! {
                messages => &turns,
                add_generation_prompt => add_generation_prompt,
                bos_token => defined(&self.bos_token),
                eos_token => defined(&self.eos_token),
            })
        };
        self.with_stack(render).map_err(|e| {
            let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).take(8).collect();
            let more = if messages.len() > roles.len() { ", …" } else { "" };
            FormatError::ChatTemplate(format!(
                "cannot render {} messages (roles {}{more}): {}",
                messages.len(),
                roles.join(", "),
                one_line(&e)
            ))
        })
    }

    /// Runs `render` where a hostile template cannot overflow the stack.
    ///
    /// Only a namespace carries a value from one round of a loop to the next, and so only there can
    /// a template nest lists deeper than a stack is; most templates need no thread of their own.
    #[cfg(not(target_arch = "wasm32"))]
    fn with_stack(
        &self,
        render: impl FnOnce() -> std::result::Result<String, minijinja::Error> + Send,
    ) -> std::result::Result<String, minijinja::Error> {
        let failed = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, what.to_string());
        if !self.source.contains("namespace") {
            return render();
        }
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, render)
                .map_err(|e| failed(&format!("no thread to render in: {e}")))?
                .join()
                .unwrap_or_else(|_| Err(failed("the template engine failed")))
        })
    }

    /// There are no threads on this target; a hostile template ends the page's worker.
    #[cfg(target_arch = "wasm32")]
    fn with_stack(
        &self,
        render: impl FnOnce() -> std::result::Result<String, minijinja::Error>,
    ) -> std::result::Result<String, minijinja::Error> {
        render()
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template of a model's folder: `chat_template.jinja`, or the one in `tokenizer_config.json`.
    pub(crate) fn from_folder(folder: &Folder, tokenizer: Option<&Tokenizer>) -> Result<Option<Self>> {
        let bos = tokenizer.and_then(Tokenizer::bos_token);
        let eos = tokenizer.and_then(Tokenizer::eos_token);
        if let Some(bytes) = folder.get("chat_template.jinja")? {
            let source = std::str::from_utf8(&bytes)
                .map_err(|_| FormatError::malformed(folder.file("chat_template.jinja"), "is not UTF-8 text"))?;
            return Self::new(source, bos, eos).map(Some);
        }
        let Some(json) = folder.get("tokenizer_config.json")? else {
            return Ok(None);
        };
        let file = folder.file("tokenizer_config.json");
        let map = parse_object(&file, &json)?;
        match template_source(&Object::new(&file, &map))? {
            Some(source) => Self::new(&source, bos, eos).map(Some),
            None => Ok(None),
        }
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({} bytes)", self.source.len())
    }
}

/// `chat_template` as a string, or the default one of a list of named templates.
fn template_source(config: &Object) -> Result<Option<String>> {
    use serde_json::Value as Json;
    let text = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_string);
    match config.get("chat_template") {
        None => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(Json::Array(named)) => {
            let default = named.iter().find(|t| t.get("name").and_then(Json::as_str) == Some("default"));
            let chosen = default.or(if named.len() == 1 { named.first() } else { None });
            text(chosen.and_then(|t| t.get("template"))).map(Some).ok_or_else(|| {
                FormatError::malformed(
                    config.file,
                    "chat_template is a list of named templates without one named \"default\"; \
                     put the one to use into chat_template.jinja",
                )
            })
        }
        Some(other) => Err(FormatError::malformed(
            config.file,
            format!("chat_template is {}, expected a string or a list of named ones", kind(other)),
        )),
    }
}

/// transformers' own `{% generation %}` blocks mark assistant text and print what they hold.
///
/// They become `{% if true %}` blocks, which do just that and keep the white-space marks.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag) = (&rest[..start], &rest[start..start + length]);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['-', '+']).trim();
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

/// An error and where it is, without the source listing.
fn one_line(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
