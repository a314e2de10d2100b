/** The method made visible: a sample's tokens, and what each loss makes of them. */
import type { App } from "../app.ts";
import type { DataReport, Loss, Preview, PreviewToken } from "../protocol.ts";
import { $, $$, fill, h, input } from "../dom.ts";
import { count, digits } from "../format.ts";

const LOSSES: readonly Loss[] = ["sft", "dft", "bft", "bft-v3"];
export const NAMES: Record<Loss, string> = { sft: "SFT", dft: "DFT", bft: "BFT", "bft-v3": "BFT-v3", gce: "GCE" };
type By = Loss | "p" | "all";

let shown: Preview | null = null;
let wanted = 0;
/** What the preview was made from: changed rows or a changed adapter make another. */
let madeFrom: [DataReport | null, unknown] = [null, null];

export function previewSection(app: App): void {
  const index = input("#preview-index");
  const step = (by: number) => go(app, wanted + by);
  $("#preview-back").addEventListener("click", () => step(-1));
  $("#preview-next").addEventListener("click", () => step(1));
  index.addEventListener("change", () => go(app, Number(index.value) - 1));
  for (const radio of $$("input[name=heat]")) radio.addEventListener("change", draw);
  for (const name of ["group_size", "gamma"]) {
    $(`#settings [name=${name}]`).addEventListener("change", () => app.train && shown && go(app, wanted));
  }
  app.watch(() => {
    const { train, model } = app;
    const visible = train !== null && model !== null;
    $("#preview").hidden = !visible;
    if (!visible || app.task !== null) return;
    if (madeFrom[0] === train && madeFrom[1] === app.adapter) return;
    if (madeFrom[0] !== train) wanted = 0;
    madeFrom = [train, app.adapter];
    shown = null;
    go(app, wanted);
  });
}

function go(app: App, to: number): void {
  if (app.task !== null) return;
  const samples = app.train?.samples ?? 0;
  wanted = Math.min(Math.max(0, Number.isFinite(to) ? Math.round(to) : 0), Math.max(0, samples - 1));
  input("#preview-index").value = String(wanted + 1);
  input("#preview-index").max = String(samples);
  fill($("#preview-of"), `of ${count(samples)}`);
  const asked = wanted;
  const body = $("#preview-body");
  body.classList.add("stale");
  if (!shown) fill(body, h("p", { class: "hint working" }, "Asking the model for each token’s probability"));
  void app.work(
    $("#preview-notice"),
    null,
    async () => {
      // Paged on while this one waited.
      if (asked !== wanted || !app.train) return;
      const group_size = Number($<HTMLInputElement>("#settings [name=group_size]").value) || 256;
      const gamma = Number($<HTMLInputElement>("#settings [name=gamma]").value);
      shown = await app.client.call("preview", { index: asked, group_size, gamma });
      draw();
    },
    () => go(app, asked),
  ).then(() => {
    body.classList.remove("stale");
    if (!shown) fill(body);
  });
}

function draw(): void {
  const preview = shown;
  if (!preview) return;
  const by = $<HTMLInputElement>("input[name=heat]:checked").value as By;
  const body = $("#preview-body");
  const readout = h("div", { class: "readout", id: "readout" });
  const texts =
    by === "all"
      ? h("div", { class: "heats" }, ...(["p", ...LOSSES] as const).flatMap((one) => [h("h4", {}, one === "p" ? "Probability" : NAMES[one]), heat(preview, one, readout, one !== "p")]))
      : heat(preview, by, readout, false);
  explain(readout, preview, null);
  // The least likely token says most about a loss.
  const [least] = preview.tokens.flatMap((token, at) => (token.p === null ? [] : [{ at, p: token.p }])).sort((a, b) => a.p - b.p);
  fill(body, h("div", { class: "scene" }, h("div", {}, texts, legend(by)), h("div", {}, samples(preview, by), readout)), table(preview));
  if (least) $(`.heat [data-at="${least.at}"]`, body).dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
}

/** The text, each trained token coloured by its value times its sample's weight; or only from the first trained one. */
function heat(preview: Preview, by: Exclude<By, "all">, readout: HTMLElement, short: boolean): HTMLElement {
  const from = short ? Math.max(0, preview.tokens.findIndex((token) => token.trained)) : 0;
  const tokens = preview.tokens.slice(from);
  const scale = by === "p" ? 1 : preview.sample_weights[by];
  const spans = tokens.map((token, position) => {
    const value = token.trained ? (by === "p" ? token.p : (token.weights?.[by] ?? null)) : null;
    const span = h("span", { class: value === null ? "masked" : "trained", "data-at": position }, visible(token.text));
    if (value !== null) span.style.setProperty("--heat", `${(Math.min(1, Math.max(0, value * scale)) * 100).toFixed(1)}%`);
    return span;
  });
  const text = h("p", { class: "heat", tabindex: 0, role: "group", "aria-label": `Tokens by ${by === "p" ? "probability" : NAMES[by]}; arrow keys move from token to token` });
  spans.forEach((span, position) => {
    text.append(span);
    if (tokens[position]?.text.endsWith("\n")) text.append(h("br"));
  });
  let at = -1;
  const move = (to: number) => {
    spans[at]?.classList.remove("at");
    at = to;
    spans[at]?.classList.add("at");
    explain(readout, preview, tokens[at] ?? null);
  };
  text.addEventListener("pointerover", (event) => {
    const found = (event.target as HTMLElement).dataset["at"];
    if (found !== undefined) move(Number(found));
  });
  text.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    readout.setAttribute("aria-live", "polite");
    move(Math.min(spans.length - 1, Math.max(0, at + by)));
  });
  return text;
}

/** What is known of one token, or how to find out. */
function explain(place: HTMLElement, preview: Preview, token: PreviewToken | null): void {
  if (!token) {
    fill(place, h("p", { class: "hint" }, "Point at a token, or press an arrow key in the text, to read its weights."));
    return;
  }
  const head = h("p", {}, h("code", { class: "token" }, visible(token.text)), " ", h("small", {}, `id ${token.id}`));
  if (!token.trained || token.weights === null) {
    fill(place, head, h("p", { class: "hint" }, "Masked: read by the model, never trained."));
    return;
  }
  const weights = token.weights;
  fill(
    place,
    head,
    bar("p", token.p ?? 0, digits(token.p ?? 0)),
    ...LOSSES.map((loss) => {
      const whole = weights[loss] * preview.sample_weights[loss];
      return bar(NAMES[loss], whole, loss.startsWith("bft") ? `${digits(weights[loss])} × ${digits(preview.sample_weights[loss])}` : digits(whole));
    }),
  );
}

function samples(preview: Preview, by: By): HTMLElement {
  return h(
    "div",
    { class: "sample-weights" },
    h("h4", {}, "This sample’s weight"),
    ...LOSSES.map((loss) => {
      const row = bar(NAMES[loss], preview.sample_weights[loss], digits(preview.sample_weights[loss]));
      row.classList.toggle("now", loss === by);
      return row;
    }),
    h("p", { class: "hint" }, `${preview.place[0]?.toUpperCase()}${preview.place.slice(1)} · NLL ${digits(preview.nll)}`),
  );
}

function bar(name: string, value: number, text: string): HTMLElement {
  const filled = h("i");
  filled.style.setProperty("--heat", `${(Math.min(1, Math.max(0, value)) * 100).toFixed(1)}%`);
  return h("p", { class: "meter" }, h("span", {}, name), h("span", { class: "track" }, filled), h("span", { class: "number" }, text));
}

function legend(by: By): HTMLElement {
  const scale = Array.from({ length: 12 }, (_, step) => {
    const cell = h("i");
    cell.style.setProperty("--heat", `${((step / 11) * 100).toFixed(0)}%`);
    return cell;
  });
  const what = by === "p" ? "probability" : by === "all" ? "probability, or weight times the sample’s" : "token’s weight times the sample’s";
  return h("p", { class: "legend hint" }, "0 ", h("span", { class: "scale", "aria-hidden": true }, ...scale), ` 1 ${what}. `, h("span", { class: "masked" }, "Grey"), " is masked.");
}

function table(preview: Preview): HTMLElement {
  const details = h("details", { class: "more" }, h("summary", {}, "Tokens as a table"));
  // Long samples make long tables: only on demand.
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const cells = (token: PreviewToken) => {
      const { weights } = token;
      return weights === null ? Array.from({ length: 5 }, () => "–") : [digits(token.p ?? 0), ...LOSSES.map((loss) => digits(weights[loss]))];
    };
    details.append(
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Tokens as a table" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ...["", "Token", "id", "p", ...LOSSES.map((loss) => NAMES[loss])].map((name) => h("th", { scope: "col" }, name)))),
          h(
            "tbody",
            {},
            ...preview.tokens.map((token, position) =>
              h("tr", {}, h("td", {}, position), h("td", {}, h("code", {}, visible(token.text))), h("td", {}, token.id), ...cells(token).map((cell) => h("td", {}, cell))),
            ),
          ),
        ),
      ),
    );
  });
  return details;
}

/** Control characters as signs, so that they can be seen. */
function visible(text: string): string {
  return text.replace(/\n/g, "↵").replace(/\t/g, "→").replace(/\p{Cc}/gu, "·");
}
