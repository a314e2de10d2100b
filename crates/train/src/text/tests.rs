use super::*;
use crate::MASKED;
use crate::testing::{
    Around, BOS, CHATML, END_OF_TEXT, IM_END, chat, marked_tokenizer, model, model_with, template, tokenizer,
};

fn chatml() -> Model {
    model(Some(tokenizer(Around::Nothing)), Some(template(CHATML)))
}

/// The one sample of a chat.
fn chat_sample(model: &Model, chat: &Chat) -> Result<LabelledTokens, TextError> {
    let mut made = TextEncoder::new(model).chat_samples(chat)?;
    assert_eq!((made.samples.len(), made.alone), (1, 0));
    Ok(made.samples.remove(0))
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
    let sample = chat_sample(&model, &messages).unwrap();
    assert_eq!(trained(&model, &sample), ["Yes.<|im_end|>", "17<|im_end|>"]);
    let whole = model.chat_template.as_ref().unwrap().render(&messages.conversation, false).unwrap();
    assert_eq!(text_of(&model, &sample), whole);
    assert_eq!(sample.tokens, model.tokenizer.as_ref().unwrap().encode(&whole, false).unwrap());
}

#[test]
fn a_chat_begins_with_the_very_ids_that_generation_starts_from() {
    let model = chatml();
    let text = TextEncoder::new(&model);
    // The template's line break and the answer's would merge into one token that generation cannot
    // reach.
    let messages = chat(&[("user", "Go on"), ("assistant", "\nthe end"), ("user", "More"), ("assistant", "no")]);
    let prompt = text.chat_prompt(&chat(&[("user", "Go on")]).conversation).unwrap();
    let sample = chat_sample(&model, &messages).unwrap();
    assert_eq!(sample.tokens[..prompt.len()], prompt);
    assert!(sample.labels[..prompt.len()].iter().all(|l| *l == MASKED));
    assert_eq!(trained(&model, &sample), ["\nthe end<|im_end|>", "no<|im_end|>"]);
}

#[test]
fn a_chat_without_an_answer_trains_nothing_and_a_trailing_question_is_masked() {
    let model = chatml();
    let asked = chat_sample(&model, &chat(&[("user", "Hm?")])).unwrap();
    assert!(!asked.tokens.is_empty() && asked.labels.iter().all(|l| *l == MASKED));
    let sample = chat_sample(&model, &chat(&[("user", "a"), ("assistant", "b"), ("user", "c")])).unwrap();
    assert_eq!(trained(&model, &sample), ["b<|im_end|>"]);
}

#[test]
fn without_an_end_of_turn_token_the_whole_rendered_answer_is_trained() {
    let plain = "{%- for m in messages -%}{{ m['role'] + ': ' + m['content'] + '\n' }}{%- endfor -%}\
                 {%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(plain)));
    let sample = chat_sample(&model, &chat(&[("user", "a"), ("assistant", "b")])).unwrap();
    assert_eq!(trained(&model, &sample), ["b\n"]);
}

/// Thoughts are shown for the last message only, as Qwen3's template does.
const FORGETFUL: &str = "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' }}{%- if loop.last and m['role'] == 'assistant' -%}\
                         {{ '<think></think>' }}{%- endif -%}{{ m['content'] + '<|im_end|>' }}{%- endfor -%}\
                         {%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}";

#[test]
fn an_answer_that_later_turns_rewrite_becomes_a_sample_of_its_own() {
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(FORGETFUL)));
    let turns = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let made = TextEncoder::new(&model).chat_samples(&turns).unwrap();
    assert_eq!((made.samples.len(), made.alone, made.endless), (2, 1, 0));
    let [whole, alone] = [&made.samples[0], &made.samples[1]];
    let start = "<|im_start|>user\na<|im_end|><|im_start|>assistant\n";
    assert_eq!(text_of(&model, alone), format!("{start}<think></think>b<|im_end|>"));
    assert_eq!(trained(&model, alone), ["<think></think>b<|im_end|>"]);
    let rest = "b<|im_end|><|im_start|>user\nc<|im_end|><|im_start|>assistant\n<think></think>d<|im_end|>";
    assert_eq!(text_of(&model, whole), format!("{start}{rest}"));
    assert_eq!(trained(&model, whole), ["<think></think>d<|im_end|>"]);
}

#[test]
fn where_the_last_turn_is_shown_otherwise_its_answer_follows_what_generation_starts_from() {
    // The system's words go before the last message where that is a question, and nowhere else, as
    // Mistral's do.
    let source = "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- if loop.last and messages[0]['role'] == 'system' -%}\
                  {{ '[INST] ' + messages[0]['content'] + '\n\n' + m['content'] + '[/INST]' }}{%- else -%}\
                  {{ '[INST] ' + m['content'] + '[/INST]' }}{%- endif -%}{%- elif m['role'] == 'assistant' -%}\
                  {{ ' ' + m['content'] + '<|im_end|>' }}{%- endif -%}{%- endfor -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(source)));
    let turns = chat(&[("system", "Be brief."), ("user", "the gene?"), ("assistant", "TP53")]);
    let made = TextEncoder::new(&model).chat_samples(&turns).unwrap();
    assert_eq!((made.samples.len(), made.alone), (1, 1));
    let expected = "[INST] Be brief.\n\nthe gene?[/INST] TP53<|im_end|>";
    assert_eq!(text_of(&model, &made.samples[0]), expected);
    assert_eq!(trained(&model, &made.samples[0]), [" TP53<|im_end|>"]);
}

#[test]
fn an_answer_without_a_place_is_refused_by_turn() {
    let source = "{%- for m in messages | reverse -%}{{ m['content'] }}{%- endfor -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(source)));
    let error = chat_sample(&model, &chat(&[("user", "some"), ("assistant", "thing")])).unwrap_err();
    assert!(error.is_about_the_row());
    let message = error.to_string();
    assert!(message.contains("answer [1]") && message.contains("use prompt/completion rows"), "{message}");
}

#[test]
fn of_an_opening_that_the_finished_turn_lacks_nothing_is_trained() {
    let opening = "{%- for m in messages -%}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{%- endfor -%}\
                   {%- if add_generation_prompt -%}{{ '<|im_start|><think>' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(opening)));
    let sample = chat_sample(&model, &chat(&[("user", "a"), ("assistant", "b")])).unwrap();
    assert_eq!(text_of(&model, &sample), "<|im_start|>a<|im_end|><|im_start|>b<|im_end|>");
    assert_eq!(trained(&model, &sample), ["b<|im_end|>"]);
}

#[test]
fn marks_of_the_template_are_the_mask() {
    let source = "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{ 'A:' }}{%- generation -%}{{ m['content'] + '<|im_end|>' }}\
                  {%- endgeneration -%}{%- else -%}{{ 'U:' + m['content'] }}{%- endif -%}{%- endfor -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(source)));
    let mut turns = chat(&[("user", "the"), ("assistant", "the gene"), ("user", "?"), ("assistant", "no")]);
    let made = TextEncoder::new(&model).chat_samples(&turns).unwrap();
    assert!(made.marked && made.samples.len() == 1);
    assert_eq!(trained(&model, &made.samples[0]), ["the gene<|im_end|>", "no<|im_end|>"]);
    turns.masked.insert(1);
    let made = TextEncoder::new(&model).chat_samples(&turns).unwrap();
    assert_eq!(trained(&model, &made.samples[0]), ["no<|im_end|>"]);
}

#[test]
fn a_turn_kept_out_of_training_is_masked() {
    let model = chatml();
    let mut turns = chat(&[("user", "a"), ("assistant", "bad"), ("user", "b"), ("assistant", "good")]);
    turns.masked.insert(1);
    let sample = chat_sample(&model, &turns).unwrap();
    assert_eq!(trained(&model, &sample), ["good<|im_end|>"]);
    assert_eq!(
        text_of(&model, &sample),
        model.chat_template.as_ref().unwrap().render(&turns.conversation, false).unwrap()
    );
}

#[test]
fn an_assistant_that_speaks_first_is_trained_from_its_first_word() {
    let first = "{%- if messages[0]['role'] == 'system' -%}{{ 'S' }}{%- endif -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(&format!("{first}{CHATML}"))));
    let turns = chat(&[("assistant", "Hello"), ("user", "Hi"), ("assistant", "Yes")]);
    let sample = chat_sample(&model, &turns).unwrap();
    assert_eq!(trained(&model, &sample), ["Hello<|im_end|>", "Yes<|im_end|>"]);
}

#[test]
fn a_template_that_opens_no_answer_and_one_that_ends_none_are_counted() {
    let source = "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{%- endfor -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(source)));
    let made = TextEncoder::new(&model).chat_samples(&chat(&[("user", "a"), ("assistant", "b")])).unwrap();
    assert_eq!((made.headers, made.endless, made.ends.len()), (1, 1, 0));
    assert_eq!(trained(&model, &made.samples[0]), ["<|im_start|>assistant\nb"]);
    let made = TextEncoder::new(&chatml()).chat_samples(&chat(&[("user", "a"), ("assistant", "b")])).unwrap();
    assert_eq!((made.headers, made.endless, made.ends), (0, 0, [IM_END].into()));
}

#[test]
fn a_text_that_spells_the_beginning_token_begins_once() {
    let model = model(Some(tokenizer(Around::Bos)), None);
    let text = TextEncoder::new(&model);
    for sample in [text.text_sample("<|bos|>the").unwrap(), text.completion_sample("<|bos|>the", " P").unwrap()] {
        assert_eq!(sample.tokens.iter().filter(|id| **id == BOS).count(), 1);
        assert_eq!(sample.tokens[0], BOS);
    }
    // And one that spells its end ends there, whatever line break follows.
    let sample = text.text_sample("the<|endoftext|>\n").unwrap();
    assert_eq!(sample.tokens.iter().filter(|id| **id == END_OF_TEXT).count(), 1);
    assert_eq!(trained(&model, &sample), ["<|bos|>the<|endoftext|>"]);
}

#[test]
fn a_completion_is_trained_with_the_end_of_text_and_the_prompt_is_not() {
    let model = model(Some(tokenizer(Around::Bos)), None);
    let text = TextEncoder::new(&model);
    // With the space in the completion the two agree with the joint encoding; with it in the prompt
    // they do not.
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
    let message = chat_sample(&bare, &chat(&[("assistant", "a")])).unwrap_err().to_string();
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
    let sample = chat_sample(&model, &chat(&[("user", "ab"), ("assistant", "cd")])).unwrap();
    assert_eq!(sample.tokens, tokenizer.encode("[ab] cd</s>", false).unwrap());
    assert_eq!(pieces(&sample).len(), 4, "one mark, two letters and the end: {:?}", pieces(&sample));
    let sample = text.completion_sample("ab", "cd").unwrap();
    assert_eq!(pieces(&sample).len(), 3, "two letters and the end: {:?}", pieces(&sample));
    // A space that ends the prompt is the only one before the answer.
    let sample = text.completion_sample("ab ", "cd").unwrap();
    assert_eq!(text_of(&model, &sample), "ab cd</s>");
    assert_eq!(pieces(&sample), ["c", "d", "</s>"]);
    let sample = text.completion_sample("ab", " cd").unwrap();
    assert_eq!(pieces(&sample), [" ", "c", "d", "</s>"]);
}

/// Texts as chats are rendered: words of many scripts between marks, line breaks and spaces.
fn rendered_chats(count: usize) -> Vec<String> {
    const PARTS: [&str; 20] = [
        "the",
        "gene",
        "TP53",
        "binds",
        "зона",
        "基因",
        "é",
        "'s",
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\n\n",
        "。",
        ".",
        "<|im_start|>user\n",
        "<|im_end|>\n",
        "</s>",
        "▁",
    ];
    let mut random = bft_formats::Random::new(18);
    let mut next = |below: usize| (random.symmetric().abs() * 1e6) as usize % below;
    (0..count).map(|_| (0..next(60)).map(|_| PARTS[next(PARTS.len())]).collect()).collect()
}

#[test]
fn the_ids_of_a_growing_chat_are_those_of_each_of_its_beginnings() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
    let mut tokenizers = vec![tokenizer(Around::Nothing), marked_tokenizer()];
    for name in ["qwen2", "encoders/modernbert", "encoders/bge", "encoders/xlm_roberta", "encoders/roberta"] {
        let json = std::fs::read(format!("{fixtures}/{name}/tokenizer.json")).unwrap();
        tokenizers.push(Tokenizer::from_json(name, &json).unwrap());
    }
    let mut cuts = 0;
    for tokenizer in tokenizers {
        let model = model_with(Some(tokenizer.clone()), None, |config| {
            config.vocab_size = config.vocab_size.max(tokenizer.vocab_size());
        });
        let text = TextEncoder::new(&model);
        for chat in rendered_chats(60) {
            let mut done = Prefix::default();
            for end in (0..=chat.len()).filter(|end| chat.is_char_boundary(*end) && end % 3 == 0) {
                done = text.prefix_ids(&chat[..end], &done).unwrap();
                assert_eq!(done.ids, tokenizer.encode(&chat[..end], false).unwrap(), "{:?}", &chat[..end]);
            }
            cuts += usize::from(done.cut > 0);
        }
    }
    assert!(cuts > 200, "{cuts} chats were cut");
}

#[test]
fn of_a_long_chat_only_what_is_new_is_encoded() {
    let model = chatml();
    let text = TextEncoder::new(&model);
    let answer = "TP53 is a gene that binds DNA and keeps cells from growing. ".repeat(4);
    let turns = format!("<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n");
    let whole = turns.repeat(400);
    let mut done = Prefix::default();
    for end in (1..=400).map(|count| count * turns.len()) {
        assert!(end - done.cut < 2 * turns.len(), "{end} bytes are encoded from {} on", done.cut);
        done = text.prefix_ids(&whole[..end], &done).unwrap();
    }
}
