/** `test` that fails on any console error and on any request that leaves the page's origin unasked. */
import { test as base, expect, type Page, type Worker } from "@playwright/test";
import { folder, gguf, type Upload } from "../tiny.ts";

interface Watch {
  /** Origins that a test types itself. */
  allowed: Set<string>;
  /** Console errors that a test provokes itself. */
  expected: RegExp[];
}

export const test = base.extend<{ watch: Watch }>({
  watch: [
    async ({ context, baseURL }, use) => {
      const watch: Watch = { allowed: new Set([new URL(baseURL ?? "").origin]), expected: [] };
      const errors: string[] = [];
      const foreign: string[] = [];
      context.on("console", (message) => {
        if (message.type() === "error") errors.push(message.text());
      });
      context.on("weberror", (error) => errors.push(String(error.error())));
      context.on("request", (request) => {
        const url = new URL(request.url());
        if (["http:", "https:", "ws:", "wss:"].includes(url.protocol) && !watch.allowed.has(url.origin)) foreign.push(request.url());
      });
      await use(watch);
      expect(foreign, "requests that left the page's origin").toEqual([]);
      expect(errors.filter((error) => !watch.expected.some((known) => known.test(error))), "console errors").toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };

/** Opens the page, with a device ready. */
export async function open(page: Page): Promise<void> {
  await page.goto("./");
  await expect(page.locator("#device-gist")).not.toBeEmpty();
}

/** Opens the page and the tiny model, as files that were chosen. */
export async function openTiny(page: Page, files: Upload[] = folder()): Promise<void> {
  await open(page);
  await page.locator("#model-files").setInputFiles(files);
  await expect(page.locator("#model-card")).toContainText("qwen2");
}

/** Opens the page, the CPU and the tiny model, as one file unless others are given. */
export async function openTinyOnCpu(page: Page, files: Upload[] = [gguf()]): Promise<void> {
  await open(page);
  await useCpu(page);
  await page.locator("#model-files").setInputFiles(files);
  await expect(page.locator("#model-card")).toContainText("qwen2");
}

/** Pastes rows and has them read. */
export async function paste(page: Page, role: "train" | "held_out", rows: string): Promise<void> {
  const slot = page.locator(`#data-roles [data-role=${role}]`);
  await slot.getByRole("textbox").fill(rows);
  await slot.getByRole("button", { name: "Read these rows" }).click();
}

/** The engine's worker. */
export async function engine(page: Page): Promise<Worker> {
  const workers = page.workers();
  // The engine is the one that was started through a blob.
  const found = workers.find((worker) => worker.url().startsWith("blob:"));
  return found ?? page.waitForEvent("worker", (worker) => worker.url().startsWith("blob:"));
}

/** Picks a radio by its label, which is what a visitor sees; the click waits until it stands still. */
export async function pick(page: Page, name: string): Promise<void> {
  const radio = page.getByRole("radio", { name, exact: true });
  await page.locator("label").filter({ has: radio }).click();
  await expect(radio).toBeChecked();
}

/** Computes on the CPU, where a tiny model is quicker than on a GPU that is itself a program. */
export async function useCpu(page: Page): Promise<void> {
  await page.locator("#device > summary").click();
  await pick(page, "CPU");
  await expect(page.locator("#device-line")).toContainText("CPU");
}

/** Opens the GPU, in a way that `loseGpu` can take it back, as a driver would. */
export async function holdGpu(page: Page): Promise<void> {
  await (await engine(page)).evaluate(() => {
    const scope = self as unknown as { gpus: GPUDevice[] };
    scope.gpus = [];
    const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...options) {
      const device = await request.apply(this, options);
      scope.gpus.push(device);
      return device;
    };
  });
  await page.locator("#device > summary").click();
  await pick(page, "GPU (WebGPU)");
  await expect.poll(async () => (await engine(page)).evaluate(() => (self as unknown as { gpus: GPUDevice[] }).gpus.length)).toBeGreaterThan(0);
  await expect(page.locator("#device-line")).toContainText("GPU");
}

export async function loseGpu(page: Page): Promise<void> {
  await (await engine(page)).evaluate(() => (self as unknown as { gpus: GPUDevice[] }).gpus.at(-1)?.destroy());
}

/** Rows that say one thing in many words, so that a tiny model learns it. */
export const rows = (count: number) =>
  Array.from({ length: count }, (_, index) => JSON.stringify({ prompt: `The gene number ${index % 7} encodes`, completion: " a protein." })).join("\n");
