//! A checkpoint as the contents of its files, wherever they are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bft_core::OptimizerState;
use bft_formats::{Adapter, Bytes, ModelConfig, Source};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::TrainError;
use crate::state::{Checkpoint, RunState};

pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Name and contents of a file.
pub type NamedFile = (&'static str, Vec<u8>);

/// The files of a checkpoint, its state last. The large ones are made when they are asked for: a tab has no room for all
/// at once.
///
/// # Errors
/// Where the adapter's factors do not fit their ranks.
pub fn checkpoint_files(
    state: &RunState,
    adapter: &Adapter,
    optimizer: &OptimizerState,
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
    of_adapter.chain(of_run)
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
    /// [`TrainError::BadCheckpoint`] where a file is missing or cannot be right.
    pub fn from_files(path: PathBuf, files: BTreeMap<String, Bytes>, model: &ModelConfig) -> Result<Self, TrainError> {
        let problem = |problem: String| TrainError::BadCheckpoint { path: path.clone(), problem };
        let file = |name: &str| files.get(name).ok_or_else(|| problem(format!("{name} is missing")));
        let state = parse_state(file(STATE_FILE)?).map_err(problem)?;
        let optimizer = parse_optimizer(file(OPTIMIZER_FILE)?).map_err(problem)?;
        let name = path.display().to_string();
        let files: BTreeMap<String, Source> =
            files.iter().map(|(name, bytes)| (name.clone(), bytes.clone().into())).collect();
        let adapter = Adapter::from_folder(&name, files, model).map_err(|e| problem(e.to_string()))?;
        Ok(Self { path, state, adapter, optimizer })
    }
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
    Ok(OptimizerState {
        step: u64::from_le_bytes(step),
        passes: u32::try_from(passes).map_err(|_| problem(format!("passes is {passes}, too many")))?,
        control: values("control")?,
        first_moment: values("first_moment")?,
        second_moment: values("second_moment")?,
    })
}

/// Reads the contents of [`STATE_FILE`].
pub(crate) fn parse_state(bytes: &[u8]) -> Result<RunState, String> {
    let problem = |what: String| format!("{STATE_FILE}: {what}");
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| problem(e.to_string()))?;
    let layout = value.get("layout").and_then(serde_json::Value::as_u64);
    if layout != Some(u64::from(RunState::LAYOUT)) {
        let found = layout.map_or("none".into(), |l| l.to_string());
        return Err(problem(format!(
            "layout is {found}, expected {}: another version of bft made it",
            RunState::LAYOUT
        )));
    }
    serde_json::from_value(value).map_err(|e| problem(e.to_string()))
}
