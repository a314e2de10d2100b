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
  #checkpoint: runs.Checkpoint | null = null;
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

  async begin_file(step: number, name: string): Promise<void> {
    if (!this.run) return;
    const run = this.run;
    await this.#keep(async () => {
      if (this.#checkpoint?.step !== step) this.#checkpoint = await runs.Checkpoint.begin(run, step);
      await this.#checkpoint.begin(name);
    });
  }

  /** `bytes` lie in the engine's memory, so they are written before it goes on. */
  write(bytes: Uint8Array): void {
    try {
      this.#checkpoint?.write(bytes as Uint8Array<ArrayBuffer>);
    } catch (error) {
      void this.#drop();
      throw new Error(failure(error).message);
    }
  }

  async complete(): Promise<void> {
    const checkpoint = this.#checkpoint;
    await this.#keep(async () => checkpoint?.complete());
    this.#checkpoint = null;
  }

  async #keep(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      await this.#drop();
      throw new Error(failure(error).message);
    }
  }

  /** A half-written checkpoint only takes room that may be what is lacking. */
  async #drop(): Promise<void> {
    const checkpoint = this.#checkpoint;
    this.#checkpoint = null;
    await checkpoint?.drop().catch(() => {});
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
