/** Step 2: rows to learn from and rows to test on. */
import type { App } from "../app.ts";
import type { DataReport, ModelInfo } from "../protocol.ts";
import { $, $$, fill, h, input, term } from "../dom.ts";
import { onChoice, onDrop } from "../files.ts";
import { count, percent, plural } from "../format.ts";
import { heldOutRows, trainRows } from "../genes.ts";

type Role = "train" | "held_out";

type Rows = { name: string } & ({ text: string } | { bytes: Uint8Array<ArrayBuffer> });

const PLACEHOLDERS: Record<Role, string> = {
  train: '{"prompt": "TP53 encodes", "completion": " a tumour suppressor."}',
  held_out: "The model never learns from these.",
};
/** What was last read, so that another model or length can read it again. */
const kept: Record<Role, Rows | null> = { train: null, held_out: null };
/** The model that it was read with. */
let readFor: ModelInfo | null = null;

export function dataSection(app: App): void {
  $("#data-sample").addEventListener("click", () => void useGenes(app));
  for (const slot of $$("#data-roles .slot")) {
    const role = slot.dataset["role"] as Role;
    const area = $<HTMLTextAreaElement>("textarea", slot);
    const readFile = async (file: File | undefined) => {
      if (!file) return;
      area.value = "";
      await read(app, role, { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) });
    };
    onDrop(slot, ([file]) => void readFile(file));
    onChoice($<HTMLInputElement>("input[type=file]", slot), ([file]) => void readFile(file));
    $("[data-do=read]", slot).addEventListener("click", () => void read(app, role, { name: "pasted", text: area.value }));
    $("[data-do=clear]", slot).addEventListener("click", () => void drop(app, role));
  }
  for (const id of ["#max-length", "#truncate", "#skip-bad", "#columns", "#template-vars"]) $(id).addEventListener("change", () => void readAgain(app));
  app.watch(() => {
    show("train", app.train);
    show("held_out", app.heldOut);
    const { train, heldOut } = app;
    fill($("#data-gist"), train ? `${plural(train.samples, "sample")}${heldOut ? `, ${count(heldOut.samples)} to test on` : ""}` : "");
    if (!app.model) readFor = null;
    else if (app.task === null && readFor !== app.model) {
      readFor = app.model;
      void readAgain(app);
    }
  });
}

/** The lengths that rows are read with, which a run takes too. */
export function lengths(): { max_length: number | null; truncate: boolean } {
  const value = input("#max-length").value;
  return { max_length: value === "" ? null : Number(value), truncate: input("#truncate").checked };
}

/** What chat templates are told, in training and when the model is asked. */
export function templateVars(): string {
  return input("#template-vars").value;
}

async function useGenes(app: App): Promise<void> {
  const texts = await app.work(slotOf("train").notices, null, () => Promise.all([trainRows(), heldOutRows()]), () => void useGenes(app));
  if (!texts) return;
  for (const area of $$<HTMLTextAreaElement>("#data-roles textarea")) area.value = "";
  if (await read(app, "train", { name: "genes/train.jsonl", text: texts[0] })) {
    await read(app, "held_out", { name: "genes/heldout.jsonl, every fourth row", text: texts[1] });
  }
}

async function readAgain(app: App): Promise<void> {
  if (!app.model || app.task !== null) return;
  for (const role of ["train", "held_out"] as const) {
    const rows = kept[role];
    if (rows) await read(app, role, rows);
  }
}

async function read(app: App, role: Role, rows: Rows): Promise<boolean> {
  const { notices, element } = slotOf(role);
  kept[role] = rows;
  element.classList.add("reading");
  const report = await app.work(
    notices,
    null,
    async () => {
      set(app, role, null);
      const skip_bad_rows = input("#skip-bad").checked;
      const found = await app.client.call("read_data", { role, ...rows, ...lengths(), skip_bad_rows, columns: input("#columns").value, template_vars: templateVars() });
      set(app, role, found);
      return found;
    },
    () => void read(app, role, rows),
  );
  element.classList.remove("reading");
  return report !== null;
}

async function drop(app: App, role: Role): Promise<void> {
  const { notices, element } = slotOf(role);
  kept[role] = null;
  $<HTMLTextAreaElement>("textarea", element).value = "";
  await app.work(notices, null, async () => {
    await app.client.call("clear_data", { role });
    set(app, role, null);
  });
  $("textarea", element).focus();
}

function set(app: App, role: Role, report: DataReport | null): void {
  if (role === "train") app.train = report;
  else app.heldOut = report;
}

function slotOf(role: Role): { element: HTMLElement; notices: HTMLElement } {
  const element = $(`#data-roles [data-role=${role}]`);
  return { element, notices: $(".notices", element) };
}

function show(role: Role, report: DataReport | null): void {
  const { element } = slotOf(role);
  $("[data-do=clear]", element).hidden = report === null;
  element.classList.toggle("filled", report !== null);
  const area = $<HTMLTextAreaElement>("textarea", element);
  area.placeholder = report ? "Paste other rows" : PLACEHOLDERS[role];
  const place = $(".report", element);
  if (!report) {
    fill(place);
    return;
  }
  const share = report.tokens > 0 ? ` (${percent(report.trained_tokens / report.tokens)})` : "";
  fill(
    place,
    h("p", {}, h("b", {}, report.file), ` ${report.format}`),
    h(
      "dl",
      { class: "facts" },
      term("Rows", count(report.rows)),
      term("Samples", count(report.samples)),
      term("Tokens", count(report.tokens)),
      term("Trained", count(report.trained_tokens) + share),
      term("Longest", `${count(report.longest)} tokens`),
      report.truncated > 0 && term("Cut", count(report.truncated)),
      report.untrained > 0 && term("Left out", count(report.untrained)),
    ),
    ...report.notes.map((note) => h("p", { class: "hint caution" }, note)),
  );
}
