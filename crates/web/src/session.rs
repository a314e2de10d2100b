//! What is open in a tab: device, model, data, adapter, and the answers about them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bft_core::device::{Device, DeviceError, DeviceRequest};
use bft_core::{Base, GroupSize, LossConfig, Runner, RunnerOptions};
use bft_formats::{Adapter, Bytes, Model, Source};
use bft_train::{
    BatchBounds, ByLoss, Place, Plan, Rows, SampleOptions, Samples, TrainConfig, inspect_sample, make_samples,
    new_adapter, parse_rows, word,
};
use js_sys::{Array, Uint8Array};
use serde_json::{Map, Value};
use wasm_bindgen::prelude::*;
use web_sys::Blob;

use crate::contract::{
    AdapterInfo, DataReport, DeviceChoice, DeviceInfo, EngineEvent, Estimate, OpenedModel, Preview, PreviewOptions,
    PreviewToken, ReadData, Role, Work,
};
use crate::failure::{Answer, Failure};
use crate::host::{Host, from_js, named_files, to_js};
use crate::vectors::Vectors;
use crate::{blob, settings};

/// What is open. Methods are those of protocol.ts. Nothing is borrowed over an `await`.
#[wasm_bindgen]
pub struct Session {
    pub(crate) host: Host,
    pub(crate) state: RefCell<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub device: Option<Rc<Device>>,
    pub model: Option<Rc<Model>>,
    /// The model on the device.
    pub base: Option<Base>,
    pub train: Option<Rc<Data>>,
    pub held_out: Option<Rc<Data>>,
    pub adapter: Option<Rc<NamedAdapter>>,
    pub vectors: Option<Vectors>,
    /// `metrics.jsonl` and `run.json` of the last run.
    pub metrics: String,
    pub run: String,
}

/// Rows that were read, and samples made of them.
pub(crate) struct Data {
    pub rows: Rows,
    pub samples: Samples,
    pub options: SampleOptions,
    pub columns: Vec<String>,
}

pub(crate) struct NamedAdapter {
    pub name: String,
    pub adapter: Adapter,
}

/// The family, and what the model's files have beside it.
fn architecture(model: &Model) -> String {
    let parts: Vec<&str> = model.left_out.keys().map(String::as_str).collect();
    let without = if parts.is_empty() { String::new() } else { format!(" without {}", parts.join(" and ")) };
    format!("{}{without}", model.config.architecture)
}

/// Device, model and the model's weights there.
pub(crate) struct Ready {
    pub device: Rc<Device>,
    pub model: Rc<Model>,
    pub base: Base,
}

#[wasm_bindgen]
impl Session {
    /// Nothing is open yet.
    #[wasm_bindgen(constructor)]
    pub fn new(host: Host) -> Self {
        Self { host, state: RefCell::default() }
    }

    /// Opens `auto`, `gpu` or `cpu`; a model in use is taken to it.
    pub async fn open_device(&self, choice: String) -> Result<JsValue, JsValue> {
        let unknown = || Failure::input(format!("device {choice:?} is not known: use auto, gpu or cpu"));
        let (device, reason) = open_device(word(&choice).ok_or_else(unknown)?).await?;
        let device = Rc::new(device);
        let model = {
            let mut state = self.state.borrow_mut();
            state.base = None;
            state.device = Some(Rc::clone(&device));
            state.model.clone()
        };
        if model.is_some() {
            self.upload().await?;
        }
        let info = device.info();
        let name = match (info.kind, info.name.as_str()) {
            ("gpu", "") => "a GPU that the browser does not name",
            (_, name) => name,
        };
        Ok(to_js(&DeviceInfo {
            kind: info.kind,
            name,
            backend: if info.kind == "gpu" { "WebGPU" } else { "WebAssembly, one thread" },
            reason,
            software: device.is_software(),
        }))
    }

    /// Opens a model from its files, `[[name, Blob], …]`: a `.gguf`, or what a folder holds.
    /// `sha256` is that of the weights where it is known.
    pub async fn open_model(&self, name: String, files: Array, sha256: Option<String>) -> Result<JsValue, JsValue> {
        let model = Rc::new(open_model(&name, &files)?);
        if let Some(sha256) = sha256 {
            model.set_sha256(sha256);
        }
        {
            // The old one goes first: there may be no room for two.
            let mut state = self.state.borrow_mut();
            *state = State { device: state.device.take(), ..State::default() };
            state.model = Some(Rc::clone(&model));
        }
        if let Err(failure) = self.upload().await {
            self.state.borrow_mut().model = None;
            return Err(failure.into());
        }
        let config = &model.config;
        // What cannot be followed is said when somebody embeds.
        let sentence = model.sentence().ok().flatten();
        let formats = model.formats();
        let most = formats.iter().max_by_key(|(_, (_, bytes))| *bytes);
        Ok(to_js(&OpenedModel {
            name: &model.name,
            architecture: architecture(&model),
            parameters: model.parameters(),
            layers: config.layers.len(),
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            context_length: config.max_position_embeddings,
            format: most.map_or_else(String::new, |(format, _)| format.to_string()),
            bytes: formats.values().map(|(_, bytes)| bytes).sum(),
            sha256: model.sha256().map_err(Failure::from)?,
            has_chat_template: model.chat_template.is_some(),
            pooling: sentence.as_ref().map(|steps| steps.pooling),
            normalize: sentence.is_some_and(|steps| steps.normalize),
            notes: &model.notes,
        }))
    }

    /// Reads rows for training or holding out from a file's bytes.
    pub fn read_data(&self, options: JsValue, bytes: Vec<u8>) -> Result<JsValue, JsValue> {
        let ReadData { role, name, columns, max_length, truncate, skip_bad_rows, template_vars } = from_js(&options)?;
        let model = self.model()?;
        let columns = columns.unwrap_or_default();
        let pairs = columns.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let reading = TrainConfig { skip_bad_rows, columns: pairs.map(str::to_owned).collect(), ..Default::default() };
        reading.validate().map_err(Failure::input)?;
        let rows = parse_rows(&name, bytes, &reading.rows()).map_err(Failure::input)?;
        // The field stands beside both; rows that meet no template have no use for it.
        let template_vars = if rows.format.is_chat() { variables(template_vars.as_deref())? } else { Map::new() };
        let options = SampleOptions { max_length, truncate, skip_bad_rows, template_vars };
        let samples = make_samples(&model, rows.clone(), &options).map_err(Failure::input)?;
        let report = to_js(&data_report(&samples));
        let data = Rc::new(Data { rows, samples, options, columns: reading.columns });
        let mut state = self.state.borrow_mut();
        match role {
            Role::Train => state.train = Some(data),
            Role::HeldOut => state.held_out = Some(data),
        }
        Ok(report)
    }

    /// Forgets rows.
    pub fn clear_data(&self, role: JsValue) -> Result<(), JsValue> {
        let mut state = self.state.borrow_mut();
        match from_js(&role)? {
            Role::Train => state.train = None,
            Role::HeldOut => state.held_out = None,
        }
        Ok(())
    }

    /// A sample's tokens with their probabilities and weights.
    pub async fn preview(&self, options: JsValue) -> Result<JsValue, JsValue> {
        let options: PreviewOptions = from_js(&options)?;
        let ready = self.ready()?;
        let (data, adapter) = {
            let state = self.state.borrow();
            (state.train.clone(), state.adapter.clone())
        };
        ready.model.require_head().map_err(Failure::input)?;
        let data = data.ok_or_else(|| Failure::input("read some rows first"))?;
        let samples = &data.samples.samples;
        let sample = samples.get(options.index).ok_or_else(|| {
            let count = samples.len();
            Failure::input(format!("there is no sample {}: expected 0 to {}", options.index, count.saturating_sub(1)))
        })?;
        let bounds = BatchBounds::of_sample(sample);
        let runner_options = RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
        let adapter = adapter.as_ref().map(|named| &named.adapter);
        let mut runner = Runner::on(&ready.device, &ready.base, adapter, runner_options).map_err(Failure::from)?;
        let group_size = GroupSize::Tokens(options.group_size);
        let loss = LossConfig { group_size, gamma: options.gamma, ..LossConfig::default() };
        let inspected =
            inspect_sample(&mut runner, ready.model.tokenizer.as_ref(), sample, loss).await.map_err(Failure::from)?;
        let tokens = inspected.tokens.iter().map(|token| PreviewToken {
            text: &token.text,
            id: token.id,
            trained: token.trained,
            p: token.scores.map(|scores| scores.p),
            weights: token.scores.map(|scores| scores.weights),
        });
        let (bft, bft_v3) = inspected.sample_weight.map_or((1.0, 1.0), |weights| (weights.bft, weights.bft_v3));
        Ok(to_js(&Preview {
            index: options.index,
            samples: samples.len(),
            place: match sample.origin.place {
                Place::Row(row) => format!("row {row}"),
                _ => format!("line {}", sample.origin.number()),
            },
            tokens: tokens.collect(),
            nll: inspected.nll.unwrap_or_default(),
            sample_weights: ByLoss { sft: 1.0, dft: 1.0, bft, bft_v3, gce: 1.0 },
        }))
    }

    /// The command line's defaults.
    pub fn default_settings(&self) -> JsValue {
        to_js(&settings::shown(&TrainConfig::default()))
    }

    /// What a run with these settings will need.
    pub fn estimate(&self, settings: JsValue) -> Result<JsValue, JsValue> {
        let model = self.model()?;
        let plan = self.plan(&from_js(&settings)?)?;
        let adapter = new_adapter(&model.config, &model.name, &plan.config).map_err(Failure::input)?;
        let memory = plan.memory(&model, &adapter).map_err(Failure::from)?;
        Ok(to_js(&Estimate {
            bytes: memory.total_bytes,
            steps: plan.steps,
            steps_per_epoch: plan.batches().steps_per_epoch(plan.train.samples.len()),
            trainable_parameters: plan.config.trained_values(&adapter),
        }))
    }

    /// Loads an adapter from its files, `[[name, bytes], …]`.
    pub fn import_adapter(&self, name: String, files: Array) -> Result<JsValue, JsValue> {
        let model = self.model()?;
        let files: BTreeMap<String, Source> =
            memory_files(&files).into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        let adapter = Adapter::from_folder(&name, files, &model.config).map_err(Failure::from)?;
        self.state.borrow_mut().adapter = Some(Rc::new(NamedAdapter { name, adapter }));
        Ok(self.adapter())
    }

    /// The adapter in use, or null.
    pub fn adapter(&self) -> JsValue {
        let state = self.state.borrow();
        to_js(&state.adapter.as_ref().map(|named| {
            let NamedAdapter { name, adapter } = &**named;
            let modules = &adapter.config.target_modules;
            let (rank, alpha) = (adapter.config.rank, adapter.config.alpha);
            AdapterInfo { name, rank, alpha, modules, parameters: parameters(adapter) }
        }))
    }

    /// Back to the base model.
    pub fn clear_adapter(&self) {
        self.state.borrow_mut().adapter = None;
    }

    /// Files of the adapter in PEFT's layout, and what the last run left: `[[name, bytes], …]`.
    pub fn adapter_files(&self) -> Result<Array, JsValue> {
        let state = self.state.borrow();
        let adapter =
            state.adapter.as_ref().ok_or_else(|| Failure::input("there is no adapter yet: tune one, or load one"))?;
        let mut files = bft_train::adapter_files(&adapter.adapter).map_err(Failure::from)?;
        for (name, text) in [("metrics.jsonl", &state.metrics), ("run.json", &state.run)] {
            if !text.is_empty() {
                files.push((name, text.clone().into_bytes()));
            }
        }
        Ok(named_files(files))
    }

    /// The vectors of the last embedding as a file: `npy`, `jsonl` or `tsv`.
    pub fn vectors_file(&self, format: &str) -> Result<Uint8Array, JsValue> {
        let state = self.state.borrow();
        let vectors =
            state.vectors.as_ref().ok_or_else(|| Failure::input("there are no vectors yet: embed some texts first"))?;
        let unknown = || Failure::input(format!("{format:?} is not a format of vectors: expected npy, jsonl or tsv"));
        Ok(Uint8Array::from(vectors.file(word(format).ok_or_else(unknown)?).as_slice()))
    }

    /// Loses the GPU on purpose.
    pub fn destroy_device(&self) {
        if let Some(device) = &self.state.borrow().device {
            device.destroy();
        }
    }
}

impl Session {
    pub(crate) fn model(&self) -> Answer<Rc<Model>> {
        let model = self.state.borrow().model.clone();
        model.ok_or_else(|| Failure::input("open a model first"))
    }

    pub(crate) fn ready(&self) -> Answer<Ready> {
        let state = self.state.borrow();
        match (&state.device, &state.model, &state.base) {
            (Some(device), Some(model), Some(base)) => {
                Ok(Ready { device: Rc::clone(device), model: Rc::clone(model), base: base.clone() })
            }
            (None, ..) => Err(Failure::input("open a device first")),
            _ => Err(Failure::input("open a model first")),
        }
    }

    /// Takes the model to the device, where there is one.
    async fn upload(&self) -> Answer<()> {
        let (device, model) = {
            let state = self.state.borrow();
            match (&state.device, &state.model) {
                (Some(device), Some(model)) => (Rc::clone(device), Rc::clone(model)),
                _ => return Ok(()),
            }
        };
        let total = model.tensors.values().map(|tensor| tensor.byte_len() as u64).sum();
        let base = Base::stream(&device, &model, |done| {
            self.host.tell(&EngineEvent::Progress { what: Work::Upload, done, total });
        })
        .await?;
        self.state.borrow_mut().base = Some(base);
        Ok(())
    }

    /// A run over the rows that were read.
    pub(crate) fn plan(&self, settings: &Map<String, Value>) -> Answer<Plan> {
        let model = self.model()?;
        let (train, held_out) = {
            let state = self.state.borrow();
            (state.train.clone(), state.held_out.clone())
        };
        model.require_head().map_err(Failure::input)?;
        let train = train.ok_or_else(|| Failure::input("read some rows first"))?;
        let mut config = settings::config(settings)?;
        config.data = PathBuf::from(&*train.rows.file).into();
        config.columns = train.columns.clone();
        config.skip_bad_rows = train.options.skip_bad_rows;
        config.template_vars = train.options.template_vars.clone();
        let eval = held_out.map(|data| data.rows.clone());
        Plan::new(config, &model, train.rows.clone(), eval).map_err(Failure::from)
    }
}

/// Values that are trained.
fn parameters(adapter: &Adapter) -> usize {
    adapter.pairs.iter().map(|pair| pair.parameters()).sum()
}

/// Variables of the chat template, several parted by semicolons.
pub(crate) fn variables(text: Option<&str>) -> Answer<Map<String, Value>> {
    let text = text.unwrap_or_default();
    let parts = if text.trim_start().starts_with('{') { vec![text] } else { text.split(';').collect() };
    let mut all = Map::new();
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        let problem = |problem| Failure::input(format!("template variables: {problem}"));
        all.extend(bft_formats::parse_variables(part).map_err(problem)?);
    }
    Ok(all)
}

async fn open_device(choice: DeviceChoice) -> Answer<(Device, &'static str)> {
    let gpu = || Device::open(&DeviceRequest::Gpu(None));
    match choice {
        DeviceChoice::Cpu => Ok((Device::cpu(), "you chose it")),
        DeviceChoice::Gpu => match gpu().await {
            Ok(device) => Ok((device, "you chose it")),
            Err(DeviceError::NoAdapter) => Err(Failure::other(
                "this browser offers no WebGPU: use a current Chrome, Edge, Firefox or Safari with a graphics \
                 driver, or take the CPU",
            )),
            Err(error) => Err(error.into()),
        },
        DeviceChoice::Auto => match gpu().await {
            Ok(device) if device.is_software() => Ok((
                Device::cpu(),
                "the only GPU that this browser offers is a program on the processor, slower than the processor itself",
            )),
            Ok(device) => Ok((device, "this browser offers WebGPU")),
            Err(DeviceError::NoAdapter) => Ok((Device::cpu(), "this browser offers no WebGPU")),
            Err(_) => Ok((Device::cpu(), "WebGPU could not be opened")),
        },
    }
}

/// `[[name, Blob], …]` as a model. Weights stay in their blobs; all else is small and read.
fn open_model(name: &str, files: &Array) -> Answer<Model> {
    let mut sources = BTreeMap::new();
    for entry in files.iter() {
        let entry = Array::from(&entry);
        let (Some(file), Ok(contents)) = (entry.get(0).as_string(), entry.get(1).dyn_into::<Blob>()) else {
            return Err(Failure::other("a file without a name or contents"));
        };
        let source =
            blob::source(contents).map_err(|_| Failure::other("this browser cannot read files in a worker"))?;
        sources.insert(file, source);
    }
    let is_gguf = |file: &String| file.to_ascii_lowercase().ends_with(".gguf");
    let ggufs: Vec<String> = sources.keys().filter(|file| is_gguf(file)).cloned().collect();
    match (&ggufs[..], sources.len()) {
        ([], 0) => Err(Failure::input("no file was given")),
        ([], 1) if !sources.contains_key("config.json") => {
            let file = sources.keys().next().map_or("", |file| file);
            Err(Failure::input(format!(
                "{file} is not a model that can be used by itself: give a .gguf file, or a folder with config.json, \
                 *.safetensors and tokenizer.json"
            )))
        }
        ([], _) => Ok(Model::from_folder(name, sources)?),
        _ => {
            sources.retain(|file, _| is_gguf(file));
            Ok(Model::from_gguf_parts(name, sources)?)
        }
    }
}

/// `[[name, Uint8Array], …]`
pub(crate) fn memory_files(files: &Array) -> BTreeMap<String, Bytes> {
    let entries = files.iter().map(|entry| {
        let entry = Array::from(&entry);
        let name = entry.get(0).as_string().unwrap_or_default();
        let bytes = Uint8Array::new(&entry.get(1)).to_vec();
        (name, Bytes::from(bytes))
    });
    entries.collect()
}

fn data_report(samples: &Samples) -> DataReport<'_> {
    let report = &samples.report;
    DataReport {
        file: &report.file,
        format: report.format,
        rows: report.rows,
        samples: report.samples,
        untrained: report.untrained.len(),
        truncated: report.truncated,
        tokens: report.tokens,
        trained_tokens: report.trained_tokens,
        longest: report.longest,
        notes: report.notes().iter().map(ToString::to_string).collect(),
    }
}
