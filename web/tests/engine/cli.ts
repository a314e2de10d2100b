/** The command line, which the page has to agree with. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StepRow } from "../../src/protocol.ts";
import { root } from "./engine.ts";

const bft = process.env["BFT_BINARY"] ?? join(root, "target/debug/bft");

export const scratch = (): string => mkdtempSync(join(tmpdir(), "bft-web-"));

/** Runs `bft` and gives the JSON that it prints. */
export function run(...flags: string[]): Record<string, number> {
  if (!existsSync(bft)) throw new Error(`${bft} is not there: cargo build makes it`);
  const text = execFileSync(bft, [...flags, "--json"], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  return JSON.parse(text.trim().split("\n").at(-1) ?? "{}") as Record<string, number>;
}

/** The steps that a run logged. */
export function steps(output: string): StepRow[] {
  const rows = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  return rows.map((row) => JSON.parse(row) as StepRow).filter((row) => "loss" in row);
}
