/**
 * `fetch` for an address outside the page's origin, by way of download.ts.
 *
 * The engine is bound by the page's `connect-src 'self'`. It asks the other end of a port instead, which knows the
 * address that was typed, and reads the answer chunk by chunk, each only when it is wanted.
 */

import { Failed } from "./failure.ts";

export type ToDownload =
  | { id: number; fetch: string; headers: Record<string, string> }
  | { id: number; pull: true }
  | { id: number; cancel: true };

export type FromDownload =
  | { id: number; status: number; headers: [string, string][] }
  /** null at the end. */
  | { id: number; chunk: Uint8Array<ArrayBuffer> | null }
  /** The host forwards to another address, which was not asked. */
  | { id: number; forwards: true }
  | { id: number; error: string };

export type Fetch = (url: string, init?: { headers?: Record<string, string>; signal?: AbortSignal }) => Promise<Response>;

interface Expecting {
  take(message: FromDownload): void;
  fail(error: Error): void;
}

/** A `fetch` that goes through `port`. Fails as `fetch` does: with a TypeError, or an AbortError. */
export function foreignFetch(port: MessagePort): Fetch {
  const expecting = new Map<number, Expecting>();
  let next = 1;
  const tell = (message: ToDownload) => port.postMessage(message);
  const ask = (id: number, message: ToDownload) =>
    new Promise<FromDownload>((resolve, reject) => {
      expecting.set(id, { take: resolve, fail: reject });
      tell(message);
    });

  port.onmessage = ({ data }: MessageEvent<FromDownload>) => {
    const waiting = expecting.get(data.id);
    expecting.delete(data.id);
    if ("error" in data) waiting?.fail(new TypeError(data.error));
    else waiting?.take(data);
  };

  return async (url, { headers = {}, signal } = {}) => {
    signal?.throwIfAborted();
    const id = next++;
    signal?.addEventListener("abort", () => {
      tell({ id, cancel: true });
      expecting.get(id)?.fail(new DOMException("cancelled", "AbortError"));
      expecting.delete(id);
    });
    const head = await ask(id, { id, fetch: url, headers });
    if ("forwards" in head) {
      throw new Failed("network", `${url} forwards to another address, which was not asked: type that one, or allow the page to follow`);
    }
    if (!("status" in head)) throw new TypeError("the download answered out of turn");
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        async pull(controller) {
          signal?.throwIfAborted();
          const answer = await ask(id, { id, pull: true });
          if (!("chunk" in answer)) throw new TypeError("the download answered out of turn");
          if (answer.chunk) controller.enqueue(answer.chunk);
          else controller.close();
        },
        cancel: () => tell({ id, cancel: true }),
      },
      { highWaterMark: 0 },
    );
    const empty = head.status === 204 || head.status === 304;
    return new Response(empty ? null : body, { status: head.status, headers: head.headers });
  };
}
