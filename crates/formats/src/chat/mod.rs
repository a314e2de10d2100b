//! Chat templates: conversations to the text a model was tuned on.
//!
//! Templates are rendered as transformers renders them: Jinja with `trim_blocks` and
//! `lstrip_blocks`, loop controls, Python's string and list methods, `raise_exception`,
//! `strftime_now`, a `tojson` that does not escape HTML, and the variables `messages`, `tools`,
//! `documents`, `add_generation_prompt` and every special token that the tokenizer's configuration
//! names. What transformers passes as None is none here, too. `docs/templates.md` says what
//! differs.

mod conversation;
mod limits;
mod methods;
mod python;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Map;

pub use conversation::{Conversation, Message, REASONING, RESERVED_VARIABLES, parse_variables};

use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result, Tokenizer};

const NAME: &str = "chat_template";
/// A template of its own for conversations with tools, where a model has one.
const TOOL_USE: &str = "tool_use";

/// A model's own Jinja chat template; cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    /// The template for conversations with tools, where it is another.
    tool_use: Option<Arc<str>>,
    /// Whether there are `{% generation %}` blocks.
    marked: bool,
    /// Whether it has once taken longer than it may: it is not run again.
    endless: Arc<AtomicBool>,
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
        let cannot = |problem: String| FormatError::ChatTemplate(format!("cannot be compiled: {problem}"));
        let syntax = syntax()?;
        let mut marked = false;
        let mut sources = Vec::new();
        for (name, source) in [(NAME, Some(source)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            let (rewritten, has_marks) = source::prepare(source, &syntax).map_err(cannot)?;
            marked |= has_marks;
            sources.push((name, rewritten));
        }
        let endless = Arc::new(AtomicBool::new(false));
        let environment = limits::bounded(&endless, move || compile(syntax, sources)).and_then(|compiled| compiled);
        let variables = special_tokens.iter().map(|(name, token)| (name.clone(), token.clone().into())).collect();
        Ok(Self {
            environment: Arc::new(environment.map_err(cannot)?),
            source: source.into(),
            tool_use: tool_use.map(Into::into),
            marked,
            endless,
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
        self.turns(conversation)?.render(conversation.messages.len(), None, add_generation_prompt)
    }

    /// A conversation made ready to be rendered up to any of its turns.
    ///
    /// # Errors
    /// [`FormatError::ChatTemplate`] for a variable of [`RESERVED_VARIABLES`].
    pub fn turns(&self, conversation: &Conversation) -> Result<Turns<'_>> {
        self.turns_with(conversation, ["", ""])
    }

    /// Text of a whole conversation and the byte ranges that lie in the template's `{% generation
    /// %}` blocks, in order; none where the template has no such block, or one that the text does
    /// not show where it stands.
    pub fn render_marked(&self, conversation: &Conversation) -> Result<Option<(String, Vec<Range<usize>>)>> {
        if !self.marked {
            return Ok(None);
        }
        let count = conversation.messages.len();
        let text = self.render(conversation, false)?;
        // Code points that are no characters: a text that holds these very two is not worth more
        // care.
        let marks = ['\u{fdd0}', '\u{fdd1}'];
        if text.contains(marks) {
            return Ok(None);
        }
        let [start, end] = marks.map(String::from);
        let marked = self.turns_with(conversation, [&start, &end])?.render(count, None, false)?;
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

    fn turns_with(&self, conversation: &Conversation, marks: [&str; 2]) -> Result<Turns<'_>> {
        let own = &conversation.variables;
        if let Some(name) = own.keys().find(|name| RESERVED_VARIABLES.contains(&name.as_str())) {
            let problem = format!("cannot be given the variable {name}, which it has from the conversation");
            return Err(FormatError::ChatTemplate(problem));
        }
        let variables = self.variables.iter().chain(own).map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let list = |values: &Option<Vec<serde_json::Value>>| match values {
            Some(values) => Value::from(Serde(values)),
            None => Value::from(()),
        };
        let given = [
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            (source::MARKS[0], Value::from(marks[0])),
            (source::MARKS[1], Value::from(marks[1])),
        ];
        let name = match &conversation.tools {
            Some(_) if self.environment.get_template(TOOL_USE).is_ok() => TOOL_USE,
            _ => NAME,
        };
        Ok(Turns {
            template: self,
            name,
            variables: variables.chain(given.map(|(name, value)| (name.to_owned(), value))).collect(),
            messages: conversation.messages.iter().map(|message| Value::from(Serde(message))).collect(),
            roles: conversation.messages.iter().take(ROLES).map(|message| message.role().to_owned()).collect(),
        })
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

/// Roles that a message about a conversation names.
const ROLES: usize = 8;

/// A conversation made ready to be rendered up to any of its turns.
pub struct Turns<'t> {
    template: &'t ChatTemplate,
    /// The template to render with.
    name: &'static str,
    /// All that does not depend on how far it is rendered.
    variables: Vec<(String, Value)>,
    messages: Vec<Value>,
    /// The first roles.
    roles: Vec<String>,
}

impl Turns<'_> {
    /// Text of the first `count` turns (all where there are fewer), with another in place of the
    /// last of them where one is given; `add_generation_prompt` ends it with the opening of an
    /// assistant's turn.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render(&self, count: usize, last: Option<&Message>, add_generation_prompt: bool) -> Result<String> {
        let count = count.min(self.messages.len());
        let mut messages = self.messages[..count].to_vec();
        if let (Some(given), Some(last)) = (last, messages.last_mut()) {
            *last = Value::from(Serde(given));
        }
        let given = [("messages", messages.into()), ("add_generation_prompt", Value::from(add_generation_prompt))];
        let given = given.map(|(name, value)| (name.to_owned(), value));
        let context = Value::from_pairs(self.variables.iter().cloned().chain(given));
        let (environment, name) = (Arc::clone(&self.template.environment), self.name);
        let render = move || {
            let template = environment.get_template(name).map_err(|e| one_line(&e))?;
            template.render(context).map_err(|e| one_line(&e))
        };
        let text = limits::bounded(&self.template.endless, render);
        text.unwrap_or_else(|problem| Err(format!("the template {problem}"))).map_err(|problem| {
            let more = if count > ROLES { ", …" } else { "" };
            let roles = self.roles[..count.min(ROLES)].join(", ");
            FormatError::ChatTemplate(format!("cannot render {count} messages (roles {roles}{more}): {problem}"))
        })
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

/// Jinja's tags, with white space cut as transformers cuts it.
fn syntax() -> Result<SyntaxConfig> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|e| FormatError::ChatTemplate(format!("Jinja's syntax: {e}")))
}

/// The engine with all that it knows besides its own, and the templates of these names and sources.
fn compile(
    syntax: SyntaxConfig,
    sources: Vec<(&'static str, String)>,
) -> std::result::Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(limits::FUEL));
    environment.set_recursion_limit(limits::RECURSION);
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
    environment.add_function(source::KEEP, limits::kept);
    environment.add_function(source::KEEP_IN, limits::kept_in_namespace);
    environment.add_function("namespace", python::namespace);
    environment.add_function("raise_exception", python::raise);
    environment.add_function("strftime_now", python::strftime_now);
    for (name, source) in sources {
        environment.add_template_owned(name, source).map_err(|e| one_line(&e))?;
    }
    Ok(environment)
}

/// An error and where it is, without the source listing.
fn one_line(error: &minijinja::Error) -> String {
    /// Characters of a message; a template can make one as long as it likes.
    const LONGEST: usize = 1000;
    let mut error = error;
    // What failed in a template that another includes.
    while let Some(source) = std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
        error = source;
    }
    let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| detail.chars().take(LONGEST).collect());
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
