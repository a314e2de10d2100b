/** Step 6: the adapter, out and in. */
import type { App } from "../app.ts";
import { $, fill, h, input, term } from "../dom.ts";
import { many } from "../format.ts";
import { download, onChoice, onDrop } from "../files.ts";
import { show as showNotice } from "../notice.ts";

export function takeSection(app: App): void {
  $("#take-zip").addEventListener("click", () => void take(app));
  const bring = (files: File[], folder?: string) => void load(app, files, folder);
  onChoice(input("#adapter-files"), bring);
  onDrop($("#adapter-drop"), bring);
  $("#adapter-clear").addEventListener("click", () => {
    void app.work($("#take-notice"), null, async () => {
      await app.client.call("clear_adapter", {});
      app.adapter = null;
    });
  });
  app.watch(() => {
    const { adapter, model } = app;
    fill($("#take-gist"), adapter ? adapter.name : "");
    $("#adapter-clear").hidden = adapter === null;
    fill(
      $("#adapter"),
      ...(adapter
        ? [
            h("h3", {}, adapter.name),
            h("dl", { class: "facts" }, term("Rank", String(adapter.rank)), term("Alpha", String(adapter.alpha)), term("Parameters", many(adapter.parameters)), term("Modules", adapter.modules.join(", "))),
          ]
        : [h("p", { class: "hint" }, "No adapter yet: tune one in step 3, or bring one.")]),
    );
    const file = model ? quoted(model.name) : "MODEL";
    fill($("#take-command code"), `bft generate --model ${file} --adapter adapter/ \\\n  --prompt 'What is the full name of the gene EGFR?'`);
  });
}

async function take(app: App): Promise<void> {
  const zip = await app.work($("#take-notice"), null, () => app.client.call("export_adapter", {}), () => void take(app));
  if (zip) download(zip, "adapter.zip");
}

async function load(app: App, files: File[], folder?: string): Promise<void> {
  if (!app.model) {
    showNotice($("#take-notice"), "warn", "No model is open", "An adapter belongs to a model: open that in step 1 first.", null, []);
    return;
  }
  await app.work($("#take-notice"), null, async () => {
    app.adapter = await app.client.call("import_adapter", { files, ...(folder ? { folder } : {}) });
  });
}

/** For a shell, where it has to be. */
const quoted = (name: string) => (/^[\w.+-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);
