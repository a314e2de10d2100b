import { defineConfig } from "vite";

export default defineConfig({
  // Relative, so that `dist/` works in any folder of any static host.
  base: "./",
  build: {
    target: "es2022",
    // The Content-Security-Policy allows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
  server: { fs: { allow: [".."] } },
});
