/**
 * A worker that answers from a script, to bring the page into states that the real engine reaches seldom or late:
 * each failure, a run that takes hours, a device that never opens. What the page is for is tested on the real engine,
 * in flows.spec.ts.
 */
import type { Page } from "@playwright/test";
import { FIELDS } from "../../src/contract.ts";
import type { Failure, Method, Methods, ModelInfo, Preview, StoredRun, TrainSettings, WorkerEvent } from "../../src/protocol.ts";

/** What one call does: its events, then an answer or a failure, or nothing until `stop` is called. */
export interface Scripted<M extends Method> {
  events?: WorkerEvent[];
  answer?: Methods[M][1];
  failure?: Failure;
  hangs?: boolean;
}

/** For each method its calls in order; the last one goes for all that follow. */
export type Script = { [M in Method]?: Scripted<M>[] };

/** The defaults. */
export const settings = Object.fromEntries(Object.entries(FIELDS).map(([name, field]) => [name, field.default])) as unknown as TrainSettings;

export const model: ModelInfo = {
  name: "scripted.gguf",
  architecture: "llama",
  parameters: 134_515_008,
  layers: 30,
  hidden_size: 576,
  vocab_size: 49_152,
  context_length: 8192,
  format: "Q4_1",
  bytes: 92_600_000,
  sha256: "ab".repeat(32),
  has_chat_template: true,
  notes: [],
  pooling: null,
  normalize: false,
  stored: "scripted.gguf",
};

export const storedRun: StoredRun = { id: "one", model: model.name, model_sha256: model.sha256, step: 50, steps: 146, saved_at: 0, bytes: 58_600_000, settings };

const weights = (p: number) => ({ sft: 1, dft: p, bft: p, "bft-v3": Math.min(1, 2 * p), gce: Math.sqrt(p) });

const preview: Preview = {
  index: 0,
  samples: 584,
  place: "line 1",
  tokens: [
    { text: "TP53", id: 7, trained: false, p: null, weights: null },
    { text: " encodes", id: 8, trained: true, p: 0.5, weights: weights(0.5) },
    { text: " a protein", id: 9, trained: true, p: 0.02, weights: weights(0.02) },
    { text: "\n", id: 10, trained: true, p: 0.99, weights: weights(0.99) },
  ],
  nll: 1.5,
  sample_weights: { sft: 1, dft: 1, bft: 0.4, "bft-v3": 0.25, gce: 1 },
};

const report = { format: "prompt_completion" as const, rows: 584, samples: 584, untrained: 0, truncated: 0, tokens: 33_830, trained_tokens: 9_716, longest: 75, notes: [] };

const USUAL: Script = {
  open_device: [{ answer: { kind: "gpu", name: "Scripted GPU", backend: "WebGPU", reason: "The browser offers it.", software: false } }],
  open_model: [{ answer: model }],
  storage: [{ answer: { models: [{ id: model.name, name: model.name, bytes: model.bytes, sha256: model.sha256 }], runs: [], usage: 101e6, quota: 2.1e9, persisted: false } }],
  read_data: [{ answer: { file: "rows", ...report } }],
  clear_data: [{ answer: null }],
  preview: [{ answer: preview }],
  default_settings: [{ answer: settings }],
  estimate: [{ answer: { bytes: 212e6, steps: 146, steps_per_epoch: 146, trainable_parameters: 4_884_480 } }],
  adapter: [{ answer: null }],
  pause: [{ answer: null }],
  unpause: [{ answer: null }],
  stop: [{ answer: null }],
};

/** Opens the page with a worker that follows `script`, and otherwise has a usual day. */
export async function openScripted(page: Page, script: Script = {}): Promise<void> {
  await page.route("**/assets/worker-*.js", (route) =>
    route.fulfill({ contentType: "text/javascript", body: `(${worker})(${JSON.stringify({ ...USUAL, ...script })})` }),
  );
  await page.goto("./");
}

/** Opens the scripted model and reads the gene rows. */
export async function withData(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Load SmolLM2" }).click();
  await page.getByRole("button", { name: "Use the gene facts" }).click();
  await page.locator("#preview .scene").waitFor();
}

/** Runs in the worker. */
function worker(script: Record<string, Scripted<Method>[]>): void {
  let release = () => {};
  self.onmessage = async ({ data }: MessageEvent<{ id: number; method: Method }>) => {
    if (data.method === "stop") release();
    const calls = script[data.method] ?? [];
    const call = (calls.length > 1 ? calls.shift() : calls[0]) ?? { failure: { kind: "other", message: `${data.method} is not in the script` } };
    for (const event of call.events ?? []) {
      self.postMessage(event);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    if (call.hangs) await new Promise<void>((resolve) => (release = resolve));
    const { failure, answer } = call;
    self.postMessage(failure ? { id: data.id, failure } : { id: data.id, answer });
  };
}
