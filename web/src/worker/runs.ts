/**
 * Runs in the browser's storage: `runs/ID/` with `about.json`, the rows, and a folder for each of the last two
 * checkpoints. A checkpoint counts once its `complete.json`, written last, names every file with its length, and as long as
 * its files are what its `SHA256SUMS` says.
 */
import type { Methods, ReadData, StoredRun, TrainSettings } from "../protocol.ts";
import { Failed } from "./failure.ts";
import * as opfs from "./opfs.ts";

export type Rows = Methods["read_data"][0];

/** How rows are read, and the bytes that they are read from. */
export function parts(rows: Rows): { about: ReadData; bytes: Uint8Array<ArrayBuffer> } {
  if ("bytes" in rows) {
    const { bytes, ...about } = rows;
    return { about, bytes };
  }
  const { text, ...about } = rows;
  return { about, bytes: new TextEncoder().encode(text) };
}

async function stored(run: opfs.Folder, role: string): Promise<Rows | null> {
  const [about, file] = [await opfs.readJson<ReadData>(run, `${role}.json`), await opfs.file(run, `${role}.rows`)];
  return about && file && { ...about, bytes: new Uint8Array(await file.arrayBuffer()) };
}

/** What a run is, besides its checkpoints. */
export interface About {
  id: string;
  model: string;
  model_sha256: string;
  settings: TrainSettings;
  /** How many steps it is to have. */
  steps: number;
}

interface Complete {
  step: number;
  saved_at: number;
  files: { name: string; bytes: number }[];
}

const KEPT = 2;
const ABOUT = "about.json";
const COMPLETE = "complete.json";

/** Makes a run's folder. */
export async function begin(about: About, rows: Rows[]): Promise<void> {
  const folder = await opfs.folder("runs", about.id);
  for (const data of rows) {
    const { about, bytes } = parts(data);
    await opfs.write(folder, `${data.role}.rows`, bytes);
    await opfs.write(folder, `${data.role}.json`, JSON.stringify(about));
  }
  await opfs.write(folder, ABOUT, JSON.stringify(about));
}

/** A checkpoint being written, file by file. */
export class Checkpoint {
  readonly step: number;
  readonly #run: opfs.Folder;
  readonly #name: string;
  readonly #folder: opfs.Folder;
  readonly #files: Complete["files"] = [];
  #writer: opfs.Writer | null = null;

  private constructor(step: number, run: opfs.Folder, name: string, folder: opfs.Folder) {
    this.step = step;
    this.#run = run;
    this.#name = name;
    this.#folder = folder;
  }

  static async begin(id: string, step: number): Promise<Checkpoint> {
    const run = await opfs.folder("runs", id);
    const name = `step-${String(step).padStart(6, "0")}`;
    await opfs.remove(run, name);
    return new Checkpoint(step, run, name, await opfs.folder("runs", id, name));
  }

  /** Begins a file, and ends the one before it. */
  async begin(name: string): Promise<void> {
    this.#close();
    this.#writer = await opfs.Writer.open(this.#folder, name);
    this.#files.push({ name, bytes: 0 });
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    this.#writer?.write(bytes);
    const file = this.#files.at(-1);
    if (file) file.bytes += bytes.length;
  }

  /** Makes it count, and drops all but the last two. */
  async complete(): Promise<void> {
    this.#close();
    const complete: Complete = { step: this.step, saved_at: Date.now(), files: this.#files };
    await opfs.write(this.#folder, COMPLETE, JSON.stringify(complete));
    const old = (await checkpoints(this.#run)).slice(0, -KEPT);
    for (const { folder } of old) await opfs.remove(this.#run, folder);
  }

  async drop(): Promise<void> {
    this.#close();
    await opfs.remove(this.#run, this.#name);
  }

  #close(): void {
    this.#writer?.close();
    this.#writer = null;
  }
}

/** Whole checkpoints, oldest first. */
async function checkpoints(run: opfs.Folder): Promise<{ folder: string; complete: Complete }[]> {
  const found: { folder: string; complete: Complete }[] = [];
  for (const entry of await opfs.entries(run)) {
    if (entry.kind !== "directory") continue;
    const complete = await opfs.readJson<Complete>(entry as opfs.Folder, COMPLETE);
    if (complete) found.push({ folder: opfs.shownName(entry.name), complete });
  }
  return found.sort((a, b) => a.complete.step - b.complete.step);
}

export async function list(): Promise<StoredRun[]> {
  const runs: StoredRun[] = [];
  for (const entry of await opfs.entries(await opfs.folder("runs"))) {
    if (entry.kind !== "directory") continue;
    const folder = entry as opfs.Folder;
    const about = await opfs.readJson<About>(folder, ABOUT);
    const last = (await checkpoints(folder)).at(-1);
    if (!about || !last) continue;
    const { id, model, model_sha256, settings, steps } = about;
    const { step, saved_at } = last.complete;
    runs.push({ id, model, model_sha256, settings, steps, step, saved_at, bytes: await opfs.size(folder) });
  }
  return runs.sort((a, b) => b.saved_at - a.saved_at);
}

export const remove = async (id: string): Promise<void> => opfs.remove(await opfs.folder("runs"), id);

/** Removes what runs without a checkpoint left. */
export async function tidy(except: string | null): Promise<void> {
  const runs = await opfs.folder("runs");
  for (const entry of await opfs.entries(runs)) {
    const name = opfs.shownName(entry.name);
    if (name !== except && (await checkpoints(entry as opfs.Folder)).length === 0) await opfs.remove(runs, name);
  }
}

/** Whether each file is what the checksums among them say. Those of an earlier version have none; the engine says what becomes of them. */
async function unharmed(files: [string, Uint8Array<ArrayBuffer>][]): Promise<boolean> {
  const sums = new TextDecoder().decode(files.find(([name]) => name === "SHA256SUMS")?.[1]);
  for (const line of sums.split("\n").filter((line) => line !== "")) {
    const [sum, name] = line.split("  ");
    const bytes = files.find(([file]) => file === name)?.[1];
    if (!bytes) return false;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    if (sum !== Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")) return false;
  }
  return true;
}

/** A run with its rows and the files of its last whole checkpoint. */
export async function load(id: string): Promise<{ about: About; rows: Rows[]; files: [string, Uint8Array][] }> {
  const run = await opfs.folder("runs", id);
  const about = await opfs.readJson<About>(run, ABOUT);
  const rows = [await stored(run, "train"), await stored(run, "held_out")].filter((data) => data !== null);
  if (!about || !rows.some((data) => data.role === "train")) throw new Failed("storage", `the run ${id} is not there any more`);
  for (const { folder: name, complete } of (await checkpoints(run)).reverse()) {
    const folder = await opfs.folder("runs", id, name);
    const files: [string, Uint8Array<ArrayBuffer>][] = [];
    for (const { name: file, bytes } of complete.files) {
      const blob = await opfs.file(folder, file);
      if (blob?.size === bytes) files.push([file, new Uint8Array(await blob.arrayBuffer())]);
    }
    if (files.length === complete.files.length && (await unharmed(files))) return { about, rows, files };
  }
  throw new Failed("storage", `the run ${id} has no whole checkpoint: start it again`);
}
