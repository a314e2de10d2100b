use super::*;
use crate::rows::{RowOptions, parse_rows};
use crate::testing::{Around, CHATML, model, template, tokenizer};

fn tiny() -> Model {
    model(Some(tokenizer(Around::Nothing)), Some(template(CHATML)))
}

fn samples(text: &str, options: SampleOptions) -> Result<Samples, SamplesError> {
    let rows = parse_rows(
        "d",
        text.as_bytes(),
        &RowOptions { skip_bad_rows: options.skip_bad_rows, ..RowOptions::default() },
    )?;
    make_samples(&tiny(), rows, &options)
}

#[test]
fn counts_are_those_of_the_samples() {
    let text = "{\"input_ids\": [1, 2, 3], \"labels\": [1, -100, 3]}\n\
                {\"input_ids\": [4, 5], \"labels\": [4, 5]}";
    let made = samples(text, SampleOptions::default()).unwrap();
    let report = &made.report;
    assert_eq!((report.rows, report.samples, report.tokens, report.trained_tokens), (2, 2, 5, 2));
    assert_eq!((report.longest, report.truncated, report.format), (3, 0, RowFormat::Tokens));
    assert_eq!(made.samples[0].trained(), 1, "the first label never counts");
    assert_eq!(made.samples[1].origin.to_string(), "d:2");
}

#[test]
fn rows_with_nothing_to_train_on_are_left_out_and_named() {
    let text = "{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n{\"input_ids\": [4, 5], \"labels\": [4, 5]}\n\
                {\"input_ids\": [9], \"labels\": [9]}";
    let made = samples(text, SampleOptions::default()).unwrap();
    let untrained: Vec<usize> = made.report.untrained.iter().map(|o| o.number()).collect();
    assert_eq!((made.samples.len(), untrained), (1, vec![1, 3]));
}

#[test]
fn nothing_to_train_on_at_all_is_an_error_that_says_what_is_missing() {
    let masked = "{\"input_ids\": [1, 2], \"labels\": [1, -100]}";
    let message = samples(masked, SampleOptions::default()).unwrap_err().to_string();
    assert!(message.starts_with("data file d has nothing to train on: none of its 1 rows"), "{message}");
    assert!(message.contains("labels are -100"), "{message}");
    let question = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    let message = samples(question, SampleOptions::default()).unwrap_err().to_string();
    assert!(message.contains("no assistant turn"), "{message}");
    let cut = SampleOptions { max_length: Some(2), truncate: true, ..SampleOptions::default() };
    let late = "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, 3]}";
    let message = samples(late, cut).unwrap_err().to_string();
    assert!(message.contains("after cutting them to max-length"), "{message}");
}

#[test]
fn samples_above_the_limit_are_named_cut_or_left_out_as_asked() {
    let ids = |n: usize| format!("{:?}", (0..n).collect::<Vec<_>>());
    let row = |n: usize| format!("{{\"input_ids\": {0}, \"labels\": {0}}}\n", ids(n));
    let text = format!("{}{}{}", row(5), row(8), row(9));
    let strict = SampleOptions { max_length: Some(6), ..SampleOptions::default() };
    let message = samples(&text, strict.clone()).unwrap_err().to_string();
    assert_eq!(
        message,
        "2 of 3 samples are longer than max-length 6: d:2 (8 tokens), d:3 (9 tokens); raise --max-length (the \
         model's context is 64), or cut them with --truncate"
    );
    let cut = samples(&text, SampleOptions { truncate: true, ..strict.clone() }).unwrap();
    assert_eq!((cut.report.truncated, cut.report.longest, cut.samples.len()), (2, 6, 3));
    let skipped = samples(&text, SampleOptions { skip_bad_rows: true, ..strict }).unwrap();
    assert_eq!((skipped.samples.len(), skipped.report.skipped.len(), skipped.report.rows), (1, 2, 3));
    assert!(skipped.report.skipped[0].to_string().contains("d:2: the sample has 8 tokens"));
}

#[test]
fn the_limit_is_the_models_context_at_most() {
    let model = tiny();
    let limit = |max_length| SampleOptions { max_length, ..SampleOptions::default() }.limit(&model);
    assert_eq!(limit(None).unwrap(), 64);
    assert_eq!(limit(Some(64)).unwrap(), 64);
    let message = limit(Some(65)).unwrap_err().to_string();
    assert_eq!(message, "max-length is 65: expected 2 to 64, the model's context in tokens");
    assert!(limit(Some(1)).is_err());
}

#[test]
fn ids_outside_the_vocabulary_are_bad_rows() {
    let text = "{\"input_ids\": [1, 265], \"labels\": [1, 2]}\n{\"input_ids\": [1, 2], \"labels\": [1, 2]}";
    let message = samples(text, SampleOptions::default()).unwrap_err().to_string();
    assert!(message.starts_with("d:1: input_ids[1] is 265, but the vocabulary of model tiny has 265"), "{message}");
    let skipping = SampleOptions { skip_bad_rows: true, ..SampleOptions::default() };
    assert_eq!(samples(text, skipping).unwrap().samples.len(), 1);
}

#[test]
fn chat_rows_for_a_model_without_a_template_are_refused_once_and_for_all() {
    let row = "{\"instruction\": \"a\", \"output\": \"b\"}";
    let rows = parse_rows("d", row.as_bytes(), &RowOptions { skip_bad_rows: true, ..RowOptions::default() }).unwrap();
    let bare = model(Some(tokenizer(Around::Nothing)), None);
    let options = SampleOptions { skip_bad_rows: true, ..SampleOptions::default() };
    let message = make_samples(&bare, rows, &options).unwrap_err().to_string();
    assert!(
        message.starts_with("data file d has instruction/input/output rows: model tiny has no chat template"),
        "{message}"
    );
}

#[test]
fn a_template_that_refuses_a_chat_is_a_bad_row() {
    let strict = "{%- if messages[0]['role'] != 'user' -%}{{ raise_exception('start with the user') }}{%- endif -%}\
                  {%- for m in messages -%}{{ m['content'] + '<|im_end|>' }}{%- endfor -%}";
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(strict)));
    let row =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}";
    let rows = parse_rows("d", row.as_bytes(), &RowOptions::default()).unwrap();
    let message = make_samples(&model, rows, &SampleOptions::default()).unwrap_err().to_string();
    assert!(message.starts_with("d:1: ") && message.contains("start with the user"), "{message}");
}

#[test]
fn ignored_keys_and_those_that_the_template_does_not_name_are_told_once() {
    let row = "{\"id\": 1, \"tool\": \"t\", \"tools\": [{\"name\": \"f\"}], \"chat_template_kwargs\": {\"mood\": 1}, \"messages\": \
               [{\"role\": \"user\", \"content\": \"q\", \"name\": \"n\"}, \
               {\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"r\"}]}\n";
    let report = samples(&row.repeat(2), SampleOptions::default()).unwrap().report;
    let notes: Vec<String> = report.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "ignored keys: id, tool (did you mean tools?)",
            "the chat template names no tools, mood, name, reasoning_content: what the rows say there is in no sample"
        ]
    );
    let reads = format!("{CHATML}{{#- tools, thinking, mood, name -#}}");
    let model = model(Some(tokenizer(Around::Nothing)), Some(template(&reads)));
    let rows = parse_rows("d", row.as_bytes(), &RowOptions::default()).unwrap();
    let report = make_samples(&model, rows, &SampleOptions::default()).unwrap().report;
    assert!(report.unread.names().is_empty(), "{:?}", report.unread);
}

#[test]
fn an_answer_of_which_the_template_shows_nothing_is_a_bad_row() {
    let row = |weight: u8| {
        format!(
            "{{\"messages\": [{{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{{}}], \"weight\": {weight}}}, \
             {{\"role\": \"assistant\", \"content\": \"a\"}}]}}"
        )
    };
    let message = samples(&row(1), SampleOptions::default()).unwrap_err().to_string();
    assert!(
        message.starts_with("d:1: messages[0] has no content, and the chat template of tiny names no tool_calls"),
        "{message}"
    );
    assert_eq!(samples(&row(0), SampleOptions::default()).unwrap().samples.len(), 1);
}

#[test]
fn a_chat_whose_answers_are_all_masked_is_left_out() {
    let row = |weight: u8| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"q\"}}, \
             {{\"role\": \"assistant\", \"content\": \"a\", \"weight\": {weight}}}]}}\n"
        )
    };
    let message = samples(&row(0), SampleOptions::default()).unwrap_err().to_string();
    assert!(message.contains("they have no assistant turn that is to be trained"), "{message}");
    let made = samples(&format!("{}{}", row(0), row(1)), SampleOptions::default()).unwrap();
    assert_eq!((made.samples.len(), made.report.untrained.len()), (1, 1));
}

#[test]
fn a_row_whose_trained_tokens_are_cut_away_is_not_among_those_that_were_cut() {
    let text =
        "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, 3]}\n{\"input_ids\": [1, 2, 3], \"labels\": [1, 2, 3]}";
    let cut = SampleOptions { max_length: Some(2), truncate: true, ..SampleOptions::default() };
    let report = samples(text, cut).unwrap().report;
    assert_eq!((report.truncated, report.samples, report.cut_away), (1, 1, 1));
    let notes: Vec<String> = report.notes().iter().map(ToString::to_string).collect();
    assert_eq!(notes[1], "1 of 1 samples cut to max-length");
}

#[test]
fn parts_are_one_text_for_a_template_that_knows_no_parts() {
    let row = |question: &str, answer: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": {question}}}, {{\"role\": \"assistant\", \"content\": {answer}}}]}}"
        )
    };
    let part = |text: &str| format!("{{\"type\": \"text\", \"text\": \"{text}\"}}");
    let parts = row(&format!("[{}]", part("q")), &format!("[{}, {}]", part("a"), part(" b")));
    let whole = samples(&row("\"q\"", "\"a b\""), SampleOptions::default()).unwrap();
    assert_eq!(samples(&parts, SampleOptions::default()).unwrap().samples, whole.samples);
}
