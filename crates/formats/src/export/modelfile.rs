//! A Modelfile, by which Ollama makes a model of files: what it is made of, its template, its stops.

use crate::{Adapter, ChatTemplate, Conversation, Message, Model};

/// A Modelfile's text, and what it does not say, in a sentence each.
pub struct Modelfile {
    /// The whole file.
    pub text: String,
    /// What the model's own files say and this one does not.
    pub left_out: Vec<String>,
}

/// A way of writing a chat down that both a model's own template and one of Ollama's can say.
struct Format {
    /// As Ollama has it: a template of Go's text/template over `.Messages`.
    go: &'static str,
    /// The same of a system text and of turns that alternate, the user's first.
    render: fn(Option<&str>, &[&str]) -> String,
}

const CHAT_ML: Format = Format {
    go: "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    render: |system, turns| {
        let turn = |(role, text)| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
        format!("{}<|im_start|>assistant\n", with_system(system, turns).map(turn).collect::<String>())
    },
};

const LLAMA_3: Format = Format {
    go: "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    render: |system, turns| {
        let head = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
        let turn = |(role, text)| format!("{}{text}<|eot_id|>", head(role));
        with_system(system, turns).map(turn).collect::<String>() + &head("assistant")
    },
};

const GEMMA: Format = Format {
    go: "{{- range $i, $m := .Messages }}{{ if eq $m.Role \"user\" }}<start_of_turn>user\n\
         {{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}{{ $m.Content }}<end_of_turn>\n\
         {{ else if eq $m.Role \"assistant\" }}<start_of_turn>model\n{{ $m.Content }}<end_of_turn>\n{{ end }}{{ end }}\
         <start_of_turn>model\n",
    render: |system, turns| {
        let turn = |(role, text)| format!("<start_of_turn>{}\n{text}<end_of_turn>\n", gemma_role(role));
        format!("{}<start_of_turn>model\n", in_user(system, turns).map(turn).collect::<String>())
    },
};

const MISTRAL: Format = Format {
    go: "{{- range $i, $m := .Messages }}{{ if eq $m.Role \"user\" }}[INST] \
         {{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}{{ $m.Content }}[/INST]\
         {{ else if eq $m.Role \"assistant\" }} {{ $m.Content }}</s>{{ end }}{{ end }}",
    render: |system, turns| {
        let turn = |(role, text)| {
            if role == "user" { format!("[INST] {text}[/INST]") } else { format!(" {text}</s>") }
        };
        in_user(system, turns).map(turn).collect()
    },
};

const FORMATS: [Format; 4] = [CHAT_ML, LLAMA_3, GEMMA, MISTRAL];

fn gemma_role(role: &str) -> &str {
    if role == "assistant" { "model" } else { role }
}

/// Roles of turns that alternate, and their texts.
fn alternating<'t>(turns: &'t [&str]) -> impl Iterator<Item = (&'static str, String)> + 't {
    let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
    turns.iter().enumerate().map(move |(at, text)| (role(at), (*text).to_owned()))
}

/// The system's text as a turn of its own.
fn with_system<'t>(system: Option<&str>, turns: &'t [&str]) -> impl Iterator<Item = (&'static str, String)> + use<'t> {
    system.map(|text| ("system", text.to_owned())).into_iter().chain(alternating(turns))
}

/// The system's text before that of the first turn.
fn in_user<'t>(system: Option<&str>, turns: &'t [&str]) -> impl Iterator<Item = (&'static str, String)> + use<'t> {
    let system = system.map_or_else(String::new, |text| format!("{text}\n\n"));
    alternating(turns).enumerate().map(
        move |(at, (role, text))| {
            if at == 0 { (role, format!("{system}{text}")) } else { (role, text) }
        },
    )
}

/// What Ollama is told of a chat template.
struct Told {
    go: String,
    /// The system's text where a chat has none.
    system: Option<String>,
}

/// A template as one of the known formats; `None` where it writes other texts. A beginning token is
/// left to the tokenizer where that puts one before every text.
fn recognise(template: &ChatTemplate, bos: Option<&str>, adds_bos: bool) -> Option<Told> {
    let bos = bos.unwrap_or_default();
    if adds_bos {
        return recognise_behind(template, bos).filter(|_| !bos.is_empty());
    }
    // A format's own first token may be the beginning token.
    let behind = || {
        let told = recognise_behind(template, bos)?;
        Some(Told { go: format!("{bos}{}", told.go), ..told })
    };
    recognise_behind(template, "").or_else(behind)
}

/// As [`recognise`], of a template whose texts all begin with `bos`, which is not told.
fn recognise_behind(template: &ChatTemplate, bos: &str) -> Option<Told> {
    let render = |system: Option<&str>, turns: &[&str]| {
        let messages = with_system(system, turns).map(|(role, text)| Message::new(role, text)).collect::<Vec<_>>();
        template.render(&Conversation::from(messages), true).ok()
    };
    let text = |system: Option<&str>, turns: &[&str]| render(system, turns)?.strip_prefix(bos).map(str::to_owned);
    let turns: [&[&str]; 2] = [&["Is it A?"], &["Is it A?", "It is B.", "And C?"]];
    for format in FORMATS {
        let system_of = |text: &str| {
            let whole = (format.render)(Some("\u{1}"), turns[0]);
            let (before, after) = whole.split_once('\u{1}')?;
            text.strip_prefix(before)?.strip_suffix(after).map(str::to_owned)
        };
        let alone = text(None, turns[0])?;
        let system = if alone == (format.render)(None, turns[0]) { None } else { system_of(&alone) };
        let same = turns.iter().all(|turns| {
            let plain = text(None, turns) == Some((format.render)(system.as_deref(), turns));
            let brief = (format.render)(Some("Be brief."), turns);
            // A template may refuse a system turn, which then nobody asks for.
            plain && render(Some("Be brief."), turns).is_none_or(|text| text.strip_prefix(bos) == Some(&*brief))
        });
        if same {
            return Some(Told { go: format.go.to_owned(), system });
        }
    }
    None
}

/// The Modelfile of a model in the file or folder `from`, with an adapter in `adapter_file` where it
/// is in a file of its own.
pub fn modelfile(model: &Model, adapter: &Adapter, from: &str, adapter_file: Option<&str>) -> Modelfile {
    let mut text = format!("FROM {from}\n");
    let mut left_out = Vec::new();
    text.extend(adapter_file.map(|file| format!("ADAPTER {file}\n")));
    let tokenizer = model.tokenizer.as_ref();
    let bos = tokenizer.and_then(|tokenizer| tokenizer.bos_token());
    let adds_bos = tokenizer.is_some_and(|tokenizer| !tokenizer.first_ids().is_empty());
    let told = model.chat_template.as_ref().map(|template| recognise(template, bos, adds_bos));
    match told {
        Some(Some(Told { go, system })) => {
            text.push_str(&format!("TEMPLATE \"\"\"{go}\"\"\"\n"));
            match system {
                Some(system) if system.contains("\"\"\"") => left_out.push("the template's own system text".to_owned()),
                system => text.extend(system.map(|system| format!("SYSTEM \"\"\"{system}\"\"\"\n"))),
            }
        }
        Some(None) => left_out.push(
            "TEMPLATE, for the model's chat template is none of those that are known to say the same in Ollama's \
             words (ChatML, Llama 3, Gemma, Mistral)"
                .to_owned(),
        ),
        None => left_out.push("TEMPLATE, for the model has no chat template".to_owned()),
    }
    let mut config = model.config.clone();
    config.add_end_tokens(&adapter.config.end_token_ids);
    for id in config.eos_token_ids {
        match tokenizer.map(|tokenizer| tokenizer.piece(id)) {
            Some(token) if !token.contains(['"', '\n']) => text.push_str(&format!("PARAMETER stop \"{token}\"\n")),
            _ => left_out.push(format!("the stop token {id}, which has no text that a Modelfile holds")),
        }
    }
    Modelfile { text, left_out }
}
