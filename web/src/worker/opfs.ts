/**
 * The browser's private file system. Written through access handles, which workers of all browsers have; a file counts
 * only once something that was written after it says that it is whole.
 */

export type Folder = FileSystemDirectoryHandle;

/** The folder at a path from the root, made if need be. */
export async function folder(...path: string[]): Promise<Folder> {
  let at = await navigator.storage.getDirectory();
  for (const name of path) at = await at.getDirectoryHandle(fileName(name), { create: true });
  return at;
}

/** A name that any file system takes; `shownName` undoes it. */
export const fileName = (name: string): string => encodeURIComponent(name).replaceAll(".", "%2E");
export const shownName = (name: string): string => decodeURIComponent(name);

/** Folders and files of a folder. */
export async function entries(of: Folder): Promise<FileSystemHandle[]> {
  const found: FileSystemHandle[] = [];
  for await (const entry of of.values()) found.push(entry);
  return found;
}

/** A file's contents, or null where there is none. Nothing is read yet. */
export async function file(of: Folder, name: string): Promise<File | null> {
  try {
    return await (await of.getFileHandle(fileName(name))).getFile();
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotFoundError") return null;
    throw error;
  }
}

/** A file being written, from `size` on. */
export class Writer {
  readonly #handle: FileSystemSyncAccessHandle;
  #at: number;

  private constructor(handle: FileSystemSyncAccessHandle, at: number) {
    this.#handle = handle;
    this.#at = at;
  }

  /** Opens a file and keeps its first `keep` bytes. */
  static async open(of: Folder, name: string, keep = 0): Promise<Writer> {
    const handle = await (await of.getFileHandle(fileName(name), { create: true })).createSyncAccessHandle();
    handle.truncate(keep);
    return new Writer(handle, keep);
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    let done = 0;
    while (done < bytes.length) {
      const count = this.#handle.write(bytes.subarray(done), { at: this.#at });
      // What was not taken has no room.
      if (count === 0) throw new DOMException("no room left", "QuotaExceededError");
      done += count;
      this.#at += count;
    }
  }

  close(): void {
    this.#handle.flush();
    this.#handle.close();
  }
}

/** Writes a whole file. */
export async function write(of: Folder, name: string, contents: Uint8Array<ArrayBuffer> | string): Promise<void> {
  const writer = await Writer.open(of, name);
  try {
    writer.write(typeof contents === "string" ? new TextEncoder().encode(contents) : contents);
  } finally {
    writer.close();
  }
}

/** JSON of a file; null where it is not there or not whole. */
export async function readJson<T>(of: Folder, name: string): Promise<T | null> {
  const found = await file(of, name);
  if (!found) return null;
  try {
    return JSON.parse(await found.text()) as T;
  } catch {
    return null;
  }
}

/** Removes a file or folder, if it is there. */
export async function remove(of: Folder, name: string): Promise<void> {
  try {
    await of.removeEntry(fileName(name), { recursive: true });
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "NotFoundError")) throw error;
  }
}

/** Bytes of all files below. */
export async function size(of: Folder): Promise<number> {
  let total = 0;
  for (const entry of await entries(of)) {
    if (entry.kind === "directory") total += await size(entry as Folder);
    else total += (await (entry as FileSystemFileHandle).getFile()).size;
  }
  return total;
}
