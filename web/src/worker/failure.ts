/** Whatever was thrown, as the page is told of it. */
import type { Failure } from "../protocol.ts";

/** A failure with its kind. */
export class Failed extends Error {
  readonly kind: Failure["kind"];

  constructor(kind: Failure["kind"], message: string) {
    super(message);
    this.kind = kind;
  }
}

export function failure(thrown: unknown): Failure {
  if (thrown instanceof Failed) return { kind: thrown.kind, message: thrown.message };
  if (thrown instanceof DOMException) {
    if (thrown.name === "AbortError") return { kind: "cancelled", message: "stopped" };
    if (thrown.name === "QuotaExceededError") {
      return { kind: "storage", message: "the browser's storage is full: remove a model or a run that is not needed" };
    }
    return { kind: "storage", message: `the browser's storage refused: ${thrown.message}` };
  }
  if (thrown instanceof WebAssembly.RuntimeError) {
    return { kind: "other", message: "the engine failed; reload the page: what was saved is kept" };
  }
  if (thrown instanceof Error) return { kind: "other", message: thrown.message };
  // What Rust throws has this form already.
  if (typeof thrown === "object" && thrown !== null && "kind" in thrown && "message" in thrown) return thrown as Failure;
  return { kind: "other", message: String(thrown) };
}
