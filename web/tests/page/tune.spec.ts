/** Flow 3: a run, paused, stopped, reloaded, bereft of its GPU, and gone on with. */
import { expect, holdGpu, loseGpu, open, openTinyOnCpu, paste, rows, test, useCpu } from "./watched.ts";
import type { Page } from "@playwright/test";
import { gguf } from "../tiny.ts";

async function ready(page: Page, steps: number, save = 100): Promise<void> {
  await openTinyOnCpu(page);
  await prepare(page, steps, save);
}

/** Rows and settings of a run of plain cross-entropy, which a model that knows nothing learns from soonest. */
async function prepare(page: Page, steps: number, save: number): Promise<void> {
  await paste(page, "train", rows(21));
  await paste(page, "held_out", rows(3));
  await expect(page.locator("[data-role=held_out] .report")).toContainText("Samples3");
  await page.getByRole("radio", { name: /^SFT/ }).last().check();
  await page.getByLabel("Unit of the length").selectOption("steps");
  await page.locator("[name=length]").fill(String(steps));
  await page.getByText("All settings").click();
  await page.locator("[name=save_every]").fill(String(save));
  await expect(page.locator("#estimate")).toContainText(`${steps.toLocaleString("en")} step`);
}

const start = (page: Page) => page.getByRole("button", { name: "Start tuning" }).click();
const state = (page: Page) => page.locator("#run-state");

/** Steps done, as the page says. */
async function stepsDone(page: Page): Promise<number> {
  const text = await page.locator("#run-figures dd").first().textContent();
  return Number(/^([\d,]+) of/.exec(text ?? "")?.[1]?.replaceAll(",", ""));
}

test("the form has the command line's defaults (but saves more often), and a run shows its charts to the end", async ({ page }) => {
  await openTinyOnCpu(page);
  const values = { group_size: "256", gamma: "1", rank: "16", alpha: "", lr: "2e-4", batch_size: "4", grad_accum: "1", weight_decay: "0.01", max_grad_norm: "1", warmup_steps: "", min_lr: "", patience: "", seed: "0", save_every: "10", length: "1" };
  for (const [name, value] of Object.entries(values)) await expect(page.locator(`#settings [name=${name}]`)).toHaveValue(value);
  await expect(page.locator("#settings [name=loss]:checked")).toHaveValue("bft");

  await page.getByRole("button", { name: "Use the gene facts" }).click();
  await expect(page.locator("#estimate")).toContainText(/About .* of memory, 146 steps/);
  await page.getByLabel("Unit of the length").selectOption("steps");
  await page.locator("[name=length]").fill("6");
  await expect(page.locator("#estimate")).toContainText("6 steps");
  await start(page);
  await expect(state(page)).toHaveText(/^Done: 6 steps/, { timeout: 60_000 });
  await expect(page.locator("#nll-caption")).toContainText(/learning from \d.*testing on \d.*at first \d/);
  await expect(page.locator("#weights-caption")).toContainText(/mean [01]/);
  for (const chart of ["nll", "loss", "weights"]) await expect(page.locator(`#${chart}-chart canvas`)).toBeVisible();
  await page.getByText("Steps as a table").click();
  await expect(page.locator("#run-table tbody tr")).toHaveCount(6);
  await expect(page.locator("#adapter")).toContainText("16");
});

test("a run learns, can be paused and gone on with, and stops when told", async ({ page }) => {
  await ready(page, 2000);
  await page.locator("[name=lr]").fill("5e-3");
  await start(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(2);
  await page.getByRole("button", { name: "Pause" }).click();
  await expect(state(page)).toHaveText("Paused");
  const paused = await stepsDone(page);
  await page.waitForTimeout(500);
  expect(await stepsDone(page)).toBe(paused);
  await page.getByText("Steps as a table").click();
  // The newest row comes first.
  const nll = page.locator("#run-table tbody td:nth-child(3)");
  const first = Number(await nll.last().textContent());
  await page.locator("#pause").click();
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(paused + 10);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(state(page)).toHaveText(/^Stopped after step \d+ of 2,000/);
  // On a quick machine the table no longer holds the steps before everything was learnt.
  expect(Number(await nll.first().textContent())).toBeLessThan(Math.max(first, 1));
});

test("a page that is left in the middle of a run offers to go on, and does", async ({ page }) => {
  await ready(page, 5000, 5);
  await start(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(12);
  await page.reload();
  const offer = page.locator("#runs");
  await expect(offer).toContainText(/A run can go on.*SFT on tiny.* at step \d+ of 5,000/);
  await useCpu(page);
  await offer.getByRole("button", { name: "Go on", exact: true }).click();
  await expect(page.locator("#run-notes")).toContainText(/Going on after step [\d,]+/);
  const note = (await page.locator("#run-notes").textContent()) ?? "";
  const from = Number(/step ([\d,]+)/.exec(note)?.[1]?.replaceAll(",", ""));
  expect(from % 5).toBe(0);
  expect(from).toBeGreaterThan(9);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(from);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(state(page)).toHaveText(/^Stopped after step/);
});

test("a run goes on while the browser has frozen the page, as it may behind other tabs", async ({ page, context }) => {
  await ready(page, 50_000);
  await start(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(2);
  const session = await context.newCDPSession(page);
  await session.send("Page.setWebLifecycleState", { state: "frozen" });
  const frozen = await stepsDone(page);
  await new Promise((resolve) => setTimeout(resolve, 2000));
  await session.send("Page.setWebLifecycleState", { state: "active" });
  expect(await stepsDone(page)).toBeGreaterThan(frozen + 10);
  const thawed = await stepsDone(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(thawed + 10);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(state(page)).toHaveText(/^Stopped after step/);
});

for (const [how, button] of [["the GPU opened again", "Open the GPU again"], ["the CPU", "Go on with the CPU"]] as const) {
  test(`a run whose GPU is lost goes on with ${how}`, async ({ page, watch }) => {
    watch.expected.push(/[Dd]evice.*(lost|destroyed)/);
    await open(page);
    await holdGpu(page);
    await page.locator("#model-files").setInputFiles([gguf()]);
    // So long that no machine is done before its GPU is taken away.
    await prepare(page, 2000, 1);
    await start(page);
    await expect.poll(() => stepsDone(page), { timeout: 60_000 }).toBeGreaterThan(1);
    await loseGpu(page);
    const notice = page.locator("#run-notice").getByRole("alert");
    await expect(notice).toContainText("The GPU was lost");
    await notice.getByRole("button", { name: button }).click();
    await expect(page.locator("#run-notes")).toContainText(/Going on after step [\d,]+/);
    const note = (await page.locator("#run-notes").textContent()) ?? "";
    const from = Number(/step ([\d,]+)/.exec(note)?.[1]?.replaceAll(",", ""));
    expect(from).toBeGreaterThan(0);
    await expect.poll(() => stepsDone(page), { timeout: 60_000 }).toBeGreaterThan(from + 2);
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await expect(state(page)).toHaveText(/^Stopped after step/);
  });
}

test("settings that cannot be are refused beside their field", async ({ page }) => {
  await ready(page, 5);
  await page.locator("[name=rank]").fill("100000");
  await expect(page.locator("#settings-notice").getByRole("alert")).toContainText(/rank/i);
  await page.locator("[name=rank]").fill("0");
  await start(page);
  await expect(page.locator("#run")).toBeHidden();
  await expect(page.locator("[name=rank]")).toBeFocused();
});

test("the page's thread is never busy for 100 ms while a run goes", { tag: "@alone" }, async ({ page, browser }) => {
  await ready(page, 2000);
  await browser.startTracing(page, { categories: ["devtools.timeline", "disabled-by-default-devtools.timeline", "toplevel"] });
  await start(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(100);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(state(page)).toHaveText(/^Stopped/);
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString()) as { traceEvents: Traced[] };
  const thread = ({ pid, tid }: Traced) => `${pid}.${tid}`;
  const main = new Set(traceEvents.filter(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain").map(thread));
  // Of the processor's time, for a machine that does other things too is slow, not the page.
  const busy = traceEvents.filter((event) => event.name === "RunTask" && main.has(thread(event))).map(({ tdur = 0 }) => tdur / 1000);
  expect(busy.length).toBeGreaterThan(100);
  expect(Math.max(...busy)).toBeGreaterThan(1);
  expect(Math.max(...busy)).toBeLessThan(100);
});

/** What a browser's trace says of a task, in microseconds of its thread. */
interface Traced {
  name: string;
  pid: number;
  tid: number;
  tdur?: number;
  args?: { name?: string };
}

test("a second tab that wants the same storage is told so, and goes on when the first is closed", async ({ page, context }) => {
  await ready(page, 2000, 5);
  await start(page);
  await expect.poll(() => stepsDone(page)).toBeGreaterThan(6);
  const second = await context.newPage();
  await open(second);
  await second.locator("#model-files").setInputFiles([gguf()]);
  const notice = second.locator("#model-notice").getByRole("alert");
  await expect(notice).toContainText("Another tab is at work");
  await page.close();
  await notice.getByRole("button", { name: "Try again" }).click();
  await expect(second.locator("#model-card")).toContainText("qwen2");
});
