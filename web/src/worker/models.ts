/**
 * Models in the browser's storage: `models/ID/` with their files, and `about.json`, which is written last and says
 * that they are whole. A download that broke off leaves its part and is gone on with.
 *
 * A name says nothing about what a model is. The stored one is taken for another only where the SHA-256 that was asked
 * for is its own, where the same address answers with the same size and version, or where the bytes are the same.
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
  /** Of the weights. */
  sha256: string;
  files: { name: string; bytes: number }[];
  /** Where it was downloaded. Absent of files, and of what was stored before addresses were kept. */
  from?: { url: string; version: string | null };
}

/** What a download that broke off was. */
interface Part {
  url: string;
  version: string | null;
  total: number | null;
}

/** Files ready to be opened. */
export interface Opened {
  name: string;
  /** Its folder in the storage, where it lies there. */
  id?: string;
  files: [string, Blob][];
  /** Of the weights, where they are one file. */
  sha256: string | undefined;
  notStoredBecause?: string;
}

export type Tell = (event: WorkerEvent) => void;

const ABOUT = "about.json";
const PART = "part.json";
const PIECE = 4 << 20;

/** Folders that hold a whole model. */
async function whole(): Promise<{ id: string; about: About }[]> {
  const found: { id: string; about: About }[] = [];
  for (const entry of await opfs.entries(await opfs.folder("models"))) {
    const about = entry.kind === "directory" ? await opfs.readJson<About>(entry as opfs.Folder, ABOUT) : null;
    if (about) found.push({ id: opfs.shownName(entry.name), about });
  }
  return found;
}

export async function list(): Promise<StoredModel[]> {
  const models = (await whole()).map(({ id, about: { name, sha256, files, from } }) => {
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    return { id, name, sha256, bytes, ...(from ? { url: from.url } : {}) };
  });
  return models.sort((a, b) => a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
}

export const remove = async (id: string): Promise<void> => opfs.remove(await opfs.folder("models"), id);

/** A model that an earlier visit kept; null where there is none, or it is damaged. */
export async function stored(id: string): Promise<Opened | null> {
  const folder = await opfs.folder("models", id);
  const about = await opfs.readJson<About>(folder, ABOUT);
  if (!about) return null;
  const files: [string, Blob][] = [];
  for (const { name: file, bytes } of about.files) {
    const blob = await opfs.file(folder, file);
    if (blob?.size !== bytes) return null;
    files.push([file, blob]);
  }
  return { name: about.name, id, files, sha256: oneFile(files.map(([file]) => file)) ? about.sha256 : undefined };
}

/** The first of these that is undamaged; those before it are removed. */
async function undamaged(ids: string[]): Promise<Opened | null> {
  for (const id of ids) {
    const opened = await stored(id);
    if (opened) return opened;
    await remove(id);
  }
  return null;
}

/** The stored model that is this one file, under the name that was asked for. */
async function bySha256(sha256: string, name: string): Promise<Opened | null> {
  const same = (await whole()).filter(({ about }) => about.sha256 === sha256 && about.files.length === 1);
  const opened = await undamaged(same.map(({ id }) => id));
  return opened && { ...opened, name };
}

/** A folder for a model that is to be stored: of this name, or of one like it where another model lies there. */
async function free(name: string): Promise<string> {
  const taken = new Set((await whole()).map(({ id }) => id));
  for (let number = 2, id = name; ; number++) {
    if (!taken.has(id)) return id;
    id = `${name} (${number})`;
  }
}

/** Whether the weights are one file, whose digest is theirs. */
const oneFile = (names: string[]): boolean => names.filter((name) => /\.(gguf|safetensors)$/i.test(name)).length === 1;

/** Downloads a single file into the storage, going on where an earlier attempt broke off. */
export async function download(url: string, name: string, get: Fetch, signal: AbortSignal, tell: Tell, expected?: { bytes: number; sha256: string }): Promise<Opened> {
  const same = expected && (await bySha256(expected.sha256, name));
  if (same) return same;
  const kept = (await whole()).filter(({ about }) => about.from?.url === url);
  const id = await free(name);
  const folder = await opfs.folder("models", id);
  const part = await opfs.readJson<Part>(folder, PART);
  const partial = part?.url === url ? await opfs.file(folder, name) : null;
  let have = partial?.size ?? 0;

  let response = await request(get, url, have, signal).catch((error: unknown) => {
    if (kept.length === 0 || !(error instanceof Failed)) throw error;
    throw new Failed(error.kind, `${error.message}. What it gave on an earlier visit is listed under "Kept in this browser"`);
  });
  const opened = expected ? null : await undamaged(kept.filter(({ about }) => answersWith(response, have, about)).map(({ id }) => id));
  if (opened) {
    await response.body?.cancel();
    return opened;
  }
  const there = size(response, have);
  const goesOn = response.status === 206 && (part?.version ?? null) === version(response) && (part?.total ?? there) === there;
  if (have > 0 && !goesOn) {
    await response.body?.cancel();
    have = 0;
    response = await request(get, url, 0, signal);
  }
  const total = expected?.bytes ?? size(response, have);
  const digest = new Sha256();
  if (have > 0 && partial) await hash(partial, digest, tell);
  const from = { url, version: version(response) };
  const about: Part = { ...from, total };
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
    await remove(id);
    throw new Failed("network", `the download of ${name} is damaged (its checksum is wrong) and was removed: try again`);
  }
  // Another address had the same file, or a visit before addresses were kept.
  const twin = await bySha256(sha256, name);
  if (twin?.id) {
    await remove(id);
    await change(twin.id, { from });
    return twin;
  }
  await opfs.remove(folder, PART);
  const complete: About = { name, sha256, files: [{ name, bytes: have }], from };
  await opfs.write(folder, ABOUT, JSON.stringify(complete));
  const made = await stored(id);
  if (!made) throw new Failed("storage", `${name} could not be kept: the browser removed it`);
  return made;
}

/** How many bytes the whole file has, where the answer says so. */
function size(response: Response, have: number): number | null {
  const length = response.headers.get("content-length");
  return length ? (response.status === 206 ? have : 0) + Number(length) : null;
}

/** What changes when the file at an address does, where the server lets the page read it. */
const version = (response: Response): string | null => response.headers.get("etag") ?? response.headers.get("last-modified");

/** Whether an answer is, by its size and version, the file that was stored. */
const answersWith = (response: Response, have: number, { files, from }: About): boolean =>
  files[0]?.bytes === size(response, have) && (from?.version ?? null) === version(response);

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

/** Several files are parts of one model by their names; the engine looks into them. */
function checkParts(names: string[]): void {
  const stems = new Set(names.map((name) => /^(.*)-\d{5}-of-\d{5}\.gguf$/i.exec(name)?.[1] ?? name));
  if (stems.size > 1) {
    throw new Failed("input", `${names.join(", ")} are several models: give one .gguf file, or all parts of one model`);
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
  const ggufs = named.filter((file) => /\.gguf$/i.test(file.name)).sort((a, b) => a.name.localeCompare(b.name));
  checkParts(ggufs.map((file) => file.name));
  for (const gguf of ggufs) checkMagic(gguf.name, new Uint8Array(await gguf.slice(0, 4).arrayBuffer()), gguf.name);
  const name = ggufs[0]?.name ?? folder ?? (named.length === 1 ? named[0]?.name : undefined) ?? "model";
  const wanted = ggufs.length > 0 ? ggufs : named.filter((file) => /\.(json|safetensors|jinja)$/i.test(file.name));
  const given: [string, Blob][] = (wanted.length > 0 ? wanted : named).map((file) => [file.name, file]);
  const opened: Opened = { name, files: given, sha256: undefined };
  if (wanted.length === 0) return opened;
  let id: string | undefined;
  try {
    const twin = await sameAs(name, wanted, signal, tell);
    if (twin) return twin;
    id = await free(name);
    await copy(id, name, wanted, signal, tell);
    return (await stored(id)) ?? opened;
  } catch (error) {
    if (signal.aborted) throw error;
    if (id) await remove(id).catch(() => {});
    const full = error instanceof DOMException && error.name === "QuotaExceededError";
    return { ...opened, notStoredBecause: full ? "the browser's storage has no room for it" : "the browser offers this page no storage" };
  }
}

/** The stored model of this name with these files, byte for byte. */
async function sameAs(name: string, files: File[], signal: AbortSignal, tell: Tell): Promise<Opened | null> {
  for (const { id, about } of await whole()) {
    const sizes = new Map(about.files.map((file) => [file.name, file.bytes]));
    if (about.name !== name || sizes.size !== files.length || files.some((file) => sizes.get(file.name) !== file.size)) continue;
    const kept = await undamaged([id]);
    const total = files.reduce((sum, file) => sum + file.size, 0);
    let done = 0;
    const same = async (file: File, blob: Blob | undefined) => {
      for (let at = 0; blob && at < file.size; at += PIECE) {
        signal.throwIfAborted();
        const [a, b] = await Promise.all([file, blob].map(async (it) => new Uint8Array(await it.slice(at, at + PIECE).arrayBuffer())));
        if (a!.some((byte, index) => byte !== b![index])) return false;
        done += a!.length;
        tell({ event: "progress", what: "hash", done, total });
      }
      return blob !== undefined;
    };
    let all = kept !== null;
    for (const file of files) all &&= await same(file, kept?.files.find(([name]) => name === file.name)?.[1]);
    if (all) return kept;
  }
  return null;
}

async function copy(id: string, name: string, files: File[], signal: AbortSignal, tell: Tell): Promise<void> {
  // What a download or a copy left there that never became whole is not of this model.
  await remove(id);
  const folder = await opfs.folder("models", id);
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

/** Corrects what is known about a stored model: the digest, where its weights are several files. */
export async function change(id: string, what: Partial<About>): Promise<void> {
  const folder = await opfs.folder("models", id);
  const about = await opfs.readJson<About>(folder, ABOUT);
  if (about) await opfs.write(folder, ABOUT, JSON.stringify({ ...about, ...what }));
}
