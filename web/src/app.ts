/** What the sections share: the engine, what is open, and what the engine is at. */
import { Client, EngineError } from "./client.ts";
import type { AdapterInfo, DataReport, DeviceChoice, DeviceInfo, ModelInfo, StorageReport, WorkerEvent } from "./protocol.ts";
import { $, $$ } from "./dom.ts";
import { clear, show, tell } from "./notice.ts";

/** Work that takes long enough to be shown and stopped. */
export type Task = "device" | "model" | "train" | "generate" | "embed";

const AT: Record<Task, string> = {
  device: "opening a device",
  model: "opening a model",
  train: "tuning",
  generate: "answering",
  embed: "reading texts",
};

type Listener = (event: WorkerEvent) => void;

export class App {
  readonly client: Client;
  device: DeviceInfo | null = null;
  /** Which device was asked for. */
  choice: DeviceChoice = "auto";
  model: ModelInfo | null = null;
  train: DataReport | null = null;
  heldOut: DataReport | null = null;
  adapter: AdapterInfo | null = null;
  storage: StorageReport | null = null;
  task: Task | null = null;

  readonly #listeners: Listener[] = [];
  readonly #watchers: (() => void)[] = [];
  #queue: Promise<unknown> = Promise.resolve();

  constructor() {
    this.client = new Client((event) => {
      for (const listener of this.#listeners) listener(event);
    });
  }

  /** Hears the engine's events. */
  listen(listener: Listener): void {
    this.#listeners.push(listener);
  }

  /** Is called after each change, and at once. */
  watch(watcher: () => void): void {
    this.#watchers.push(watcher);
    watcher();
  }

  changed(): void {
    for (const watcher of this.#watchers) watcher();
    const has: Record<string, boolean> = {
      device: this.device !== null,
      model: this.model !== null,
      data: this.model !== null && this.train !== null,
      adapter: this.adapter !== null,
      idle: this.task === null,
    };
    for (const button of $$("[data-needs]")) {
      const met = (button.dataset["needs"] ?? "").split(" ").every((need) => has[need]);
      button.setAttribute("aria-disabled", String(!met));
    }
    for (const hint of $$("[data-waits]")) hint.hidden = has[hint.dataset["waits"] ?? ""] ?? true;
  }

  /**
   * Does one piece of work after those before it, and shows a failure at `place`; null then. `again` is what "try
   * again" does. The engine does one thing at a time, and so does the page.
   */
  async work<T>(place: Element, task: Task | null, body: () => Promise<T>, again?: () => void): Promise<T | null> {
    if (this.task) {
      show(place, "calm", "Not now.", `The engine is ${AT[this.task]}: wait for it, or stop it.`, null, []);
      return null;
    }
    const before = this.#queue;
    let done = () => {};
    this.#queue = new Promise<void>((resolve) => (done = resolve));
    await before;
    clear(place);
    if (task) this.task = task;
    this.changed();
    try {
      return await body();
    } catch (error) {
      const failure = error instanceof EngineError ? error : new EngineError({ kind: "other", message: String(error) });
      tell(place, failure, { onGpu: this.device?.kind === "gpu", change: (choice) => this.changeDevice(choice) }, again);
      return null;
    } finally {
      if (task) this.task = null;
      done();
      this.changed();
    }
  }

  /** Opens a device; whether it is open. */
  async changeDevice(choice: DeviceChoice): Promise<boolean> {
    this.choice = choice;
    const open = async () => (this.device = await this.client.call("open_device", { device: choice }));
    return (await this.work($("#global-notice"), "device", open, () => void this.changeDevice(choice))) !== null;
  }

  async refreshStorage(): Promise<void> {
    this.storage = await this.client.call("storage", {});
    this.changed();
  }

  /** Ends what the engine is at. */
  stop(): void {
    void this.client.call("stop", {}).catch(() => {});
  }
}
