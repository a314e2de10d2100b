//! McNemar's exact test: do two arms that answered the same questions differ?

use statrs::distribution::{Binomial, DiscreteCDF};

/// Two-sided p of `one` questions that the first arm alone has right and `other` that the second
/// alone has, where either would be as likely by chance; 1 where there are none.
pub fn exact_p(one: usize, other: usize) -> f64 {
    let Ok(chance) = Binomial::new(0.5, (one + other) as u64) else { return 1.0 };
    (2.0 * chance.cdf(one.min(other) as u64)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::exact_p;

    #[test]
    fn tails_are_those_of_fair_coins() {
        // (1 + 7) of 2^7 sequences at either end.
        assert!((exact_p(1, 6) - 0.125).abs() < 1e-12);
        assert_eq!(exact_p(6, 1), exact_p(1, 6));
        assert!((exact_p(0, 10) - 2.0 / 1024.0).abs() < 1e-12);
        for equal in [0, 1, 5] {
            assert_eq!(exact_p(equal, equal), 1.0);
        }
    }
}
