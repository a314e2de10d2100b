//! Over-representation: is a term's overlap with a gene set larger than chance would make it?

/// Upper tail of the hypergeometric distribution: the chance of at least `overlap` marked genes among `drawn`, from
/// `total` genes of which `marked` are.
pub fn upper_tail(overlap: usize, total: usize, marked: usize, drawn: usize, logs: &LogFactorials) -> f64 {
    let most = marked.min(drawn);
    let least = (marked + drawn).saturating_sub(total);
    if overlap <= least {
        return 1.0;
    }
    let all = logs.choose(total, drawn);
    let chance = |k| (logs.choose(marked, k) + logs.choose(total - marked, drawn - k) - all).exp();
    // Small terms first.
    (overlap..=most).rev().map(chance).sum::<f64>().min(1.0)
}

/// ln n! for n up to a limit.
#[derive(Debug)]
pub struct LogFactorials(Vec<f64>);

impl LogFactorials {
    /// A table up to `most`.
    pub fn new(most: usize) -> Self {
        let mut table = vec![0.0];
        // Compensated, so that 20,000 roundings do not add up.
        let (mut sum, mut lost) = (0.0f64, 0.0f64);
        for n in 1..=most {
            let term = (n as f64).ln() - lost;
            let next = sum + term;
            lost = (next - sum) - term;
            sum = next;
            table.push(sum);
        }
        Self(table)
    }

    fn choose(&self, n: usize, k: usize) -> f64 {
        self.0[n] - self.0[k] - self.0[n - k]
    }
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
