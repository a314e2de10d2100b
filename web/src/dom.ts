/** The few helpers that stand in for a framework. */
import type { Field } from "./contract.ts";

type Child = Node | string | number | null | undefined | false;
type Properties = Record<string, string | number | boolean | EventListener | null | undefined>;

/** Makes an element. `on…` are listeners, true and false set and leave out an attribute. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, properties: Properties = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("aria-")) element.setAttribute(name, String(value));
    else if (value === false) continue;
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  fill(element, ...children);
  return element;
}

/** Puts children in the place of what an element holds. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(
    ...children.filter((child) => child !== null && child !== undefined && child !== false).map((child) => (typeof child === "number" ? String(child) : child)),
  );
}

/** An element of index.html. */
export function $<E extends Element = HTMLElement>(selector: string, within: ParentNode = document): E {
  const found = within.querySelector<E>(selector);
  if (!found) throw new Error(`index.html has no ${selector}`);
  return found;
}

export const $$ = <E extends Element = HTMLElement>(selector: string, within: ParentNode = document): E[] => [
  ...within.querySelectorAll<E>(selector),
];

/** Tells a field of numbers what it takes. */
export function limit(field: HTMLInputElement, { least, most, whole, optional }: Field): void {
  field.min = String(least ?? "");
  field.max = String(most ?? "");
  field.step = whole ? "1" : "any";
  field.required = !optional;
}

export const input = (selector: string) => $<HTMLInputElement>(selector);

/** Whether `place` was made from something else than `source`: what has the focus should not be made again for nothing. */
export function stale(place: HTMLElement, source: unknown): boolean {
  const key = JSON.stringify(source);
  if (place.dataset["source"] === key) return false;
  place.dataset["source"] = key;
  return true;
}

/** Hides an element; a focus in it goes to `next`. */
export function hide(element: HTMLElement, hidden: boolean, next: HTMLElement): void {
  const lost = hidden && !element.hidden && element.contains(document.activeElement);
  element.hidden = hidden;
  if (lost) next.focus({ preventScroll: true });
}

/** A term with what it stands for, in a `<dl>`. */
export const term = (name: string, ...value: Child[]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
