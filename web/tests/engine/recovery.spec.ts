/** What goes wrong in a tab, and what is left: reloads, pauses, lost devices, second tabs, files that are no models. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@playwright/test";
import { Engine, given, root } from "./engine.ts";

const fixture = join(root, "tests/fixtures/llama");
const read = {
  role: "train" as const,
  name: "rows.jsonl",
  text: readFileSync(join(fixture, "rows.jsonl"), "utf8"),
  max_length: null,
  truncate: false,
  skip_bad_rows: false,
};

async function ready(engine: Engine, device: "gpu" | "cpu" = "cpu") {
  await engine.call("open_device", { device });
  await engine.openFixture("llama");
  await engine.call("read_data", read);
  return { ...(await engine.call("default_settings", {})), group_size: 4, rank: 4, save_every: 5 };
}

test("a run that a reload broke off goes on from its checkpoint, and ends where it would have", async ({ page }) => {
  let engine = await Engine.start(page);
  const settings = { ...(await ready(engine)), steps: 40 };
  await engine.call("train", settings);
  const whole = (await engine.events("step")).map(({ row }) => row);

  engine = await Engine.start(page);
  await ready(engine);
  void engine.outcome("train", { ...settings, steps: 40, save_every: 1 }).catch(() => {});
  await expect.poll(async () => (await engine.events("checkpoint")).length).toBeGreaterThan(2);
  await page.reload();

  engine = await Engine.start(page);
  const { runs } = await engine.call("storage", {});
  const run = runs.find(({ step, steps }) => step < steps);
  expect(run, JSON.stringify(runs)).toBeDefined();
  await engine.call("open_device", { device: "cpu" });
  const finished = await engine.call("continue_run", { id: run!.id });
  expect(finished).toMatchObject({ steps: 40, stopped: false });
  const [started] = await engine.events("started");
  expect(started!.resumed_from).toBe(run!.step);
  const rest = (await engine.events("step")).map(({ row }) => row);
  expect(rest.at(-1)!.loss).toBeCloseTo(whole.at(-1)!.loss, 5);
  expect(rest.map(({ step }) => step)).toEqual(whole.map(({ step }) => step).slice(run!.step));

  const left = await engine.call("remove_run", { id: run!.id });
  expect(left.runs.map(({ id }) => id)).not.toContain(run!.id);
});

test("pausing saves and waits, stopping ends after the step at hand", async ({ page }) => {
  const engine = await Engine.start(page);
  const settings = { ...(await ready(engine)), steps: 100_000, save_every: 100_000 };
  const run = engine.outcome("train", settings);
  await expect.poll(async () => (await engine.events("step")).length).toBeGreaterThan(0);
  await engine.call("pause", {});
  await expect.poll(async () => (await engine.events("paused")).length).toBe(1);
  expect(await engine.events("checkpoint")).toHaveLength(1);
  const before = (await engine.events("step")).length;
  await page.waitForTimeout(500);
  expect((await engine.events("step")).length).toBe(before);
  await engine.call("unpause", {});
  await expect.poll(async () => (await engine.events("step")).length).toBeGreaterThan(before);
  await engine.call("stop", {});
  expect(await run).toMatchObject({ answer: { stopped: true } });
  expect(await engine.call("adapter", {})).toMatchObject({ rank: 4 });
});

test("a lost device is said, and the run goes on from its checkpoint on another", async ({ page }) => {
  const engine = await Engine.start(page);
  const settings = { ...(await ready(engine, "gpu")), steps: 100_000, save_every: 2 };
  const run = engine.outcome("train", settings);
  await expect.poll(async () => (await engine.events("checkpoint")).length).toBeGreaterThan(0);
  await engine.call("destroy_device", {});
  expect(await run).toMatchObject({ failure: { kind: "lost" } });
  expect(await engine.events("device_lost")).toHaveLength(1);

  await engine.call("open_device", { device: "cpu" });
  const [stored] = (await engine.call("storage", {})).runs;
  const again = engine.outcome("continue_run", { id: stored!.id });
  const from = (await engine.events("step")).length;
  await expect.poll(async () => (await engine.events("step")).length).toBeGreaterThan(from);
  await engine.call("stop", {});
  expect(await again).toMatchObject({ answer: { stopped: true } });
});

test("a run that fills the storage says so, and goes on from what was saved", async ({ page, context }) => {
  const engine = await Engine.start(page);
  const run = engine.outcome("train", { ...(await ready(engine)), steps: 100_000, save_every: 1 });
  await expect.poll(async () => (await engine.events("checkpoint")).length).toBeGreaterThan(1);
  const browser = await context.newCDPSession(page);
  const origin = new URL(page.url()).origin;
  await browser.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1 });
  expect(await run).toMatchObject({ failure: { kind: "storage", message: expect.stringContaining("storage is full") } });

  await browser.send("Storage.overrideQuotaForOrigin", { origin });
  const [stored] = (await engine.call("storage", {})).runs;
  const again = engine.outcome("continue_run", { id: stored!.id });
  await expect.poll(async () => (await engine.events("started")).length).toBe(2);
  await engine.call("stop", {});
  expect(await again).toMatchObject({ answer: { stopped: true } });
});

test("a second tab is told that the first is at work", async ({ page, context }) => {
  const first = await Engine.start(page);
  await ready(first);
  const other = await context.newPage();
  const second = await Engine.start(other);
  await second.call("open_device", { device: "cpu" });
  const refused = await second.withFiles("open_model", [given(join(fixture, "config.json")), given(join(fixture, "model.safetensors"))]);
  expect(refused).toMatchObject({ failure: { kind: "busy" } });
  await page.close();
  await second.openFixture("llama");
});

test("what is not a model is refused in a sentence, and nothing of it stays", async ({ page }) => {
  const engine = await Engine.start(page);
  await engine.call("open_device", { device: "cpu" });
  const file = (name: string, text: string) => ({ name, base64: Buffer.from(text).toString("base64") });
  for (const [files, says] of [
    [[file("m.gguf", "PK not a model")], 'does not begin with "GGUF"'],
    [[file("m.gguf", "GGUF\u0003\0\0\0")], "truncated"],
    [[file("notes.txt", "hello")], "is not a model that can be used by itself"],
    [[file("config.json", "{}"), file("model.safetensors", "")], "model_type"],
  ] as const) {
    const outcome = await engine.withFiles("open_model", [...files]);
    expect(outcome).toMatchObject({ failure: { kind: "input", message: expect.stringContaining(says) } });
  }
  expect((await engine.call("storage", {})).models).toEqual([]);
  const rows = await engine.outcome("read_data", read);
  expect(rows).toMatchObject({ failure: { kind: "input", message: "open a model first" } });
  await engine.openFixture("llama");
  const bad = await engine.outcome("read_data", { ...read, text: '{"input_ids": [1, 2], "labels": [1]}\n' });
  expect(bad).toMatchObject({ failure: { kind: "input", message: expect.stringContaining("rows.jsonl:1") } });
});

test("a model that was kept opens again, and one that was damaged is not believed", async ({ page }) => {
  const engine = await Engine.start(page);
  await engine.call("open_device", { device: "cpu" });
  const model = await engine.openFixture("llama");
  const id = model.stored!;
  const again = await engine.open({ kind: "stored", id });
  expect(again.sha256).toBe(model.sha256);
  await page.evaluate(async (id) => {
    const models = await (await navigator.storage.getDirectory()).getDirectoryHandle("models");
    const folder = await models.getDirectoryHandle(encodeURIComponent(id).replaceAll(".", "%2E"));
    const file = await (await folder.getFileHandle("model%2Esafetensors")).createWritable({ keepExistingData: true });
    await file.truncate(1000);
    await file.close();
  }, id);
  const damaged = await engine.outcome("open_model", { kind: "stored", id });
  expect(damaged).toMatchObject({ failure: { kind: "storage" } });
  expect((await engine.call("storage", {})).models).toEqual([]);
});
