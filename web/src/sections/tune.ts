/** Step 3: a run, from its settings to its end. */
import type { App } from "../app.ts";
import type { Finished, StepRow, StoredRun, TrainSettings, WorkerEvent } from "../protocol.ts";
import { $, fill, h, hide, stale, term } from "../dom.ts";
import { ago, bytes, count, digits, duration, plural, speed } from "../format.ts";
import { clear, show as showNotice } from "../notice.ts";
import { after, type State } from "../run-state.ts";
import { Charts } from "./charts.ts";
import { openModel } from "./model.ts";
import { NAMES } from "./preview.ts";
import { settingsOf } from "./settings.ts";

interface Run {
  state: State;
  steps: number;
  from: number;
  step: number;
  saved: number | null;
  memory: number;
  device: string;
  rows: StepRow[];
  evals: number;
  finished: Finished | null;
  /** Times of the last steps, for the time left. */
  times: number[];
}

const STATES: Record<State, string> = {
  running: "Tuning",
  pausing: "Pausing after this step",
  paused: "Paused",
  stopping: "Stopping after this step",
  done: "Done",
  stopped: "Stopped",
  failed: "Broken off",
};
/** Newest rows that the table shows. */
const ROWS = 200;

let run: Run | null = null;
let charts: Charts;

export function tuneSection(app: App): Charts {
  charts = new Charts();
  $("#settings").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("#start").getAttribute("aria-disabled") === "true") return;
    const settings = settingsOf(true);
    if (settings) void begin(app, () => app.client.call("train", settings), () => start(app, settings));
  });
  $("#pause").addEventListener("click", () => void pause(app));
  $("#stop").addEventListener("click", () => {
    if (run) run.state = after(run.state, "stop");
    app.stop();
    draw(app);
  });
  app.listen((event) => heard(app, event));
  app.watch(() => {
    offers(app);
    draw(app);
  });
  return charts;
}

function start(app: App, settings: TrainSettings): void {
  void begin(app, () => app.client.call("train", settings), () => start(app, settings));
}

/** Goes on with a stored run, under its own model. */
async function goOn(app: App, stored: StoredRun): Promise<void> {
  if (app.model?.sha256 !== stored.model_sha256) {
    const kept = app.storage?.models.find((model) => model.sha256 === stored.model_sha256);
    if (!kept) {
      showNotice($("#run-offer-notice"), "warn", "Its model is not open", `This run belongs to ${stored.model} (SHA-256 ${stored.model_sha256.slice(0, 12)}…), which this browser does not keep. Open it in step 1, then go on.`, null, []);
      return;
    }
    if (!(await openModel(app, { kind: "stored", id: kept.id }))) return;
  }
  void begin(app, () => app.client.call("continue_run", { id: stored.id }), () => void goOn(app, stored));
}

async function begin(app: App, call: () => Promise<Finished>, again: () => void): Promise<void> {
  const earlier = new Set(app.storage?.runs.map((stored) => stored.id));
  run = { state: "running", steps: 0, from: 0, step: 0, saved: null, memory: 0, device: "", rows: [], evals: 0, finished: null, times: [] };
  const mine = run;
  $("#run").hidden = false;
  clear($("#settings-notice"));
  fill($("#run-notes"));
  fill($("#run-table"));
  charts.start(1);
  $("#run").scrollIntoView({ block: "nearest" });
  const lock = await keepAwake();
  // After a failure the newest checkpoint is worth more than a new start. Whoever is quick asks
  // before the list of runs has it, so that it is read anew.
  const retry = async () => {
    await app.refreshStorage().catch(() => {});
    const saved = app.storage?.runs.find((stored) => !earlier.has(stored.id) || mine.saved !== null);
    if (saved && saved.step < saved.steps) void goOn(app, saved);
    else again();
  };
  const finished = await app.work($("#run-notice"), "train", call, () => void retry());
  void lock?.release();
  run.finished = finished;
  run.state = after(run.state, finished ? (finished.stopped ? "stopped" : "done") : "failed");
  app.adapter = await app.client.call("adapter", {}).catch(() => app.adapter);
  await app.refreshStorage().catch(() => {});
  app.changed();
}

async function pause(app: App): Promise<void> {
  if (!run) return;
  const wish = run.state === "paused" ? "unpause" : "pause";
  run.state = after(run.state, wish);
  draw(app);
  try {
    await app.client.call(wish, {});
  } catch {
    // The run ended first, and says so itself.
  }
  draw(app);
}

function heard(app: App, event: WorkerEvent): void {
  if (!run || app.task !== "train") return;
  switch (event.event) {
    case "started":
      run.steps = event.steps;
      run.from = run.step = event.resumed_from;
      run.memory = event.memory_bytes;
      run.device = event.device;
      if (event.resumed_from > 0) note(`Going on after step ${count(event.resumed_from)}.`);
      charts.start(event.steps);
      break;
    case "step":
      run.step = event.row.step;
      run.rows.push(event.row);
      run.times.push(performance.now());
      if (run.times.length > 12) run.times.shift();
      charts.step(event.row, event.sample_weights);
      break;
    case "eval":
      run.evals += 1;
      charts.eval(event.row);
      break;
    case "skipped":
      run.step = event.step;
      note(`Step ${count(event.step)} changed nothing: its gradient was not finite in ${event.tensor}.`);
      break;
    case "checkpoint":
      run.saved = event.step;
      break;
    case "paused":
      run.state = after(run.state, "paused");
      run.times = [];
      break;
    case "note":
      note(event.text);
      break;
    default:
      return;
  }
  draw(app);
}

function note(text: string): void {
  $("#run-notes").append(h("li", {}, text));
}

let drawing = 0;
function draw(app: App): void {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    drawNow(app);
  });
}

function drawNow(app: App): void {
  $("#run").hidden = run === null;
  if (!run) return;
  const live = app.task === "train";
  const { state, steps, step, rows, finished } = run;
  const last = rows.at(-1);
  $("#run").dataset["state"] = state;
  const says = headline(app, run);
  if ($("#run-state").textContent !== says) $("#run-state").textContent = says;
  const [pauseButton, stopButton] = [$("#pause"), $("#stop")];
  for (const button of [pauseButton, stopButton]) hide(button, !live, $("#run-state"));
  $("#run-hint").hidden = !live;
  pauseButton.textContent = state === "paused" ? "Go on" : "Pause";
  pauseButton.setAttribute("aria-disabled", String(state === "pausing" || state === "stopping"));
  stopButton.setAttribute("aria-disabled", String(state === "stopping"));
  const bar = $<HTMLProgressElement>("#run-bar");
  bar.max = Math.max(1, steps);
  if (steps === 0 && live) bar.removeAttribute("value");
  else bar.value = step;
  fill(
    $("#run-figures"),
    term("Step", `${count(step)} of ${steps ? count(steps) : "…"}`),
    term("Speed", (last && speed(last.tokens_per_second)) || "…"),
    live && term("Time left", timeLeft(run)),
    term("Saved", run.saved === null ? (run.from > 0 ? `step ${count(run.from)}` : "not yet") : `step ${count(run.saved)}`),
    last && term("Learning rate", digits(last.lr)),
    last && term("Gradient norm", digits(last.grad_norm)),
    run.memory > 0 && term("Memory", `about ${bytes(run.memory)}`),
    finished?.eval && term("NLL, testing on", digits(finished.eval.eval_nll)),
  );
  const shown = $<HTMLDetailsElement>("#run details");
  if (shown.open) table(rows);
  else shown.ontoggle = () => run && table(run.rows);
  const of = steps ? ` ${count(step)} of ${count(steps)}` : "";
  fill($("#tune-gist"), live ? `${STATES[state].toLowerCase()}${of}` : state === "done" ? "done" : state === "failed" ? "broken off" : state === "stopped" ? "stopped" : "");
}

function headline(app: App, { state, finished, steps, step, from, evals }: Run): string {
  if (state === "done" && finished) {
    const best = finished.adapter_step === finished.steps ? "" : `; the adapter is that of step ${count(finished.adapter_step)}, which tested best`;
    return `Done: ${plural(finished.steps, "step")} in ${duration(finished.seconds)}${best}`;
  }
  if (state === "stopped" && finished) return `Stopped after step ${count(finished.steps)} of ${count(steps)}`;
  if (state === "running" && (app.heldOut || settingsOf()?.val_size) && steps > 0) {
    // Many rows to test on take a while, in which no step is done.
    if (from === 0 && step === 0 && evals === 0) return "Measuring on the rows to test on, before the first step";
    if (step >= steps) return "Measuring on the rows to test on, after the last step";
  }
  return STATES[state];
}

function timeLeft({ times, step, steps, state }: Run): string {
  if (state === "paused") return "paused";
  const [first, last] = [times[0], times.at(-1)];
  if (first === undefined || last === undefined || times.length < 2) return "…";
  return duration(((last - first) / (times.length - 1) / 1000) * (steps - step));
}

function table(rows: StepRow[]): void {
  const names = ["Step", "Loss", "NLL", "Learning rate", "Gradient norm", "Tokens"];
  const newest = rows.slice(-ROWS).reverse();
  fill(
    $("#run-table"),
    h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))),
    h(
      "tbody",
      {},
      ...newest.map((row) => h("tr", {}, ...[count(row.step), digits(row.loss), digits(row.nll), digits(row.lr), digits(row.grad_norm), count(row.tokens)].map((cell) => h("td", {}, cell)))),
    ),
  );
}

/** Runs of earlier visits that can be gone on with. */
function offers(app: App): void {
  const open = (app.storage?.runs ?? []).filter((stored) => stored.step < stored.steps).sort((a, b) => b.saved_at - a.saved_at);
  const place = $("#runs");
  if (!stale(place, [app.task !== null, open])) return;
  if (app.task !== null || open.length === 0) {
    fill(place);
    return;
  }
  fill(
    place,
    ...open.slice(0, 3).map((stored) =>
      h(
        "div",
        { class: "notice calm offer" },
        h(
          "p",
          {},
          h("b", {}, "A run can go on"),
          ` ${NAMES[stored.settings.loss]} on ${stored.model}, at step ${count(stored.step)} of ${count(stored.steps)}, saved ${ago(stored.saved_at)}.`,
        ),
        h(
          "p",
          { class: "row" },
          h("button", { type: "button", class: "main", "data-needs": "device idle", onclick: () => void goOn(app, stored) }, "Go on"),
          h(
            "button",
            { type: "button", class: "quiet", "data-needs": "idle", onclick: () => void app.work($("#run-offer-notice"), null, async () => void (app.storage = await app.client.call("remove_run", { id: stored.id }))) },
            "Remove it",
          ),
        ),
      ),
    ),
    h("div", { id: "run-offer-notice", class: "notices" }),
  );
}

/** Keeps the screen on while a run goes, where the browser lets a page ask. */
async function keepAwake(): Promise<WakeLockSentinel | null> {
  try {
    return (await navigator.wakeLock?.request("screen")) ?? null;
  } catch {
    return null;
  }
}
