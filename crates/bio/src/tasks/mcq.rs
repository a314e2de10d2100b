//! Multiple choice by log-likelihood, as lm-evaluation-harness scores it.
//!
//! A question is put in one of two forms: with its options listed and their letters as the answers,
//! or alone with the options' whole texts as the answers. An answer's score is the sum of the
//! log-probabilities of its tokens; `acc_norm` divides it by the answer's characters. Prompts are
//! those of the harness's tasks medqa_4options and medmcqa (letters) and pubmedqa (cloze).

use bft_train::{Continuation, Origin, TextEncoder};
use serde_json::{Map, Value, json};

use crate::data::questions::{Layout, Question, Questions, letter};
use crate::error::{BioError, Result};
use crate::report::{Cell, Report};
use crate::stats::bootstrap;
use crate::stats::mcnemar::exact_p;

/// How a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Options listed, letters scored.
    Letters,
    /// Whole answers scored, of which the question says nothing.
    Cloze,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Letters, Self::Cloze];

    /// Its word on the command line and in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Letters => "letters",
            Self::Cloze => "cloze",
        }
    }

    /// What the model reads of a question before its answer.
    pub fn prompt(self, question: &Question, layout: Layout) -> String {
        let mut text = String::new();
        if let Some(context) = &question.context {
            text.push_str(&format!("{}: {context}\n", layout.context_label()));
        }
        text.push_str(&format!("Question: {}\n", question.question));
        if self == Self::Letters {
            if layout == Layout::MedMcqa {
                text.push_str("Choices:\n");
            }
            for (i, option) in question.options.iter().enumerate() {
                text.push_str(&format!("{}. {option}\n", letter(i)));
            }
        }
        text + "Answer:"
    }

    /// An option as an answer; a space comes before it.
    pub fn choice(self, question: &Question, option: usize) -> &str {
        match self {
            Self::Letters => letter(option),
            Self::Cloze => &question.options[option],
        }
    }

    /// Questions with their answers, to be read before others.
    pub fn shots(self, questions: &[Question], layout: Layout) -> String {
        let shot = |question: &Question| {
            format!("{} {}\n\n", self.prompt(question, layout), self.choice(question, question.answer))
        };
        questions.iter().map(shot).collect()
    }

    /// Token ids of a question with each of its answers.
    ///
    /// # Errors
    /// Where there are more than `longest`, or an answer has none of its own.
    pub fn continuations(
        self,
        text: &TextEncoder<'_>,
        shots: &str,
        question: &Question,
        layout: Layout,
        longest: usize,
    ) -> Result<Vec<Continuation>> {
        let prompt = format!("{shots}{}", self.prompt(question, layout));
        let one = |option: usize| {
            let choice = format!(" {}", self.choice(question, option));
            let fail = |problem: String| BioError::data(format!("{}: {problem}", question.origin));
            let (tokens, begins) =
                text.prompt_and_choice(&prompt, &choice).map_err(|problem| fail(problem.to_string()))?;
            if tokens.len() > longest {
                return Err(fail(format!(
                    "question and option {} have {} tokens as {}, expected at most {longest}, the model's context: leave the \
                     row out, or give fewer --shots",
                    letter(option),
                    tokens.len(),
                    self.word()
                )));
            }
            if begins == 0 || begins >= tokens.len() {
                return Err(fail(format!(
                    "the tokenizer gives option {} no token of its own behind the prompt: leave --form {} out",
                    letter(option),
                    self.word()
                )));
            }
            Ok(Continuation { tokens, begins })
        };
        (0..question.options.len()).map(one).collect()
    }
}

/// The option with the largest score, the first of equals; `None` without scores.
fn largest(scores: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (option, score) in scores.enumerate() {
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((option, score));
        }
    }
    best.map(|(option, _)| option)
}

/// What one arm makes of the questions of a file in one form.
#[derive(Debug, Clone)]
pub struct Arm {
    /// Its name: base or adapter.
    pub name: &'static str,
    /// By question and option: the sum of the log-probabilities of the answer's tokens.
    pub log_likelihoods: Vec<Vec<f64>>,
}

/// How an option is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Acc,
    AccNorm,
}

impl Metric {
    fn word(self) -> &'static str {
        if self == Self::Acc { "acc" } else { "acc_norm" }
    }
}

/// A file's questions, put in one form to one arm or two.
#[derive(Debug, Clone)]
pub struct Scored<'q> {
    /// The file.
    pub questions: &'q Questions,
    /// The form.
    pub form: Form,
    /// The arms, the base model first.
    pub arms: Vec<Arm>,
}

/// How intervals are made.
#[derive(Debug, Clone, Copy)]
pub struct Redraws {
    /// How often the questions are drawn again.
    pub times: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Scored<'_> {
    /// The option that an arm chooses.
    fn chosen(&self, arm: &Arm, number: usize, metric: Metric) -> Option<usize> {
        let question = &self.questions.questions[number];
        let length = |option| match metric {
            Metric::Acc => 1.0,
            Metric::AccNorm => self.form.choice(question, option).chars().count() as f64,
        };
        largest(arm.log_likelihoods[number].iter().enumerate().map(|(option, sum)| sum / length(option)))
    }

    /// 1 for each of these questions that an arm answers rightly, else 0.
    fn right(&self, arm: &Arm, metric: Metric, numbers: &[usize]) -> Vec<f64> {
        let right = |number: &usize| {
            f64::from(self.chosen(arm, *number, metric) == Some(self.questions.questions[*number].answer))
        };
        numbers.iter().map(right).collect()
    }

    /// Of letters, which are all as long as each other, one metric says all.
    fn metrics(&self) -> &'static [Metric] {
        if self.form == Form::Letters { &[Metric::Acc] } else { &[Metric::Acc, Metric::AccNorm] }
    }

    /// Cells of some questions: how many, each arm's accuracy, the difference where there are two
    /// arms, and McNemar's counts.
    fn cells(&self, metric: Metric, numbers: &[usize], redraws: Redraws, counts: bool) -> Vec<Cell> {
        let mean = |values: &[f64]| Cell::from(bootstrap::mean(values, redraws.times, redraws.seed));
        let right: Vec<Vec<f64>> = self.arms.iter().map(|arm| self.right(arm, metric, numbers)).collect();
        let mut cells = vec![Cell::Count(numbers.len())];
        cells.extend(right.iter().map(|right| mean(right)));
        if let [base, adapter] = &right[..] {
            let gain: Vec<f64> = adapter.iter().zip(base).map(|(a, b)| a - b).collect();
            cells.push(mean(&gain));
            if counts {
                let [lost, won] = [-1.0, 1.0].map(|by| gain.iter().filter(|gain| **gain == by).count());
                cells.extend([Cell::Count(lost), Cell::Count(won), Cell::Number(exact_p(lost, won))]);
            }
        }
        cells
    }

    /// A line of JSON for each question: what it is, the log-likelihoods, and what each arm chooses.
    fn row(&self, number: usize) -> Value {
        let arms = self.arms.iter().map(|arm| {
            let mut of_arm = Map::new();
            of_arm.insert("log_likelihoods".into(), json!(arm.log_likelihoods[number]));
            for metric in self.metrics() {
                of_arm.insert(metric.word().into(), json!(self.chosen(arm, number, *metric).map(letter)));
            }
            (arm.name.to_owned(), Value::Object(of_arm))
        });
        Value::Object(arms.collect())
    }
}

/// The names of the columns behind the first ones.
fn columns(arms: &[Arm], first: &[&'static str], counts: bool) -> Vec<&'static str> {
    let mut names = first.to_vec();
    names.push("questions");
    names.extend(arms.iter().map(|arm| arm.name));
    if arms.len() == 2 {
        names.push("difference");
        if counts {
            names.extend(["base alone right", "adapter alone right", "McNemar's p"]);
        }
    }
    names
}

/// Accuracies of every file in every form, with their intervals.
pub fn report(scored: &[Scored<'_>], redraws: Redraws) -> Report {
    let arms = scored.first().map_or(&[][..], |scored| &scored.arms[..]);
    let mut report = Report::new("Multiple choice", &columns(arms, &["data", "form", "metric"], true));
    for scored in scored {
        let all: Vec<usize> = (0..scored.questions.questions.len()).collect();
        for metric in scored.metrics() {
            let mut row: Vec<Cell> =
                [&*scored.questions.file, scored.form.word(), metric.word()].map(Cell::from).to_vec();
            row.extend(scored.cells(*metric, &all, redraws, true));
            report.rows.push(row);
        }
    }
    report.say("intervals", format!("95 %, questions redrawn {} times, the same for both arms", redraws.times));
    report.say("seed", redraws.seed.to_string());
    report
}

/// Accuracies by subject, of the files that name subjects: acc of letters, acc_norm of whole
/// answers.
pub fn by_subject(scored: &[Scored<'_>], redraws: Redraws) -> Report {
    let arms = scored.first().map_or(&[][..], |scored| &scored.arms[..]);
    let mut report = Report::new("By subject", &columns(arms, &["data", "form", "metric", "subject"], false));
    for scored in scored {
        let mut subjects: std::collections::BTreeMap<&str, Vec<usize>> = Default::default();
        for (number, question) in scored.questions.questions.iter().enumerate() {
            if let Some(subject) = &question.subject {
                subjects.entry(subject).or_default().push(number);
            }
        }
        for (subject, numbers) in subjects {
            let Some(metric) = scored.metrics().last() else { continue };
            let mut row: Vec<Cell> =
                [&*scored.questions.file, scored.form.word(), metric.word(), subject].map(Cell::from).to_vec();
            row.extend(scored.cells(*metric, &numbers, redraws, false));
            report.rows.push(row);
        }
    }
    report
}

/// A line of JSON for each question of one file: `file`, `row`, `id` and `subject` where there are,
/// `answer`, and what each arm makes of it in each form.
pub fn lines(scored: &[Scored<'_>]) -> String {
    let Some(first) = scored.first() else { return String::new() };
    let line = |(number, question): (usize, &Question)| {
        let Origin { file, .. } = &question.origin;
        let mut line = Map::new();
        line.insert("file".into(), json!(&**file));
        line.insert("row".into(), json!(question.origin.number()));
        for (key, value) in [("id", &question.id), ("subject", &question.subject)] {
            if let Some(value) = value {
                line.insert(key.into(), json!(value));
            }
        }
        line.insert("answer".into(), json!(letter(question.answer)));
        line.extend(scored.iter().map(|scored| (scored.form.word().to_owned(), scored.row(number))));
        Value::Object(line).to_string() + "\n"
    };
    first.questions.questions.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::ReadOptions;

    const ROWS: &str = concat!(
        "{\"question\": \"Q1?\", \"options\": [\"x\", \"yyyy\"], \"answer\": \"A\", \"subject\": \"s\"}\n",
        "{\"question\": \"Q2?\", \"options\": [\"x\", \"zz\"], \"answer\": \"B\", \"subject\": \"t\"}\n",
        "{\"question\": \"Q3?\", \"context\": \"C.\", \"options\": [\"w\", \"v\"], \"answer\": \"B\", \"subject\": \"t\"}\n",
    );

    fn questions() -> Questions {
        Questions::parse("q.jsonl", ROWS.as_bytes(), &ReadOptions::default()).unwrap()
    }

    #[test]
    fn prompts_are_those_of_the_harness() {
        let all = questions();
        let of = |form: Form, number: usize, layout| form.prompt(&all.questions[number], layout);
        assert_eq!(of(Form::Letters, 0, Layout::Options), "Question: Q1?\nA. x\nB. yyyy\nAnswer:");
        assert_eq!(of(Form::Letters, 0, Layout::MedMcqa), "Question: Q1?\nChoices:\nA. x\nB. yyyy\nAnswer:");
        assert_eq!(of(Form::Cloze, 2, Layout::PubMedQa), "Abstract: C.\nQuestion: Q3?\nAnswer:");
        assert_eq!(of(Form::Cloze, 2, Layout::Options), "Context: C.\nQuestion: Q3?\nAnswer:");
        let shots = Form::Cloze.shots(&all.questions[..2], Layout::Options);
        assert_eq!(shots, "Question: Q1?\nAnswer: x\n\nQuestion: Q2?\nAnswer: zz\n\n");
    }

    #[test]
    fn arms_are_compared_on_the_same_questions() {
        let all = questions();
        let arm = |name, sums: [[f64; 2]; 3]| Arm { name, log_likelihoods: sums.map(|sums| sums.to_vec()).to_vec() };
        // By length the first question's second option wins with -4 / 4; equals go to the first.
        let base = arm("base", [[-2.0, -4.0], [-3.0, -3.0], [-1.0, -2.0]]);
        let adapter = arm("adapter", [[-2.0, -9.0], [-3.0, -3.0], [-2.0, -1.0]]);
        let scored = [Scored { questions: &all, form: Form::Cloze, arms: vec![base, adapter] }];
        let redraws = Redraws { times: 200, seed: 0 };
        let table = report(&scored, redraws);
        let value = |metric: &str, column: &str| {
            let row = ["q.jsonl", "cloze", metric];
            (table.value(&row, column).unwrap() * 3.0).round()
        };
        assert_eq!([value("acc", "base"), value("acc", "adapter"), value("acc", "difference")], [1.0, 2.0, 1.0]);
        assert_eq!([value("acc_norm", "base"), value("acc_norm", "adapter")], [1.0, 3.0]);
        let counts: Vec<String> = table.rows[1].iter().skip(7).map(Cell::text).collect();
        assert_eq!(counts, ["0", "2", "0.500"]);
        let subjects = by_subject(&scored, redraws);
        let found: Vec<String> = subjects.rows.iter().map(|row| row[3].text() + " " + &row[4].text()).collect();
        assert_eq!(found, ["s 1", "t 2"]);
        let line: Value = serde_json::from_str(lines(&scored).lines().next().unwrap()).unwrap();
        let expected = json!({
            "file": "q.jsonl", "row": 1, "subject": "s", "answer": "A",
            "cloze": {
                "base": {"log_likelihoods": [-2.0, -4.0], "acc": "A", "acc_norm": "B"},
                "adapter": {"log_likelihoods": [-2.0, -9.0], "acc": "A", "acc_norm": "A"},
            },
        });
        assert_eq!(line, expected);
    }
}
