/** The states of the page's run, and what leads from one to the next. */
export type State = "running" | "pausing" | "paused" | "stopping" | "done" | "stopped" | "failed";

/** `pause`, `unpause` and `stop` are the page's wishes; the others are what the engine says. */
export type Change = "pause" | "paused" | "unpause" | "stop" | "done" | "stopped" | "failed";

const ENDS = { done: "done", stopped: "stopped", failed: "failed" } as const;

const NEXT: Record<State, Partial<Record<Change, State>>> = {
  running: { pause: "pausing", stop: "stopping", ...ENDS },
  pausing: { paused: "paused", stop: "stopping", ...ENDS },
  paused: { unpause: "running", stop: "stopping", ...ENDS },
  stopping: ENDS,
  done: {},
  stopped: {},
  failed: {},
};

/** The state after a change; the same where the change comes too late. */
export const after = (state: State, change: Change): State => NEXT[state][change] ?? state;
