/** Every op of the registry, GPU against CPU, compiled by the browser: a module of its own, not part of the page. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@playwright/test";

const folder = join(import.meta.dirname, "../../.ops");

test("every op computes in the browser what the CPU computes", async ({ page }) => {
  test.setTimeout(1_200_000);
  const problems: string[] = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.route("**/blank", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>ops</title>" }));
  await page.route("**/.ops/*", (route) => {
    const name = new URL(route.request().url()).pathname.split("/").at(-1) ?? "";
    const contentType = name.endsWith(".wasm") ? "application/wasm" : "text/javascript";
    return route.fulfill({ contentType, body: readFileSync(join(folder, name)) });
  });
  await page.goto("blank");
  const names = await page.evaluate(async () => {
    const path = "./.ops/ops.js";
    const ops = (await import(new URL(path, document.baseURI).href)) as { default(options: object): Promise<void>; ops(): string[] };
    await ops.default({ module_or_path: new URL("./.ops/ops_bg.wasm", document.baseURI) });
    (globalThis as unknown as { ops: unknown }).ops = ops;
    return ops.ops();
  });
  expect(names.length).toBeGreaterThan(10);
  // A panic in WebAssembly leaves its promise open for ever.
  const panic = new Promise<string>((resolve) => page.on("pageerror", (error) => resolve(`${error}; ${problems.join("; ")}`)));
  for (const name of names) {
    const comparison = page.evaluate(async (name) => {
      const { compare } = (globalThis as unknown as { ops: { compare(name: string): Promise<number> } }).ops;
      try {
        return await compare(name);
      } catch (error) {
        return String(error);
      }
    }, name);
    const outcome = await Promise.race([comparison, panic]);
    expect(outcome, `${name}: ${outcome}`).toEqual(expect.any(Number));
  }
  expect(problems).toEqual([]);
});
