import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

/** Writes offline.js with the names of everything that was built, so that a second visit needs no network. */
function offline(): Plugin {
  return {
    name: "offline",
    apply: "build",
    generateBundle(_, bundle) {
      const files = Object.keys(bundle).sort();
      const version = createHash("sha256").update(files.join()).digest("hex").slice(0, 12);
      const source = readFileSync(new URL("src/offline.js", import.meta.url), "utf8");
      const built = source.replace("/* version */", JSON.stringify(version)).replace("/* files */", files.map((name) => JSON.stringify(`./${name}`)).join(", "));
      this.emitFile({ type: "asset", fileName: "offline.js", source: built });
    },
  };
}

export default defineConfig({
  // Relative, so that `dist/` works in any folder of any static host.
  base: "./",
  plugins: [offline()],
  build: {
    target: "es2022",
    // The Content-Security-Policy allows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
  server: { fs: { allow: [".."] } },
});
