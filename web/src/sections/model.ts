/** Step 1: a model from this site, from files, from an address, or from the browser's storage. */
import type { App } from "../app.ts";
import type { Typed } from "../client.ts";
import type { ModelInfo, ModelSource, WorkerEvent } from "../protocol.ts";
import { $, fill, h, hide, input, stale, term } from "../dom.ts";
import { bytes, count, many } from "../format.ts";
import { onChoice, onDrop } from "../files.ts";

const AT: Record<string, string> = {
  download: "Downloading",
  hash: "Checking",
  store: "Storing for the next visit",
  upload: "Moving to the device",
};

export function modelSection(app: App): void {
  $("#model-sample").addEventListener("click", () => void openModel(app, { kind: "sample" }));
  const files = (chosen: File[], folder?: string) => void openModel(app, { kind: "files", files: chosen, ...(folder ? { folder } : {}) });
  onChoice(input("#model-files"), files);
  onChoice(input("#model-folder"), files);
  onDrop($("#model-drop"), files);
  $("#model-url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void openModel(app, { address: input("#model-url").value.trim(), follow: input("#model-url-follow").checked });
  });
  $("#model-cancel").addEventListener("click", () => app.stop());
  app.listen((event) => {
    if (event.event === "progress" && event.what !== "embed" && app.task === "model") showProgress(event);
  });
  app.watch(() => show(app));
}

/** Opens a model. Whether it is open. */
export async function openModel(app: App, source: Exclude<ModelSource, { kind: "url" }> | Typed): Promise<boolean> {
  const opened = await app.work(
    $("#model-notice"),
    "model",
    async () => {
      app.model = null;
      app.adapter = null;
      app.train = null;
      app.heldOut = null;
      showProgress(null);
      app.changed();
      app.model = "address" in source ? await app.client.openUrl(source) : await app.client.call("open_model", source);
      await app.refreshStorage().catch(() => {});
      return app.model;
    },
    () => void openModel(app, source),
  );
  return opened !== null;
}

function showProgress(event: Extract<WorkerEvent, { event: "progress" }> | null): void {
  const bar = $<HTMLProgressElement>("#model-progress-bar");
  const what = event ? (AT[event.what] ?? "Loading") : "Opening";
  // A screen reader hears each stage once, not each percent.
  if ($("#model-progress-what").textContent !== what) fill($("#model-progress-what"), what);
  fill($("#model-progress-much"), event ? (event.total ? `${bytes(event.done)} of ${bytes(event.total)}` : bytes(event.done)) : "");
  if (event?.total) {
    bar.max = event.total;
    bar.value = event.done;
  } else bar.removeAttribute("value");
}

function show(app: App): void {
  const loading = app.task === "model";
  const { model } = app;
  const card = $("#model-card");
  card.hidden = loading || model === null;
  if (model && stale(card, model)) fill(card, ...details(app, model));
  const cancel = $("#model-cancel");
  if (loading) $("#model-progress").hidden = false;
  hide($("#model-choose"), loading || model !== null, loading ? cancel : card);
  if (!loading) hide($("#model-progress"), true, model ? card : $("#model-sample"));
  fill($("#model-gist"), model ? `${model.name} · ${model.format}` : loading ? "loading" : "");
}

function details(app: App, model: ModelInfo): Node[] {
  const kept = model.stored ? "Kept in this browser" : `Not kept: ${model.not_stored_because ?? "the browser has no room"}`;
  const other = h("button", { type: "button", "data-needs": "idle", onclick: () => closeModel(app) }, "Use another model");
  return [
    h("h3", {}, model.name),
    h(
      "dl",
      { class: "facts" },
      term("Architecture", model.architecture),
      term("Parameters", many(model.parameters)),
      term("Layers", `${model.layers} of width ${model.hidden_size}`),
      term("Vocabulary", count(model.vocab_size)),
      term("Context", `${count(model.context_length)} tokens`),
      term("Weights", `${model.format}, ${bytes(model.bytes)}`),
      term("Chat template", model.has_chat_template ? "yes" : "none"),
      term("SHA-256", h("code", { title: model.sha256 }, `${model.sha256.slice(0, 12)}…`)),
    ),
    ...model.notes.map((note) => h("p", { class: "hint" }, note)),
    h("p", { class: "row spread" }, h("span", { class: model.stored ? "hint" : "hint caution" }, kept), other),
  ];
}

/** Shows the choices again; the engine lets go of a model when the next is opened. */
function closeModel(app: App): void {
  app.model = null;
  app.changed();
  $("#model-sample").focus();
}
