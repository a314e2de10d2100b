//! Over-representation: is a term's overlap with a gene set larger than chance would make it?

use statrs::distribution::{DiscreteCDF, Hypergeometric};

/// Upper tail of the hypergeometric distribution: the chance of at least `overlap` marked genes
/// among `drawn`, from `total` genes of which `marked` are. `None` where more genes are marked or
/// drawn than there are.
pub fn upper_tail(overlap: usize, total: usize, marked: usize, drawn: usize) -> Option<f64> {
    let chance = Hypergeometric::new(total as u64, marked as u64, drawn as u64).ok()?;
    Some(overlap.checked_sub(1).map_or(1.0, |below| chance.sf(below as u64)).min(1.0))
}

/// Benjamini and Hochberg's adjusted p-values, in the order given.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let (mut least, mut adjusted) = (1.0f64, vec![1.0; p.len()]);
    for (from_top, index) in order.into_iter().enumerate() {
        least = least.min(p[index] * p.len() as f64 / (p.len() - from_top) as f64);
        adjusted[index] = least;
    }
    adjusted
}
