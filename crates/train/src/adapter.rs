//! A new adapter's first values.

use bft_core::{row_norms, tensor};
use bft_formats::{Adapter, AdapterConfig, HubPlace, LINEAR_MODULES, LoraPair, Model, ModelConfig, Tensor};

use crate::config::{ConfigError, TrainConfig};
use crate::error::TrainError;
use crate::pissa::principal;
use crate::random::{Stream, numbered};

/// A new adapter: A uniform in ±1/√in, B zero, so that it changes nothing yet. The values depend on
/// the seed alone. With DoRA every magnitude is 1, until [`adopt_weights`] has read the weights;
/// with PiSSA every rank is twice the one asked for, and A and B are zero until then.
///
/// # Errors
/// [`ConfigError::TargetModule`] where a module's name is unknown, [`ConfigError::Rank`] where the
/// rank is higher than any of the modules can use, [`ConfigError::PissaRank`] where PiSSA finds less
/// in one of them.
pub fn new_adapter(model: &ModelConfig, base_model: &str, settings: &TrainConfig) -> Result<Adapter, ConfigError> {
    let modules = settings.modules(model)?;
    let usable = |module: &&str| model.linear_shape(module).map(|[out, input]| out.min(input));
    let most = modules.iter().filter_map(usable).max().unwrap_or(0);
    if settings.rank > most {
        return Err(ConfigError::Rank { found: settings.rank, most, model: base_model.to_owned() });
    }
    let (mut rank, mut alpha) = (settings.rank, settings.alpha());
    if settings.starts_as_pissa() {
        let (module, most) = least(model, &modules);
        if rank > most {
            let (module, model) = (module.to_owned(), base_model.to_owned());
            return Err(ConfigError::PissaRank { found: rank, most, module, model });
        }
        // As PEFT has it, whatever PiSSA adapter is saved as a plain one: the scaling stays.
        rank *= 2;
        alpha *= if settings.use_rslora { std::f32::consts::SQRT_2 } else { 2.0 };
    }
    let mut config =
        AdapterConfig::new(rank, alpha, modules.iter().map(|m| (*m).to_owned()).collect(), settings.lora_dropout);
    config.base_model = Some(base_model.to_owned());
    config.sees = model.sees;
    config.use_rslora = settings.use_rslora;
    config.use_dora = settings.use_dora;
    let scaling = config.scaling(rank, alpha);
    let mut pairs = Vec::with_capacity(model.layers.len() * modules.len());
    for layer in 0..model.layers.len() {
        for module in &modules {
            let [out_features, in_features] = model.linear_shape(module).unwrap_or_default();
            let stream = Stream::LoraInit { pair: pairs.len() as u64 };
            let bound = 1.0 / (in_features as f32).sqrt();
            let a = match settings.starts_as_pissa() {
                true => vec![0.0; rank * in_features],
                false => (0..(rank * in_features) as u64)
                    .map(|i| numbered(settings.seed, stream, i).symmetric() * bound)
                    .collect(),
            };
            let b = vec![0.0; out_features * rank];
            let magnitude = settings.use_dora.then(|| vec![1.0; out_features]);
            let module = ModelConfig::linear_name(layer, module);
            pairs.push(LoraPair { module, rank, scaling, in_features, out_features, a, b, magnitude });
        }
    }
    Ok(Adapter { config, pairs })
}

/// Gives a new adapter what it begins with of `model`'s weights, so that it changes nothing yet: with
/// DoRA the lengths of their rows, with PiSSA their principal parts; any other is left as it is.
///
/// # Errors
/// Where the model's files can no longer be read, or a weight holds what is no number.
pub fn adopt_weights(adapter: &mut Adapter, model: &Model, settings: &TrainConfig) -> Result<(), TrainError> {
    if !settings.use_dora && !settings.starts_as_pissa() {
        return Ok(());
    }
    for (index, pair) in adapter.pairs.iter_mut().enumerate() {
        let (block, short) = pair.module.rsplit_once('.').unwrap_or_default();
        let module = model.config.linear_modules().iter().find(|module| module.name == short);
        let maps = module.map_or(0..0, |module| module.maps.clone());
        let weights = maps.map(|map| tensor(model, &format!("{block}.{}.weight", LINEAR_MODULES[map])));
        let weights = weights.collect::<Result<Vec<&Tensor>, _>>().map_err(TrainError::model)?;
        if pair.magnitude.is_some() {
            let norms = weights.iter().map(|weight| row_norms(weight)).collect::<Result<Vec<_>, _>>();
            pair.magnitude = Some(norms.map_err(TrainError::model)?.concat());
        }
        if settings.starts_as_pissa() {
            let stream = Stream::LoraInit { pair: index as u64 };
            let mut numbers = (0..).map(|at| numbered(settings.seed, stream, at).symmetric());
            begin_as_principal(pair, &weights, || numbers.next().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Writes A₀ = √(σ/s)·vᵀ and B₀ = u·√(σ/s) to the first half of a pair's rank, and A₀ and −B₀ to the
/// second.
fn begin_as_principal(pair: &mut LoraPair, weights: &[&Tensor], random: impl FnMut() -> f32) -> Result<(), TrainError> {
    let (rank, scaling) = (pair.rank / 2, f64::from(pair.scaling));
    let found = principal(weights, rank, random)?;
    let roots: Vec<f64> = found.values.iter().map(|value| (value / scaling).sqrt()).collect();
    let columns = found.right.column_iter().zip(&roots);
    let a: Vec<f32> = columns.flat_map(|(v, root)| (v * *root).iter().map(|x| *x as f32).collect::<Vec<_>>()).collect();
    pair.a = [a.as_slice(), a.as_slice()].concat();
    for (row, u) in pair.b.chunks_exact_mut(2 * rank).zip(found.left.row_iter()) {
        for (at, (x, root)) in u.iter().zip(&roots).enumerate() {
            let value = (x * root) as f32;
            (row[at], row[rank + at]) = (value, -value);
        }
    }
    Ok(())
}

/// The module of which PiSSA can find the least, and the highest rank of it.
fn least<'m>(model: &ModelConfig, modules: &[&'m str]) -> (&'m str, usize) {
    let most = |module: &&'m str| model.linear_shape(module).map(|[out, input]| (*module, out.min(input)));
    modules.iter().filter_map(most).min_by_key(|(_, most)| *most).unwrap_or_default()
}

/// Records what an adapter on `model` has for its base, for PEFT to load: the id on the hub and the
/// commit where the model is from there, else the id that the adapter was recorded with, else where
/// the model lies; its name where it lies nowhere, as in a tab.
pub(crate) fn record_base(config: &mut AdapterConfig, model: &Model) {
    if let Some(place) = HubPlace::of(&model.path) {
        (config.base_model, config.base_revision) = (Some(place.id), Some(place.commit));
        return;
    }
    // Before this was written, an adapter recorded its model's short name, which may look like an
    // id.
    if config.base_model.as_deref().is_some_and(|id| is_hub_id(id) && id != model.name) {
        return;
    }
    let place = std::path::absolute(&model.path).ok().filter(|path| path.exists());
    let place = place.and_then(|path| path.to_str().map(str::to_owned));
    (config.base_model, config.base_revision) = (Some(place.unwrap_or_else(|| model.name.clone())), None);
}

/// Whether a text is `name` or `owner/name`, as the hub has them.
fn is_hub_id(text: &str) -> bool {
    let named = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split('/').count() <= 2 && text.split('/').all(named) && !text.ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::model;

    fn settings() -> TrainConfig {
        TrainConfig { rank: 4, ..TrainConfig::default() }
    }

    #[test]
    fn a_is_uniform_below_one_over_root_in_and_b_is_zero() {
        let model = model(None, None);
        let adapter = new_adapter(&model.config, "tiny", &settings()).unwrap();
        assert_eq!(adapter.pairs.len(), 7);
        for pair in &adapter.pairs {
            let bound = 1.0 / (pair.in_features as f32).sqrt();
            assert_eq!((pair.a.len(), pair.b.len()), (4 * pair.in_features, 4 * pair.out_features));
            assert!(pair.b.iter().all(|b| *b == 0.0));
            let largest = pair.a.iter().fold(0f32, |m, a| m.max(a.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest} of {bound}", pair.module);
            assert_eq!(pair.scaling, 2.0);
        }
        let names: Vec<&str> = adapter.pairs.iter().map(|p| p.module.as_str()).collect();
        assert_eq!([names[0], names[6]], ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]);
    }

    #[test]
    fn rslora_divides_alpha_by_the_root_of_the_rank() {
        let model = model(None, None);
        let settings = TrainConfig { use_rslora: true, alpha: Some(3.0), ..settings() };
        let adapter = new_adapter(&model.config, "tiny", &settings).unwrap();
        assert!(adapter.pairs.iter().all(|pair| pair.scaling == 1.5));
        assert!(adapter.config_json().contains("\"use_rslora\": true"));
    }

    #[test]
    fn a_rank_that_no_layer_can_use_is_refused_before_anything_is_made() {
        let model = model(None, None);
        let make = |rank, modules: &[&str]| {
            let settings = TrainConfig {
                rank,
                target_modules: modules.iter().map(|m| (*m).to_owned()).collect(),
                ..TrainConfig::default()
            };
            new_adapter(&model.config, "tiny", &settings).map(|adapter| adapter.pairs.len())
        };
        let of = |module| model.config.linear_shape(module).unwrap().into_iter().min().unwrap();
        assert_eq!(make(of("q_proj"), &["all-linear"]), Ok(7));
        assert_eq!(make(of("k_proj"), &["k_proj"]), Ok(1));
        for rank in [of("k_proj") + 1, 100_000, usize::MAX] {
            assert_eq!(
                make(rank, &["k_proj"]).unwrap_err().to_string(),
                format!(
                    "rank is {rank}, expected 1 to {}: no adapted layer of tiny can use a higher one",
                    of("k_proj")
                )
            );
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        let model = model(None, None);
        let make = |seed| new_adapter(&model.config, "tiny", &TrainConfig { seed, ..settings() }).unwrap();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1).pairs[0].a, make(2).pairs[0].a);
        assert_ne!(make(1).pairs[0].a, make(1).pairs[3].a, "two modules of one shape start apart");
    }
}
