/**
 * What the page and its worker say to each other.
 *
 * The page calls a method and gets one answer; while the worker is at it, events tell how far it is. All compute, all
 * storage and all requests for models are the worker's; the page only shows. What the engine itself says and takes is
 * written in contract.ts, from the Rust types; here is what the worker adds.
 */
import type {
  AdapterInfo, AskOptions, DataReport, DeviceChoice, DeviceInfo, EmbedOptions, EngineEvent, Estimate, FailureKind, Finished, Generated, Neighbours, OpenedModel,
  Preview, PreviewOptions, ReadData, Role, TrainSettings, VectorFormat,
} from "./contract.ts";

export type {
  AdapterInfo, AskOptions, DataReport, DeviceChoice, DeviceInfo, EmbedOptions, Estimate, EvalRow, Finished, Generated, Loss, Pooling, Preview, PreviewToken, ReadData, StepRow,
  TrainSettings, VectorFormat,
} from "./contract.ts";

/** Where a model comes from. */
export type ModelSource =
  /** SmolLM2 from the page's own origin. */
  | { kind: "sample" }
  /** A `.gguf` or its parts, or config.json + *.safetensors + tokenizer.json and what else lies in the folder. */
  | { kind: "files"; files: File[]; /** Of the folder that they lay in, where that is known. */ folder?: string }
  /**
   * The only request that may leave the page's origin. The engine cannot make it, being bound by the page's
   * `connect-src 'self'`: `foreignFetch(port)` of worker/foreign.ts makes it through the port.
   */
  | { kind: "url"; url: string; port: MessagePort }
  /** One that an earlier visit kept in the browser's storage. */
  | { kind: "stored"; id: string };

/** Also under which id it lies in the browser's storage now; null, and why, where it does not. */
export type ModelInfo = OpenedModel & { stored: string | null; not_stored_because?: string };

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

/** Of the base model and, where there is an adapter, of the tuned one. */
export interface Answers {
  base: Generated;
  tuned: Generated | null;
}

/** Vectors, with the first two principal components of each centred vector, row by row. */
export type Embedded = Neighbours & { map: Float32Array };

/** Methods of the worker: argument, answer. */
export interface Methods {
  /** Opens a device; called first, and again to change it or after it was lost. A model in use is loaded again. */
  open_device: [{ device: DeviceChoice }, DeviceInfo];
  open_model: [ModelSource, ModelInfo];
  storage: [Record<string, never>, StorageReport];
  remove_model: [{ id: string }, StorageReport];
  remove_run: [{ id: string }, StorageReport];
  /** Reads rows, of a file's bytes or of a text; an error names the place, what was found and what was expected. */
  read_data: [ReadData & ({ text: string } | { bytes: Uint8Array<ArrayBuffer> }), DataReport];
  clear_data: [{ role: Role }, null];
  /** A sample's tokens with the model's probabilities, adapter included where there is one. */
  preview: [PreviewOptions, Preview];
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
  kind: FailureKind | "network" | "busy";
}

export type WorkerEvent =
  | EngineEvent
  | { event: "progress"; what: "download" | "hash" | "store"; done: number; total: number | null }
  /** A run waits for `unpause`. */
  | { event: "paused" }
  | { event: "device_lost"; message: string };

export type FromWorker =
  | { id: number; answer: Methods[Method][1] }
  | { id: number; failure: Failure }
  | WorkerEvent;
