/** Step 5: texts to vectors, seen on a map. */
import type { App } from "../app.ts";
import type { Embedded, ModelInfo, Pooling, VectorFormat } from "../protocol.ts";
import { $, $$, fill, h, hide, input } from "../dom.ts";
import { count, duration, percent, plural } from "../format.ts";
import { download } from "../files.ts";
import { embedLines } from "../genes.ts";
import { Scatter } from "./scatter.ts";

/** Draws the map again when the page's width changes. */
let resized: ResizeObserver | null = null;

export function embedSection(app: App): void {
  const area = $<HTMLTextAreaElement>("#embed-texts");
  void embedLines()
    .then((lines) => (area.value ||= lines))
    .catch(() => {
      // The box stays empty, which says enough; texts can be typed.
    });
  $("#embed-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (app.model && app.task === null) void embed(app);
  });
  $("#embed-stop").addEventListener("click", () => app.stop());
  for (const button of $$("[data-vectors]")) {
    button.addEventListener("click", () => void save(app, button.dataset["vectors"] as VectorFormat));
  }
  app.listen((event) => {
    if (event.event === "progress" && event.what === "embed") fill($("#embed-progress"), `${count(event.done)} of ${event.total === null ? "…" : count(event.total)}`);
  });
  let seen: ModelInfo | null = null;
  app.watch(() => {
    if (app.model && app.model !== seen) {
      seen = app.model;
      $<HTMLSelectElement>("#pooling").value = seen.pooling ?? "mean";
      input("#normalize").checked = seen.normalize;
    }
    hide($("#embed-stop"), app.task !== "embed", $("#embed-start"));
  });
}

async function embed(app: App): Promise<void> {
  const rows = $<HTMLTextAreaElement>("#embed-texts")
    .value.split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => {
      const tab = line.indexOf("\t");
      return tab < 0 ? { id: line, text: line } : { id: line.slice(0, tab).trim(), text: line.slice(tab + 1).trim() };
    });
  if (rows.length === 0) {
    $<HTMLTextAreaElement>("#embed-texts").reportValidity();
    return;
  }
  fill($("#embed-progress"), "Reading");
  const embedded = await app.work(
    $("#embed-notice"),
    "embed",
    () =>
      app.client.call("embed", {
        texts: rows.map((row) => row.text),
        ids: rows.map((row) => row.id),
        adapter: input("#embed-adapter").checked && app.adapter !== null,
        pooling: $<HTMLSelectElement>("#pooling").value as Pooling,
        normalize: input("#normalize").checked,
      }),
    () => void embed(app),
  );
  fill($("#embed-progress"));
  if (embedded) show(embedded);
}

function show(embedded: Embedded): void {
  $("#embedded").hidden = false;
  fill($("#embed-gist"), `${plural(embedded.ids.length, "text")}, ${count(embedded.width)} wide`);
  fill($("#embed-progress"), `${plural(embedded.tokens, "token")} in ${duration(embedded.seconds)}`);
  const [one, two] = embedded.explained;
  fill(
    $("#map-caption"),
    `The first two principal components of the centred vectors: ${percent(one)} and ${percent(two)} of their variance. Near on the map is not always near in full; the list of neighbours compares whole vectors.`,
  );
  const picker = $<HTMLSelectElement>("#near-of");
  fill(picker, ...embedded.ids.map((id, index) => h("option", { value: index }, id)));
  let scatter = new Scatter($("#map"), embedded, (index) => pick(index));
  let width = $("#map").clientWidth;
  const pick = (index: number) => {
    picker.value = String(index);
    scatter.select(index);
    fill(
      $("#near-list"),
      ...(embedded.neighbours[index] ?? []).map((near) =>
        h("li", {}, h("button", { type: "button", class: "link", onclick: () => (pick(near.index), picker.focus()) }, embedded.ids[near.index]), h("span", { class: "number" }, near.cosine.toFixed(3))),
      ),
    );
  };
  picker.onchange = () => pick(Number(picker.value));
  resized?.disconnect();
  resized = new ResizeObserver(() => {
    const now = $("#map").clientWidth;
    if (now === width || now === 0) return;
    width = now;
    scatter = new Scatter($("#map"), embedded, (index) => pick(index));
    scatter.select(Number(picker.value));
  });
  resized.observe($("#map"));
  if (embedded.ids.length > 0) pick(0);
}

async function save(app: App, format: VectorFormat): Promise<void> {
  const blob = await app.work($("#embed-notice"), null, () => app.client.call("export_vectors", { format }), () => void save(app, format));
  if (blob) download(blob, `vectors.${format}`);
}
