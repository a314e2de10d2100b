/**
 * What the page and its worker say to each other.
 *
 * The page calls a method and gets one answer; while the worker is at it, events tell how far it is. All compute, all
 * storage and all requests for models are the worker's; the page only shows. Numbers and names are those of the
 * command line, because the same Rust structs are behind both.
 */

/** Which device was asked for. `auto` takes a real GPU, else the CPU in WebAssembly. */
export type DeviceChoice = "auto" | "gpu" | "cpu";

export interface DeviceInfo {
  kind: "gpu" | "cpu";
  name: string;
  backend: string;
  /** Why this one was taken. */
  reason: string;
  /** Whether the GPU is a program on the CPU, and slower than it. */
  software: boolean;
}

/** Where a model comes from. */
export type ModelSource =
  /** SmolLM2 from the page's own origin. */
  | { kind: "sample" }
  /** A `.gguf`, or config.json + *.safetensors + tokenizer.json and what else lies in the folder. */
  | { kind: "files"; files: File[]; /** Of the folder that they lay in, where that is known. */ folder?: string }
  /**
   * The only request that may leave the page's origin. The engine cannot make it, being bound by the page's
   * `connect-src 'self'`: `foreignFetch(port)` of worker/foreign.ts makes it through the port.
   */
  | { kind: "url"; url: string; port: MessagePort }
  /** One that an earlier visit kept in the browser's storage. */
  | { kind: "stored"; id: string };

export interface ModelInfo {
  name: string;
  /** `llama`, `qwen2`, … */
  architecture: string;
  parameters: number;
  layers: number;
  hidden_size: number;
  vocab_size: number;
  context_length: number;
  /** Format of most of the weights: `Q4_1`, `F16`, … */
  format: string;
  bytes: number;
  sha256: string;
  has_chat_template: boolean;
  /** How the model's files say that its vectors are made; null where they say nothing. */
  pooling: "mean" | "last" | null;
  normalize: boolean;
  /** Under which id it lies in the browser's storage now; null, and why, where it does not. */
  stored: string | null;
  not_stored_because?: string;
}

export interface StoredModel {
  /** What it is opened and removed by. Two models may have one name. */
  id: string;
  name: string;
  bytes: number;
  /** Of the weights. */
  sha256: string;
  /** The address that it was downloaded from, where that is known. */
  url?: string;
}

/** A run that can be gone on with: its checkpoint lies in the browser's storage. */
export interface StoredRun {
  id: string;
  model: string;
  model_sha256: string;
  step: number;
  steps: number;
  /** Milliseconds since 1970. */
  saved_at: number;
  bytes: number;
  settings: TrainSettings;
}

export interface StorageReport {
  models: StoredModel[];
  runs: StoredRun[];
  usage: number;
  quota: number;
  /** Whether the browser promised not to clear it by itself. */
  persisted: boolean;
}

/** What was read from rows. */
export interface DataReport {
  file: string;
  format: string;
  rows: number;
  samples: number;
  /** Rows without a trained token, left out. */
  untrained: number;
  truncated: number;
  tokens: number;
  trained_tokens: number;
  /** Longest sample in tokens. */
  longest: number;
  /** Sentences worth showing: what was left out or cut, and why. */
  notes: string[];
}

export type Loss = "sft" | "dft" | "bft" | "bft-v3";

/** Flags of `bft train`, with their names in snake case. */
export interface TrainSettings {
  loss: Loss;
  group_size: number;
  gamma: number;
  rank: number;
  alpha: number | null;
  lora_dropout: number;
  lr: number;
  schedule: "cosine" | "linear" | "constant";
  warmup_steps: number;
  weight_decay: number;
  max_grad_norm: number;
  batch_size: number;
  grad_accum: number;
  steps: number | null;
  epochs: number | null;
  max_length: number | null;
  truncate: boolean;
  no_shuffle: boolean;
  seed: number;
  eval_every: number | null;
  save_every: number;
  checkpoint_activations: "auto" | "on" | "off";
}

export interface Estimate {
  bytes: number;
  steps: number;
  steps_per_epoch: number;
  trainable_parameters: number;
}

export interface StepRow {
  step: number;
  loss: number;
  nll: number;
  lr: number;
  grad_norm: number;
  tokens: number;
  tokens_per_second: number;
}

export interface EvalRow {
  step: number;
  eval_nll: number;
  eval_loss: number;
}

export interface Finished {
  steps: number;
  /** Whether it was stopped before its last step. */
  stopped: boolean;
  skipped_steps: number;
  tokens: number;
  seconds: number;
  nll: number | null;
  eval: EvalRow | null;
}

/** One token of a previewed sample. */
export interface PreviewToken {
  text: string;
  id: number;
  trained: boolean;
  /** The model's probability of it; null where it is not trained. */
  p: number | null;
  /** Its weight under each loss, without the sample's; null where it is not trained. */
  weights: Record<Loss, number> | null;
}

export interface Preview {
  index: number;
  samples: number;
  line: number;
  tokens: PreviewToken[];
  nll: number;
  /** s_b of each loss (1 for sft and dft). */
  sample_weights: Record<Loss, number>;
}

export interface AskOptions {
  prompt: string;
  chat_template: boolean;
  /** Variables of the chat template as a person writes them: `enable_thinking=false`, several parted by semicolons. */
  template_vars?: string;
  max_new_tokens: number;
  temperature: number;
  top_p: number;
  seed: number;
}

export interface Generated {
  text: string;
  tokens: number;
  finish_reason: "stop" | "length" | "cancelled";
  seconds: number;
}

/** Of the base model and, where there is an adapter, of the tuned one. */
export interface Answers {
  base: Generated;
  tuned: Generated | null;
}

export interface EmbedOptions {
  texts: string[];
  /** A name for each text, or its text where there is none. */
  ids: string[] | null;
  adapter: boolean;
  pooling: "mean" | "last";
  normalize: boolean;
}

export interface Embedded {
  ids: string[];
  width: number;
  /** The first two principal components of each centred vector, row by row. */
  map: Float32Array;
  /** Share of the variance that each of the two explains. */
  explained: [number, number];
  /** For each text, the others by falling cosine of the centred vectors, at most ten. */
  neighbours: { index: number; cosine: number }[][];
  tokens: number;
  seconds: number;
}

/** The adapter in use: trained here, or loaded. */
export interface AdapterInfo {
  name: string;
  rank: number;
  alpha: number;
  modules: string[];
  parameters: number;
}

export type VectorFormat = "npy" | "jsonl" | "tsv";

/** Methods of the worker: argument, answer. */
export interface Methods {
  /** Opens a device; called first, and again to change it or after it was lost. A model in use is loaded again. */
  open_device: [{ device: DeviceChoice }, DeviceInfo];
  open_model: [ModelSource, ModelInfo];
  storage: [Record<string, never>, StorageReport];
  remove_model: [{ id: string }, StorageReport];
  remove_run: [{ id: string }, StorageReport];
  /** Reads rows; an error names line, keys found and keys expected. */
  read_data: [{ role: "train" | "held_out"; name: string; text: string; max_length: number | null; truncate: boolean; skip_bad_rows: boolean; /** As for AskOptions. */ template_vars?: string }, DataReport];
  clear_data: [{ role: "train" | "held_out" }, null];
  /** A sample's tokens with the model's probabilities, adapter included where there is one. */
  preview: [{ index: number; group_size: number; gamma: number }, Preview];
  default_settings: [Record<string, never>, TrainSettings];
  estimate: [TrainSettings, Estimate];
  /** Answers when the run is over, stopped included. */
  train: [TrainSettings, Finished];
  /** Goes on with a stored run; its data, settings and model are those of the run. */
  continue_run: [{ id: string }, Finished];
  /** Waits between steps until `unpause`. Takes a checkpoint. */
  pause: [Record<string, never>, null];
  unpause: [Record<string, never>, null];
  /** Ends a run after the step at hand, a generation after its token, a download at once. */
  stop: [Record<string, never>, null];
  /** Asks the base model and the tuned one; both are written at once, a token in turn. */
  ask: [AskOptions, Answers];
  embed: [EmbedOptions, Embedded];
  export_vectors: [{ format: VectorFormat }, Blob];
  /** The adapter in PEFT's layout with metrics.jsonl and run.json, as a zip. */
  export_adapter: [Record<string, never>, Blob];
  /** adapter_config.json and adapter_model.safetensors, or a zip of them. */
  import_adapter: [{ files: File[]; folder?: string }, AdapterInfo];
  adapter: [Record<string, never>, AdapterInfo | null];
  clear_adapter: [Record<string, never>, null];
  /** Loses the GPU on purpose; for tests. */
  destroy_device: [Record<string, never>, null];
}

export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  id: number;
  method: M;
  argument: Methods[M][0];
}

/** What a person can act on, and what the page can. */
export interface Failure {
  message: string;
  /**
   * `lost` and `memory` offer another device; `busy`, that another tab holds the storage; `cancelled` is no fault;
   * `input` is shown beside the field that it is about.
   */
  kind: "input" | "lost" | "memory" | "storage" | "network" | "busy" | "cancelled" | "other";
}

export type WorkerEvent =
  | { event: "progress"; what: "download" | "hash" | "store" | "upload" | "embed"; done: number; total: number | null }
  | { event: "started"; steps: number; resumed_from: number; parameters: number; memory_bytes: number; device: string }
  | { event: "note"; text: string }
  | { event: "step"; row: StepRow; sample_weights: number[] }
  | { event: "skipped"; step: number; tensor: string }
  | { event: "eval"; row: EvalRow }
  | { event: "checkpoint"; step: number }
  /** A run waits for `unpause`. */
  | { event: "paused" }
  | { event: "token"; who: keyof Answers; text: string }
  | { event: "device_lost"; message: string };

export type FromWorker =
  | { id: number; answer: Methods[Method][1] }
  | { id: number; failure: Failure }
  | WorkerEvent;
