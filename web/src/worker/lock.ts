/** One tab at a time works with the storage; another is told, not mixed in. */
import { Failed } from "./failure.ts";

let held = false;

/** Takes the storage for this tab until it is closed. */
export async function holdStorage(): Promise<void> {
  // A browser without locks has no second tab that could be told.
  if (held || !("locks" in navigator)) return;
  await new Promise<void>((resolve, reject) => {
    navigator.locks
      .request("bft-storage", { ifAvailable: true }, (lock) => {
        if (!lock) {
          reject(new Failed("busy", "another tab of this page is at work with the same storage: go on there, or close it and try again"));
          return undefined;
        }
        held = true;
        resolve();
        // Never given back: it ends with the tab.
        return new Promise<void>(() => {});
      })
      .catch(reject);
  });
}
