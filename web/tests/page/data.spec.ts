/** Flow 2: rows read, refused by line, and seen as the losses see them. */
import { folder } from "../tiny.ts";
import { expect, openTiny, paste, pick, test } from "./watched.ts";

test("the gene facts are read, and each token shows its weight under each loss", async ({ page }) => {
  await openTiny(page);
  await page.getByRole("button", { name: "Use the gene facts" }).click();
  await expect(page.locator("[data-role=train] .report")).toContainText("Samples584");
  await expect(page.locator("[data-role=held_out] .report")).toContainText("Samples73");
  const heat = page.locator("#preview .heat").first();
  await expect(heat).toContainText("full name of the gene CDK1");
  await expect(heat.locator(".masked").first()).toBeVisible();
  await expect(heat.locator(".trained")).not.toHaveCount(0);

  await test.step("all five stand one below the other, and a table says the same", async () => {
    await expect(page.locator("#preview .heat")).toHaveCount(5);
    await page.getByText("Tokens as a table").click();
    await expect(page.getByRole("region", { name: "Tokens as a table" }).getByRole("columnheader")).toHaveText(["", "Token", "id", "p", "SFT", "DFT", "BFT", "BFT-v3"]);
  });
  await test.step("a token that is pointed at tells p and its four weights", async () => {
    await heat.locator(".trained").first().hover();
    const readout = page.locator("#readout");
    for (const name of ["p", "SFT", "DFT", "BFT", "BFT-v3"]) await expect(readout.locator(".meter > span:first-child", { hasText: new RegExp(`^${name}$`) })).toHaveCount(1);
  });
  await test.step("arrow keys go from token to token", async () => {
    await heat.focus();
    await page.keyboard.press("ArrowLeft");
    await expect(heat.locator(".at")).toHaveClass(/masked/);
    await expect(page.locator("#readout")).toContainText("never trained");
  });
  await test.step("SFT weighs every trained token 1", async () => {
    await pick(page, "SFT");
    const heats = await heat.locator(".trained").evaluateAll((spans) => spans.map((span) => (span as HTMLElement).style.getPropertyValue("--heat")));
    expect(new Set(heats)).toEqual(new Set(["100.0%"]));
  });
  await test.step("the next sample is another", async () => {
    await page.getByRole("button", { name: "Next sample" }).click();
    await expect(page.locator("#preview .heat").first()).toContainText("IL15");
    await expect(page.getByLabel("Sample", { exact: true })).toHaveValue("2");
  });
});

const FORMATS: [string, string][] = [
  ["messages", '{"messages": [{"role": "user", "content": "TP53?"}, {"role": "assistant", "content": "A gene."}]}'],
  ["conversations", '{"conversations": [{"from": "human", "value": "TP53?"}, {"from": "gpt", "value": "A gene."}]}'],
  ["instruction", '[{"instruction": "Say what TP53 is.", "input": "", "output": "A gene."}]'],
  ["prompt", '{"prompt": "TP53 is", "completion": " a gene."}'],
  ["text", '{"text": "TP53 is a gene."}'],
  ["tokens", '{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}'],
];

test("every row format is read", async ({ page }) => {
  await openTiny(page);
  for (const [format, row] of FORMATS) {
    await paste(page, "train", row);
    await expect(page.locator("[data-role=train] .report")).toContainText(format);
  }
});

test("template variables reach the rows, and a mistake in them is told", async ({ page }) => {
  const template = "{{ strftime_now('%Y')[:2] }}{{ 'T' if thinking else 'F' }}{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
  const files = folder().filter((file) => file.name !== "tokenizer_config.json");
  const other = { name: "chat_template.jinja", mimeType: "text/plain", buffer: Buffer.from(template) };
  const settings = { name: "tokenizer_config.json", mimeType: "text/plain", buffer: Buffer.from('{"eos_token": "<|im_end|>"}') };
  await openTiny(page, [...files, other, settings]);
  await paste(page, "train", FORMATS[0]![1]);
  const heat = page.locator("#preview .heat").first();
  // The year comes from the browser's clock.
  await expect(heat).toContainText("20F");
  await page.getByText("Formats and lengths").click();
  const field = page.getByLabel("Template variables");
  await field.fill("thinking=true; unused=1");
  await field.blur();
  await expect(heat).toContainText("20T");
  await field.fill("thinking");
  await field.blur();
  await expect(page.locator("[data-role=train] .notices")).toContainText("NAME=VALUE");
});

const BAD: { rows: string; says: RegExp }[] = [
  { rows: '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "answer": "b"}', says: /:2.*answer.*completion/s },
  { rows: '{"prompt": "a", "completion": "b"}\nno json', says: /:2/ },
  { rows: '{"text": "a"}\n{"prompt": "a", "completion": "b"}', says: /:2/ },
  { rows: "", says: /./ },
  { rows: '{"input_ids": [5, 999999], "labels": [5, 999999]}', says: /999999/ },
];

test("bad rows are refused with line, keys and what was expected", async ({ page }) => {
  await openTiny(page);
  for (const { rows, says } of BAD) {
    await paste(page, "train", rows);
    await expect(page.locator("[data-role=train]").getByRole("alert")).toContainText(says);
    await expect(page.locator("#preview")).toBeHidden();
  }
  await page.getByText("Formats and lengths").click();
  await page.getByLabel("Leave out rows that cannot be read").check();
  await paste(page, "train", BAD[0]?.rows ?? "");
  await expect(page.locator("[data-role=train] .report")).toContainText("Samples1");
});

test("samples longer than allowed are refused, or cut where that was asked for", async ({ page }) => {
  await openTiny(page);
  await page.getByText("Formats and lengths").click();
  await page.getByLabel(/Longest sample/).fill("8");
  await paste(page, "train", '{"text": "a text that has more than eight tokens"}');
  await expect(page.locator("[data-role=train]").getByRole("alert")).toContainText(/8/);
  await page.getByLabel("Cut longer samples instead of stopping").check();
  await expect(page.locator("[data-role=train] .report")).toContainText("8 tokens");
});
