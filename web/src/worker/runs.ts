/**
 * Runs in the browser's storage: `runs/ID/` with `about.json`, the rows, and a folder for each of the last two
 * checkpoints. A checkpoint counts once its `complete.json`, written last, names every file with its length.
 */
import type { Methods, StoredRun, TrainSettings } from "../protocol.ts";
import { Failed } from "./failure.ts";
import * as opfs from "./opfs.ts";

export type Rows = Methods["read_data"][0];

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
  for (const data of rows) await opfs.write(folder, `${data.role}.json`, JSON.stringify(data));
  await opfs.write(folder, ABOUT, JSON.stringify(about));
}

/** Keeps a checkpoint; drops all but the last two. */
export async function save(id: string, step: number, files: [string, Uint8Array][]): Promise<void> {
  const run = await opfs.folder("runs", id);
  const name = `step-${String(step).padStart(6, "0")}`;
  await opfs.remove(run, name);
  const folder = await opfs.folder("runs", id, name);
  try {
    for (const [file, bytes] of files) await opfs.write(folder, file, bytes as Uint8Array<ArrayBuffer>);
    const complete: Complete = { step, saved_at: Date.now(), files: files.map(([file, bytes]) => ({ name: file, bytes: bytes.length })) };
    await opfs.write(folder, COMPLETE, JSON.stringify(complete));
  } catch (error) {
    // A half-written one only takes room that may be what is lacking.
    await opfs.remove(run, name).catch(() => {});
    throw error;
  }
  const old = (await checkpoints(run)).slice(0, -KEPT);
  for (const { folder: name } of old) await opfs.remove(run, name);
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

/** A run with its rows and the files of its last whole checkpoint. */
export async function load(id: string): Promise<{ about: About; rows: Rows[]; files: [string, Uint8Array][] }> {
  const run = await opfs.folder("runs", id);
  const about = await opfs.readJson<About>(run, ABOUT);
  const rows = [await opfs.readJson<Rows>(run, "train.json"), await opfs.readJson<Rows>(run, "held_out.json")].filter((data) => data !== null);
  if (!about || !rows.some((data) => data.role === "train")) throw new Failed("storage", `the run ${id} is not there any more`);
  for (const { folder: name, complete } of (await checkpoints(run)).reverse()) {
    const folder = await opfs.folder("runs", id, name);
    const files: [string, Uint8Array][] = [];
    for (const { name: file, bytes } of complete.files) {
      const blob = await opfs.file(folder, file);
      if (blob?.size === bytes) files.push([file, new Uint8Array(await blob.arrayBuffer())]);
    }
    if (files.length === complete.files.length) return { about, rows, files };
  }
  throw new Failed("storage", `the run ${id} has no whole checkpoint: start it again`);
}
