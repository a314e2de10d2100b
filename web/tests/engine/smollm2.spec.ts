/** The real SmolLM2 in a tab: load, tune, generate, embed. Prints the figures of docs/benchmarks.md. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, expect, test } from "@playwright/test";
import { Engine } from "./engine.ts";
import { browserMegabytes, watchPeak } from "./memory.ts";

/** Beyond an empty page, in MB, what a GPU would hold included. */
const MOST = 700;

/** Of each sample. */
const TOKENS = Number(process.env["BFT_TOKENS"] ?? 64);
const DEVICE = process.env["BFT_DEVICE"] === "cpu" ? "cpu" : "gpu";

const ROWS = ["TP53", "BRCA1"]
  .map((gene) =>
    JSON.stringify({
      text:
        `The gene ${gene} encodes a protein that keeps the genome of a cell intact. Where it is lost or changed, damage of the DNA ` +
        "goes on to the cells that come after, and tumours arise more often. It is among the genes that are looked at first when " +
        "cancer runs in a family, and therapies are chosen by what is found in it.",
    }),
  )
  .join("\n");

test("SmolLM2 loads, tunes, writes and embeds", async ({ baseURL, launchOptions }) => {
  test.setTimeout(1_500_000);
  // On disk, as a person's is: a test's own would hold in memory what the page stores.
  const profile = mkdtempSync(join(tmpdir(), "bft-profile-"));
  const context = await chromium.launchPersistentContext(profile, { ...launchOptions, ...(baseURL ? { baseURL } : {}) });
  const page = await context.newPage();
  const figures: Record<string, number> = {};
  const timed = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    const answer = await work();
    figures[`${what}_seconds`] = (performance.now() - start) / 1000;
    return answer;
  };
  const engine = await Engine.start(page);
  const empty = browserMegabytes();
  const peak = watchPeak();
  await engine.call("open_device", { device: DEVICE });
  const model = await timed("load", () => engine.open({ kind: "sample" }));
  expect(model).toMatchObject({ architecture: "llama", layers: 30, format: "Q4_1", has_chat_template: true, stored: expect.any(String) });

  const options = { chat_template: false, temperature: 0, top_p: 1, seed: 0 };
  const text = await timed("generate", () => engine.call("ask", { ...options, prompt: "The gene TP53 encodes", max_new_tokens: 5 }));
  expect(text).toMatchObject({ base: { text: " a protein that regulates the", tokens: 5, finish_reason: "length" }, tuned: null });

  const data = await engine.call("read_data", { role: "train", name: "rows.jsonl", text: ROWS, max_length: TOKENS, truncate: true, skip_bad_rows: false });
  expect(data).toMatchObject({ samples: 2, tokens: 2 * TOKENS });
  const defaults = await engine.call("default_settings", {});
  const finished = await timed("train", () => engine.call("train", { ...defaults, batch_size: 2, steps: 2, max_length: TOKENS, truncate: true }));
  expect(finished).toMatchObject({ steps: 2, stopped: false, skipped_steps: 0 });
  const [first] = await engine.events("step");
  expect(first!.row.nll).toBeGreaterThan(1);
  expect(first!.row.nll).toBeLessThan(5);
  expect(first!.sample_weights).toHaveLength(2);

  const embedded = await timed("embed", () =>
    engine.call("embed", {
      texts: ["TP53: tumor protein p53", "BRCA1: BRCA1 DNA repair associated", "INS: insulin"],
      ids: ["TP53", "BRCA1", "INS"],
      adapter: true,
      pooling: "mean",
      normalize: true,
    }),
  );
  expect(embedded.width).toBe(576);
  expect(embedded.neighbours[0]).toHaveLength(2);
  // The first step of a process makes its shaders.
  const [, second] = await engine.events("step");
  figures["train_tokens_per_second"] = second!.row.tokens_per_second;
  figures["embed_tokens_per_second"] = embedded.tokens / embedded.seconds;
  figures["memory_megabytes"] = peak() - empty;
  await timed("load_again", () => engine.open({ kind: "stored", id: model.stored! }));
  console.log(JSON.stringify(figures));
  await context.close();
  rmSync(profile, { recursive: true, force: true });
  expect(figures["memory_megabytes"]!).toBeLessThan(MOST);
});
