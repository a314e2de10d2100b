/** The same model, rows and seed: a tab and the command line agree, and take over each other's adapters. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@playwright/test";
import { unzipSync } from "fflate";
import * as cli from "./cli.ts";
import { Engine, given, root } from "./engine.ts";

const model = join(root, "tests/fixtures/llama");
const rows = join(model, "rows.jsonl");
const data = (role: "train" | "held_out") => ({
  role,
  name: "rows.jsonl",
  text: readFileSync(rows, "utf8"),
  max_length: null,
  truncate: false,
  skip_bad_rows: false,
});
const flags = ["--model", model, "--data", rows, "--device", "cpu"];
const group = ["--group-size", "4"];

/** Relative, of losses after ten steps in f32 on compilers that fuse differently. */
const TOLERANCE = 1e-3;
const close = (found: number, expected: number) => Math.abs(found - expected) <= TOLERANCE * Math.abs(expected);

for (const device of ["gpu", "cpu"] as const) {
  test(`ten BFT steps on the ${device} are those of the native CPU, and adapters go both ways`, async ({ page }) => {
    const output = join(cli.scratch(), "tuned");
    cli.run("train", ...flags, ...group, "--output", output, "--steps", "10", "--seed", "3", "--lr", "0.01", "--rank", "4", "--batch-size", "2", "--grad-accum", "2", "--eval-data", rows);
    const expected = cli.steps(output);
    expect(expected).toHaveLength(10);

    const engine = await Engine.start(page);
    expect(await engine.call("open_device", { device })).toMatchObject({ kind: device });
    await engine.openFixture("llama");
    await engine.call("read_data", data("train"));
    await engine.call("read_data", data("held_out"));
    const defaults = await engine.call("default_settings", {});
    const finished = await engine.call("train", { ...defaults, group_size: 4, steps: 10, seed: 3, lr: 0.01, rank: 4, batch_size: 2, grad_accum: 2 });
    expect(finished).toMatchObject({ steps: 10, stopped: false, skipped_steps: 0 });
    const told = await engine.events("step");
    // Of all micro-batches of each step.
    expect(told.map(({ sample_weights }) => sample_weights.length)).toEqual(told.map(() => 4));
    const steps = told.map(({ row }) => row);
    expect(steps.map(({ step }) => step)).toEqual(expected.map(({ step }) => step));
    for (const [index, step] of steps.entries()) {
      const native = expected[index]!;
      for (const key of ["loss", "nll", "grad_norm", "lr"] as const) {
        expect(close(step[key], native[key]), `${key} of step ${step.step}: ${step[key]}, natively ${native[key]}`).toBe(true);
      }
      expect(step.tokens).toBe(native.tokens);
    }

    // The page's adapter in the command line.
    const taken = join(cli.scratch(), "adapter");
    mkdirSync(taken);
    const files = unzipSync(await engine.bytes("export_adapter", {}));
    expect(Object.keys(files).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.json"]);
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(taken, name), bytes);
    const there = cli.run("eval", ...flags, ...group, "--adapter", taken);
    expect(close(there["nll"]!, finished.eval!.eval_nll), `${there["nll"]}, in the page ${finished.eval!.eval_nll}`).toBe(true);

    // The command line's adapter in the page.
    const native = cli.run("eval", ...flags, ...group, "--adapter", output);
    const adapter = await engine.withFiles("import_adapter", ["adapter_config.json", "adapter_model.safetensors"].map((name) => given(join(output, name))));
    expect(adapter).toMatchObject({ answer: { rank: 4 } });
    let [sum, count] = [0, 0];
    const { samples } = await engine.call("preview", { index: 0, group_size: 4, gamma: 1 });
    for (let index = 0; index < samples; index++) {
      const { nll, tokens } = await engine.call("preview", { index, group_size: 4, gamma: 1 });
      const trained = tokens.filter((token) => token.trained).length;
      sum += nll * trained;
      count += trained;
    }
    expect(close(sum / count, native["nll"]!), `${sum / count}, natively ${native["nll"]}`).toBe(true);
  });
}
