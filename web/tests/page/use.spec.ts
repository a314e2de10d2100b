/** Flows 4, 5 and 6: answers side by side, the map of genes, the adapter out and in. */
import { readFileSync } from "node:fs";
import type { Download, Page } from "@playwright/test";
import { zipSync } from "fflate";
import { folder } from "../tiny.ts";
import { expect, openTinyOnCpu, paste, rows, test } from "./watched.ts";

async function tuned(page: Page, steps = 20): Promise<void> {
  await openTinyOnCpu(page);
  await paste(page, "train", rows(8));
  await page.getByLabel("Unit of the length").selectOption("steps");
  await page.locator("[name=length]").fill(String(steps));
  await page.locator("[name=lr]").fill("2e-2");
  await page.getByRole("radio", { name: /^SFT/ }).last().check();
  await page.getByRole("button", { name: "Start tuning" }).click();
  await expect(page.locator("#run-state")).toHaveText(/^Done/, { timeout: 60_000 });
}

async function saved(download: Promise<Download>): Promise<Buffer> {
  return readFileSync(await (await download).path());
}

test("base and tuned answer the same question side by side", async ({ page }) => {
  await tuned(page);
  await page.getByLabel("One question to both").fill("The gene number 3 encodes");
  await page.getByLabel("Ask through the chat template").uncheck();
  await page.getByLabel(/^At most/).fill("12");
  await page.getByRole("button", { name: "Ask both" }).click();
  await expect(page.locator("#tuned-foot")).toContainText(/\d+ tokens?, .*tokens\/s/);
  await expect(page.locator("#base-foot")).toContainText(/\d+ tokens?, .*tokens\/s/);
  const [base, after] = [await page.locator("#base-answer").textContent(), await page.locator("#tuned-answer").textContent()];
  expect(after).not.toBe(base);
});

test("both answers are written at once, and stop when told", async ({ page }) => {
  // Too few steps to learn where an answer ends.
  await tuned(page, 1);
  await page.getByLabel("Ask through the chat template").uncheck();
  await page.getByLabel(/^At most/).fill("400");
  // Quicker than a hand: stops as soon as both have begun.
  await page.evaluate(() => {
    const of = (id: string) => document.getElementById(id) as HTMLElement;
    const seen = new MutationObserver(() => {
      if (of("base-answer").textContent === "" || of("tuned-answer").textContent === "") return;
      seen.disconnect();
      Object.assign(window, { writing: [of("base-foot").textContent, of("tuned-foot").textContent] });
      of("ask-stop").click();
    });
    seen.observe(of("compare"), { subtree: true, childList: true, characterData: true });
  });
  await page.getByRole("button", { name: "Ask both" }).click();
  for (const who of ["base", "tuned"]) await expect(page.locator(`#${who}-foot`)).toContainText(/^\d+ tokens?, .*stopped$/);
  expect(await page.evaluate(() => (window as unknown as { writing: string[] }).writing)).toEqual(["Writing", "Writing"]);
  await expect(page.locator("#ask-stop")).toBeHidden();
});

test("one hundred genes make a map with neighbours, and go out as three files", async ({ page }) => {
  await openTinyOnCpu(page);
  await page.getByRole("button", { name: "Embed", exact: true }).click();
  const points = page.locator("#map .point");
  await expect(points).toHaveCount(100);
  await expect(page.locator("#map-caption")).toContainText(/\d+ % and \d+ %/);
  await page.locator('#map .point[aria-label="CASP3"]').click();
  await expect(page.getByLabel("Nearest neighbours of")).toHaveValue("7");
  await expect(page.locator("#near-list li")).toHaveCount(10);
  await page.locator("#near-list button").first().press("Enter");
  await expect(page.getByLabel("Nearest neighbours of")).not.toHaveValue("7");
  await page.locator("#map .point.picked").press("ArrowRight");
  await expect(page.locator("#map .point.picked")).toBeFocused();

  const get = async (name: string) => {
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name, exact: true }).click();
    return saved(download);
  };
  const npy = await get(".npy");
  expect(npy.subarray(1, 6).toString()).toBe("NUMPY");
  expect(npy.toString("latin1")).toContain("(100, 32)");
  const lines = (await get(".jsonl")).toString().trim().split("\n").map((line) => JSON.parse(line) as { id: string; embedding: number[] });
  expect(lines).toHaveLength(100);
  expect(lines[0]?.id).toBe("APC");
  expect(lines[0]?.embedding).toHaveLength(32);
  const table = (await get("TSV")).toString().trim().split("\n");
  expect(table.at(-1)?.split("\t").length).toBe(33);
});

test("the adapter goes out as a zip and comes in again", async ({ page }) => {
  await tuned(page);
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download the adapter" }).click();
  const zip = await saved(download);
  for (const name of ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.json"]) expect(zip.includes(name)).toBe(true);

  await openTinyOnCpu(page);
  await expect(page.locator("#adapter")).toContainText("No adapter yet");
  await page.locator("#adapter-files").setInputFiles({ name: "adapter.zip", mimeType: "application/zip", buffer: zip });
  await expect(page.locator("#adapter")).toContainText("q_proj");
  await page.getByRole("button", { name: "Take the adapter off" }).click();
  await expect(page.locator("#adapter")).toContainText("No adapter yet");
  await page.locator("#adapter-files").setInputFiles({ name: "notes.zip", mimeType: "application/zip", buffer: Buffer.from("no zip") });
  await expect(page.locator("#take-notice").getByRole("alert")).toContainText("notes.zip");
});

test("a zip that would fill the memory is refused, and what is not wanted of one is not unpacked", async ({ page }) => {
  await openTinyOnCpu(page);
  const give = (name: string, files: Record<string, Uint8Array>) =>
    page.locator("#adapter-files").setInputFiles({ name, mimeType: "application/zip", buffer: Buffer.from(zipSync(files, { level: 9 })) });
  const zeros = new Uint8Array(200 << 20);
  const config = new TextEncoder().encode("{}");
  const notice = page.locator("#take-notice").getByRole("alert");
  await give("bomb.zip", { "adapter_config.json": config, "adapter_model.safetensors": zeros });
  await expect(notice).toContainText("adapter_model.safetensors in bomb.zip says it is 209715200 bytes, too many for a zip of");
  // In many small files, and where one of them lies about its size.
  const parts = Object.fromEntries(Array.from({ length: 25 }, (_, part) => [`${part}/adapter_model.safetensors`, zeros.subarray(0, 8 << 20)]));
  await give("parts.zip", parts);
  await expect(notice).toContainText("in parts.zip says it is 8388608 bytes");
  const lies = Buffer.from(zipSync({ "adapter_config.json": config, "adapter_model.safetensors": zeros }, { level: 9 }));
  for (let at = lies.indexOf("PK\x01\x02"); at >= 0; at = lies.indexOf("PK\x01\x02", at + 4)) lies.writeUInt32LE(64, at + 24);
  await page.locator("#adapter-files").setInputFiles({ name: "lies.zip", mimeType: "application/zip", buffer: lies });
  await expect(notice).toContainText("lies");
  // A large file beside the adapter's is no harm.
  await give("beside.zip", { "adapter_config.json": config, "adapter_model.safetensors": new Uint8Array(9), "big.bin": zeros });
  await expect(notice).toContainText("beside/adapter_config.json: peft_type is missing");
});

test("a tuned model stops at the end of turn it was trained on, out of a zip, too", async ({ page }) => {
  // A base model: its files name <|pad|> as the end of a text, its template ends a turn with
  // <|im_end|>.
  const changed = (name: string, change: (text: string) => string) => {
    const file = folder().find((file) => file.name === name)!;
    return { ...file, buffer: Buffer.from(change(file.buffer.toString())) };
  };
  const base = [
    ...folder().filter(({ name }) => name === "model.safetensors" || name === "tokenizer.json"),
    changed("config.json", (text) => text.replace('"eos_token_id":2', '"eos_token_id":3')),
    changed("tokenizer_config.json", (text) => text.replace('"eos_token": "<|im_end|>"', '"eos_token": "<|pad|>"')),
  ];
  const ask = async () => {
    await page.getByLabel("One question to both").fill("ab?");
    await page.getByLabel(/^At most/).fill("8");
    await page.getByRole("button", { name: "Ask both" }).click();
    await expect(page.locator("#tuned-foot")).toContainText("ended by itself");
    await expect(page.locator("#tuned-answer")).toHaveText("c");
  };
  await openTinyOnCpu(page, base);
  await paste(page, "train", '{"messages": [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "c"}]}');
  await expect(page.locator("[data-role=train] .report")).toContainText("trained answers end with <|im_end|>");
  await page.getByLabel("Unit of the length").selectOption("steps");
  await page.locator("[name=length]").fill("60");
  await page.locator("[name=lr]").fill("5e-2");
  await page.getByRole("radio", { name: /^SFT/ }).last().check();
  await page.getByRole("button", { name: "Start tuning" }).click();
  await expect(page.locator("#run-state")).toHaveText(/^Done/, { timeout: 60_000 });
  await ask();
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download the adapter" }).click();
  const zip = await saved(download);
  await openTinyOnCpu(page, base);
  await page.locator("#adapter-files").setInputFiles({ name: "adapter.zip", mimeType: "application/zip", buffer: zip });
  await expect(page.locator("#adapter")).toContainText("q_proj");
  await ask();
});
