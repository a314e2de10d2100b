/** The table of a run's states: what may follow what. */
import { expect, test } from "@playwright/test";
import { after, type Change, type State } from "../../src/run-state.ts";

const through = (...changes: Change[]): State => changes.reduce(after, "running" as State);

test("a run is paused only when the engine says so, and goes on", () => {
  expect(through("pause")).toBe("pausing");
  expect(through("pause", "paused")).toBe("paused");
  expect(through("pause", "paused", "unpause")).toBe("running");
  expect(through("paused")).toBe("running");
});

test("a run that is asked to stop stops, whatever comes late", () => {
  for (const before of [[], ["pause"], ["pause", "paused"]] as Change[][]) {
    expect(through(...before, "stop")).toBe("stopping");
    expect(through(...before, "stop", "pause", "paused", "unpause")).toBe("stopping");
    expect(through(...before, "stop", "stopped")).toBe("stopped");
  }
});

test("an end is an end", () => {
  for (const end of ["done", "stopped", "failed"] as const) {
    for (const before of [[], ["pause"], ["pause", "paused"], ["stop"]] as Change[][]) {
      expect(through(...before, end)).toBe(end);
      for (const late of ["pause", "paused", "unpause", "stop", "done", "stopped", "failed"] as const) {
        expect(through(...before, end, late)).toBe(end);
      }
    }
  }
});
