//! Public chat templates, rendered and compared with what transformers makes of them
//! (`tests/fixtures/templates.py`).

use std::collections::BTreeMap;
use std::fmt::Write;

use bft_formats::{ChatTemplate, Conversation, FormatError, Message, Model, Tokenizer};
use bft_train::{Chat, LabelledTokens, MASKED, TextEncoder};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Reference {
    transformers: String,
    /// The local time that transformers saw, in seconds since 1970.
    clock: i64,
    conversations: BTreeMap<String, Talk>,
    templates: Vec<Template>,
}

#[derive(Deserialize)]
struct Talk {
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    #[serde(default)]
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Template {
    name: String,
    family: String,
    package: String,
    source: String,
    tokens: BTreeMap<String, String>,
    /// What a model with this template would have as special tokens.
    specials: Vec<String>,
    renderings: BTreeMap<String, Renderings>,
}

#[derive(Deserialize)]
struct Renderings {
    whole: Rendering,
    prompt: Rendering,
    trained: Trained,
}

/// What a fine-tuning trains of a conversation.
#[derive(Deserialize)]
struct Trained {
    /// What stands before each answer, and the answer.
    pairs: Option<Vec<(String, String)>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Rendering {
    text: Option<String>,
    error: Option<String>,
    /// Characters in `{% generation %}` blocks, where the template has such.
    spans: Option<Vec<[usize; 2]>>,
}

/// Templates that are known to differ; `docs/templates.md` says how.
const KNOWN: [&str; 2] = ["llama-cpp-deepseek-r1", "meetkai-functionary-medium-v3.1"];

/// Counts of one family of templates.
#[derive(Default)]
struct Figures {
    templates: usize,
    renderings: [usize; 2],
    refusals: usize,
    spans: [usize; 2],
    masks: [usize; 2],
}

/// What agrees, as a table, and each difference in words.
pub struct Report {
    /// A Markdown table.
    pub table: String,
    /// A line for each difference that [`KNOWN`] does not name.
    pub unknown: Vec<String>,
}

/// Renders everything in a `templates.json` and compares.
///
/// # Errors
/// Where the file is not what `templates.py` writes.
pub fn compare(json: &str) -> Result<Report, String> {
    let reference: Reference = serde_json::from_str(json).map_err(|error| format!("templates.json: {error}"))?;
    let mut families: BTreeMap<&str, Figures> = BTreeMap::new();
    let mut model = model()?;
    let mut differences = Vec::new();
    for template in &reference.templates {
        let figures = families.entry(&template.family).or_default();
        figures.templates += 1;
        let ours = ChatTemplate::new(&template.source, &template.tokens).map(|t| t.with_clock(reference.clock));
        for (title, expected) in &template.renderings {
            let talk = &reference.conversations[title];
            let mut conversation = Conversation {
                messages: talk.messages.clone(),
                tools: talk.tools.clone(),
                documents: talk.documents.clone(),
                variables: talk.variables.clone(),
            };
            let place = |what: &str| format!("{} ({}), {title}, {what}", template.name, template.package);
            figures.masks[1] += 1;
            match masks(&mut model, &ours, template, talk, &conversation, &expected.trained)? {
                None => figures.masks[0] += 1,
                Some(how) => differences.push(format!("{}: {how}", place("trained"))),
            }
            for (what, add_generation_prompt, expected) in
                [("whole", false, &expected.whole), ("prompt", true, &expected.prompt)]
            {
                if add_generation_prompt {
                    conversation.messages.pop();
                }
                let found = match &ours {
                    Ok(template) => template.render(&conversation, add_generation_prompt).map_err(|e| e.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                figures.renderings[1] += 1;
                figures.refusals += usize::from(expected.error.is_some());
                match difference(expected, &found) {
                    None => figures.renderings[0] += 1,
                    Some(how) => differences.push(format!("{}: {how}", place(what))),
                }
                if let (Some(spans), Ok(template), Some(text)) = (&expected.spans, &ours, &expected.text) {
                    figures.spans[1] += 1;
                    let found = template.render_marked(&conversation).map_err(|e| e.to_string());
                    let expected: Vec<String> = spans.iter().map(|[from, to]| characters(text, *from, *to)).collect();
                    let found: Vec<String> = match found {
                        Ok(Some((text, spans))) => spans.into_iter().map(|span| text[span].to_owned()).collect(),
                        Ok(None) => vec!["(no spans)".to_owned()],
                        Err(error) => vec![error],
                    };
                    if found == expected {
                        figures.spans[0] += 1;
                    } else {
                        differences.push(format!("{}: spans {found:?}, expected {expected:?}", place(what)));
                    }
                }
            }
        }
    }
    let known = |line: &String| KNOWN.iter().any(|name| line.starts_with(&format!("{name} (")));
    differences.retain(|line| !known(line));
    Ok(Report { table: table(&reference.transformers, &families), unknown: differences })
}

/// How the trained answers of a conversation differ; the model is given the template.
fn masks(
    model: &mut Model,
    ours: &Result<ChatTemplate, FormatError>,
    template: &Template,
    talk: &Talk,
    conversation: &Conversation,
    expected: &Trained,
) -> Result<Option<String>, String> {
    let made = match ours {
        Ok(ours) => {
            model.chat_template = Some(ours.clone());
            model.tokenizer = Some(bytes_tokenizer(&template.specials)?);
            let untrained = |message: &Message| {
                message.get("weight") == Some(&json!(0)) || message.get("train") == Some(&json!(false))
            };
            let masked = (0..talk.messages.len()).filter(|turn| untrained(&talk.messages[*turn])).collect();
            let chat = Chat { conversation: conversation.clone(), masked };
            TextEncoder::new(model).chat_samples(&chat).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let made = match made {
        Ok(made) => made,
        Err(_) if expected.error.is_some() => return Ok(None),
        Err(error) => return Ok(Some(format!("refused: {error}"))),
    };
    let Some(pairs) = &expected.pairs else {
        return Ok(Some(format!("{} samples, expected {:?}", made.samples.len(), expected.error)));
    };
    let mut pairs = pairs.clone();
    let mut found: Vec<(String, String)> =
        made.samples.iter().flat_map(|sample| stretches(sample, &template.specials)).collect();
    pairs.sort();
    found.sort();
    Ok((found != pairs).then(|| {
        let mut wrong = found.iter().filter(|pair| !pairs.contains(pair));
        let mut missing = pairs.iter().filter(|pair| !found.contains(pair));
        let show = |pair: Option<&(String, String)>| {
            pair.map(|(before, answer)| {
                let from = before.char_indices().rev().nth(30).map_or(0, |(at, _)| at);
                format!("{answer:?} after {:?}", &before[from..])
            })
        };
        format!("{:?}, expected {:?}", show(wrong.next()), show(missing.next()))
    }))
}

/// The trained stretches of a sample, each with all that stands before it.
fn stretches(sample: &LabelledTokens, specials: &[String]) -> Vec<(String, String)> {
    let (mut before, mut answer) = (Vec::new(), Vec::new());
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (id, label) in sample.tokens.iter().zip(&sample.labels).chain([(&0, &MASKED)]) {
        if *label == MASKED && !answer.is_empty() {
            found.push((text(&before), text(&answer)));
            before.append(&mut answer);
        }
        let bytes = match usize::try_from(*id).unwrap_or_default() {
            byte @ 0..256 => vec![byte as u8],
            special => specials[special - 256].clone().into_bytes(),
        };
        if *label == MASKED { &mut before } else { &mut answer }.extend(bytes);
    }
    found
}

/// A model to hold templates; nothing is computed with it.
fn model() -> Result<Model, String> {
    let files: [(&str, &[u8]); 2] = [
        ("config.json", include_bytes!("../fixtures/qwen2/config.json")),
        ("model.safetensors", include_bytes!("../fixtures/qwen2/model.safetensors")),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
    let mut model = Model::from_folder("templates", BTreeMap::from(files)).map_err(|error| error.to_string())?;
    model.config.eos_token_ids.clear();
    Ok(model)
}

/// A tokenizer of one token for each byte, its id, and special tokens from 256 on.
///
/// # Errors
/// Where it cannot be read.
pub fn bytes_tokenizer(specials: &[String]) -> Result<Tokenizer, String> {
    // The letters that stand for bytes in byte-level vocabularies: printable ones for themselves,
    // others from 256 on.
    let plain = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut vocab = Map::new();
    for byte in 0..=255_u8 {
        let letter = if plain(byte) { Some(char::from(byte)) } else { char::from_u32(next) };
        next += u32::from(!plain(byte));
        vocab.insert(letter.unwrap_or_default().to_string(), byte.into());
    }
    let special = |(i, token): (usize, &String)| {
        json!({"id": 256 + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = specials.iter().enumerate().map(special).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json("tokenizer.json", tokenizer.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// The date that templates see, as `strftime_now('%Y-%m-%d')` prints it.
///
/// # Errors
/// Where there is no clock.
pub fn today() -> Result<String, String> {
    let template = ChatTemplate::new("{{ strftime_now('%Y-%m-%d') }}", &BTreeMap::new());
    template.and_then(|template| template.render(&Conversation::default(), false)).map_err(|error| error.to_string())
}

fn characters(text: &str, from: usize, to: usize) -> String {
    text.chars().skip(from).take(to - from).collect()
}

/// How a rendering differs; two refusals are the same, whatever their words.
fn difference(expected: &Rendering, found: &Result<String, String>) -> Option<String> {
    match (&expected.text, &expected.error, found) {
        (Some(expected), _, Ok(found)) if expected == found => None,
        (Some(expected), _, Ok(found)) => {
            let same = expected.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
            let show = |text: &str| text.chars().skip(same.saturating_sub(20)).take(60).collect::<String>();
            Some(format!("character {same}: {:?}, expected {:?}", show(found), show(expected)))
        }
        (Some(_), _, Err(found)) => Some(format!("refused: {found}")),
        (None, Some(_), Err(_)) => None,
        (None, error, Ok(found)) => {
            Some(format!("rendered {:?}, expected {error:?}", found.chars().take(60).collect::<String>()))
        }
        (None, None, Err(_)) => Some("neither text nor error is expected".to_owned()),
    }
}

fn table(transformers: &str, families: &BTreeMap<&str, Figures>) -> String {
    let mut out = format!(
        "| family | templates | renderings as transformers {transformers} | of them refused by both | `{{% generation %}}` spans | what is trained |\n|---|---|---|---|---|---|\n"
    );
    let mut all = Figures::default();
    let mut row = |name: &str, figures: &Figures| {
        let Figures { templates, renderings, refusals, spans, masks } = figures;
        let of = |[right, all]: &[usize; 2]| if *all == 0 { "–".to_owned() } else { format!("{right} of {all}") };
        let (renderings, spans, masks) = (of(renderings), of(spans), of(masks));
        let _ = writeln!(out, "| {name} | {templates} | {renderings} | {refusals} | {spans} | {masks} |");
    };
    for (name, figures) in families {
        all.templates += figures.templates;
        all.refusals += figures.refusals;
        for i in 0..2 {
            all.renderings[i] += figures.renderings[i];
            all.spans[i] += figures.spans[i];
            all.masks[i] += figures.masks[i];
        }
        row(name, figures);
    }
    row("all", &all);
    out
}
