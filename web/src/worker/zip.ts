/** An adapter as one file: PEFT's two, and what the run left. */
import { unzipSync, zipSync, type UnzipFileInfo, type Zippable } from "fflate";
import { Failed } from "./failure.ts";

/** A zip of named files. Weights are kept as they are: random digits do not shrink. */
export function zip(files: [string, Uint8Array][]): Blob {
  const entries: Zippable = {};
  for (const [name, bytes] of files) entries[name] = [bytes, { level: name.endsWith(".safetensors") ? 0 : 6 }];
  return new Blob([zipSync(entries) as Uint8Array<ArrayBuffer>], { type: "application/zip" });
}

/** PEFT's two files, and what ends a text of the tuned model. */
const FILES = /^(adapter_config\.json|adapter_model\.(safetensors|bin)|generation_config\.json)$/;

/** Largest sum of the sizes of what is unpacked of a zip: adapters hardly shrink, and a zip can say a thousand times its own. */
const most = (packed: number): number => 8 * packed + (64 << 20);

/** What is wanted of a zip; what else is in it is not unpacked. */
function unpack(name: string, packed: Uint8Array): [string, Uint8Array][] {
  const base = (path: string) => path.split("/").at(-1) ?? path;
  let all = 0;
  const filter = (file: UnzipFileInfo) => {
    if (!FILES.test(base(file.name))) return false;
    all += file.originalSize;
    if (all > most(packed.length)) {
      throw new Failed("input", `${base(file.name)} in ${name} says it is ${file.originalSize} bytes, too many for a zip of ${packed.length}: unpack it yourself, and give its files`);
    }
    return true;
  };
  return Object.entries(unzipSync(packed, { filter })).map(([path, bytes]) => [base(path), bytes]);
}

/** The files of an adapter, out of a zip or as they were given. */
export async function adapterFiles(files: File[], folder?: string): Promise<{ name: string; files: [string, Uint8Array][] }> {
  const archive = files.find((file) => /\.zip$/i.test(file.name));
  const read: [string, Uint8Array][] = [];
  if (archive) {
    try {
      read.push(...unpack(archive.name, new Uint8Array(await archive.arrayBuffer())));
    } catch (error) {
      if (error instanceof Failed) throw error;
      throw new Failed("input", `${archive.name} is no zip file that can be read: download it again`);
    }
  } else {
    for (const file of files) read.push([file.name, new Uint8Array(await file.arrayBuffer())]);
  }
  const name = archive?.name.replace(/\.zip$/i, "") ?? folder ?? "adapter";
  return { name: name || "adapter", files: read.filter(([file]) => FILES.test(file)) };
}
