/** What the browser keeps: models and runs, with a way to free it. */
import type { App } from "../app.ts";
import { $, fill, h, stale } from "../dom.ts";
import { ago, bytes } from "../format.ts";
import { openModel } from "./model.ts";
import type { StorageReport } from "../protocol.ts";

export function storageSection(app: App): void {
  app.watch(() => {
    const { storage } = app;
    if (!storage || !stale($("#storage-list"), [storage, app.model?.stored])) return;
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
    const names = storage.models.map(({ name }) => name);
    const rows = [
      ...storage.models.map((model) => {
        // Where two models have one name, their hashes tell them apart.
        const hash = model.sha256.slice(0, 8);
        const named = names.filter((name) => name === model.name).length > 1 ? `${model.name}, SHA-256 ${hash}…` : model.name;
        return h(
          "li",
          {},
          h("span", {}, h("b", { title: model.url ?? null }, model.name), ` model, ${bytes(model.bytes)}${named.slice(model.name.length)}`),
          h(
            "span",
            { class: "row" },
            app.model?.stored === model.id
              ? h("span", { class: "hint" }, "open")
              : h("button", { type: "button", "data-needs": "device idle", "aria-label": `Open ${named}`, onclick: () => void openModel(app, { kind: "stored", id: model.id }) }, "Open"),
            remove(named, "Remove", () => app.client.call("remove_model", { id: model.id })),
          ),
        );
      }),
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
