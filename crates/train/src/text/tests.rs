use super::*;
use crate::MASKED;
use crate::testing::{
    Around, BOS, CHATML, END_OF_TEXT, IM_END, chat, marked_tokenizer, model, model_with, template, tokenizer,
};

fn chatml() -> Model {
    model(Some(tokenizer(Around::Nothing)), Some(template(CHATML)))
}

/// The trained stretches of a sample, as text.
fn trained(model: &Model, sample: &LabelledTokens) -> Vec<String> {
    let tokenizer = model.tokenizer.as_ref().unwrap();
    sample
        .tokens
        .iter()
        .zip(&sample.labels)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| (*a.1 == MASKED) == (*b.1 == MASKED))
        .filter(|run| *run[0].1 != MASKED)
        .map(|run| {
            assert!(run.iter().all(|(token, label)| **token == **label as u32));
            let ids: Vec<u32> = run.iter().map(|(token, _)| **token).collect();
            tokenizer.decode(&ids, false).unwrap()
        })
        .collect()
}

fn text_of(model: &Model, sample: &LabelledTokens) -> String {
    model.tokenizer.as_ref().unwrap().decode(&sample.tokens, false).unwrap()
}

#[test]
fn a_chat_trains_every_answer_with_its_end_of_turn_token_and_nothing_else() {
    let model = chatml();
    let messages = chat(&[
        ("system", "Be brief."),
        ("user", "Is TP53 a gene?"),
        ("assistant", "Yes."),
        ("user", "Which chromosome?"),
        ("assistant", "17"),
    ]);
    let sample = TextEncoder::new(&model).chat_sample(&messages).unwrap();
    assert_eq!(trained(&model, &sample), ["Yes.<|im_end|>", "17<|im_end|>"]);
    let whole = model.chat_template.as_ref().unwrap().render(&messages, false).unwrap();
    assert_eq!(text_of(&model, &sample), whole);
    assert_eq!(sample.tokens, model.tokenizer.as_ref().unwrap().encode(&whole, false).unwrap());
}

#[test]
fn a_chat_begins_with_the_very_ids_that_generation_starts_from() {
    let model = chatml();
    let text = TextEncoder::new(&model);
    // The template's line break and the answer's would merge into one token that generation cannot reach.
    let messages = chat(&[("user", "Go on"), ("assistant", "\nthe end"), ("user", "More"), ("assistant", "no")]);
    let prompt = text.chat_prompt(&messages[..1]).unwrap();
    let sample = text.chat_sample(&messages).unwrap();
    assert_eq!(sample.tokens[..prompt.len()], prompt);
    assert!(sample.labels[..prompt.len()].iter().all(|l| *l == MASKED));
    assert_eq!(trained(&model, &sample), ["\nthe end<|im_end|>", "no<|im_end|>"]);
}

#[test]
fn a_chat_without_an_answer_trains_nothing_and_a_trailing_question_is_masked() {
    let model = chatml();
    let text = TextEncoder::new(&model);
    let asked = text.chat_sample(&chat(&[("user", "Hm?")])).unwrap();
    assert!(!asked.tokens.is_empty() && asked.labels.iter().all(|l| *l == MASKED));
    let sample = text.chat_sample(&chat(&[("user", "a"), ("assistant", "b"), ("user", "c")])).unwrap();
    assert_eq!(trained(&model, &sample), ["b<|im_end|>"]);
}

#[test]
fn without_an_end_of_turn_token_the_whole_rendered_answer_is_trained() {
    let plain = "{%- for m in messages -%}{{ m['role'] + ': ' + m['content'] + '\n' }}{%- endfor -%}\
                 {%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(plain)));
    let sample = TextEncoder::new(&model).chat_sample(&chat(&[("user", "a"), ("assistant", "b")])).unwrap();
    assert_eq!(trained(&model, &sample), ["b\n"]);
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused_by_turn() {
    // Thoughts are shown for the last message only, as Qwen3's template does.
    let forgetful = "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' }}{%- if loop.last -%}\
                     {{ '<think></think>' }}{%- endif -%}{{ m['content'] + '<|im_end|>' }}{%- endfor -%}\
                     {%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(forgetful)));
    let turns = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let error = TextEncoder::new(&model).chat_sample(&turns).unwrap_err();
    assert!(error.is_about_the_row());
    let message = error.to_string();
    assert!(message.contains("answer [1]") && message.contains("<think>"), "{message}");
    assert!(message.contains("end each row with its only answer"), "{message}");
}

#[test]
fn an_opening_that_the_finished_turn_lacks_is_refused() {
    let opening = "{%- for m in messages -%}{{ '<|im_start|>' + m['content'] }}{%- endfor -%}\
                   {%- if add_generation_prompt -%}{{ '<|im_start|><think>' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(opening)));
    let error = TextEncoder::new(&model).chat_sample(&chat(&[("user", "a"), ("assistant", "b")])).unwrap_err();
    assert!(matches!(error, TextError::Unstable { turn: 1, .. }), "{error}");
}

#[test]
fn a_completion_is_trained_with_the_end_of_text_and_the_prompt_is_not() {
    let model = model(Some(tokenizer(Around::Bos)), None);
    let text = TextEncoder::new(&model);
    // With the space in the completion the two agree with the joint encoding; with it in the prompt they do not.
    for (prompt, completion) in [("Gene:", " P53"), ("Gene: ", "P53"), ("", "P53"), ("Gene:\n", "\nP")] {
        let sample = text.completion_sample(prompt, completion).unwrap();
        let start = text.prompt(prompt).unwrap();
        assert_eq!(sample.tokens[..start.len()], start, "{prompt:?}");
        assert_eq!(trained(&model, &sample), [format!("{completion}<|endoftext|>")], "{prompt:?}");
        assert_eq!(sample.tokens.iter().filter(|id| **id == BOS).count(), 1);
        assert_eq!(sample.tokens.last(), Some(&END_OF_TEXT));
    }
}

#[test]
fn a_text_is_trained_whole_and_ends_once() {
    for around in [Around::Nothing, Around::Bos, Around::BosAndEnd] {
        let model = model(Some(tokenizer(around)), None);
        let sample = TextEncoder::new(&model).text_sample("the gene").unwrap();
        let ends = sample.tokens.iter().filter(|id| **id == END_OF_TEXT).count();
        assert_eq!((ends, sample.tokens.last()), (1, Some(&END_OF_TEXT)));
        assert!(sample.labels.iter().all(|l| *l != MASKED));
    }
}

#[test]
fn a_prompt_is_never_closed_but_a_text_to_embed_is_left_as_the_tokenizer_makes_it() {
    let model = model(Some(tokenizer(Around::BosAndEnd)), None);
    let text = TextEncoder::new(&model);
    let prompt = text.prompt("a gene").unwrap();
    assert_eq!((prompt[0], prompt.contains(&END_OF_TEXT)), (BOS, false));
    assert_eq!(text.whole_text("a gene").unwrap().last(), Some(&END_OF_TEXT));
}

#[test]
fn the_first_end_token_of_the_model_closes_a_text() {
    let model = model_with(Some(tokenizer(Around::Nothing)), None, |c| c.eos_token_ids = vec![IM_END]);
    let sample = TextEncoder::new(&model).text_sample("a").unwrap();
    assert_eq!(sample.tokens.last(), Some(&IM_END));
}

#[test]
fn what_the_model_lacks_is_named() {
    let bare = model(None, None);
    let text = TextEncoder::new(&bare);
    let message = text.text_sample("a").unwrap_err().to_string();
    assert!(message.starts_with("model tiny has no tokenizer: add its tokenizer.json"), "{message}");
    let message = text.chat_sample(&chat(&[("assistant", "a")])).unwrap_err().to_string();
    assert!(message.starts_with("model tiny has no chat template: use prompt/completion"), "{message}");
    let endless = model_with(Some(tokenizer(Around::Nothing)), None, |c| c.eos_token_ids.clear());
    let error = TextEncoder::new(&endless).text_sample("a").unwrap_err();
    assert!(matches!(error, TextError::NoEndOfText { .. }) && !error.is_about_the_row(), "{error}");
}

#[test]
fn a_tokenizer_that_marks_the_beginning_of_a_text_marks_no_answer() {
    let source = "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{ '[' + m['content'] + ']' }}\
                  {%- else -%}{{ ' ' + m['content'] + '</s>' }}{%- endif -%}{%- endfor -%}";
    let change = |c: &mut bft_formats::ModelConfig| c.eos_token_ids = vec![31];
    let model = model_with(Some(marked_tokenizer()), Some(template(source)), change);
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let text = TextEncoder::new(&model);
    let pieces = |sample: &LabelledTokens| -> Vec<String> {
        let trained = sample.labels.iter().filter(|label| **label != MASKED);
        trained.map(|id| tokenizer.piece(*id as u32)).collect()
    };
    let sample = text.chat_sample(&chat(&[("user", "ab"), ("assistant", "cd")])).unwrap();
    assert_eq!(sample.tokens, tokenizer.encode("[ab] cd</s>", false).unwrap());
    assert_eq!(pieces(&sample).len(), 4, "one mark, two letters and the end: {:?}", pieces(&sample));
    let sample = text.completion_sample("ab", "cd").unwrap();
    assert_eq!(pieces(&sample).len(), 3, "two letters and the end: {:?}", pieces(&sample));
}
