//! Several adapters as one: their pairs side by side.

use std::collections::BTreeMap;

use super::{Adapter, AdapterConfig, LoraPair};
use crate::{FormatError, Result};

impl Adapter {
    /// The adapter that does what all of these do together, each times its weight: for every module
    /// the rows of every A, and the columns of every B, so that its rank is the sum of theirs. None
    /// of none.
    ///
    /// PEFT calls it `add_weighted_adapter(…, combination_type="cat")`.
    ///
    /// # Errors
    /// Where one of several, or one with a weight, has DoRA's magnitudes: the length of a row is not
    /// the sum of what adapters do to it.
    pub fn sum(mut adapters: Vec<(Self, f32)>) -> Result<Option<Self>> {
        if let [(_, 1.0)] = *adapters {
            return Ok(adapters.pop().map(|(adapter, _)| adapter));
        }
        if let Some(at) = adapters.iter().position(|(adapter, _)| adapter.config.use_dora) {
            return Err(FormatError::unsupported(
                format!("adapter {} of {}", at + 1, adapters.len()),
                "use_dora true, beside another adapter or with a scale,",
                "give an adapter with DoRA alone and without a scale",
            ));
        }
        let Some((first, _)) = adapters.first() else { return Ok(None) };
        let mut config = first.config.clone();
        let alike = adapters.iter().all(|(adapter, _)| adapter.config.target_modules == config.target_modules);
        let mut by_module: BTreeMap<(usize, usize, String), Vec<LoraPair>> = BTreeMap::new();
        for (adapter, weight) in adapters {
            let more = adapter.config.end_token_ids.into_iter().filter(|id| !config.end_token_ids.contains(id));
            config.end_token_ids.extend(more.collect::<Vec<_>>());
            for mut pair in adapter.pairs {
                pair.scaling *= weight;
                by_module.entry(place(&pair.module)).or_default().push(pair);
            }
        }
        let pairs: Vec<LoraPair> = by_module.into_values().filter_map(LoraPair::side_by_side).collect();
        if !alike {
            config.target_modules = pairs.iter().map(|pair| pair.module.clone()).collect();
        }
        Ok(Some(Self { config: described(config, &pairs), pairs }))
    }
}

/// Layer and module, in which order an adapter has its pairs.
fn place(module: &str) -> (usize, usize, String) {
    const ORDER: [&str; 9] =
        ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"];
    let layer = module.split('.').find_map(|part| part.parse().ok()).unwrap_or(usize::MAX);
    let short = module.rsplit('.').next().unwrap_or_default();
    (layer, ORDER.iter().position(|name| *name == short).unwrap_or(ORDER.len()), short.to_owned())
}

impl LoraPair {
    /// The pairs of one module as one, without magnitudes: None of none. Where all have one scaling
    /// it stays, and the factors keep their bits; else every B takes its own in.
    pub fn side_by_side(pairs: Vec<Self>) -> Option<Self> {
        let rank = pairs.iter().map(|pair| pair.rank).sum();
        let first = pairs.first()?;
        let alike = pairs.iter().all(|pair| pair.scaling == first.scaling);
        let scaling = if alike { first.scaling } else { 1.0 };
        let (module, in_features, out_features) = (first.module.clone(), first.in_features, first.out_features);
        let a = pairs.iter().flat_map(|pair| &pair.a).copied().collect();
        let row = |pair: &Self, row: usize| {
            let factor = if alike { 1.0 } else { pair.scaling };
            pair.b[row * pair.rank..][..pair.rank].iter().map(|b| b * factor).collect::<Vec<f32>>()
        };
        let b = (0..out_features).flat_map(|at| pairs.iter().flat_map(move |pair| row(pair, at))).collect();
        Some(Self { module, rank, scaling, in_features, out_features, a, b, magnitude: None })
    }

    /// The two pairs of half the rank that [`Self::side_by_side`] makes this one of. `None` where the
    /// rank is odd, where there are magnitudes, or where the factors do not fit their rank.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let half = self.rank / 2;
        if half == 0 || self.rank % 2 == 1 || self.magnitude.is_some() || self.misfit().is_some() {
            return None;
        }
        let part = |at: usize| Self {
            rank: half,
            a: self.a[at * half * self.in_features..][..half * self.in_features].to_vec(),
            b: self.b.chunks_exact(self.rank).flat_map(|row| &row[at * half..][..half]).copied().collect(),
            module: self.module.clone(),
            magnitude: None,
            ..*self
        };
        Some([part(0), part(1)])
    }
}

/// The configuration that makes these pairs what they are, whatever ranks and scalings they have.
fn described(config: AdapterConfig, pairs: &[LoraPair]) -> AdapterConfig {
    let first = pairs.first();
    let rank = first.map_or(config.rank, |pair| pair.rank);
    let alpha = first.map_or(config.alpha, |pair| pair.scaling * pair.rank as f32);
    let other_rank = pairs.iter().filter(|pair| pair.rank != rank);
    let other_alpha = pairs.iter().map(|pair| (&pair.module, pair.scaling * pair.rank as f32));
    AdapterConfig {
        rank_pattern: other_rank.map(|pair| (pair.module.clone(), pair.rank)).collect(),
        alpha_pattern: other_alpha.filter(|(_, own)| *own != alpha).map(|(name, own)| (name.clone(), own)).collect(),
        base_model: config.base_model,
        base_revision: config.base_revision,
        sees: config.sees,
        end_token_ids: config.end_token_ids,
        ..AdapterConfig::new(rank, alpha, config.target_modules, config.dropout)
    }
}
