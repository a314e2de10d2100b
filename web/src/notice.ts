/** Failures as sentences with something to do about them. */
import type { DeviceChoice, Failure } from "./protocol.ts";
import { $, h } from "./dom.ts";
import { sentence } from "./format.ts";

interface Action {
  label: string;
  act(): void;
}

const TITLES: Record<Failure["kind"], string> = {
  input: "This cannot be used as it is",
  lost: "The GPU was lost",
  memory: "Not enough memory",
  storage: "The browser’s storage is full or closed",
  network: "The network did not deliver",
  busy: "Another tab is at work",
  cancelled: "Cancelled",
  other: "Something failed",
};

/** What helps beside the engine's own sentence. */
const HELP: Partial<Record<Failure["kind"], string>> = {
  lost: "The driver took it back, as after a crash, sleep or a job that was too long. What was saved is kept.",
  memory: "A smaller batch, a lower rank or shorter samples need less.",
  network: "Some hosts do not let other sites read their files (CORS). If so, download the file yourself and drop it here.",
  busy: "Close this page’s other tab, or wait until it is done.",
};

export function clear(place: Element): void {
  place.replaceChildren();
}

/** What a person can do about a failure of the device: take another, which may not open. */
export interface Devices {
  onGpu: boolean;
  change(choice: DeviceChoice): Promise<boolean>;
}

/** Shows a failure at `place`. */
export function tell(place: Element, failure: Failure, devices: Devices, again?: () => void): void {
  const dismiss = () => clear(place);
  if (failure.kind === "cancelled") {
    show(place, "calm", "Cancelled", failure.message, null, again ? [{ label: "Start again", act: again }] : []);
    return;
  }
  const retry: Action[] = again ? [{ label: "Try again", act: again }] : [];
  const cpu: Action = { label: "Go on with the CPU", act: () => void devices.change("cpu").then((open) => open && again?.()) };
  const actions: Record<Exclude<Failure["kind"], "cancelled">, Action[]> = {
    input: [],
    lost: [{ label: "Open the GPU again", act: () => void devices.change("gpu").then((open) => open && again?.()) }, cpu],
    memory: devices.onGpu ? [cpu, ...retry] : retry,
    storage: [{ label: "Free storage", act: showStorage }, ...retry],
    network: retry,
    busy: retry,
    other: retry,
  };
  show(place, failure.kind === "input" ? "warn" : "bad", TITLES[failure.kind], failure.message, HELP[failure.kind] ?? null, actions[failure.kind], dismiss);
}

export function show(
  place: Element,
  tone: "calm" | "warn" | "bad" | "good",
  title: string,
  message: string,
  help: string | null,
  actions: Action[],
  dismiss: () => void = () => clear(place),
): void {
  const buttons = actions.map(({ label, act }) =>
    h("button", { type: "button", onclick: () => (dismiss(), act()) }, label),
  );
  place.replaceChildren(
    h(
      "div",
      { class: `notice ${tone}`, role: tone === "bad" || tone === "warn" ? "alert" : "status" },
      h("p", {}, h("b", {}, title), " ", h("span", { class: "message" }, sentence(message))),
      help && h("p", { class: "hint" }, help),
      h("p", { class: "row" }, ...buttons, h("button", { type: "button", class: "quiet", onclick: dismiss }, "Dismiss")),
    ),
  );
}

function showStorage(): void {
  const storage = $<HTMLDetailsElement>("#storage");
  storage.open = true;
  storage.scrollIntoView({ block: "center" });
  $("summary", storage).focus();
}
