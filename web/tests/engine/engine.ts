/** The engine's worker on an otherwise empty page, called as client.ts calls it. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Page } from "@playwright/test";
import type { FromWorker, Method, Methods, ModelSource, WorkerEvent } from "../../src/protocol.ts";

export const root = join(import.meta.dirname, "../../..");
const assets = join(root, "web/dist/assets");

/** A file to be made in the page. */
export interface Given {
  name: string;
  base64: string;
}

export const given = (path: string): Given => ({ name: basename(path), base64: readFileSync(path).toString("base64") });

/** What a call came to. */
export type Outcome<M extends Method> = { answer: Methods[M][1] } | { failure: { kind: string; message: string } };

interface InPage {
  bft: {
    call(method: string, argument: unknown): Promise<unknown>;
    events: unknown[];
  };
}

export class Engine {
  readonly #page: Page;

  private constructor(page: Page) {
    this.#page = page;
  }

  /** Starts a worker. A page that has one already gets another in its place, as after a reload. */
  static async start(page: Page): Promise<Engine> {
    const script = readdirSync(assets).find((name) => /^worker-.*\.js$/.test(name));
    if (!script) throw new Error(`no engine in ${assets}: cargo xtask web --build makes one`);
    await page.route("**/blank", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>engine</title>" }));
    await page.goto("blank");
    await page.evaluate((script) => {
      const worker = new Worker(`./assets/${script}`, { type: "module" });
      const waiting = new Map<number, (outcome: unknown) => void>();
      const events: unknown[] = [];
      let next = 1;
      worker.onmessage = ({ data }: MessageEvent) => {
        if ("event" in data) events.push(data);
        else {
          waiting.get(data.id)?.(data);
          waiting.delete(data.id);
        }
      };
      worker.onerror = (event) => {
        for (const answer of waiting.values()) answer({ failure: { kind: "crash", message: event.message } });
      };
      (globalThis as unknown as InPage).bft = {
        events,
        call: (method, argument) =>
          new Promise((resolve) => {
            const id = next++;
            waiting.set(id, resolve);
            worker.postMessage({ id, method, argument });
          }),
      };
    }, script);
    return new Engine(page);
  }

  /** Calls a method and gives what came of it. */
  async outcome<M extends Method>(method: M, argument: Methods[M][0]): Promise<Outcome<M>> {
    return (await this.#page.evaluate(
      ([method, argument]) => (globalThis as unknown as InPage).bft.call(method as string, argument),
      [method, argument] as const,
    )) as Outcome<M>;
  }

  /** Calls a method that is to succeed. */
  async call<M extends Method>(method: M, argument: Methods[M][0]): Promise<Methods[M][1]> {
    const outcome = await this.outcome(method, argument);
    if ("failure" in outcome) throw new Error(`${method}: ${outcome.failure.kind}: ${outcome.failure.message}`);
    return outcome.answer;
  }

  /** Calls a method that takes files. */
  async withFiles<M extends "open_model" | "import_adapter">(method: M, files: Given[]): Promise<Outcome<M>> {
    return (await this.#page.evaluate(
      async ([method, files]) => {
        const made = files.map(({ name, base64 }) => new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
        const argument = method === "open_model" ? { kind: "files", files: made } : { files: made };
        return (globalThis as unknown as InPage).bft.call(method, argument);
      },
      [method as string, files] as const,
    )) as Outcome<M>;
  }

  /** Opens a model of the fixtures. */
  async openFixture(name: string): Promise<Methods["open_model"][1]> {
    const folder = join(root, "tests/fixtures", name);
    const files = readdirSync(folder).filter((file) => /^(config\.json|model.*\.safetensors|tokenizer.*\.json|chat_template.*)$/.test(file));
    const outcome = await this.withFiles("open_model", files.map((file) => given(join(folder, file))));
    if ("failure" in outcome) throw new Error(outcome.failure.message);
    return outcome.answer;
  }

  open(source: Exclude<ModelSource, { kind: "files" | "url" }>): Promise<Methods["open_model"][1]> {
    return this.call("open_model", source);
  }

  /** The bytes of a blob that a method answers with. */
  async bytes(method: "export_adapter" | "export_vectors", argument: unknown): Promise<Buffer> {
    const base64 = await this.#page.evaluate(
      async ([method, argument]) => {
        const outcome = (await (globalThis as unknown as InPage).bft.call(method as string, argument)) as { answer: Blob };
        const bytes = new Uint8Array(await outcome.answer.arrayBuffer());
        let text = "";
        for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
        return btoa(text);
      },
      [method, argument] as const,
    );
    return Buffer.from(base64, "base64");
  }

  /** Events of one kind so far. */
  async events<E extends WorkerEvent["event"]>(kind: E): Promise<Extract<WorkerEvent, { event: E }>[]> {
    const all = (await this.#page.evaluate(() => (globalThis as unknown as InPage).bft.events)) as WorkerEvent[];
    return all.filter((event) => event.event === kind) as Extract<WorkerEvent, { event: E }>[];
  }
}

export type { FromWorker };
