/** The form of a run's settings, with the command line's names and defaults. */
import type { App } from "../app.ts";
import type { Loss, TrainSettings } from "../protocol.ts";
import { $, $$, fill } from "../dom.ts";
import { bytes, many, plural } from "../format.ts";
import { lengths } from "./data.ts";

const form = () => $<HTMLFormElement>("#settings");
const field = (name: string) => $<HTMLInputElement | HTMLSelectElement>(`[name=${name}]`, form());

let defaults: TrainSettings | null = null;

/** Fills the form with the engine's defaults, and keeps the estimate beside it true. */
export function settingsForm(app: App): void {
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
  const number = (name: string) => Number(field(name).value);
  const optional = (name: string) => (field(name).value === "" ? null : number(name));
  const unit = field("unit").value;
  return {
    ...defaults,
    ...lengths(),
    loss: checkedLoss(),
    group_size: number("group_size"),
    gamma: number("gamma"),
    rank: number("rank"),
    alpha: optional("alpha"),
    lora_dropout: number("lora_dropout"),
    lr: number("lr"),
    schedule: field("schedule").value as TrainSettings["schedule"],
    warmup_steps: number("warmup_steps"),
    weight_decay: number("weight_decay"),
    max_grad_norm: number("max_grad_norm"),
    batch_size: number("batch_size"),
    grad_accum: number("grad_accum"),
    steps: unit === "steps" ? number("length") : null,
    epochs: unit === "epochs" ? number("length") : null,
    no_shuffle: (field("no_shuffle") as HTMLInputElement).checked,
    seed: number("seed"),
    eval_every: optional("eval_every"),
    save_every: number("save_every"),
    checkpoint_activations: field("checkpoint_activations").value as TrainSettings["checkpoint_activations"],
  };
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
