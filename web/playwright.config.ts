import { defineConfig } from "@playwright/test";

const port = Number(process.env["BFT_PAGE_PORT"] ?? 4179);

export default defineConfig({
  testDir: "tests",
  // A tab computes on one thread, and CI has two cores: two files at a time, each in a browser of its
  // own. What holds the page to milliseconds runs after all others, alone.
  workers: 2,
  projects: [
    { name: "together", grepInvert: /@alone/ },
    { name: "alone", grep: /@alone/, dependencies: ["together"] },
  ],
  timeout: 300_000,
  // Long, because a busy machine is no fault of the page.
  expect: { timeout: 60_000 },
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
