import { defineConfig } from "@playwright/test";

const port = Number(process.env["BFT_PAGE_PORT"] ?? 4179);

export default defineConfig({
  testDir: "tests",
  // Each test trains a model: more than one at a time would only make all of them slow.
  workers: 1,
  timeout: 120_000,
  expect: { timeout: 20_000 },
  forbidOnly: true,
  reporter: "list",
  outputDir: "test-results",
  use: {
    baseURL: `http://localhost:${port}/`,
    screenshot: "only-on-failure",
    launchOptions: {
      executablePath: process.env["BFT_CHROMIUM"] ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--disable-quic",
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
      ],
    },
  },
  // The built page behind a plain static server, as any host would serve it.
  webServer: {
    command: `npx vite preview --port ${port} --strictPort`,
    url: `http://localhost:${port}/`,
    reuseExistingServer: false,
  },
});
