/** Files in and out: drops, choosers, downloads. */

/** What to do with files; `folder` names the one that they lay in, where that is known. */
type Take = (files: File[], folder?: string) => void;

/** Makes `zone` take dropped files; a dropped folder gives the files that lie in it. */
export function onDrop(zone: HTMLElement, take: Take): void {
  let depth = 0;
  const mark = (by: number) => {
    depth = Math.max(0, depth + by);
    zone.classList.toggle("over", depth > 0);
  };
  zone.addEventListener("dragenter", (event) => (event.preventDefault(), mark(1)));
  zone.addEventListener("dragleave", () => mark(-1));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark(0);
    if (event.dataTransfer) void dropped(event.dataTransfer).then(([files, folder]) => files.length > 0 && take(files, folder));
  });
}

/** A chooser's files, each time; the same file can be chosen twice. */
export function onChoice(chooser: HTMLInputElement, take: Take): void {
  chooser.addEventListener("change", () => {
    const files = [...(chooser.files ?? [])];
    chooser.value = "";
    // A folder's chooser goes into its folders; a model lies in one.
    const top = files.filter((file) => file.webkitRelativePath.split("/").length <= 2);
    const folder = top[0]?.webkitRelativePath.split("/")[0];
    if (top.length > 0) take(top, folder === "" ? undefined : folder);
  });
}

async function dropped(transfer: DataTransfer): Promise<[File[], string?]> {
  // Entries are only there until the event is over.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const folder = entries.find((entry) => entry?.isDirectory);
  if (!folder) return [[...transfer.files]];
  const inside = (await entriesOf(folder as FileSystemDirectoryEntry)).filter((entry) => entry.isFile);
  const files = inside.map((entry) => new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
  return [await Promise.all(files), folder.name];
}

async function entriesOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const all: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}

export function download(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A file dropped beside its place would make the browser leave the page. */
export function refuseStrayDrops(): void {
  for (const kind of ["dragover", "drop"] as const) window.addEventListener(kind, (event) => event.preventDefault());
}
