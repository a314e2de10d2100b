//! What a text claims of a gene that the annotation contradicts.

use std::collections::HashMap;

use crate::data::genome::{GeneId, Genome};
use crate::error::Result;

/// Checks claims about location against org.Hs.eg.
#[derive(Debug)]
pub struct FactCheck {
    bands: HashMap<GeneId, Vec<String>>,
}

impl FactCheck {
    /// Reads what is known.
    pub fn new(genome: &Genome) -> Result<Self> {
        Ok(Self { bands: genome.bands()? })
    }

    /// One line for each claim about the gene's place that its annotation contradicts.
    pub fn contradictions(&self, gene: GeneId, text: &str) -> Vec<String> {
        let Some(known) = self.bands.get(&gene) else {
            return Vec::new();
        };
        let told = known.join(" or ");
        let mut found = Vec::new();
        for claim in bands(text) {
            if !known.iter().any(|band| agree(band, &claim)) {
                found.push(format!("says {claim}, annotated {told}"));
            }
        }
        for claim in chromosomes(text) {
            if !known.iter().any(|band| chromosome(band) == claim) {
                found.push(format!("says chromosome {claim}, annotated {told}"));
            }
        }
        found.dedup();
        found
    }
}

impl FactCheck {
    /// The same for a text about several genes, given with their symbols: sentences that name one
    /// of them alone.
    pub fn contradictions_of(&self, genes: &[(GeneId, &str)], text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for sentence in text.split(['\n', ';']).flat_map(|line| line.split(". ")) {
            let named: Vec<&(GeneId, &str)> = genes
                .iter()
                .filter(|(_, symbol)| {
                    sentence.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == *symbol)
                })
                .collect();
            if let [(gene, symbol)] = named.as_slice() {
                let claims = self.contradictions(*gene, sentence);
                found.extend(claims.iter().map(|claim| format!("{symbol}: {claim}")));
            }
        }
        found
    }
}

/// The chromosome of a band: 17 of 17p13.1.
fn chromosome(band: &str) -> &str {
    let end = band.find(['p', 'q', 'c']).unwrap_or(band.len());
    &band[..end]
}

/// Whether one band lies in the other: 17p13 and 17p13.1 agree.
fn agree(known: &str, claim: &str) -> bool {
    // A range such as 6p22.1-p21.3 agrees with any band of its chromosome's arm.
    let ranged = known.contains(['-', ' ']);
    let arm = |band: &str| band.find(['p', 'q']).map(|place| band[..=place].to_owned());
    known.starts_with(claim) || claim.starts_with(known) || (ranged && arm(known) == arm(claim))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).map(|word| word.trim_matches('.'))
}

fn is_chromosome(word: &str) -> bool {
    matches!(word, "X" | "Y") || word.parse::<u32>().is_ok_and(|number| (1..=22).contains(&number))
}

/// Words that read as cytogenetic bands.
fn bands(text: &str) -> Vec<String> {
    let is_band = |word: &&str| {
        let Some(arm) = word.find(['p', 'q']) else {
            return false;
        };
        let place = &word[arm + 1..];
        let digits = place.chars().filter(|c| *c != '.').collect::<String>();
        is_chromosome(&word[..arm])
            && !digits.is_empty()
            && digits.len() <= 4
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && place.matches('.').count() <= 1
    };
    words(text).filter(is_band).map(str::to_owned).collect()
}

/// X of "chromosome X" and "X chromosome"; a number before the word may count chromosomes.
fn chromosomes(text: &str) -> Vec<String> {
    let list: Vec<&str> = words(text).filter(|word| !word.is_empty()).collect();
    let is_word = |word: &str| word.eq_ignore_ascii_case("chromosome");
    let claim = |pair: &[&str]| match pair {
        [word, name] if is_word(word) && is_chromosome(name) => Some((*name).to_owned()),
        [name @ ("X" | "Y"), word] if is_word(word) => Some((*name).to_owned()),
        _ => None,
    };
    list.windows(2).filter_map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_band_is_told_and_a_coarser_one_is_not() {
        let check = FactCheck { bands: HashMap::from([(0, vec!["17p13.1".to_owned()])]) };
        let flags = |text: &str| check.contradictions(0, text);
        assert_eq!(flags("TP53 is located on chromosome 17 (17p13.1)."), [""; 0]);
        assert_eq!(flags("TP53 maps to 17p13."), [""; 0]);
        assert_eq!(flags("It lies at 11q22.3."), ["says 11q22.3, annotated 17p13.1"]);
        assert_eq!(flags("found on chromosome 13"), ["says chromosome 13, annotated 17p13.1"]);
        assert_eq!(flags("It is on the X chromosome."), ["says chromosome X, annotated 17p13.1"]);
        assert_eq!(flags("IL6 and p53, 3 of 10 genes, version 2.0"), [""; 0]);
        assert_eq!(check.contradictions(7, "11q22.3"), [""; 0]);
        let several = "TP53 lies at 17p13.1. EGFR and TP53 are on 7p11. TP53 maps to 7p11.2; EGFR to 9q1.";
        assert_eq!(
            check.contradictions_of(&[(0, "TP53"), (7, "EGFR")], several),
            ["TP53: says 7p11.2, annotated 17p13.1"]
        );
    }
}
