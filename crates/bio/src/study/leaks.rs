//! What would give an arm, or all of them, an answer that it has not learnt: refused, or counted and
//! said.

use std::collections::{BTreeMap, BTreeSet};

use super::material::Item;
use crate::error::{BioError, Result};
use crate::instruct::{Kind, Side, side};

/// Checks what one regime trains, tunes by and measures; gives a line a check.
///
/// # Errors
/// Where a gene or term is on two sides, one that is held out is trained, or a question of the test
/// is trained.
pub fn check(trained: &[Item], tuning: &[Item], phrasings: usize) -> Result<Vec<String>> {
    for (items, allowed) in [(trained, Side::Train), (tuning, Side::Validation)] {
        for about in items.iter().flat_map(|item| &item.about) {
            if side(0, about) != allowed {
                let (found, allowed) = (side(0, about).word(), allowed.word());
                return Err(BioError::data(format!(
                    "leak: {about} is on the {found} side, and used on that of {allowed}"
                )));
            }
        }
    }
    let rows = trained.iter().chain(tuning).flat_map(|item| item.rows(phrasings));
    unasked(&rows.map(|(question, _)| question).collect(), trained)?;
    let subjects = |items: &[Item]| items.iter().flat_map(|item| item.about.clone()).collect::<BTreeSet<_>>().len();
    let answers: BTreeSet<&str> = trained.iter().map(|item| item.fact.answer.as_str()).collect();
    let shared = tuning.iter().filter(|item| answers.contains(item.fact.answer.as_str())).count();
    let (alike, names) = paralogs(trained);
    Ok(vec![
        format!(
            "{} genes and terms trained, {} others tune the learning rate, none that is held out is trained: checked",
            subjects(trained),
            subjects(tuning)
        ),
        "no question of the test is trained: checked".to_owned(),
        format!("{shared} of {} facts that tune the learning rate have the answer of a trained one", tuning.len()),
        format!(
            "names of paralogs: {alike} of {names} trained names are another's but for their last word: a leak between facts, the same for every arm"
        ),
    ])
}

/// Refuses a question of the test that training asks.
fn unasked(questions: &BTreeSet<String>, trained: &[Item]) -> Result<()> {
    match trained.iter().map(Item::test_question).find(|question| questions.contains(question)) {
        Some(asked) => Err(BioError::data(format!("leak: the question {asked:?} of the test is trained"))),
        None => Ok(()),
    }
}

/// How many names share all but their last word with another, as paralogs' do, of how many.
fn paralogs(items: &[Item]) -> (usize, usize) {
    let names: BTreeSet<&str> =
        items.iter().filter(|item| item.fact.kind == Kind::Name).map(|item| item.fact.answer.as_str()).collect();
    let mut stems: BTreeMap<&str, usize> = BTreeMap::new();
    for (stem, _) in names.iter().filter_map(|name| name.rsplit_once(' ')) {
        *stems.entry(stem).or_default() += 1;
    }
    (stems.values().filter(|count| **count > 1).sum(), names.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruct::Fact;

    fn item(of: Side, number: usize, answer: &str) -> Item {
        let subject = (0..).map(|n| format!("GENE{number}N{n}")).find(|name| side(0, name) == of).unwrap_or_default();
        let [entrez, go, evidence] = [""; 3].map(str::to_owned);
        let fact = Fact { kind: Kind::Name, subject: subject.clone(), answer: answer.to_owned(), entrez, go, evidence };
        Item { fact, told: answer.to_owned(), group: String::new(), about: vec![subject] }
    }

    #[test]
    fn a_held_out_gene_or_one_on_two_sides_is_refused_by_name() {
        let (train, tune) = ([item(Side::Train, 0, "keratin 14")], [item(Side::Validation, 1, "keratin 15")]);
        assert!(check(&train, &tune, 2).is_ok());
        for (trained, tuning, used) in [
            (vec![item(Side::Test, 2, "a b")], tune.to_vec(), "test"),
            (vec![item(Side::Validation, 2, "a b")], tune.to_vec(), "validation"),
            (train.to_vec(), train.to_vec(), "train"),
        ] {
            let error = check(&trained, &tuning, 2).expect_err("a leak").to_string();
            assert!(error.contains("leak: GENE") && error.contains(&format!("on the {used} side")), "{error}");
        }
    }

    #[test]
    fn a_question_of_the_test_that_is_trained_is_refused() {
        let train = [item(Side::Train, 0, "keratin 14")];
        let mut questions: BTreeSet<String> = train[0].rows(9).into_iter().map(|(question, _)| question).collect();
        assert!(unasked(&questions, &train).is_ok());
        questions.insert(train[0].test_question());
        let error = unasked(&questions, &train).expect_err("a leak").to_string();
        assert!(error.starts_with("leak: the question") && error.contains(&train[0].fact.subject), "{error}");
    }

    #[test]
    fn paralogs_and_shared_answers_are_counted() {
        let train: Vec<Item> = ["keratin 14", "keratin 15", "tumor protein p53", "x"]
            .iter()
            .enumerate()
            .map(|(n, name)| item(Side::Train, n, name))
            .collect();
        let lines =
            check(&train, &[item(Side::Validation, 9, "x"), item(Side::Validation, 8, "y")], 2).expect("no leak");
        assert!(lines[3].contains("2 of 4 trained names"), "{lines:?}");
        assert!(lines[2].starts_with("1 of 2 facts"), "{lines:?}");
    }
}
