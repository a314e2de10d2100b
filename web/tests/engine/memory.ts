/** Memory of the browser under test: all its processes, shared pages counted once (Linux). */
import { readdirSync, readFileSync } from "node:fs";

/** Megabytes of this process's descendants that are Chromium's. */
export function browserMegabytes(): number {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const parent = attempt(() => Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${entry}/stat`, "utf8"))?.[1]));
    if (parent) children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const kilobytes = (pid: number): number => {
    const own = attempt(() => {
      if (!/chrom/.test(readFileSync(`/proc/${pid}/comm`, "utf8"))) return 0;
      return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]);
    });
    return (own ?? 0) + (children.get(pid) ?? []).reduce((sum, child) => sum + kilobytes(child), 0);
  };
  return kilobytes(process.pid) / 1024;
}

/** Processes come and go while one looks. */
function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

/** Looks again and again until told to stop; the most that was seen. */
export function watchPeak(): () => number {
  let peak = browserMegabytes();
  const timer = setInterval(() => (peak = Math.max(peak, browserMegabytes())), 500);
  return () => {
    clearInterval(timer);
    return Math.max(peak, browserMegabytes());
  };
}
