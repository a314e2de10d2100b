/** What the engine asks of its worker: to pass events on, to hear the page between steps, to keep checkpoints. */
import type { Host } from "../engine/bft.js";
import type { WorkerEvent } from "../protocol.ts";
import { failure } from "./failure.ts";
import * as runs from "./runs.ts";

export class WorkerHost implements Host {
  readonly #tell: (event: WorkerEvent) => void;
  readonly #channel = new MessageChannel();
  /** Who waits for a turn, in order: two answers are written at once. */
  readonly #turns: (() => void)[] = [];
  #stopping = false;
  #paused = false;
  #wake: (() => void) | null = null;
  #abort = new AbortController();
  /** The run that checkpoints belong to. */
  run: string | null = null;

  constructor(tell: (event: WorkerEvent) => void) {
    this.#tell = tell;
    this.#channel.port1.onmessage = () => this.#turns.shift()?.();
  }

  event(event: unknown): void {
    this.#tell(event as WorkerEvent);
  }

  /** A task of its own, so that messages that came meanwhile are heard first. A timer would wait for 4 ms. */
  async turn(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#turns.push(resolve);
      this.#channel.port2.postMessage(null);
    });
  }

  async hold(): Promise<void> {
    if (this.#paused && !this.#stopping) this.#tell({ event: "paused" });
    while (this.#paused && !this.#stopping) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  stopping(): boolean {
    return this.#stopping;
  }

  pausing(): boolean {
    return this.#paused;
  }

  async save(step: number, files: [string, Uint8Array][]): Promise<void> {
    if (!this.run) return;
    try {
      await runs.save(this.run, step, files);
    } catch (error) {
      throw new Error(failure(error).message);
    }
  }

  /** A new piece of work: what was asked of the last one does not hold for it. */
  begin(): AbortSignal {
    this.#stopping = false;
    this.#paused = false;
    this.#abort = new AbortController();
    return this.#abort.signal;
  }

  stop(): void {
    this.#stopping = true;
    this.#abort.abort();
    this.#wake?.();
  }

  pause(): void {
    this.#paused = true;
  }

  unpause(): void {
    this.#paused = false;
    this.#wake?.();
  }
}
