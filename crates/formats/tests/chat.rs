//! Chat templates: found where models keep them, rendered as transformers renders them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bft_formats::{Architecture, ChatTemplate, Conversation, Message, Model};
use common::{assert_says, message, put, tiny_folder, tiny_gguf};
use serde_json::json;

fn tokens() -> BTreeMap<String, String> {
    [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")].map(|(k, v)| (k.into(), v.into())).into()
}

fn talk(turns: &[(&str, &str)]) -> Conversation {
    turns.iter().map(|(r, c)| Message::new(*r, *c)).collect::<Vec<_>>().into()
}

fn render(source: &str, turns: &[(&str, &str)]) -> bft_formats::Result<String> {
    ChatTemplate::new(source, &tokens())?.render(&talk(turns), true)
}

const TALK: [(&str, &str); 3] = [("system", "Be brief."), ("user", " Hi & <b>é</b> "), ("assistant", "Yo")];

#[test]
fn variables_loops_and_white_space_are_jinjas() {
    // Written over lines, as chat_template.jinja files are: blocks leave no lines behind.
    let source = "{{ bos_token }}\n{%- for m in messages %}\n    {%- if m['role'] == 'system' %}\n{% continue %}\n    {% endif %}\n[{{ m.role }}:{{ m.content | trim }}]\n{% endfor %}\n{% if add_generation_prompt %}\n>{{ eos_token }}\n{% endif %}\n";
    let expected = "<s>[user:Hi & <b>é</b>]\n[assistant:Yo]\n></s>\n";
    assert_eq!(render(source, &TALK).unwrap(), expected);
}

#[test]
fn pythons_methods_are_there() {
    let source = "{% set m = messages[1] %}{{ m.content.strip().split(' ')[-1] }}|{{ m.content.lstrip() }}|\
                  {{ m['content'].startswith(' H') }}|{{ m.role.upper() }}|{{ messages[1:] | length }}|\
                  {{ messages[::-1][0].role }}|{{ messages[0].get('role') }}|{{ 'x' in messages[0] }}|\
                  {% set ns = namespace(n=0) %}{% for x in messages %}{% set ns.n = ns.n + loop.index0 %}{% endfor %}{{ ns.n }}";
    let text = render(source, &TALK).unwrap().to_lowercase();
    assert_eq!(text, "<b>é</b>|hi & <b>é</b> |true|user|2|assistant|system|false|3");
}

#[test]
fn pieces_of_jinja_and_python_are_what_transformers_makes_of_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/jinja.json");
    let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let variables = fixture["variables"].as_object().unwrap().clone();
    let conversation = Conversation { variables, ..Conversation::default() };
    let mut wrong = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let template =
            ChatTemplate::new(source, &BTreeMap::new()).map(|t| t.with_clock(fixture["clock"].as_i64().unwrap()));
        let found = template.and_then(|t| t.render(&conversation, false));
        let expected = case["text"].as_str();
        let right = match case["bft"].as_str() {
            None => found.as_deref().ok() == expected,
            Some("refuses") => found.is_err(),
            Some(_) => found.as_deref().is_ok_and(|found| expected != Some(found)),
        };
        if !right {
            wrong.push(format!("{source}\n   found {found:?}\nexpected {case}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_template_can_be_given_another_time() {
    let source = "{{ strftime_now('%d %b %Y %H:%M:%S %-d %B') }}";
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap().with_clock(1_709_210_096);
    assert_eq!(template.render(&Conversation::default(), false).unwrap(), "29 Feb 2024 12:34:56 29 February");
}

#[test]
fn json_is_written_as_python_writes_it() {
    assert_eq!(
        render("{{ messages[1] | tojson }}", &TALK).unwrap(),
        r#"{"role": "user", "content": " Hi & <b>é</b> "}"#
    );
}

#[test]
fn a_template_can_refuse_in_its_own_words() {
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
    let text = message(render(source, &TALK));
    assert_says(&text, &["chat template", "roles system, user, assistant", "System role not supported"]);
}

#[test]
fn the_date_is_todays() {
    let text = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    let parts: Vec<&str> = text.split(' ').collect();
    assert!(parts.len() == 3 && parts[2].parse::<u32>().unwrap() >= 2024, "{text}");
}

#[test]
fn generation_blocks_print_what_they_hold() {
    let source = "{% for m in messages %}\n{%- if m.role == 'assistant' %}\n{%- generation -%}\n{{ m.content }}\n{%- endgeneration -%}\n{%- else %}{{ m.content[0] }}{% endif %}{% endfor %}";
    assert_eq!(render(source, &TALK).unwrap(), "B Yo");
}

#[test]
fn generation_blocks_mark_what_they_hold_and_leave_the_text_as_it_is() {
    // Where a mark cuts white space, and an assignment inside that stays inside, as in
    // transformers.
    let source = "{% set n = 1 %}{% for m in messages %}\n  {% if m.role == 'assistant' %}\n<A> {%- generation %}\n é{{ m.content }}{% if loop.last %}!{% endif %}{% set n = 2 %}\n  {% endgeneration -%}\n  </A>{{ n }}\n  {% else %}\n<U>{{ m.content }}\n  {% endif %}\n{% endfor %}";
    let turns = [("user", "1"), ("assistant", "one"), ("user", "2"), ("assistant", "two")];
    let template = ChatTemplate::new(source, &tokens()).unwrap();
    let (text, spans) = template.render_marked(&talk(&turns)).unwrap().unwrap();
    assert_eq!(text, "<U>1\n<A> éone</A>1\n<U>2\n<A> étwo!</A>1\n");
    let marked: Vec<&str> = spans.iter().map(|span| &text[span.clone()]).collect();
    assert_eq!(marked, [" éone", " étwo!"]);
    assert_eq!(template.render(&talk(&turns), false).unwrap(), text);
    // No answer, no mark; no block, no marks; a text that holds the marks themselves is left to
    // others.
    assert!(template.render_marked(&talk(&turns[..1])).unwrap().unwrap().1.is_empty());
    let plain = ChatTemplate::new("{{ messages[0].content }}", &tokens()).unwrap();
    assert_eq!(plain.render_marked(&talk(&turns)).unwrap(), None);
    assert_eq!(template.render_marked(&talk(&[("user", "\u{fdd0}")])).unwrap(), None);
    let shouting = "{% filter upper %}{% generation %}a{% endgeneration %}{% endfilter %}";
    let template = ChatTemplate::new(shouting, &tokens()).unwrap();
    assert_eq!(template.render_marked(&talk(&turns)).unwrap(), Some(("A".into(), std::iter::once(0..1).collect())));
}

#[test]
fn what_transformers_passes_as_none_is_none_and_every_special_token_is_there() {
    let source = "{% if tools is not none %}T{% endif %}{% if documents is not none %}D{% endif %}\
                  {% if tools is defined %}d{% endif %}{{ pad_token }}{{ unk_token }}";
    assert_eq!(render(source, &TALK).unwrap(), "d<pad>");
    let mut chat = talk(&TALK);
    chat.tools = Some(vec![json!({"name": "f"})]);
    chat.documents = Some(vec![json!({"text": "x"})]);
    let template = ChatTemplate::new(source, &tokens()).unwrap();
    assert_eq!(template.render(&chat, true).unwrap(), "TDd<pad>");
}

#[test]
fn a_turn_keeps_its_keys_and_null_is_the_same_as_missing() {
    let turn = |value: serde_json::Value| -> Message { serde_json::from_value(value).unwrap() };
    let chat = Conversation::from(vec![
        turn(json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}], "name": "x"})),
        turn(json!({"role": "assistant", "thinking": "hm", "content": "a"})),
    ]);
    let source = "{% for m in messages %}[{{ m.name }}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}\
                  {{ m.reasoning_content }}{{ 'content' in m }}]{% endfor %}";
    let template = ChatTemplate::new(source, &tokens()).unwrap();
    let text = template.render(&chat, true).unwrap().to_lowercase();
    assert_eq!(text, "[xffalse][ahmtrue]");
}

#[test]
fn variables_reach_the_template_and_those_of_the_conversation_win() {
    let set = |value: serde_json::Value| value.as_object().unwrap().clone();
    let source = "{{ enable_thinking is defined and not enable_thinking }}{{ bos_token }}{{ n }}";
    let template = ChatTemplate::new(source, &tokens()).unwrap();
    let told =
        template.clone().with_variables(&set(json!({"enable_thinking": false, "bos_token": "!", "n": 1}))).unwrap();
    assert_eq!(told.render(&talk(&TALK), true).unwrap().to_lowercase(), "true!1");
    let mut chat = talk(&TALK);
    chat.variables = set(json!({"n": 2}));
    assert_eq!(told.render(&chat, true).unwrap().to_lowercase(), "true!2");
    assert_says(&message(template.clone().with_variables(&set(json!({"tools": []})))), &["the variable tools"]);
    chat.variables = set(json!({"messages": []}));
    assert_says(&message(template.render(&chat, true)), &["the variable messages"]);
}

#[test]
fn a_token_the_model_lacks_prints_as_nothing() {
    let source = "[{{ bos_token }}{% if bos_token %}!{% endif %}]";
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    assert_eq!(template.render(&talk(&[]), false).unwrap(), "[]");
}

#[test]
fn broken_templates_say_where() {
    let text = message(render("one\n{% for m in messages %}", &TALK));
    assert_says(&text, &["chat template", "cannot be compiled", "line 2"]);
    let text = message(render("{{ nothing.at.all }}", &TALK));
    assert_says(&text, &["cannot render 3 messages", "line 1"]);
    // A template is a program from a stranger: it may not run for ever.
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
    assert_says(&message(render(endless, &TALK)), &["cannot render", "fuel"]);
    // Nor fill the memory; what else it may not do is in tests/attacks.
    let wide = "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
    assert_says(&message(render(wide, &TALK)), &["fuel"]);
    let calls = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert_says(&message(render(calls, &TALK)), &["recursion limit"]);
}

#[test]
fn it_is_found_wherever_models_keep_it() {
    let turns = talk(&[("user", "Hi")]);
    let folder = |files: &[(&str, String)]| {
        let mut all = tiny_folder(Architecture::Llama);
        files.iter().for_each(|(name, text)| put(&mut all, name, text.clone()));
        Model::from_folder("tiny", all).map(|m| m.chat_template)
    };
    let config =
        |template: serde_json::Value| ("tokenizer_config.json", json!({"chat_template": template}).to_string());
    let shows = |files: &[(&str, String)]| folder(files).unwrap().map(|t| t.render(&turns, false).unwrap());
    let jinja_file = |source: &str| ("chat_template.jinja", source.to_string());
    let jinja = jinja_file("file");
    assert_eq!(shows(&[]), None);
    assert_eq!(shows(&[config(json!("string"))]).unwrap(), "string");
    assert_eq!(shows(&[config(json!("string")), jinja]).unwrap(), "file");
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(shows(&[config(named)]).unwrap(), "d");
    assert_eq!(shows(&[config(json!([{"name": "only", "template": "o"}]))]).unwrap(), "o");
    let with_tools = Conversation { tools: Some(vec![json!({"name": "f"})]), ..turns.clone() };
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    let template = folder(&[config(named)]).unwrap().unwrap();
    assert_eq!(template.render(&with_tools, false).unwrap(), "t");
    let files = [jinja_file("d"), ("additional_chat_templates/tool_use.jinja", "t2".to_string())];
    assert_eq!(folder(&files).unwrap().unwrap().render(&with_tools, false).unwrap(), "t2");
    let none = json!([{"name": "a", "template": "a"}, {"name": "b", "template": "b"}]);
    assert_says(&message(folder(&[config(none)])), &["tokenizer_config.json", "\"default\""]);
    assert_says(&message(folder(&[config(json!(5))])), &["chat_template is 5"]);

    let model = Model::from_gguf("m", tiny_gguf("llama").bytes()).unwrap();
    assert_eq!(model.chat_template.unwrap().render(&turns, false).unwrap(), "user:Hi<|end|>");
}
