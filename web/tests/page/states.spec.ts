/** States that the real engine reaches seldom: each failure with its way out, and a page that stays usable in all. */
import AxeBuilder from "@axe-core/playwright";
import { expect, test, type Page } from "@playwright/test";
import type { Failure, WorkerEvent } from "../../src/protocol.ts";
import { model, openScripted, storedRun, withData, type Script } from "./scripted.ts";

// A service worker would answer in the place of the script.
test.use({ serviceWorkers: "block" });

const started: WorkerEvent = { event: "started", steps: 146, resumed_from: 0, parameters: 4_884_480, memory_bytes: 212e6, device: "Scripted GPU" };
const step = (at: number): WorkerEvent => ({
  event: "step",
  row: { step: at, loss: 0.4 / at, nll: 3 / at, lr: 2e-4, grad_norm: 1, tokens: 66, tokens_per_second: 24 },
  sample_weights: [0.9, 0.5, 0.4, 0.3],
});
const running: WorkerEvent[] = [started, { event: "eval", row: { step: 0, eval_nll: 3.2, eval_loss: 0.4, best: true } }, step(1), step(2), { event: "checkpoint", step: 2 }, step(3)];

async function noFaults(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  expect(serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ")}`)).toEqual([]);
}

const FAILURES: { kind: Failure["kind"]; title: string; actions: string[] }[] = [
  { kind: "input", title: "This cannot be used as it is", actions: [] },
  { kind: "lost", title: "The GPU was lost", actions: ["Open the GPU again", "Go on with the CPU"] },
  { kind: "memory", title: "Not enough memory", actions: ["Go on with the CPU", "Try again"] },
  { kind: "storage", title: "The browser’s storage is full or closed", actions: ["Free storage", "Try again"] },
  { kind: "network", title: "The network did not deliver", actions: ["Try again"] },
  { kind: "busy", title: "Another tab is at work", actions: ["Try again"] },
  { kind: "other", title: "Something failed", actions: ["Try again"] },
];

for (const { kind, title, actions } of FAILURES) {
  test(`a failure of kind ${kind} has a sentence and a way out`, async ({ page }) => {
    await openScripted(page, { open_model: [{ failure: { kind, message: "what happened and where" } }, { answer: model }] });
    await page.getByRole("button", { name: "Load SmolLM2" }).click();
    const notice = page.locator("#model-notice").getByRole("alert");
    await expect(notice).toContainText(title);
    await expect(notice).toContainText("What happened and where.");
    await expect(notice.getByRole("button")).toHaveText([...actions, "Dismiss"]);
    const again = notice.getByRole("button", { name: actions.at(-1) === "Try again" ? "Try again" : (actions[0] ?? "Dismiss") });
    await again.click();
    await expect(notice).toHaveCount(0);
    if (kind !== "input") await expect(page.locator("#model-card")).toContainText(model.name);
  });
}

test("a run that breaks off goes on from its checkpoint on another device", async ({ page }) => {
  const saved = { models: [], runs: [storedRun], usage: 1, quota: 2, persisted: true };
  await openScripted(page, {
    train: [{ events: running, failure: { kind: "lost", message: "step 4 failed: the device was lost" } }],
    storage: [{ answer: { ...saved, runs: [] } }, { answer: { ...saved, runs: [] } }, { answer: saved }],
    continue_run: [{ events: [{ ...started, resumed_from: 50 } as WorkerEvent, step(51)], hangs: true, answer: { steps: 51, stopped: true, skipped_steps: 0, tokens: 66, seconds: 2, nll: 1, eval: null, out_of_patience: false, adapter_step: 51 } }],
  });
  await withData(page);
  await page.getByRole("button", { name: "Start tuning" }).click();
  await expect(page.locator("#run-state")).toHaveText("Broken off");
  await page.getByRole("button", { name: "Go on with the CPU" }).click();
  await expect(page.locator("#run-figures")).toContainText("51 of 146");
  await expect(page.locator("#run-notes")).toContainText("Going on after step 50");
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(page.locator("#run-state")).toHaveText("Stopped after step 51 of 146");
});

test("a run of a model that is not kept says which model to open", async ({ page }) => {
  await openScripted(page, { storage: [{ answer: { models: [], runs: [storedRun], usage: 1, quota: 2, persisted: true } }] });
  await page.getByRole("button", { name: "Go on", exact: true }).click();
  await expect(page.locator("#runs")).toContainText(`This run belongs to ${model.name}`);
});

test("a page without any device says so and can try again", async ({ page }) => {
  await openScripted(page, { open_device: [{ failure: { kind: "other", message: "no device could be opened" } }] });
  await expect(page.locator("#global-notice")).toContainText("No device could be opened.");
  await noFaults(page);
});

test("rows that are dropped while a run goes are put off with a sentence", async ({ page }) => {
  await openScripted(page, { train: [{ events: running, hangs: true }] });
  await withData(page);
  await page.getByRole("button", { name: "Start tuning" }).click();
  await expect(page.locator("#run-figures")).toContainText("3 of 146");
  await page.getByLabel("Choose a file of rows to learn from").setInputFiles({ name: "a.jsonl", mimeType: "text/plain", buffer: Buffer.from("{}") });
  await expect(page.locator("[data-role=train] .notices")).toContainText("The engine is tuning");
});

test("the path can be walked with the keyboard alone", async ({ page }) => {
  await openScripted(page, { train: [{ events: running, hangs: true, answer: { steps: 3, stopped: true, skipped_steps: 0, tokens: 1, seconds: 1, nll: 1, eval: null, out_of_patience: false, adapter_step: 3 } }] });
  const tabTo = async (name: string) => {
    for (let presses = 0; presses < 60; presses += 1) {
      await page.keyboard.press("Tab");
      const found = await page.evaluate(() => document.activeElement?.textContent?.trim());
      if (found === name) return;
    }
    throw new Error(`no Tab reaches ${name}`);
  };
  await expect(page.locator("#device-gist")).not.toBeEmpty();
  await tabTo("Load SmolLM2");
  await page.keyboard.press("Enter");
  await expect(page.locator("#model-card")).toBeFocused();
  await tabTo("Use the gene facts");
  await page.keyboard.press("Enter");
  await page.locator("#preview .scene").waitFor();
  await tabTo("Start tuning");
  await page.keyboard.press("Enter");
  await expect(page.locator("#run-figures")).toContainText("3 of 146");
  await tabTo("Stop");
  await page.keyboard.press("Enter");
  await expect(page.locator("#run-state")).toBeFocused();
  await expect(page.locator("#run-state")).toContainText("Stopped");
});

test("a button that waits for something does nothing", async ({ page }) => {
  await openScripted(page);
  const start = page.getByRole("button", { name: "Start tuning" });
  await expect(start).toHaveAttribute("aria-disabled", "true");
  // What a person does whom a grey button does not stop.
  await start.click({ force: true });
  await start.press("Enter");
  await expect(page.locator("#run")).toBeHidden();
});

const STATES: { name: string; script: Script; drive: (page: Page) => Promise<void> }[] = [
  { name: "empty", script: {}, drive: async () => {} },
  {
    name: "loading",
    script: { open_model: [{ events: [{ event: "progress", what: "download", done: 4e7, total: 9e7 }], hangs: true, failure: { kind: "cancelled", message: "" } }] },
    drive: async (page) => {
      await page.getByRole("button", { name: "Load SmolLM2" }).click();
      await expect(page.locator("#model-progress")).toContainText("40 MB of 90 MB");
    },
  },
  {
    name: "running",
    script: { train: [{ events: running, hangs: true }] },
    drive: async (page) => {
      await withData(page);
      await page.getByRole("button", { name: "Start tuning" }).click();
      await expect(page.locator("#run-figures")).toContainText("3 of 146");
    },
  },
  {
    name: "failed",
    script: { train: [{ events: running, failure: { kind: "memory", message: "the GPU has no room for 212 MB" } }] },
    drive: async (page) => {
      await withData(page);
      await page.getByRole("button", { name: "Start tuning" }).click();
      await expect(page.locator("#run-state")).toHaveText("Broken off");
    },
  },
];

for (const { name, script, drive } of STATES) {
  test(`${name}: no serious accessibility fault and nothing beside the page, light and dark, desk and phone`, async ({ page }) => {
    await page.emulateMedia({ reducedMotion: "reduce" });
    await openScripted(page, script);
    await drive(page);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await noFaults(page);
    }
    for (const width of [768, 390]) {
      await page.setViewportSize({ width, height: 844 });
      // The charts take the new width a moment later.
      await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
    }
    await noFaults(page);
  });
}
