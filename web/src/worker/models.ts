/**
 * Models in the browser's storage: `models/NAME/` with their files, and `about.json`, which is written last and says
 * that they are whole. A download that broke off leaves its part and is gone on with.
 */
import type { StoredModel, WorkerEvent } from "../protocol.ts";
import { Sha256 } from "../engine/bft.js";
import { Failed } from "./failure.ts";
import type { Fetch } from "./foreign.ts";
import * as opfs from "./opfs.ts";

export const SAMPLE = {
  file: "SmolLM2-135M-Instruct.Q4_1.gguf",
  bytes: 98_362_432,
  sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

interface About {
  name: string;
  sha256: string;
  files: { name: string; bytes: number }[];
}

/** What a download that broke off was. */
interface Part {
  url: string;
  etag: string | null;
  total: number | null;
}

/** Files ready to be opened. */
export interface Opened {
  name: string;
  files: [string, Blob][];
  /** Of the weights, where they are one file. */
  sha256: string | undefined;
  stored: boolean;
  notStoredBecause?: string;
}

export type Tell = (event: WorkerEvent) => void;

const ABOUT = "about.json";
const PART = "part.json";
const PIECE = 4 << 20;

export async function list(): Promise<StoredModel[]> {
  const models: StoredModel[] = [];
  for (const entry of await opfs.entries(await opfs.folder("models"))) {
    const about = entry.kind === "directory" ? await opfs.readJson<About>(entry as opfs.Folder, ABOUT) : null;
    if (about) models.push({ name: about.name, sha256: about.sha256, bytes: about.files.reduce((sum, file) => sum + file.bytes, 0) });
  }
  return models.sort((a, b) => a.name.localeCompare(b.name));
}

export const remove = async (name: string): Promise<void> => opfs.remove(await opfs.folder("models"), name);

/** A model that an earlier visit kept; null where there is none, or it is damaged. */
export async function stored(name: string): Promise<Opened | null> {
  const folder = await opfs.folder("models", name);
  const about = await opfs.readJson<About>(folder, ABOUT);
  if (!about) return null;
  const files: [string, Blob][] = [];
  for (const { name: file, bytes } of about.files) {
    const blob = await opfs.file(folder, file);
    if (blob?.size !== bytes) return null;
    files.push([file, blob]);
  }
  return { name, files, sha256: oneFile(files.map(([file]) => file)) ? about.sha256 : undefined, stored: true };
}

/** Whether the weights are one file, whose digest is theirs. */
const oneFile = (names: string[]): boolean => names.filter((name) => /\.(gguf|safetensors)$/i.test(name)).length === 1;

/** Downloads a single file into the storage, going on where an earlier attempt broke off. */
export async function download(url: string, name: string, get: Fetch, signal: AbortSignal, tell: Tell, expected?: { bytes: number; sha256: string }): Promise<Opened> {
  const kept = await stored(name);
  if (kept) return kept;
  const folder = await opfs.folder("models", name);
  const part = await opfs.readJson<Part>(folder, PART);
  const partial = part?.url === url ? await opfs.file(folder, name) : null;
  let have = partial?.size ?? 0;

  let response = await request(get, url, have, signal);
  const goesOn = response.status === 206 && (part?.etag ?? null) === response.headers.get("etag");
  if (have > 0 && !goesOn) {
    await response.body?.cancel();
    have = 0;
    response = await request(get, url, 0, signal);
  }
  const length = response.headers.get("content-length");
  const total = expected?.bytes ?? (length ? have + Number(length) : goesOn ? (part?.total ?? null) : null);
  const digest = new Sha256();
  if (have > 0 && partial) await hash(partial, digest, tell);
  const about: Part = { url, etag: response.headers.get("etag"), total };
  await opfs.write(folder, PART, JSON.stringify(about));

  const writer = await opfs.Writer.open(folder, name, have);
  try {
    for await (const chunk of chunks(response)) {
      // Not sooner: the first bytes tell whether the rest is worth its time.
      if (have === 0) checkMagic(name, chunk, url);
      writer.write(chunk);
      digest.update(chunk);
      have += chunk.length;
      tell({ event: "progress", what: "download", done: have, total });
    }
  } finally {
    writer.close();
  }
  if (total !== null && have < total) {
    throw new Failed("network", `the download of ${name} ended after ${have} of ${total} bytes: try again, it goes on from there`);
  }
  const sha256 = digest.finish();
  if (expected && sha256 !== expected.sha256) {
    await remove(name);
    throw new Failed("network", `the download of ${name} is damaged (its checksum is wrong) and was removed: try again`);
  }
  await opfs.remove(folder, PART);
  const whole: About = { name, sha256, files: [{ name, bytes: have }] };
  await opfs.write(folder, ABOUT, JSON.stringify(whole));
  const opened = await stored(name);
  if (!opened) throw new Failed("storage", `${name} could not be kept: the browser removed it`);
  return opened;
}

async function request(get: Fetch, url: string, from: number, signal: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await get(url, { headers: from > 0 ? { range: `bytes=${from}-` } : {}, signal });
  } catch (error) {
    if (error instanceof TypeError) {
      throw new Failed("network", `${url} could not be reached: check the address and the connection; another site must allow this one (CORS)`);
    }
    throw error;
  }
  if (from > 0 && response.status === 416) return response;
  if (!response.ok) throw new Failed("network", `${url} answered ${response.status}: check the address`);
  return response;
}

async function* chunks(response: Response): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Failed("network", "the connection broke: try again, the download goes on from there");
    throw error;
  } finally {
    reader.releaseLock();
  }
}

function checkMagic(name: string, first: Uint8Array, from: string): void {
  if (!/\.gguf$/i.test(name) || first.length < 4) return;
  if (String.fromCharCode(...first.subarray(0, 4)) !== "GGUF") {
    throw new Failed("input", `${from} is no GGUF file: it does not begin with "GGUF"`);
  }
}

async function hash(blob: Blob, digest: Sha256, tell: Tell): Promise<void> {
  for (let at = 0; at < blob.size; at += PIECE) {
    digest.update(new Uint8Array(await blob.slice(at, at + PIECE).arrayBuffer()));
    tell({ event: "progress", what: "hash", done: Math.min(at + PIECE, blob.size), total: blob.size });
  }
}

/** Takes files that were dropped into the storage. Where they have no room there, they are used as they are. */
export async function keep(files: File[], folder: string | undefined, signal: AbortSignal, tell: Tell): Promise<Opened> {
  const named = files.filter((file) => !file.name.startsWith("."));
  const gguf = named.find((file) => /\.gguf$/i.test(file.name));
  if (gguf) checkMagic(gguf.name, new Uint8Array(await gguf.slice(0, 4).arrayBuffer()), gguf.name);
  const name = gguf?.name ?? folder ?? (named.length === 1 ? named[0]?.name : undefined) ?? "model";
  const wanted = gguf ? [gguf] : named.filter((file) => /\.(json|safetensors|jinja)$/i.test(file.name));
  const given: [string, Blob][] = (wanted.length > 0 ? wanted : named).map((file) => [file.name, file]);
  const opened: Opened = { name, files: given, sha256: undefined, stored: false };
  if (wanted.length === 0) return opened;
  try {
    await copy(name, wanted, signal, tell);
    return (await stored(name)) ?? opened;
  } catch (error) {
    if (signal.aborted) throw error;
    await remove(name).catch(() => {});
    const full = error instanceof DOMException && error.name === "QuotaExceededError";
    return { ...opened, notStoredBecause: full ? "the browser's storage has no room for it" : "the browser offers this page no storage" };
  }
}

async function copy(name: string, files: File[], signal: AbortSignal, tell: Tell): Promise<void> {
  const folder = await opfs.folder("models", name);
  await opfs.remove(folder, ABOUT);
  const total = files.reduce((sum, file) => sum + file.size, 0);
  let done = 0;
  let sha256 = "";
  for (const file of files) {
    const digest = new Sha256();
    const writer = await opfs.Writer.open(folder, file.name);
    try {
      for (let at = 0; at < file.size; at += PIECE) {
        signal.throwIfAborted();
        const piece = new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer());
        writer.write(piece);
        digest.update(piece);
        done += piece.length;
        tell({ event: "progress", what: "store", done, total });
      }
    } finally {
      writer.close();
    }
    const own = digest.finish();
    if (/\.(gguf|safetensors)$/i.test(file.name)) sha256 = own;
  }
  const about: About = { name, sha256, files: files.map((file) => ({ name: file.name, bytes: file.size })) };
  await opfs.write(folder, ABOUT, JSON.stringify(about));
}

/** Corrects the digest of a model whose weights are several files. */
export async function setDigest(name: string, sha256: string): Promise<void> {
  const folder = await opfs.folder("models", name);
  const about = await opfs.readJson<About>(folder, ABOUT);
  if (about && about.sha256 !== sha256) await opfs.write(folder, ABOUT, JSON.stringify({ ...about, sha256 }));
}
