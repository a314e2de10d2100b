/** A map of points in SVG: hover, keys, a selection with its neighbours. */
import type { Embedded } from "../protocol.ts";
import { percent } from "../format.ts";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [640, 460, 26];
/** More names than this would cover each other. */
const NAMED = 160;

export class Scatter {
  readonly #points: SVGGElement[] = [];
  readonly #lines: SVGGElement;
  readonly #at: [number, number][];
  readonly #embedded: Embedded;

  constructor(place: HTMLElement, embedded: Embedded, picked: (index: number) => void) {
    this.#embedded = embedded;
    this.#at = positions(embedded);
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `Map of ${embedded.ids.length} texts; arrow keys move between points` });
    const [one, two] = embedded.explained;
    svg.append(
      label(WIDTH - MARGIN / 2, HEIGHT - 8, "end", `PC 1 · ${percent(one)}`, "axis"),
      label(MARGIN / 2, 14, "start", `PC 2 · ${percent(two)}`, "axis"),
    );
    this.#lines = make("g", { class: "lines" });
    svg.append(this.#lines);
    const names = embedded.ids.length <= NAMED;
    this.#at.forEach(([x, y], index) => {
      const point = make("g", { class: "point", tabindex: index === 0 ? "0" : "-1", role: "button", "aria-label": embedded.ids[index] ?? "", "data-index": String(index) });
      const name = label(x > WIDTH - 90 ? x - 7 : x + 7, y + 3.5, x > WIDTH - 90 ? "end" : "start", shorten(embedded.ids[index] ?? ""), names ? "name" : "name few");
      point.append(make("circle", { cx: x, cy: y, r: 9, class: "reach" }), make("circle", { cx: x, cy: y, r: 3.6, class: "dot" }), name);
      this.#points.push(point);
    });
    svg.append(...this.#points);
    const find = (event: Event) => (event.target as Element).closest<SVGGElement>(".point");
    svg.addEventListener("click", (event) => {
      const point = find(event);
      if (point) picked(Number(point.dataset["index"]));
    });
    svg.addEventListener("pointerover", (event) => {
      // What is pointed at lies on top.
      const point = find(event);
      if (point && point !== svg.lastElementChild && event.pointerType === "mouse") point.classList.add("over");
    });
    svg.addEventListener("pointerout", (event) => find(event)?.classList.remove("over"));
    svg.addEventListener("keydown", (event) => {
      const point = find(event);
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!point || !by) return;
      event.preventDefault();
      const count = this.#points.length;
      const to = (Number(point.dataset["index"]) + by + count) % count;
      picked(to);
      this.#points[to]?.focus();
    });
    place.replaceChildren(svg);
  }

  /** Marks a point, and draws lines to its neighbours. */
  select(index: number): void {
    const near = new Set(this.#embedded.neighbours[index]?.map((one) => one.index));
    this.#points.forEach((point, at) => {
      point.classList.toggle("picked", at === index);
      point.classList.toggle("near", near.has(at));
      point.setAttribute("aria-pressed", String(at === index));
      point.setAttribute("tabindex", at === index ? "0" : "-1");
    });
    const from = this.#at[index];
    this.#lines.replaceChildren();
    if (!from) return;
    for (const other of near) {
      const to = this.#at[other];
      if (to) this.#lines.append(make("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }));
    }
  }
}

/** The map's rows on the drawing, both axes at one scale. */
function positions({ ids, map }: Embedded): [number, number][] {
  const rows = ids.map((_, index): [number, number] => [map[2 * index] ?? 0, map[2 * index + 1] ?? 0]);
  const span = (axis: 0 | 1): [number, number] => {
    let [least, most] = [Infinity, -Infinity];
    for (const row of rows) {
      least = Math.min(least, row[axis]);
      most = Math.max(most, row[axis]);
    }
    return [least, most];
  };
  const [[left, right], [bottom, top]] = [span(0), span(1)];
  const scale = Math.min((WIDTH - 2 * MARGIN - 60) / (right - left || 1), (HEIGHT - 2 * MARGIN - 16) / (top - bottom || 1));
  const middle = [(left + right) / 2, (bottom + top) / 2] as const;
  return rows.map(([x, y]) => [WIDTH / 2 - 20 + (x - middle[0]) * scale, HEIGHT / 2 - (y - middle[1]) * scale]);
}

function make<K extends keyof SVGElementTagNameMap>(name: K, attributes: Record<string, string | number>): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

function label(x: number, y: number, anchor: string, text: string, kind: string): SVGTextElement {
  const element = make("text", { x, y, "text-anchor": anchor, class: kind, "aria-hidden": "true" });
  element.textContent = text;
  return element;
}

const shorten = (text: string) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);
