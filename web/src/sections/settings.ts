/** The form of a run's settings. What each field takes, and its default, is the engine's. */
import type { App } from "../app.ts";
import { FIELDS, type Loss, type TrainSettings } from "../contract.ts";
import { $, $$, fill, h, limit } from "../dom.ts";
import { bytes, many, plural } from "../format.ts";
import { lengths } from "./data.ts";

const form = () => $<HTMLFormElement>("#settings");
const field = (name: string) => $<HTMLInputElement | HTMLSelectElement>(`[name=${name}]`, form());

let defaults: TrainSettings | null = null;

const entries = Object.entries(FIELDS);

/** Tells each field what it takes. */
function prepare(): void {
  for (const [name, about] of entries) {
    const found = form().elements.namedItem(name);
    if (found instanceof HTMLSelectElement) fill(found, ...(about.words ?? []).map((word) => h("option", {}, word)));
    if (found instanceof HTMLInputElement && found.type === "number") limit(found, about);
    // The page has fields where the command line has flags.
    const label = found instanceof HTMLElement ? found.closest("label") : null;
    if (label) label.title = about.help.replace(/--(?=[a-z])/g, "");
  }
}

/** Fills the form with the engine's defaults, and keeps the estimate beside it true. */
export function settingsForm(app: App): void {
  prepare();
  let timer = 0;
  let estimated = "";
  const later = () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => void estimate(), 300);
  };
  const estimate = async () => {
    if (!app.model || !app.train || app.task !== null) {
      if (app.task === null) fill($("#estimate"));
      return;
    }
    const settings = settingsOf();
    if (!settings) return;
    const key = JSON.stringify([settings, app.model.sha256, app.train, app.device]);
    if (key === estimated) return;
    estimated = key;
    await app.work($("#settings-notice"), null, async () => {
      const found = await app.client.call("estimate", settings);
      const steps = `${plural(found.steps, "step")}${found.steps_per_epoch === found.steps ? "" : `, ${plural(found.steps_per_epoch, "step")} a pass`}`;
      fill($("#estimate"), `About ${bytes(found.bytes)} of memory, ${steps}, ${many(found.trainable_parameters)} trained parameters`);
    });
  };
  form().addEventListener("input", () => {
    // Only the balanced losses look at g and γ.
    form().dataset["groups"] = checkedLoss().startsWith("bft") ? "on" : "off";
    later();
  });
  app.watch(later);
}

/** A tab is closed more lightly than a terminal: it saves more often. */
const SAVE_EVERY = 10;

export function setDefaults(settings: TrainSettings): void {
  defaults = { ...settings, save_every: Math.min(SAVE_EVERY, settings.save_every) };
  put(defaults);
}

/** What the form says; null, with the first bad field in focus, where it cannot be. */
export function settingsOf(focus = false): TrainSettings | null {
  if (!defaults) return null;
  const bad = $$<HTMLInputElement>("input", form()).find((input) => !input.validity.valid);
  if (bad) {
    if (focus) {
      const hidden = bad.closest("details");
      if (hidden) hidden.open = true;
      bad.reportValidity();
    }
    return null;
  }
  const settings = { ...defaults, ...lengths() };
  for (const [name] of entries) {
    const value = valueOf(form().elements.namedItem(name));
    if (value !== undefined) Object.assign(settings, { [name]: value });
  }
  const [unit, length] = [field("unit").value, Number(field("length").value)];
  return { ...settings, steps: unit === "steps" ? length : null, epochs: unit === "epochs" ? length : null };
}

/** What a field says; undefined where there is none. */
function valueOf(found: RadioNodeList | Element | null): string | number | boolean | null | undefined {
  if (found instanceof RadioNodeList || found instanceof HTMLSelectElement) return found.value;
  if (!(found instanceof HTMLInputElement)) return undefined;
  if (found.type === "checkbox") return found.checked;
  return found.value === "" ? null : Number(found.value);
}

function checkedLoss(): Loss {
  return ($<HTMLInputElement>("[name=loss]:checked", form()).value ?? "bft") as Loss;
}

function put(settings: TrainSettings): void {
  for (const radio of $$<HTMLInputElement>("[name=loss]", form())) radio.checked = radio.value === settings.loss;
  for (const [name, value] of Object.entries(settings)) {
    const found = form().elements.namedItem(name);
    if (found instanceof HTMLInputElement && found.type === "checkbox") found.checked = value === true;
    else if (found instanceof HTMLInputElement || found instanceof HTMLSelectElement) found.value = value === null ? "" : short(value);
  }
  field("unit").value = settings.steps === null ? "epochs" : "steps";
  field("length").value = String(settings.steps ?? settings.epochs ?? 1);
}

/** 0.0002 is hard to read; a single-precision 0.01 is not 0.009999999776. */
function short(value: unknown): string {
  if (typeof value !== "number") return String(value);
  const rounded = Number(value.toPrecision(6));
  return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
}
