//! Log-likelihoods of several continuations of one prompt, for questions with given answers.
//!
//! What continuations share is computed once where one text holds them all: continuations of a
//! single token are read off the prompt's last position, and one that begins another is read off
//! that one.

use bft_core::Batch;

use crate::batches::{BatchBounds, groups_of};
use crate::engine::{EngineError, LogProbs, check_finite};
use crate::rows::Origin;

/// A prompt with one of its continuations, as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// Of both together; at most as many as the runner was planned for.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's; at least one, and fewer than all.
    pub begins: usize,
}

/// The continuations of one prompt, packed into as few texts as hold them.
#[derive(Debug, Clone)]
pub struct Continuations {
    count: usize,
    texts: Vec<Text>,
    origin: Origin,
}

/// A text and what is read off it.
#[derive(Debug, Clone)]
struct Text {
    tokens: Vec<u32>,
    /// Ascending by position.
    asked: Vec<Asked>,
}

/// A token whose log-probability counts for a continuation.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Of the token before it.
    position: u32,
    token: u32,
    continuation: usize,
}

impl Continuations {
    /// Packs what is asked of a row; `origin` is named where the model's numbers are not finite.
    pub fn new(continuations: &[Continuation], origin: Origin) -> Self {
        let mut longest_first: Vec<usize> = (0..continuations.len()).collect();
        longest_first.sort_by_key(|number| std::cmp::Reverse(continuations[*number].tokens.len()));
        let mut texts: Vec<Text> = Vec::new();
        for number in longest_first {
            let Continuation { tokens, begins } = &continuations[number];
            let before_last = &tokens[..tokens.len().saturating_sub(1)];
            let asked = ((*begins).max(1)..tokens.len()).map(|at| Asked {
                position: (at - 1) as u32,
                token: tokens[at],
                continuation: number,
            });
            match texts.iter_mut().find(|text| text.tokens.starts_with(before_last)) {
                Some(text) => text.asked.extend(asked),
                None => texts.push(Text { tokens: tokens.clone(), asked: asked.collect() }),
            }
        }
        texts.iter_mut().for_each(|text| text.asked.sort_by_key(|asked| asked.position));
        Self { count: continuations.len(), texts, origin }
    }

    /// Tokens that the model computes.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(|text| text.tokens.len()).sum()
    }

    /// The largest of its texts, which a runner must have room for.
    pub fn bounds(&self) -> BatchBounds {
        self.texts.iter().map(Text::bounds).fold(BatchBounds::default(), BatchBounds::union)
    }
}

impl Text {
    fn bounds(&self) -> BatchBounds {
        BatchBounds { tokens: self.tokens.len(), trained: self.asked.len(), samples: 1 }
    }
}

/// The sum of the log-probabilities of each continuation's tokens, by question and continuation,
/// computed in groups that fit `bounds`; `on_group` hears how many questions were begun.
///
/// # Errors
/// Where the device fails, or gives numbers that are not finite.
pub async fn log_likelihoods(
    engine: &mut impl LogProbs,
    questions: &[Continuations],
    bounds: BatchBounds,
    mut on_group: impl FnMut(usize),
) -> Result<Vec<Vec<f64>>, EngineError> {
    let mut sums: Vec<Vec<f64>> = questions.iter().map(|question| vec![0.0; question.count]).collect();
    let texts: Vec<(usize, &Text)> =
        questions.iter().enumerate().flat_map(|(number, it)| it.texts.iter().map(move |text| (number, text))).collect();
    for group in groups_of(&texts, bounds, |(_, text)| text.bounds()) {
        let log_probs = engine.log_probs(&packed(group)).await?;
        let expected: usize = group.iter().map(|(_, text)| text.asked.len()).sum();
        if log_probs.len() != expected {
            return Err(format!("the device gave {} log-probabilities, expected {expected}", log_probs.len()).into());
        }
        let mut left = log_probs.as_slice();
        for (question, text) in group {
            let (of_text, rest) = left.split_at(text.asked.len());
            check_finite(of_text, &questions[*question].origin)?;
            for (asked, log_prob) in text.asked.iter().zip(of_text) {
                sums[*question][asked.continuation] += f64::from(*log_prob);
            }
            left = rest;
        }
        on_group(group.last().map_or(0, |(question, _)| question + 1));
    }
    Ok(sums)
}

fn packed(group: &[(usize, &Text)]) -> Batch {
    let mut batch = Batch { segments: vec![0], trained_segments: vec![0], ..Batch::default() };
    for (_, text) in group {
        let start = batch.tokens.len() as u32;
        batch.tokens.extend_from_slice(&text.tokens);
        batch.trained.extend(text.asked.iter().map(|asked| start + asked.position));
        batch.labels.extend(text.asked.iter().map(|asked| asked.token));
        batch.segments.push(batch.tokens.len() as u32);
        batch.trained_segments.push(batch.trained.len() as u32);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Place;

    /// log p is made of the position's place in its text, the token there and the label.
    struct Told;

    fn told(text: &[u32], position: usize, label: u32) -> f32 {
        let before: u32 = text[..=position].iter().sum();
        -((before * 7 + label * 3) as f32) / 8.0
    }

    impl LogProbs for Told {
        async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
            let mut found = Vec::new();
            for (bounds, asked) in batch.segments.windows(2).zip(batch.trained_segments.windows(2)) {
                let text = &batch.tokens[bounds[0] as usize..bounds[1] as usize];
                for at in asked[0] as usize..asked[1] as usize {
                    found.push(told(text, (batch.trained[at] - bounds[0]) as usize, batch.labels[at]));
                }
            }
            Ok(found)
        }
    }

    fn question(begins: usize, texts: &[&[u32]]) -> Continuations {
        let each: Vec<Continuation> =
            texts.iter().map(|tokens| Continuation { tokens: tokens.to_vec(), begins }).collect();
        Continuations::new(&each, Origin { file: "q".into(), place: Place::Row(1) })
    }

    #[test]
    fn what_is_shared_is_computed_once_and_counts_the_same() {
        let all: [(usize, &[&[u32]]); 4] = [
            // Single tokens; one that begins another; two with nothing in common; the same twice.
            (3, &[&[1, 2, 3, 4], &[1, 2, 3, 5], &[1, 2, 3, 6]]),
            (2, &[&[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 2, 9]]),
            (1, &[&[1, 2, 3], &[1, 4, 3]]),
            (1, &[&[8, 7, 6], &[8, 7, 6]]),
        ];
        let questions: Vec<Continuations> = all.iter().map(|(begins, texts)| question(*begins, texts)).collect();
        assert_eq!(questions.iter().map(|it| it.texts.len()).collect::<Vec<_>>(), [1, 1, 2, 1]);
        assert_eq!(questions.iter().map(Continuations::tokens).collect::<Vec<_>>(), [4, 5, 6, 3]);
        for tokens in [6, 9, 100] {
            let bounds = BatchBounds { tokens, trained: 100, samples: 100 };
            let mut heard = Vec::new();
            let found = pollster::block_on(log_likelihoods(&mut Told, &questions, bounds, |done| heard.push(done)));
            for ((begins, texts), found) in all.iter().zip(found.expect("numbers")) {
                for (text, found) in texts.iter().zip(found) {
                    let alone: f32 = (*begins..text.len()).map(|at| told(text, at - 1, text[at])).sum();
                    assert_eq!(found, f64::from(alone), "{text:?}");
                }
            }
            assert!(heard.is_sorted() && heard.last() == Some(&4), "{heard:?}");
        }
    }

    #[test]
    fn a_number_that_is_none_names_its_row() {
        struct Broken;
        impl LogProbs for Broken {
            async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
                Ok(vec![f32::NAN; batch.trained.len()])
            }
        }
        let bounds = BatchBounds { tokens: 9, trained: 9, samples: 9 };
        let questions = [question(1, &[&[1, 2], &[1, 3]])];
        let error = pollster::block_on(log_likelihoods(&mut Broken, &questions, bounds, |_| ())).unwrap_err();
        assert!(error.to_string().starts_with("q (row 1): the model computes NaN"), "{error}");
    }
}
