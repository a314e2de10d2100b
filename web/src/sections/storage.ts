/** What the browser keeps: models and runs, with a way to free it. */
import type { App } from "../app.ts";
import { $, fill, h, stale } from "../dom.ts";
import { ago, bytes } from "../format.ts";
import { openModel } from "./model.ts";
import type { StorageReport } from "../protocol.ts";

export function storageSection(app: App): void {
  app.watch(() => {
    const { storage } = app;
    if (!storage || !stale($("#storage-list"), [storage, app.model?.sha256])) return;
    const focused = $("#storage-list").contains(document.activeElement);
    fill($("#storage-gist"), `${bytes(storage.usage)} used, room for ${bytes(storage.quota)}`);
    const remove = (what: string, label: string, call: () => Promise<StorageReport>) =>
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "data-needs": "idle",
          "aria-label": `Remove ${what}`,
          onclick: () =>
            void app.work($("#model-notice"), null, async () => {
              app.storage = await call();
            }),
        },
        label,
      );
    const rows = [
      ...storage.models.map((model) =>
        h(
          "li",
          {},
          h("span", {}, h("b", {}, model.name), ` model, ${bytes(model.bytes)}`),
          h(
            "span",
            { class: "row" },
            app.model?.sha256 === model.sha256
              ? h("span", { class: "hint" }, "open")
              : h("button", { type: "button", "data-needs": "device idle", "aria-label": `Open ${model.name}`, onclick: () => void openModel(app, { kind: "stored", name: model.name }) }, "Open"),
            remove(model.name, "Remove", () => app.client.call("remove_model", { name: model.name })),
          ),
        ),
      ),
      ...storage.runs.map((run) =>
        h(
          "li",
          {},
          h("span", {}, h("b", {}, `Run on ${run.model}`), ` step ${run.step} of ${run.steps}, ${bytes(run.bytes)}, ${ago(run.saved_at)}`),
          remove(`the run on ${run.model}`, "Remove", () => app.client.call("remove_run", { id: run.id })),
        ),
      ),
    ];
    fill(
      $("#storage-list"),
      rows.length > 0 ? h("ul", { class: "stored" }, ...rows) : h("p", { class: "hint" }, "Nothing yet."),
      h("p", { class: "hint" }, storage.persisted ? "The browser promised to keep it until you remove it." : "The browser may clear it when the disk is nearly full."),
    );
    if (focused) $("#storage > summary").focus({ preventScroll: true });
  });
}
