//! The sets to name: terms of Gene Ontology, or a user's GMT file.

use std::collections::BTreeSet;

use super::evidence::Enrichment;
use crate::data::gmt::{GeneSet, GeneSets};
use crate::data::ontology::Ontology;
use bft_formats::Random;

/// A set with its true name.
#[derive(Debug, Clone)]
pub struct NamedSet {
    /// Name and genes.
    pub genes: GeneSet,
    /// The term it is, where it is one.
    pub term: Option<String>,
}

/// Processes of 10 to 100 genes in the held-out branches below the root, at most so many; and what
/// the split was.
///
/// A third of the branches is held out. A term is taken where all its branches are held out, so
/// that nothing was trained on its neighbourhood.
pub fn of_ontology(
    ontology: &Ontology,
    enrichment: &Enrichment<'_>,
    most: usize,
    seed: u64,
) -> (Vec<NamedSet>, String) {
    let sized: Vec<&String> =
        enrichment.terms().iter().filter(|(_, genes)| (10..=100).contains(&genes.len())).map(|(go, _)| go).collect();
    let branches: BTreeSet<&str> = sized.iter().flat_map(|go| ontology.branches(go)).collect();
    let mut order: Vec<&str> = branches.into_iter().collect();
    Random::stream(seed, "branches").shuffle(&mut order);
    let held: BTreeSet<&str> = order[..order.len().div_ceil(3)].iter().copied().collect();
    let mut sets: Vec<NamedSet> = sized
        .iter()
        .filter(|go| {
            let own = ontology.branches(go);
            !own.is_empty() && own.iter().all(|branch| held.contains(branch))
        })
        .filter_map(|go| {
            let mut genes: Vec<usize> = enrichment.terms()[*go].iter().copied().collect();
            genes.sort_unstable();
            let genes = GeneSet { name: ontology.term(go)?.name.clone(), genes };
            Some(NamedSet { genes, term: Some((*go).clone()) })
        })
        .collect();
    let (found, of) = (sets.len(), sized.len());
    Random::stream(seed, "sets").shuffle(&mut sets);
    sets.truncate(most);
    let split = format!(
        "{} of {} branches held out; {found} of {of} processes with 10 to 100 genes lie in these alone, {} taken",
        held.len(),
        order.len(),
        sets.len()
    );
    (sets, split)
}

/// Sets of a GMT file; underscores and a database's name before them are taken out of the names.
pub fn of_gmt(sets: &GeneSets, most: usize) -> Vec<NamedSet> {
    let named = |set: &GeneSet| {
        let plain = ["GOBP_", "HALLMARK_", "REACTOME_", "KEGG_", "WP_", "GO_"]
            .iter()
            .find_map(|prefix| set.name.strip_prefix(prefix));
        let name = plain.unwrap_or(&set.name).replace('_', " ").to_lowercase();
        NamedSet { genes: GeneSet { name, genes: set.genes.clone() }, term: None }
    };
    sets.sets.iter().take(most).map(named).collect()
}
