/** Flow 1: a model from files, a drop, an address; kept, opened again offline, freed; bad ones refused. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "@playwright/test";
import { engine, expect, open, openTiny, openTinyOnCpu, pick, test, useCpu } from "./watched.ts";
import { folder, gguf, type Upload } from "../tiny.ts";

const digest = (file: Buffer) => createHash("sha256").update(file).digest("hex");

/** The same model with other weights: as large, and named the same. */
const retrained = (file: Buffer) => {
  const other = Buffer.from(file);
  other.subarray(-64).fill(0);
  return other;
};

/** The SHA-256 of the model that is open, once one is. */
const shownDigest = async (page: Page): Promise<string> => {
  await expect(page.locator("#model-card")).toBeVisible();
  return (await page.locator("#model-card code").getAttribute("title")) ?? "";
};

test("files of a folder are chosen, described, and kept for the next visit, which is offline", async ({ page, context }) => {
  await openTiny(page);
  const card = page.locator("#model-card");
  await expect(card).toContainText("2 of width 32");
  await expect(card).toContainText("512 tokens");
  await expect(card).toContainText("Kept in this browser");
  // The page's own files are kept by now, too.
  await page.evaluate(() => navigator.serviceWorker.ready);
  await context.setOffline(true);
  await page.reload();
  await page.locator("#storage > summary").click();
  await page.locator("#storage-list").getByRole("button", { name: /^Open/ }).click();
  await expect(card).toContainText("2 of width 32");
  await page.locator("#storage-list").getByRole("button", { name: /^Remove/ }).click();
  await expect(page.locator("#storage-list")).toContainText("Nothing yet.");
});

test("a chosen folder gives the model its name", async ({ page }) => {
  const chosen = join(mkdtempSync(join(tmpdir(), "bft-page-")), "my-genes");
  mkdirSync(chosen);
  for (const { name, buffer } of folder()) writeFileSync(join(chosen, name), buffer);
  await open(page);
  await page.locator("#model-folder").setInputFiles(chosen);
  await expect(page.locator("#model-card h3")).toHaveText("my-genes");
});

test("a folder is dropped", async ({ page }) => {
  await open(page);
  await useCpu(page);
  const dropped = join(mkdtempSync(join(tmpdir(), "bft-page-")), "my-model");
  mkdirSync(dropped);
  for (const { name, buffer } of folder()) writeFileSync(join(dropped, name), buffer);
  await page.locator("#model-drop").scrollIntoViewIfNeeded();
  const box = (await page.locator("#model-drop").boundingBox())!;
  const session = await page.context().newCDPSession(page);
  for (const type of ["dragEnter", "dragOver", "drop"] as const) {
    const data = { items: [], files: [dropped], dragOperationsMask: 1 };
    await session.send("Input.dispatchDragEvent", { type, x: box.x + box.width / 2, y: box.y + box.height / 2, data });
  }
  await expect(page.locator("#model-card")).toContainText("qwen2");
  await expect(page.locator("#model-card")).toContainText("my-model");
});

test("files of one name are the model that they are, and the same files are stored once", async ({ page }) => {
  await open(page);
  await useCpu(page);
  const [one, two] = [gguf(), { ...gguf(), buffer: retrained(gguf().buffer) }];
  for (const { files, stored } of [
    { files: one, stored: 1 },
    { files: two, stored: 2 },
    { files: one, stored: 2 },
  ]) {
    const other = page.getByRole("button", { name: "Use another model" });
    if (await other.isVisible()) await other.click();
    await page.locator("#model-files").setInputFiles([files]);
    expect(await shownDigest(page)).toBe(digest(files.buffer));
    await expect(page.locator("#storage-list li")).toHaveCount(stored);
  }
});

test("the sample is the sample, whatever file of its name was dropped before", async ({ page }) => {
  const name = "SmolLM2-135M-Instruct.Q4_1.gguf";
  await open(page);
  await useCpu(page);
  await page.locator("#model-files").setInputFiles([gguf(name)]);
  await expect(page.locator("#model-card h3")).toHaveText(name);
  await expect(page.locator("#model-card")).toContainText("2 of width 32");
  await page.getByRole("button", { name: "Use another model" }).click();
  await page.getByRole("button", { name: "Load SmolLM2" }).click();
  await expect(page.locator("#model-card")).toContainText("30 of width 576", { timeout: 60_000 });
  expect(await shownDigest(page)).toMatch(/^b179c952/);
  await expect(page.locator("#storage-list li")).toHaveCount(2);
});

test("the page is there before the engine is", async ({ page, context }) => {
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  await context.route(/\.wasm$/, async (route) => (await held, route.continue()));
  await page.goto("./");
  await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
  await expect(page.getByRole("button", { name: "Load SmolLM2" })).toBeVisible();
  await expect(page.locator("#device-gist")).toBeEmpty();
  release();
  await expect(page.locator("#device-gist")).not.toBeEmpty();
});

test("a GPU that is a program is taken only when asked for, and the page says what that means", async ({ page }) => {
  await open(page);
  const [line, speed] = [page.locator("#device-line"), page.locator("#device-speed")];
  await expect(line).toContainText("CPU");
  await expect(speed).toContainText("one thread of the processor");
  await page.locator("#device > summary").click();
  await expect(page.locator("#device-reason")).toContainText("a program on the processor");
  await pick(page, "GPU (WebGPU)");
  await expect(line).toContainText("GPU");
  await expect(speed).toContainText("a program on the processor");
});

test("a dropped GGUF file opens", async ({ page }) => {
  await open(page);
  const { name, buffer } = gguf();
  const transfer = await page.evaluateHandle(
    ({ name, base64 }) => {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name));
      return transfer;
    },
    { name, base64: buffer.toString("base64") },
  );
  await page.dispatchEvent("#model-drop", "drop", { dataTransfer: transfer });
  await expect(page.locator("#model-card")).toContainText(name);
  await expect(page.locator("#model-gist")).toContainText("F16");
});

const BAD: { what: string; files: () => Upload[]; says: RegExp }[] = [
  { what: "a text file", files: () => [{ name: "notes.gguf", mimeType: "text/plain", buffer: Buffer.from("these are notes, no model") }], says: /notes\.gguf.*GGUF/ },
  { what: "half a GGUF file", files: () => [{ ...gguf(), buffer: gguf().buffer.subarray(0, 20_000) }], says: /tiny\.gguf/ },
  { what: "a folder without weights", files: () => folder().filter(({ name }) => !name.endsWith(".safetensors")), says: /safetensors/ },
  {
    what: "weights of another shape",
    files: () => folder().map((file) => (file.name === "config.json" ? { ...file, buffer: Buffer.from(file.buffer.toString().replace('"hidden_size":32', '"hidden_size":48')) } : file)),
    says: /model\.embed_tokens\.weight.*belong to another configuration/,
  },
];

for (const { what, files, says } of BAD) {
  test(`${what} is refused with its name, and another model opens after it`, async ({ page }) => {
    await open(page);
    await page.locator("#model-files").setInputFiles(files());
    await expect(page.locator("#model-notice").getByRole("alert")).toContainText(says);
    await expect(page.locator("#model-card")).toBeHidden();
    await page.locator("#model-files").setInputFiles([gguf()]);
    await expect(page.locator("#model-card")).toContainText("tiny.gguf");
    await expect(page.locator("#model-notice")).toBeEmpty();
  });
}

test.describe("from an address", () => {
  let server: Server;
  let origin: string;
  let asked: { url: string | undefined; range: string | undefined; headers: NodeJS.Dict<string | string[]> }[];
  /** What lies at an address: the file, and what the server says of its version. */
  let files: Record<string, { file: Buffer; etag?: string }>;
  /** Addresses that the server forwards to others. */
  let forwards: Record<string, string>;
  /** Bytes after which the server waits for ever, once. */
  let stallsAt: number | null;
  let damaged: boolean;

  test.beforeEach(async () => {
    asked = [];
    stallsAt = null;
    damaged = false;
    forwards = {};
    files = { "/models/tiny.gguf": { file: gguf().buffer, etag: '"one"' } };
    server = createServer((request, response) => {
      const range = request.headers.range;
      asked.push({ url: request.url, range, headers: request.headers });
      const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
      const to = forwards[request.url ?? ""];
      if (to) {
        response.writeHead(302, { "Access-Control-Allow-Origin": "*", Location: to }).end();
        return;
      }
      const found = files[request.url ?? ""];
      if (!found) {
        response.writeHead(404, { "Access-Control-Allow-Origin": "*" }).end();
        return;
      }
      const { file, etag } = found;
      const body = Buffer.from(file.subarray(from));
      if (damaged) body.fill(0);
      response.writeHead(range ? 206 : 200, {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Headers": "Range, If-Range",
        "Access-Control-Expose-Headers": "Content-Range, ETag, Accept-Ranges",
        "Accept-Ranges": "bytes",
        "Content-Length": body.length,
        ...(etag ? { ETag: etag } : {}),
        ...(range ? { "Content-Range": `bytes ${from}-${file.length - 1}/${file.length}` } : {}),
      });
      if (stallsAt !== null) {
        response.write(body.subarray(0, stallsAt));
        stallsAt = null;
      } else response.end(body);
    });
    await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
    origin = `http://localhost:${(server.address() as AddressInfo).port}`;
  });

  test.afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  test("a typed address is the only request that leaves, and tells nothing of the page", async ({ page, watch }) => {
    watch.allowed.add(origin);
    await open(page);
    await page.getByLabel("From an address").fill(`${origin}/models/tiny.gguf`);
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-card")).toContainText("tiny.gguf");
    const got = asked.filter(({ headers }) => !("access-control-request-method" in headers));
    expect(new Set(got.map(({ url }) => url))).toEqual(new Set(["/models/tiny.gguf"]));
    for (const { headers } of got) {
      expect(headers.cookie).toBeUndefined();
      expect(headers.referer).toBeUndefined();
    }
  });

  test("where a host forwards to is asked only when that is allowed", async ({ page, watch }) => {
    watch.allowed.add(origin);
    forwards = { "/forwards/tiny.gguf": `${origin}/models/tiny.gguf` };
    await open(page);
    await page.getByLabel("From an address").fill(`${origin}/forwards/tiny.gguf`);
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-notice").getByRole("alert")).toContainText("forwards to another address, which was not asked");
    expect(new Set(asked.map(({ url }) => url))).toEqual(new Set(["/forwards/tiny.gguf"]));
    await page.getByLabel("Follow where the host forwards to").check();
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-card")).toContainText("tiny.gguf");
    expect(asked.at(-1)?.url).toBe("/models/tiny.gguf");
  });

  test("a download that was cancelled goes on where it stopped", async ({ page, watch }) => {
    watch.allowed.add(origin);
    stallsAt = 30_000;
    await open(page);
    await page.getByLabel("From an address").fill(`${origin}/models/tiny.gguf`);
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-progress")).toContainText("30 kB");
    await page.getByRole("button", { name: "Cancel" }).click();
    await expect(page.locator("#model-notice")).toContainText("Cancelled");
    await page.getByRole("button", { name: "Start again" }).click();
    await expect(page.locator("#model-card")).toContainText("tiny.gguf");
    expect(asked.at(-1)?.range).toBe("bytes=30000-");
  });

  test("a damaged download is refused, and the next try is whole", async ({ page, watch }) => {
    watch.allowed.add(origin);
    damaged = true;
    await open(page);
    await page.getByLabel("From an address").fill(`${origin}/models/tiny.gguf`);
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-notice").getByRole("alert")).toContainText("tiny.gguf");
    damaged = false;
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-card")).toContainText("tiny.gguf");
  });

  /** Fetches what lies at a path of the server; the SHA-256 that the page shows of it. */
  const fetchFrom = async (page: Page, path: string) => {
    const other = page.getByRole("button", { name: "Use another model" });
    if (await other.isVisible()) await other.click();
    await page.getByLabel("From an address").fill(origin + path);
    await page.getByRole("button", { name: "Fetch" }).click();
    return shownDigest(page);
  };

  test("two addresses with one file name are two models, and each address has its own", async ({ page, watch }) => {
    watch.allowed.add(origin);
    const [one, two] = [gguf().buffer, retrained(gguf().buffer)];
    files = { "/mine/tiny.gguf": { file: one }, "/theirs/tiny.gguf": { file: two } };
    await open(page);
    await useCpu(page);
    expect(await fetchFrom(page, "/mine/tiny.gguf")).toBe(digest(one));
    expect(await fetchFrom(page, "/theirs/tiny.gguf")).toBe(digest(two));
    // The list tells them apart, by eye and for a screen reader.
    await page.locator("#storage > summary").click();
    const kept = page.locator("#storage-list");
    for (const file of [one, two]) await expect(kept).toContainText(`SHA-256 ${digest(file).slice(0, 8)}…`);
    await kept.getByRole("button", { name: `Open tiny.gguf, SHA-256 ${digest(one).slice(0, 8)}…` }).click();
    await expect.poll(() => shownDigest(page)).toBe(digest(one));
    // What was stored from an address is known by it again: the server is asked, and nothing new is
    // stored.
    expect(await fetchFrom(page, "/theirs/tiny.gguf")).toBe(digest(two));
    expect(await fetchFrom(page, "/mine/tiny.gguf")).toBe(digest(one));
    await expect(kept.getByRole("listitem")).toHaveCount(2);
  });

  test("an address whose file has changed gives the new file", async ({ page, watch }) => {
    watch.allowed.add(origin);
    const [one, two] = [gguf().buffer, retrained(gguf().buffer)];
    const longer = Buffer.concat([two, Buffer.alloc(32)]);
    await open(page);
    await useCpu(page);
    expect(await fetchFrom(page, "/models/tiny.gguf")).toBe(digest(one));
    files["/models/tiny.gguf"] = { file: two, etag: '"two"' };
    expect(await fetchFrom(page, "/models/tiny.gguf")).toBe(digest(two));
    // Without a version the size tells.
    files["/models/tiny.gguf"] = { file: longer };
    expect(await fetchFrom(page, "/models/tiny.gguf")).toBe(digest(longer));
    // And where no answer comes, the page says where the earlier one lies.
    watch.expected.push(/ERR_/);
    await page.getByRole("button", { name: "Use another model" }).click();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-notice").getByRole("alert")).toContainText('is listed under "Kept in this browser"');
  });

  test("a model of a visit before addresses were kept is known by its hash, and opens", async ({ page, watch }) => {
    watch.allowed.add(origin);
    await open(page);
    await useCpu(page);
    const { name, buffer } = gguf();
    await page.evaluate(
      async ({ base64, sha256, name }) => {
        const models = await (await navigator.storage.getDirectory()).getDirectoryHandle("models", { create: true });
        const folder = await models.getDirectoryHandle("tiny%2Egguf", { create: true });
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        const about = JSON.stringify({ name, sha256, files: [{ name, bytes: bytes.length }] });
        for (const [file, contents] of [["tiny%2Egguf", bytes], ["about%2Ejson", about]] as const) {
          const writer = await (await folder.getFileHandle(file, { create: true })).createWritable();
          await writer.write(contents);
          await writer.close();
        }
      },
      { base64: buffer.toString("base64"), sha256: digest(buffer), name },
    );
    await page.reload();
    await page.locator("#storage > summary").click();
    await page.locator("#storage-list").getByRole("button", { name: "Open tiny.gguf" }).click();
    expect(await shownDigest(page)).toBe(digest(buffer));
    // Its address is learnt: the file is fetched once, found to be the same, and known from then
    // on.
    expect(await fetchFrom(page, "/models/tiny.gguf")).toBe(digest(buffer));
    await expect(page.locator("#storage-list li")).toHaveCount(1);
  });

  test("an address without a model is refused", async ({ page, watch }) => {
    watch.allowed.add(origin);
    watch.expected.push(/404/);
    await open(page);
    await page.getByLabel("From an address").fill(`${origin}/models/none.gguf`);
    await page.getByRole("button", { name: "Fetch" }).click();
    await expect(page.locator("#model-notice").getByRole("alert")).toContainText("404");
  });

  test("neither the page nor the engine can reach another origin", async ({ page, watch }) => {
    watch.expected.push(/Content Security Policy/);
    await openTinyOnCpu(page);
    const reach = async (origin: string) => {
      try {
        await fetch(origin);
        return "reached";
      } catch {
        return "refused";
      }
    };
    expect(await page.evaluate(reach, origin)).toBe("refused");
    expect(await (await engine(page)).evaluate(reach, origin)).toBe("refused");
    expect(asked).toEqual([]);
  });
});
