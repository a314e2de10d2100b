/**
 * The page's end of protocol.ts: typed calls to the engine's worker.
 *
 * A worker whose script comes from a blob inherits the page's Content-Security-Policy; one whose script comes from a
 * static host does not. The engine is therefore started through a blob, and `connect-src 'self'` binds it as it binds
 * the page. Only download.ts stands outside, and it knows one address: the one that was typed.
 */
import engineUrl from "./worker/worker.ts?worker&url";
import downloadUrl from "./worker/download.ts?worker&url";
import type { Failure, FromWorker, Method, Methods, ModelSource, WorkerEvent } from "./protocol.ts";

/** A failure as the worker told it. */
export class EngineError extends Error {
  readonly kind: Failure["kind"];

  constructor(failure: Failure) {
    super(failure.message);
    this.kind = failure.kind;
  }
}

/** An address that a person typed, and whether the page may follow where its host forwards to. */
export interface Typed {
  address: string;
  follow: boolean;
}

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: EngineError): void;
}

export class Client {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #next = 1;
  #dead: EngineError | null = null;

  constructor(onEvent: (event: WorkerEvent) => void) {
    const script = new Blob([`import ${JSON.stringify(new URL(engineUrl, document.baseURI).href)};`], { type: "text/javascript" });
    const url = URL.createObjectURL(script);
    this.#worker = new Worker(url, { type: "module", name: "engine" });
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if ("event" in data) {
        onEvent(data);
        return;
      }
      const waiting = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if ("failure" in data) waiting?.reject(new EngineError(data.failure));
      else waiting?.resolve(data.answer);
    };
    this.#worker.onerror = (event) => {
      const detail = event.message ? ` (${event.message})` : "";
      this.#fail({ kind: "other", message: `The engine stopped${detail}. Reload the page: what was saved is kept.` });
    };
  }

  call<M extends Method>(method: M, argument: Methods[M][0], transfer: Transferable[] = []): Promise<Methods[M][1]> {
    if (this.#dead) return Promise.reject(this.#dead);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: (answer) => resolve(answer as Methods[M][1]), reject });
      this.#worker.postMessage({ id, method, argument }, transfer);
    });
  }

  /** Opens the model at an address that a person typed; nothing else leaves the page's origin. */
  async openUrl({ address: url, follow }: Typed): Promise<Methods["open_model"][1]> {
    const { port1, port2 } = new MessageChannel();
    const download = new Worker(downloadUrl, { type: "module", name: "download" });
    download.postMessage({ url, follow, port: port1 }, [port1]);
    const source: ModelSource = { kind: "url", url, port: port2 };
    try {
      return await this.call("open_model", source, [port2]);
    } finally {
      download.terminate();
    }
  }

  #fail(failure: Failure): void {
    this.#dead = new EngineError(failure);
    for (const waiting of this.#waiting.values()) waiting.reject(this.#dead);
    this.#waiting.clear();
  }
}
