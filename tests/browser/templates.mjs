// Public chat templates in WebAssembly against transformers, and the clock that they see against that of JavaScript:
// `node tests/browser/templates.mjs templates.json`, after `cargo xtask templates` has built web/.ops.
import { readFileSync } from "node:fs";
import init, { templates, today } from "../../web/.ops/ops.js";

await init({ module_or_path: readFileSync(new URL("../../web/.ops/ops_bg.wasm", import.meta.url)) });
try {
  console.log(templates(readFileSync(process.argv[2], "utf8")));
  const local = () => new Date().toLocaleDateString("sv");
  const [before, found, after] = [local(), today(), local()];
  if (found !== before && found !== after) throw `strftime_now says ${found}, the clock ${before}`;
} catch (problem) {
  console.error(String(problem));
  process.exit(1);
}
