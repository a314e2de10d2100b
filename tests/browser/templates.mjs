// Public chat templates in WebAssembly against transformers: `node tests/browser/templates.mjs templates.json`, after
// `cargo xtask templates` has built web/.ops.
import { readFileSync } from "node:fs";
import init, { templates } from "../../web/.ops/ops.js";

await init({ module_or_path: readFileSync(new URL("../../web/.ops/ops_bg.wasm", import.meta.url)) });
try {
  console.log(templates(readFileSync(process.argv[2], "utf8")));
} catch (problem) {
  console.error(String(problem));
  process.exit(1);
}
