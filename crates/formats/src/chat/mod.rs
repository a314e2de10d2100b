//! Chat templates: conversations to the text a model was tuned on.
//!
//! Templates are rendered as transformers renders them: Jinja with `trim_blocks` and
//! `lstrip_blocks`, loop controls, Python's string and list methods, `raise_exception`,
//! `strftime_now`, a `tojson` that does not escape HTML, and the variables `messages`, `tools`,
//! `documents`, `add_generation_prompt` and every special token that the tokenizer's configuration
//! names. What transformers passes as None is none here, too. `docs/templates.md` says what
//! differs.

mod conversation;
mod methods;
mod python;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Map;

pub use conversation::{Conversation, Message, REASONING, RESERVED_VARIABLES, parse_variables};

use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result, Tokenizer};

const NAME: &str = "chat_template";
/// A template of its own for conversations with tools, where a model has one.
const TOOL_USE: &str = "tool_use";

/// Instructions a template may run; a conversation takes some hundred for each turn.
const FUEL: u64 = 1_000_000;

/// Enough to drop a list nested in itself as often as the fuel allows.
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 64 << 20;

/// A model's own Jinja chat template; cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    /// The template for conversations with tools, where it is another.
    tool_use: Option<Arc<str>>,
    /// Whether there are `{% generation %}` blocks.
    marked: bool,
    /// Special tokens, and then what a user sets.
    variables: Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are variables that it can read: `bos_token`,
    /// `eos_token` and their like.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        Self::with_tool_use(source, None, special_tokens)
    }

    /// As [`Self::new`], with another template for conversations that have tools.
    fn with_tool_use(source: &str, tool_use: Option<&str>, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| FormatError::ChatTemplate(format!("Jinja's syntax: {e}")))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(methods::call);
        environment.set_formatter(python::print);
        environment.add_filter("tojson", python::to_json);
        python::add_filters_of_items(&mut environment);
        environment.add_filter("string", python::string);
        environment.add_filter("escape", python::escape);
        environment.add_filter("e", python::escape);
        environment.add_filter("trim", python::trim);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_function(source::EACH, python::each);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", python::strftime_now);
        let mut marked = false;
        for (name, source) in [(NAME, Some(source)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            let (rewritten, has_marks) = source::prepare(source);
            marked |= has_marks;
            environment
                .add_template_owned(name, rewritten)
                .map_err(|e| FormatError::ChatTemplate(format!("cannot be compiled: {}", one_line(&e))))?;
        }
        let variables = special_tokens.iter().map(|(name, token)| (name.clone(), token.clone().into())).collect();
        Ok(Self {
            environment: Arc::new(environment),
            source: source.into(),
            tool_use: tool_use.map(Into::into),
            marked,
            variables,
        })
    }

    /// The same template with further variables, which win over special tokens of the same name.
    ///
    /// # Errors
    /// [`FormatError::ChatTemplate`] for a name of [`RESERVED_VARIABLES`].
    pub fn with_variables(mut self, variables: &Map<String, serde_json::Value>) -> Result<Self> {
        if let Some(name) = variables.keys().find(|name| RESERVED_VARIABLES.contains(&name.as_str())) {
            let problem = format!("cannot be given the variable {name}, which it has from the conversation");
            return Err(FormatError::ChatTemplate(problem));
        }
        self.variables.extend(variables.clone());
        Ok(self)
    }

    /// The same template at another time than now: seconds from the beginning of 1970 to a local
    /// time.
    #[must_use]
    pub fn with_clock(mut self, seconds: i64) -> Self {
        let now = move |format: &str| python::strftime_at(format, seconds);
        Arc::make_mut(&mut self.environment).add_function("strftime_now", now);
        self
    }

    /// Text of a conversation; `add_generation_prompt` ends it with the opening of an assistant's
    /// turn.
    ///
    /// A template may refuse a conversation (roles that do not alternate, a system turn it does not
    /// know); the error then carries its own words.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        self.render_turns(conversation, &conversation.messages, add_generation_prompt)
    }

    /// As [`Self::render`], with other turns in place of the conversation's own.
    pub fn render_turns(
        &self,
        conversation: &Conversation,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_with(conversation, messages, add_generation_prompt, ["", ""])
    }

    /// Text of a whole conversation and the byte ranges that lie in the template's `{% generation
    /// %}` blocks, in order; none where the template has no such block, or one that the text does
    /// not show where it stands.
    pub fn render_marked(&self, conversation: &Conversation) -> Result<Option<(String, Vec<Range<usize>>)>> {
        if !self.marked {
            return Ok(None);
        }
        let text = self.render(conversation, false)?;
        // Code points that are no characters: a text that holds these very two is not worth more
        // care.
        let marks = ['\u{fdd0}', '\u{fdd1}'];
        if text.contains(marks) {
            return Ok(None);
        }
        let [start, end] = marks.map(String::from);
        let marked = self.render_with(conversation, &conversation.messages, false, [&start, &end])?;
        let mut plain = String::with_capacity(text.len());
        let mut spans = Vec::new();
        let mut open = None;
        for piece in marked.split_inclusive(marks) {
            plain.push_str(piece.trim_end_matches(marks));
            match (piece.chars().next_back(), open) {
                (Some('\u{fdd0}'), None) => open = Some(plain.len()),
                (Some('\u{fdd1}'), Some(from)) => {
                    spans.push(from..plain.len());
                    open = None;
                }
                (Some('\u{fdd0}' | '\u{fdd1}'), _) => return Ok(None),
                _ => {}
            }
        }
        Ok((plain == text && open.is_none()).then_some((text, spans)))
    }

    fn render_with(
        &self,
        conversation: &Conversation,
        messages: &[Message],
        add_generation_prompt: bool,
        marks: [&str; 2],
    ) -> Result<String> {
        let own = &conversation.variables;
        if let Some(name) = own.keys().find(|name| RESERVED_VARIABLES.contains(&name.as_str())) {
            let problem = format!("cannot be given the variable {name}, which it has from the conversation");
            return Err(FormatError::ChatTemplate(problem));
        }
        let variables =
            self.variables.iter().chain(own).map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let list = |values: &Option<Vec<serde_json::Value>>| match values {
            Some(values) => Value::from(Serde(values)),
            None => Value::from(()),
        };
        let context = Value::from_pairs(variables.chain([
            ("messages", Value::from(Serde(messages))),
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            (source::MARKS[0], Value::from(marks[0])),
            (source::MARKS[1], Value::from(marks[1])),
        ]));
        let name = match &conversation.tools {
            Some(_) if self.environment.get_template(TOOL_USE).is_ok() => TOOL_USE,
            _ => NAME,
        };
        let render = || self.environment.get_template(name)?.render(context);
        self.with_stack(render).map_err(|e| {
            let roles: Vec<&str> = messages.iter().map(Message::role).take(8).collect();
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

    /// Lower-case hexadecimal SHA-256 of the sources and the variables.
    pub fn sha256(&self) -> String {
        let variables = serde_json::Value::Object(self.variables.clone());
        crate::sha256_bytes(format!("{}\0{:?}\0{variables}", self.source, self.tool_use).as_bytes())
    }

    /// Whether the source has `name` in it: where it has not, the template cannot show what stands
    /// under that name.
    pub fn names(&self, name: &str) -> bool {
        self.environment.templates().any(|(_, template)| template.source().contains(name))
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template of a model's folder: `chat_template.jinja`, or the one in
    /// `tokenizer_config.json`.
    pub(crate) fn from_folder(folder: &Folder, tokenizer: Option<&Tokenizer>) -> Result<Option<Self>> {
        let none = BTreeMap::new();
        let special = tokenizer.map_or(&none, Tokenizer::special_tokens);
        if let Some(source) = template_file(folder, "chat_template.jinja")? {
            let tool_use = template_file(folder, "additional_chat_templates/tool_use.jinja")?;
            return Self::with_tool_use(&source, tool_use.as_deref(), special).map(Some);
        }
        let Some(json) = folder.get("tokenizer_config.json")? else {
            return Ok(None);
        };
        let file = folder.file("tokenizer_config.json");
        let map = parse_object(&file, &json)?;
        match template_source(&Object::new(&file, &map))? {
            Some((source, tool_use)) => Self::with_tool_use(&source, tool_use.as_deref(), special).map(Some),
            None => Ok(None),
        }
    }
}

fn template_file(folder: &Folder, name: &str) -> Result<Option<String>> {
    let Some(bytes) = folder.get(name)? else {
        return Ok(None);
    };
    match String::from_utf8(bytes.to_vec()) {
        Ok(source) => Ok(Some(source)),
        Err(_) => Err(FormatError::malformed(folder.file(name), "is not UTF-8 text")),
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({} bytes)", self.source.len())
    }
}

/// `chat_template` as a string, or of a list of named templates the default one and the one for
/// tools.
fn template_source(config: &Object) -> Result<Option<(String, Option<String>)>> {
    use serde_json::Value as Json;
    let text = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_string);
    match config.get("chat_template") {
        None => Ok(None),
        Some(Json::String(source)) => Ok(Some((source.clone(), None))),
        Some(Json::Array(list)) => {
            let named = |name: &str| list.iter().find(|t| t.get("name").and_then(Json::as_str) == Some(name));
            let source = |entry: Option<&Json>| text(entry.and_then(|t| t.get("template")));
            let chosen = named("default").or(if list.len() == 1 { list.first() } else { None });
            match source(chosen) {
                Some(default) => Ok(Some((default, source(named(TOOL_USE))))),
                None => Err(FormatError::malformed(
                    config.file,
                    "chat_template is a list of named templates without one named \"default\"; \
                     put the one to use into chat_template.jinja",
                )),
            }
        }
        Some(other) => Err(FormatError::malformed(
            config.file,
            format!("chat_template is {}, expected a string or a list of named ones", kind(other)),
        )),
    }
}

/// An error and where it is, without the source listing.
fn one_line(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
