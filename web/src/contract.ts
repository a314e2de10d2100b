// Written from the types of crates/web/src/contract.rs and the settings of bft-train by
// `BFT_WRITE_CONTRACT=1 cargo test -p bft-web contract`. Do not edit.

export type Loss = "sft" | "dft" | "bft" | "bft-v3" | "gce";

export type Pooling = "mean" | "cls" | "last";

export type RowFormat = "tokens" | "messages" | "conversations" | "instruction" | "prompt_completion_turns" | "prompt_completion" | "text";

/** What a field of a setting takes, and what it holds at first. `most` is null where there is no bound. */
export interface Field {
  help: string;
  default: unknown;
  optional: boolean;
  least?: number;
  most?: number | null;
  whole?: boolean;
  words?: string[];
}

/** Settings of a run: flags of `bft train`, with underscores. */
export interface TrainSettings {
  /** Hold out this share of the rows of --data, or this many, and evaluate on them; which they are depends on what each row says alone */
  val_size: number | null;
  /** Take this many rows at most, drawn by --sample-seed */
  max_samples: number | null;
  /** Seed of the rows that --max-samples draws */
  sample_seed: number;
  /** Longest sample in tokens [default: 2048, or the model's context if that is shorter] */
  max_length: number | null;
  /** Cut samples longer than --max-length instead of stopping */
  truncate: boolean;
  /** Balanced (bft, bft-v3), token-weighted (dft), plain (sft) or generalised (gce) cross-entropy */
  loss: "sft" | "dft" | "bft" | "bft-v3" | "gce";
  /** Tokens in a confidence window of bft and bft-v3, or a part of each sample's trained tokens such as n/4, rounded up */
  group_size: number | string;
  /** Exponent on a sample's confidence in bft */
  gamma: number;
  /** Rank of the LoRA matrices */
  rank: number;
  /** LoRA's alpha; the adapter is scaled by alpha / rank [default: 2 * rank] */
  alpha: number | null;
  /** Chance that LoRA's input is dropped in training */
  lora_dropout: number;
  /** Learning rate at its highest */
  lr: number;
  /** How the learning rate goes after the warm-up: wsd is the full rate with a fall at its end */
  schedule: "cosine" | "linear" | "constant" | "wsd";
  /** Steps over which the learning rate rises from 0 [default: 0] */
  warmup_steps: number | null;
  /** Learning rate that cosine, linear and wsd fall towards [default: 0] */
  min_lr: number | null;
  /** Decoupled weight decay of AdamW */
  weight_decay: number;
  /** Longer gradients are shortened to this norm; 0 = off */
  max_grad_norm: number;
  /** Samples in a micro-batch */
  batch_size: number;
  /** Micro-batches in an optimizer step */
  grad_accum: number;
  /** Optimizer steps to take */
  steps: number | null;
  /** Passes over the data [default: 1, unless --steps is given] */
  epochs: number | null;
  /** Take rows in file order */
  no_shuffle: boolean;
  /** Seed of LoRA's start, of dropout and of the order of rows */
  seed: number;
  /** Steps between evaluations on the rows held out [default: before the first and after the last step] */
  eval_every: number | null;
  /** Leave the adapter whose NLL on the rows held out was the lowest, not that of the last step */
  save_best: boolean;
  /** End the run after so many evaluations in a row that are no better than the best before them */
  patience: number | null;
  /** Steps between checkpoints; one is always made at the end */
  save_every: number;
  /** Keep few activations and compute the rest again: less memory, more time */
  checkpoint_activations: "auto" | "on" | "off";
  /** How exact a GPU's products are: f16 lets those of the forward pass be in half precision where that is measured to be faster */
  precision: "f32" | "f16";
}

export const FIELDS: Record<keyof TrainSettings, Field> = {
  val_size: {"help":"Hold out this share of the rows of --data, or this many, and evaluate on them; which they are depends on what each row says alone","default":null,"optional":true,"least":0.0,"most":null,"whole":false},
  max_samples: {"help":"Take this many rows at most, drawn by --sample-seed","default":null,"optional":true,"least":1.0,"most":null,"whole":true},
  sample_seed: {"help":"Seed of the rows that --max-samples draws","default":0,"optional":false,"least":0.0,"most":null,"whole":true},
  max_length: {"help":"Longest sample in tokens [default: 2048, or the model's context if that is shorter]","default":null,"optional":true,"least":2.0,"most":null,"whole":true},
  truncate: {"help":"Cut samples longer than --max-length instead of stopping","default":false,"optional":false},
  loss: {"help":"Balanced (bft, bft-v3), token-weighted (dft), plain (sft) or generalised (gce) cross-entropy","default":"bft","optional":false,"words":["sft","dft","bft","bft-v3","gce"]},
  group_size: {"help":"Tokens in a confidence window of bft and bft-v3, or a part of each sample's trained tokens such as n/4, rounded up","default":256,"optional":false,"least":1.0,"most":null,"whole":true},
  gamma: {"help":"Exponent on a sample's confidence in bft","default":1.0,"optional":false,"least":0.0,"most":null,"whole":false},
  rank: {"help":"Rank of the LoRA matrices","default":16,"optional":false,"least":1.0,"most":null,"whole":true},
  alpha: {"help":"LoRA's alpha; the adapter is scaled by alpha / rank [default: 2 * rank]","default":null,"optional":true,"least":0.0,"most":null,"whole":false},
  lora_dropout: {"help":"Chance that LoRA's input is dropped in training","default":0.0,"optional":false,"least":0.0,"most":0.999,"whole":false},
  lr: {"help":"Learning rate at its highest","default":0.0002,"optional":false,"least":0.0,"most":null,"whole":false},
  schedule: {"help":"How the learning rate goes after the warm-up: wsd is the full rate with a fall at its end","default":"cosine","optional":false,"words":["cosine","linear","constant","wsd"]},
  warmup_steps: {"help":"Steps over which the learning rate rises from 0 [default: 0]","default":null,"optional":true,"least":0.0,"most":null,"whole":true},
  min_lr: {"help":"Learning rate that cosine, linear and wsd fall towards [default: 0]","default":null,"optional":true,"least":0.0,"most":null,"whole":false},
  weight_decay: {"help":"Decoupled weight decay of AdamW","default":0.01,"optional":false,"least":0.0,"most":null,"whole":false},
  max_grad_norm: {"help":"Longer gradients are shortened to this norm; 0 = off","default":1.0,"optional":false,"least":0.0,"most":null,"whole":false},
  batch_size: {"help":"Samples in a micro-batch","default":4,"optional":false,"least":1.0,"most":null,"whole":true},
  grad_accum: {"help":"Micro-batches in an optimizer step","default":1,"optional":false,"least":1.0,"most":null,"whole":true},
  steps: {"help":"Optimizer steps to take","default":null,"optional":true,"least":1.0,"most":null,"whole":true},
  epochs: {"help":"Passes over the data [default: 1, unless --steps is given]","default":null,"optional":true,"least":1.0,"most":null,"whole":true},
  no_shuffle: {"help":"Take rows in file order","default":false,"optional":false},
  seed: {"help":"Seed of LoRA's start, of dropout and of the order of rows","default":0,"optional":false,"least":0.0,"most":null,"whole":true},
  eval_every: {"help":"Steps between evaluations on the rows held out [default: before the first and after the last step]","default":null,"optional":true,"least":1.0,"most":null,"whole":true},
  save_best: {"help":"Leave the adapter whose NLL on the rows held out was the lowest, not that of the last step","default":false,"optional":false},
  patience: {"help":"End the run after so many evaluations in a row that are no better than the best before them","default":null,"optional":true,"least":1.0,"most":null,"whole":true},
  save_every: {"help":"Steps between checkpoints; one is always made at the end","default":100,"optional":false,"least":1.0,"most":null,"whole":true},
  checkpoint_activations: {"help":"Keep few activations and compute the rest again: less memory, more time","default":"auto","optional":false,"words":["auto","on","off"]},
  precision: {"help":"How exact a GPU's products are: f16 lets those of the forward pass be in half precision where that is measured to be faster","default":"f32","optional":false,"words":["f32","f16"]},
};

/** How tokens are chosen: flags of `bft generate`, with underscores. */
export interface SamplingSettings {
  /** Stop after this many new tokens */
  max_new_tokens: number;
  /** 0 takes the likeliest token; higher is more varied */
  temperature: number;
  /** Keep the fewest tokens whose probabilities reach this sum; 1 = off */
  top_p: number;
  /** Keep this many likeliest tokens; 0 = off */
  top_k: number;
  /** Keep tokens at least this many times as likely as the likeliest; 0 = off */
  min_p: number;
  /** Seed of the random choice */
  seed: number;
}

export const SAMPLING: Record<keyof SamplingSettings, Field> = {
  max_new_tokens: {"help":"Stop after this many new tokens","default":256,"optional":false,"least":1.0,"most":null,"whole":true},
  temperature: {"help":"0 takes the likeliest token; higher is more varied","default":0.0,"optional":false,"least":0.0,"most":null,"whole":false},
  top_p: {"help":"Keep the fewest tokens whose probabilities reach this sum; 1 = off","default":1.0,"optional":false,"least":0.01,"most":1.0,"whole":false},
  top_k: {"help":"Keep this many likeliest tokens; 0 = off","default":0,"optional":false,"least":0.0,"most":null,"whole":true},
  min_p: {"help":"Keep tokens at least this many times as likely as the likeliest; 0 = off","default":0.0,"optional":false,"least":0.0,"most":0.999,"whole":false},
  seed: {"help":"Seed of the random choice","default":0,"optional":false,"least":0.0,"most":null,"whole":true},
};

/**
 * Which device was asked for. `auto` takes a real GPU, else the CPU in WebAssembly.
 */
export type DeviceChoice = "auto" | "gpu" | "cpu";

export type DeviceInfo = { kind: "gpu" | "cpu", name: string, backend: string, 
/**
 * Why this one was taken.
 */
reason: string, 
/**
 * Whether the GPU is a program on the CPU, and slower than it.
 */
software: boolean, };

/**
 * A model, without what only the worker knows of it.
 */
export type OpenedModel = { name: string, 
/**
 * `llama`, `qwen2`, …
 */
architecture: string, parameters: number, layers: number, hidden_size: number, vocab_size: number, context_length: number, 
/**
 * Format of most of the weights: `Q4_1`, `F16`, …
 */
format: string, bytes: number, sha256: string, has_chat_template: boolean, 
/**
 * How the model's files say that its vectors are made; null where they say nothing.
 */
pooling: Pooling | null, normalize: boolean, 
/**
 * What of its files is read otherwise than it stands, in a sentence each.
 */
notes: Array<string>, };

/**
 * What rows are for.
 */
export type Role = "train" | "held_out";

export type ReadData = { role: Role, 
/**
 * Its ending tells CSV and TSV.
 */
name: string, 
/**
 * Keys with the columns that stand for them: `prompt=question`, several parted by commas.
 */
columns?: string, max_length: number | null, truncate: boolean, skip_bad_rows: boolean, 
/**
 * Variables of the chat template as a person writes them: `enable_thinking=false`, several
 * parted by semicolons.
 */
template_vars?: string, };

/**
 * What was read from rows.
 */
export type DataReport = { file: string, format: RowFormat, rows: number, samples: number, 
/**
 * Rows without a trained token, left out.
 */
untrained: number, truncated: number, tokens: number, trained_tokens: number, 
/**
 * Longest sample in tokens.
 */
longest: number, 
/**
 * Sentences worth showing: what was left out or cut, and why.
 */
notes: Array<string>, };

export type PreviewOptions = { index: number, group_size: number, gamma: number, };

/**
 * A number for each loss.
 */
export type ByLoss = { sft: number, dft: number, bft: number, "bft-v3": number, gce: number, };

/**
 * One token of a previewed sample.
 */
export type PreviewToken = { text: string, id: number, trained: boolean, 
/**
 * The model's probability of it; null where it is not trained.
 */
p: number | null, 
/**
 * Its weight under each loss, without the sample's; null where it is not trained.
 */
weights: ByLoss | null, };

export type Preview = { index: number, samples: number, 
/**
 * Where its row is: `line 3`.
 */
place: string, tokens: Array<PreviewToken>, nll: number, 
/**
 * s_b of each loss (1 for sft, dft and gce).
 */
sample_weights: ByLoss, };

export type Estimate = { bytes: number, steps: number, steps_per_epoch: number, trainable_parameters: number, };

/**
 * One optimizer step, as a line of `metrics.jsonl`.
 */
export type StepRow = { 
/**
 * The step, from 1.
 */
step: number, 
/**
 * The loss that is optimised, before this step's update.
 */
loss: number, 
/**
 * Which loss that is, in a run that has several in turn.
 */
loss_kind?: Loss, 
/**
 * Mean −log p of the trained tokens.
 */
nll: number, 
/**
 * Learning rate.
 */
lr: number, 
/**
 * Norm of the gradient before clipping.
 */
grad_norm: number, 
/**
 * Trained tokens, the N of the losses.
 */
tokens: number, 
/**
 * All tokens of the steps since the last report, masked ones too, by the time they took.
 */
tokens_per_second: number, };

/**
 * One evaluation, as a line of `metrics.jsonl`.
 */
export type EvalRow = { 
/**
 * Optimizer steps done; 0 is before the first.
 */
step: number, 
/**
 * Mean −log p of the held-out trained tokens.
 */
eval_nll: number, 
/**
 * The loss that is optimised, the last of several in turn, over the held-out rows as one batch.
 */
eval_loss: number, 
/**
 * Whether no evaluation of the run before it had so low an NLL.
 */
best: boolean, };

/**
 * How a run ended.
 */
export type Finished = { steps: number, 
/**
 * Whether it was stopped before its last step.
 */
stopped: boolean, skipped_steps: number, tokens: number, seconds: number, nll: number | null, eval: EvalRow | null, 
/**
 * Whether it ended before its last step because evaluations got no better.
 */
out_of_patience: boolean, 
/**
 * The step that the adapter is of.
 */
adapter_step: number, };

/**
 * The adapter in use: trained here, or loaded.
 */
export type AdapterInfo = { name: string, rank: number, alpha: number, modules: Array<string>, parameters: number, };

export type AskOptions = { prompt: string, chat_template: boolean, 
/**
 * As of [`ReadData`].
 */
template_vars?: string, max_new_tokens: number, temperature: number, top_p: number, seed: number, };

/**
 * Why a text ended.
 */
export type Finish = "stop" | "length" | "cancelled";

export type Generated = { text: string, tokens: number, finish_reason: Finish, seconds: number, };

export type EmbedOptions = { texts: Array<string>, 
/**
 * A name for each text, or its text where there is none.
 */
ids: Array<string> | null, adapter: boolean, pooling: Pooling, normalize: boolean, };

export type Neighbour = { index: number, cosine: number, };

/**
 * Vectors that were made, without their map.
 */
export type Neighbours = { ids: Array<string>, width: number, 
/**
 * Share of the variance that each axis of the map explains.
 */
explained: [number, number], 
/**
 * For each text, the others by falling cosine of the centred vectors, at most ten.
 */
neighbours: Array<Array<Neighbour>>, tokens: number, seconds: number, };

/**
 * The format of a file of vectors.
 */
export type VectorFormat = "npy" | "jsonl" | "tsv";

/**
 * What the page can offer after a failure.
 */
export type FailureKind = "input" | "lost" | "memory" | "storage" | "cancelled" | "other";

/**
 * Which of two answers a token belongs to.
 */
export type Who = "base" | "tuned";

/**
 * Work of the engine that tells how far it is.
 */
export type Work = "upload" | "embed";

/**
 * What the engine tells while it works.
 */
export type EngineEvent = { "event": "progress", what: Work, done: number, total: number, } | { "event": "started", steps: number, resumed_from: number, parameters: number, memory_bytes: number, device: string, } | { "event": "note", text: string, } | { "event": "step", row: StepRow, sample_weights: Array<number>, } | { "event": "skipped", step: number, tensor: string, } | { "event": "eval", row: EvalRow, } | { "event": "checkpoint", step: number, } | { "event": "token", who: Who, text: string, };
