/** The worker's end of protocol.ts: one piece of work at a time, and the page heard in between. */
import type { Answers, AskOptions, FromWorker, Generated, Method, Methods, ModelInfo, ModelSource, Request, StorageReport, WorkerEvent } from "../protocol.ts";
import init, { Session } from "../engine/bft.js";
import moduleUrl from "../engine/bft_bg.wasm?url";
import { Failed, failure } from "./failure.ts";
import { foreignFetch } from "./foreign.ts";
import { WorkerHost } from "./host.ts";
import { holdStorage } from "./lock.ts";
import * as models from "./models.ts";
import * as runs from "./runs.ts";
import * as zip from "./zip.ts";

const tell = (message: FromWorker, transfer: Transferable[] = []) => self.postMessage(message, { transfer });
const event = (event: WorkerEvent) => tell(event);
const host = new WorkerHost(event);

/** Starts with the first call: the page paints without it. */
let started: Promise<Session> | null = null;
const session = () => (started ??= init({ module_or_path: moduleUrl }).then(() => new Session(host)));

/** The model in use, and the rows that a run over it would have. */
let model: ModelInfo | null = null;
const rows = new Map<runs.Rows["role"], runs.Rows>();

type Handlers = { [M in Method]: (argument: Methods[M][0], signal: AbortSignal) => Promise<Methods[M][1]> };

const handlers: Handlers = {
  open_device: async ({ device }) => (await session()).open_device(device),
  open_model: openModel,
  storage,
  remove_model: async ({ id }) => {
    await holdStorage();
    await models.remove(id);
    return storage();
  },
  remove_run: async ({ id }) => {
    await holdStorage();
    await runs.remove(id);
    return storage();
  },
  read_data: async (options) => {
    const { about, bytes } = runs.parts(options);
    const report = (await session()).read_data(about, bytes);
    rows.set(options.role, options);
    return report;
  },
  clear_data: async ({ role }) => {
    (await session()).clear_data(role);
    rows.delete(role);
    return null;
  },
  preview: async (options) => (await session()).preview(options),
  default_settings: async () => (await session()).default_settings(),
  estimate: async (settings) => (await session()).estimate(settings),
  train: async (settings) => {
    const engine = await session();
    const { steps } = engine.estimate(settings) as Methods["estimate"][1];
    if (!model) throw new Failed("input", "open a model first");
    host.run = await beginRun({ id: `run-${Date.now().toString(36)}`, model: model.name, model_sha256: model.sha256, settings, steps });
    return engine.train(settings).finally(() => (host.run = null));
  },
  continue_run: continueRun,
  pause: async () => null,
  unpause: async () => null,
  stop: async () => null,
  ask,
  embed: async (options) => (await session()).embed(options),
  export_vectors: async ({ format }) => {
    const bytes = (await session()).vectors_file(format) as Uint8Array<ArrayBuffer>;
    return new Blob([bytes], { type: format === "npy" ? "application/octet-stream" : "text/plain" });
  },
  export_adapter: async () => zip.zip((await session()).adapter_files()),
  import_adapter: async ({ files, folder }) => {
    const read = await zip.adapterFiles(files, folder);
    return (await session()).import_adapter(read.name, read.files);
  },
  adapter: async () => (await session()).adapter(),
  clear_adapter: async () => {
    (await session()).clear_adapter();
    return null;
  },
  destroy_device: async () => null,
};

async function openModel(source: ModelSource, signal: AbortSignal): Promise<ModelInfo> {
  await session();
  await holdStorage();
  const opened = await fetchModel(source, signal);
  return use(opened);
}

async function fetchModel(source: ModelSource, signal: AbortSignal): Promise<models.Opened> {
  switch (source.kind) {
    case "sample": {
      const folder = import.meta.env.DEV ? "/models/" : "../models/";
      const url = new URL(folder + models.SAMPLE.file, import.meta.url).href;
      return models.download(url, models.SAMPLE.file, (url, init) => fetch(url, init), signal, event, models.SAMPLE);
    }
    case "url": {
      const name = decodeURIComponent(new URL(source.url).pathname.split("/").at(-1) ?? "");
      if (!/\.gguf$/i.test(name)) {
        throw new Failed("input", `${source.url} does not end in .gguf: a model by its address must be one GGUF file`);
      }
      return models.download(source.url, name, foreignFetch(source.port), signal, event);
    }
    case "files":
      return models.keep(source.files, source.folder, signal, event);
    case "stored": {
      const stored = await models.stored(source.id);
      if (stored) return stored;
      const named = (await models.list()).find(({ id }) => id === source.id)?.name ?? source.id;
      await models.remove(source.id);
      throw new Failed("storage", `${named} was damaged or removed from the browser's storage: load it again`);
    }
  }
}

async function use(opened: models.Opened): Promise<ModelInfo> {
  const engine = await session();
  try {
    const info = (await engine.open_model(opened.name, opened.files, opened.sha256)) as ModelInfo;
    if (opened.id && !opened.sha256) await models.change(opened.id, { sha256: info.sha256 });
    model = { ...info, stored: opened.id ?? null };
    if (opened.notStoredBecause) model.not_stored_because = opened.notStoredBecause;
    rows.clear();
    return model;
  } catch (error) {
    model = null;
    rows.clear();
    // What cannot be used is not worth its room.
    if (opened.id && failure(error).kind === "input") await models.remove(opened.id);
    throw error;
  }
}

/** Keeps what a run needs to be gone on with. Without storage it runs all the same, and says so. */
async function beginRun(about: runs.About): Promise<string | null> {
  await holdStorage();
  try {
    await runs.tidy(null);
    await runs.begin(about, [...rows.values()]);
    return about.id;
  } catch (error) {
    event({ event: "note", text: `No checkpoints are kept: ${failure(error).message}` });
    return null;
  }
}

async function continueRun({ id }: { id: string }): Promise<Methods["continue_run"][1]> {
  const engine = await session();
  await holdStorage();
  const run = await runs.load(id);
  if (model?.sha256 !== run.about.model_sha256) {
    const known = (await models.list()).find((stored) => stored.sha256 === run.about.model_sha256);
    const stored = known && (await models.stored(known.id));
    if (!stored) throw new Failed("input", `the run is of ${run.about.model}, which is not in the browser's storage: open it first`);
    await use(stored);
  }
  for (const role of ["train", "held_out"] as const) {
    const data = run.rows.find((data) => data.role === role);
    if (data) await handlers.read_data(data, new AbortController().signal);
    else await handlers.clear_data({ role }, new AbortController().signal);
  }
  host.run = id;
  return engine.go_on(run.about.settings, run.files).finally(() => (host.run = null));
}

/** Both answers at once: each waits for its turn after a token, so that they are written in step. */
async function ask(options: AskOptions): Promise<Answers> {
  const engine = await session();
  const write = (adapter: boolean) =>
    (engine.generate(options, adapter) as Promise<Generated>).catch((error: unknown) => {
      // The other would only take its time.
      host.stop();
      throw error;
    });
  const both = [write(false), ...(engine.adapter() ? [write(true)] : [])];
  await Promise.allSettled(both);
  const [base, tuned = null] = await Promise.all(both);
  return { base: base!, tuned };
}

async function storage(): Promise<StorageReport> {
  const { usage = 0, quota = 0 } = await navigator.storage.estimate();
  const persisted = await navigator.storage.persisted();
  try {
    return { models: await models.list(), runs: await runs.list(), usage, quota, persisted };
  } catch {
    // A private window may have none.
    return { models: [], runs: [], usage, quota, persisted };
  }
}

/** Heard at once, whatever is being worked at. */
const atOnce: Partial<Record<Method, () => void>> = {
  pause: () => host.pause(),
  unpause: () => host.unpause(),
  stop: () => host.stop(),
  // As a driver does it, in the middle of whatever goes on.
  destroy_device: () => void started?.then((engine) => engine.destroy_device()),
};

let queue: Promise<unknown> = Promise.resolve();

self.onmessage = ({ data }: MessageEvent<Request>) => {
  const { id, method, argument } = data;
  const now = atOnce[method];
  if (now) {
    now();
    tell({ id, answer: null });
    return;
  }
  const work = async (signal: AbortSignal) => {
    try {
      const handler = handlers[method] as (argument: unknown, signal: AbortSignal) => Promise<Methods[Method][1]>;
      tell({ id, answer: await handler(argument, signal) });
    } catch (error) {
      const told = failure(error);
      if (told.kind === "lost") event({ event: "device_lost", message: told.message });
      tell({ id, failure: told });
    }
  };
  // Looks and changes nothing, so it need not wait.
  if (method === "storage") void work(new AbortController().signal);
  else queue = queue.then(() => work(host.begin()));
};
