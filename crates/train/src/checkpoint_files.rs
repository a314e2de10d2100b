//! A checkpoint as the contents of its files, wherever they are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bft_core::OptimizerState;
use bft_formats::{Adapter, Bytes, ModelConfig, Source, sha256_bytes};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::TrainError;
use crate::state::{Checkpoint, RunState};

const STATE_FILE: &str = "state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// The weights of the best adapter; its configuration is that of the adapter beside it.
const BEST_FILE: &str = "best.safetensors";
const ADAPTER_FILE: &str = "adapter_model.safetensors";
const SUMS_FILE: &str = "SHA256SUMS";
/// What every checkpoint has beside its checksums.
const FILES: [&str; 4] = ["adapter_config.json", ADAPTER_FILE, OPTIMIZER_FILE, STATE_FILE];

/// Name and contents of a file.
pub type NamedFile = (&'static str, Vec<u8>);

/// The files of a checkpoint: the adapter's, the best adapter's, the optimizer's and the run's
/// state, then `more`, and last the checksums of them all, as `sha256sum -c` reads them. The large ones are made when they
/// are asked for: a tab has no room for all at once.
///
/// # Errors
/// Where the adapter's factors do not fit their ranks.
pub fn checkpoint_files(
    state: &RunState,
    adapter: &Adapter,
    best: Option<&Adapter>,
    optimizer: &OptimizerState,
    more: Vec<NamedFile>,
) -> impl Iterator<Item = Result<NamedFile, TrainError>> {
    let of_adapter = std::iter::once_with(|| adapter_files(adapter)).flat_map(|files| match files {
        Ok(files) => files.into_iter().map(Ok).collect(),
        Err(problem) => vec![Err(problem)],
    });
    let of_run = [OPTIMIZER_FILE, STATE_FILE].into_iter().map(|name| {
        let contents = match name {
            OPTIMIZER_FILE => optimizer_file(optimizer)?,
            _ => serde_json::to_vec_pretty(state).map_err(|e| bad(state, e))?,
        };
        Ok((name, contents))
    });
    let of_best = best.into_iter().map(|best| Ok((BEST_FILE, best.weights()?)));
    let mut files = of_adapter.chain(of_best).chain(of_run).chain(more.into_iter().map(Ok));
    let mut sums = Some(String::new());
    std::iter::from_fn(move || {
        let file = files.next();
        match (&file, &mut sums) {
            (Some(Ok((name, contents))), Some(sums)) => {
                sums.push_str(&format!("{}  {name}\n", sha256_bytes(contents)));
                file
            }
            (None, _) => sums.take().map(|sums| Ok((SUMS_FILE, sums.into_bytes()))),
            _ => file,
        }
    })
}

/// The files of an adapter in PEFT's layout.
///
/// # Errors
/// Where its factors do not fit their ranks.
pub fn adapter_files(adapter: &Adapter) -> Result<Vec<NamedFile>, TrainError> {
    Ok(adapter.files()?)
}

impl Checkpoint {
    /// Reads a checkpoint from its files' contents; `path` names it.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] where a file is missing, is not what its checksum says, or
    /// cannot be right.
    pub fn from_files(path: PathBuf, files: BTreeMap<String, Bytes>, model: &ModelConfig) -> Result<Self, TrainError> {
        let problem = |problem: String| TrainError::BadCheckpoint { path: path.clone(), problem };
        let state = check_files(&files).map_err(problem)?;
        let optimizer = parse_optimizer(file(&files, OPTIMIZER_FILE).map_err(problem)?).map_err(problem)?;
        let name = path.display().to_string();
        let mut files: BTreeMap<String, Source> =
            files.iter().map(|(name, bytes)| (name.clone(), bytes.clone().into())).collect();
        let best = files.remove(BEST_FILE);
        let read = |files| Adapter::from_folder(&name, files, model).map_err(|e| problem(e.to_string()));
        let adapter = read(files.clone())?;
        let best = best.map(|best| {
            files.insert(ADAPTER_FILE.to_owned(), best);
            read(files)
        });
        Ok(Self { best: best.transpose()?, path, state, adapter, optimizer })
    }
}

fn file<'f>(files: &'f BTreeMap<String, Bytes>, name: &str) -> Result<&'f Bytes, String> {
    files.get(name).ok_or_else(|| format!("{name} is missing"))
}

/// Checks every file against its checksum, and reads the state.
pub(crate) fn check_files(files: &BTreeMap<String, Bytes>) -> Result<RunState, String> {
    let Some(sums) = files.get(SUMS_FILE) else {
        // Checkpoints of the first layout have none, which their state says better.
        parse_state(file(files, STATE_FILE)?)?;
        return Err(format!("{SUMS_FILE} is missing"));
    };
    let damaged = || format!("{SUMS_FILE}: not the checksums of a checkpoint: the file is damaged");
    let sums = std::str::from_utf8(sums).map_err(|_| damaged())?;
    let sums = sums.lines().map(|line| line.split_once("  ").map(|(sum, name)| (name, sum)));
    let sums: BTreeMap<&str, &str> = sums.collect::<Option<_>>().ok_or_else(damaged)?;
    if FILES.iter().any(|name| !sums.contains_key(name)) {
        return Err(damaged());
    }
    for (name, sum) in sums {
        let found = sha256_bytes(file(files, name)?);
        if found != sum {
            return Err(format!(
                "{name}: SHA-256 is {}…, {SUMS_FILE} says {}…: one of them is damaged",
                short(&found),
                short(sum)
            ));
        }
    }
    parse_state(file(files, STATE_FILE)?)
}

/// The first digits of a hash, which tell it from another.
pub(crate) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn bad(state: &RunState, error: impl std::fmt::Display) -> TrainError {
    TrainError::BadCheckpoint { path: format!("step {}", state.step).into(), problem: error.to_string() }
}

/// Contents of [`OPTIMIZER_FILE`].
pub(crate) fn optimizer_file(state: &OptimizerState) -> Result<Vec<u8>, TrainError> {
    // Safetensors are little-endian, as every machine this runs on.
    fn tensors(state: &OptimizerState) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let view = |values| {
            let len = <[f32]>::len(values);
            TensorView::new(Dtype::F32, vec![len], bytemuck::cast_slice(values))
        };
        // As a tensor, not as metadata, whose order in the file changes from run to run.
        let counters: Vec<u8> = [state.step, u64::from(state.passes)].iter().flat_map(|c| c.to_le_bytes()).collect();
        let tensors = [
            ("counters", TensorView::new(Dtype::U64, vec![2], &counters)?),
            ("control", view(&state.control)?),
            ("first_moment", view(&state.first_moment)?),
            ("second_moment", view(&state.second_moment)?),
        ];
        safetensors::serialize(tensors, None)
    }
    tensors(state).map_err(|e| TrainError::BadCheckpoint { path: OPTIMIZER_FILE.into(), problem: e.to_string() })
}

/// Reads what [`optimizer_file`] wrote.
pub(crate) fn parse_optimizer(bytes: &[u8]) -> Result<OptimizerState, String> {
    let problem = |what: String| format!("{OPTIMIZER_FILE}: {what}");
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| problem(e.to_string()))?;
    let data = |name: &str, dtype: Dtype| {
        let tensor = tensors.tensor(name).map_err(|e| problem(e.to_string()))?;
        if tensor.dtype() != dtype {
            return Err(problem(format!("{name} is {:?}, expected {dtype:?}", tensor.dtype())));
        }
        Ok(tensor.data())
    };
    let values = |name: &str| -> Result<Vec<f32>, String> {
        let (words, _) = data(name, Dtype::F32)?.as_chunks::<4>();
        Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    };
    let (counters, _) = data("counters", Dtype::U64)?.as_chunks::<8>();
    let [step, passes] = *counters else {
        return Err(problem(format!("counters holds {} numbers, expected 2", counters.len())));
    };
    let passes = u64::from_le_bytes(passes);
    let state = OptimizerState {
        step: u64::from_le_bytes(step),
        passes: u32::try_from(passes).map_err(|_| problem(format!("passes is {passes}, too many")))?,
        control: values("control")?,
        first_moment: values("first_moment")?,
        second_moment: values("second_moment")?,
    };
    match bad_moment(&state) {
        Some(what) => Err(problem(what)),
        None => Ok(state),
    }
}

/// The first moment that AdamW cannot have reached while its gradients were finite, in words.
pub(crate) fn bad_moment(state: &OptimizerState) -> Option<String> {
    let find = |name: &str, values: &[f32], least: f32, expected: &str| {
        let at = values.iter().position(|value| !value.is_finite() || *value < least)?;
        Some(format!("{name} holds {} at element {at}, expected {expected}", values[at]))
    };
    find("first_moment", &state.first_moment, f32::MIN, "a finite number")
        .or_else(|| find("second_moment", &state.second_moment, 0.0, "a finite number, 0 or more"))
}

/// Reads the contents of [`STATE_FILE`].
pub(crate) fn parse_state(bytes: &[u8]) -> Result<RunState, String> {
    let problem = |what: String| format!("{STATE_FILE}: {what}");
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| problem(e.to_string()))?;
    let layout = value.get("layout").and_then(serde_json::Value::as_u64);
    if layout != Some(u64::from(RunState::LAYOUT)) {
        let found = layout.map_or("none".into(), |l| l.to_string());
        return Err(problem(format!(
            "layout is {found}, expected {}: another version of bft made it; finish the run with that one, or start anew from its adapter",
            RunState::LAYOUT
        )));
    }
    serde_json::from_value(value).map_err(|e| problem(e.to_string()))
}
