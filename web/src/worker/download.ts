/**
 * The one way out of the page's origin: fetches the address that a person typed, and files of the same folder, for
 * the engine, which cannot. See foreign.ts for the other end.
 */
import type { FromDownload, ToDownload } from "./foreign.ts";

self.onmessage = ({ data }: MessageEvent<{ url: string; follow: boolean; port: MessagePort }>) => {
  self.onmessage = null;
  serve(new URL(data.url), data.follow, data.port);
};

function serve(typed: URL, follow: boolean, port: MessagePort): void {
  const folder = new URL(".", typed).href;
  const readers = new Map<number, ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>>();
  const aborts = new Map<number, AbortController>();
  const tell = (message: FromDownload, transfer: Transferable[] = []) => port.postMessage(message, transfer);

  const start = async (id: number, address: string, headers: Record<string, string>) => {
    const url = new URL(address);
    if (url.href !== typed.href && !url.href.startsWith(folder)) {
      throw new Error(`${url.href} is not in the folder that was typed`);
    }
    const abort = new AbortController();
    aborts.set(id, abort);
    const response = await fetch(url, {
      headers,
      signal: abort.signal,
      credentials: "omit",
      referrerPolicy: "no-referrer",
      // Where a host forwards to may be any other, this machine's own network among them.
      redirect: follow ? "follow" : "manual",
    });
    if (response.type === "opaqueredirect") {
      tell({ id, forwards: true });
      return;
    }
    if (response.body) readers.set(id, response.body.getReader());
    tell({ id, status: response.status, headers: [...response.headers] });
  };

  const pull = async (id: number) => {
    const read = await readers.get(id)?.read();
    if (!read || read.done) tell({ id, chunk: null });
    else tell({ id, chunk: read.value }, [read.value.buffer]);
  };

  port.onmessage = async ({ data }: MessageEvent<ToDownload>) => {
    try {
      if ("fetch" in data) await start(data.id, data.fetch, data.headers);
      else if ("pull" in data) await pull(data.id);
      else aborts.get(data.id)?.abort();
    } catch (error) {
      tell({ id: data.id, error: error instanceof Error ? error.message : String(error) });
    }
  };
}
