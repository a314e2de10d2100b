/** Stands here until the engine is built: says so, whatever is asked. */
import type { FromWorker, Request } from "../protocol.ts";

self.onmessage = ({ data }: MessageEvent<Request>) => {
  const answer: FromWorker = {
    id: data.id,
    failure: { kind: "other", message: "The engine is not part of this build: run `cargo xtask web`." },
  };
  self.postMessage(answer);
};
