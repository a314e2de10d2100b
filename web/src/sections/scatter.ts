/** A map of points in SVG: hover, keys, a selection with its neighbours. */
import type { Embedded } from "../protocol.ts";
import { percent } from "../format.ts";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 26;
/** Room that a name takes, about, in the style sheet's size. */
const [LETTER, LINE] = [6.4, 12];
/** Past this many points, names are only shown when asked for. */
const NAMED = 400;

interface Point {
  mark: SVGGElement;
  name: SVGTextElement;
  x: number;
  y: number;
}

export class Scatter {
  readonly #points: Point[];
  readonly #lines = make("g", { class: "lines" });
  readonly #names = make("g", { class: "names" });
  readonly #embedded: Embedded;

  constructor(place: HTMLElement, embedded: Embedded, picked: (index: number) => void) {
    this.#embedded = embedded;
    const width = Math.max(260, place.clientWidth);
    const height = Math.round(Math.min(width * 0.9, Math.max(width * 0.72, 320)));
    const svg = make("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": `Map of ${embedded.ids.length} texts; arrow keys move from one to the next`,
    });
    const [one, two] = embedded.explained;
    svg.append(
      label(width - MARGIN / 2, height - 9, "end", `PC 1 · ${percent(one)}`, "axis"),
      label(MARGIN / 2, 18, "start", `PC 2 · ${percent(two)}`, "axis"),
    );
    this.#points = positions(embedded, width, height).map(([x, y], index) => {
      const id = embedded.ids[index] ?? "";
      const mark = make("g", { class: "point", tabindex: index === 0 ? 0 : -1, role: "button", "aria-label": id, "data-index": index });
      mark.append(make("circle", { cx: x, cy: y, r: 9, class: "reach" }), make("circle", { cx: x, cy: y, r: 3.6, class: "dot" }));
      const left = x > width - 20 - id.length * LETTER;
      const name = label(left ? x - 7 : x + 7, y + 3.5, left ? "end" : "start", shorten(id), "name");
      return { mark, name, x, y };
    });
    this.#thin();
    this.#names.append(...this.#points.map((point) => point.name));
    svg.append(this.#lines, ...this.#points.map((point) => point.mark), this.#names);

    const indexOf = (event: Event) => {
      const mark = (event.target as Element).closest<SVGGElement>(".point");
      return mark ? Number(mark.dataset["index"]) : null;
    };
    const over = (event: Event, on: boolean) => {
      const point = this.#points[indexOf(event) ?? -1];
      point?.mark.classList.toggle("over", on);
      point?.name.classList.toggle("over", on);
      if (point && on) this.#names.append(point.name);
    };
    svg.addEventListener("pointerover", (event) => over(event, true));
    svg.addEventListener("pointerout", (event) => over(event, false));
    svg.addEventListener("click", (event) => {
      const index = indexOf(event);
      if (index !== null) picked(index);
    });
    svg.addEventListener("keydown", (event) => {
      const index = indexOf(event);
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (index === null || !by) return;
      event.preventDefault();
      const to = (index + by + this.#points.length) % this.#points.length;
      picked(to);
      this.#points[to]?.mark.focus();
    });
    place.replaceChildren(svg);
  }

  /** Marks a point, and draws lines to its neighbours. */
  select(index: number): void {
    const near = new Set(this.#embedded.neighbours[index]?.map((one) => one.index));
    this.#points.forEach(({ mark, name }, at) => {
      for (const element of [mark, name]) {
        element.classList.toggle("picked", at === index);
        element.classList.toggle("near", near.has(at));
      }
      mark.setAttribute("aria-pressed", String(at === index));
      mark.setAttribute("tabindex", at === index ? "0" : "-1");
    });
    this.#lines.replaceChildren();
    const from = this.#points[index];
    if (!from) return;
    for (const other of near) {
      const to = this.#points[other];
      if (!to) continue;
      this.#lines.append(make("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y }));
      this.#names.append(to.name);
    }
    this.#names.append(from.name);
  }

  /** Leaves out names that would lie on others. */
  #thin(): void {
    const taken: { left: number; right: number; y: number }[] = [];
    for (const { name, x, y } of this.#points) {
      const width = (name.textContent?.length ?? 0) * LETTER + 7;
      const [left, right] = name.getAttribute("text-anchor") === "end" ? [x - width, x] : [x, x + width];
      const free = taken.length < NAMED && taken.every((other) => Math.abs(other.y - y) > LINE || other.right < left || other.left > right);
      if (free) taken.push({ left, right, y });
      else name.classList.add("few");
    }
  }
}

/** The map's rows on the drawing, both axes at one scale. */
function positions({ ids, map }: Embedded, width: number, height: number): [number, number][] {
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
  const scale = Math.min((width - 3 * MARGIN) / (right - left || 1), (height - 3 * MARGIN) / (top - bottom || 1));
  const [x0, y0] = [(left + right) / 2, (bottom + top) / 2];
  return rows.map(([x, y]) => [width / 2 + (x - x0) * scale, height / 2 - (y - y0) * scale]);
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
