/** Live charts of a run: NLL of both kinds of rows, the loss, and each sample's weight. */
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { EvalRow, StepRow } from "../protocol.ts";
import { $, fill, h } from "../dom.ts";
import { digits } from "../format.ts";
import { colour } from "../theme.ts";

/** Redraws at most this often, so that a fast run leaves the page's thread alone. */
const EVERY_MS = 250;
const HEIGHT = 190;
/** Steps whose samples are shown one by one, at most. */
const DOTTED = 400;

export class Charts {
  #steps: StepRow[] = [];
  #evals: EvalRow[] = [];
  #weights: { step: number; weights: number[] }[] = [];
  #plots: uPlot[] = [];
  #timer = 0;
  #last = 1;
  #dotColour = "";

  constructor() {
    new ResizeObserver(() => this.#resize()).observe($("#nll-chart"));
  }

  /** Begins anew; `last` is the last step of the axis. */
  start(last: number): void {
    this.#steps = [];
    this.#evals = [];
    this.#weights = [];
    this.#last = last;
    this.restyle();
  }

  step(row: StepRow, weights: number[]): void {
    this.#steps.push(row);
    if (weights.length > 0) this.#weights.push({ step: row.step, weights });
    this.#later();
  }

  eval(row: EvalRow): void {
    this.#evals.push(row);
    this.#later();
  }

  /** Makes the charts in the colours of now. */
  restyle(): void {
    for (const plot of this.#plots) plot.destroy();
    this.#plots = [];
    if ($("#run").hidden) return;
    this.#dotColour = colour("--line-held");
    const [train, held, loss] = [colour("--line-train"), colour("--line-held"), colour("--line-loss")];
    this.#plots = [
      plot("#nll-chart", () => this.#last, [
        { label: "learning from", stroke: train, width: 1.5, points: { show: false } },
        { label: "testing on", stroke: held, width: 1.5, points: { show: true, size: 6, fill: held } },
      ]),
      plot("#loss-chart", () => this.#last, [{ label: "loss", stroke: loss, width: 1.5, points: { show: false } }]),
      plot("#weights-chart", () => this.#last, [{ label: "mean", stroke: train, width: 1.5, points: { show: false } }], [0, 1], (u) => this.#dots(u)),
    ];
    this.#draw();
  }

  #later(): void {
    this.#timer ||= window.setTimeout(() => {
      this.#timer = 0;
      requestAnimationFrame(() => this.#draw());
    }, EVERY_MS);
  }

  #draw(): void {
    const [nll, loss, weights] = this.#plots;
    if (!nll || !loss || !weights) return;
    const steps = this.#steps.map((row) => row.step);
    const at = [...new Set([...steps, ...this.#evals.map((row) => row.step)])].sort((a, b) => a - b);
    const nllAt = new Map(this.#steps.map((row) => [row.step, row.nll]));
    const evalAt = new Map(this.#evals.map((row) => [row.step, row.eval_nll]));
    // undefined, not null: a line goes on through steps that were not measured.
    nll.setData([at, at.map((step) => nllAt.get(step)), at.map((step) => evalAt.get(step))] as uPlot.AlignedData);
    loss.setData([steps, this.#steps.map((row) => row.loss)]);
    weights.setData([this.#weights.map(({ step }) => step), this.#weights.map(({ weights }) => mean(weights))]);
    this.#captions();
  }

  /** Titles with the newest values; they are also what a screen reader has of a chart. */
  #captions(): void {
    const step = this.#steps.at(-1);
    const held = this.#evals.at(-1);
    const first = this.#evals[0];
    const key = (kind: string, text: string) => h("span", { class: `key ${kind}` }, text);
    fill(
      $("#nll-caption"),
      h("b", {}, "NLL"),
      step && key("train", `learning from ${digits(step.nll)}`),
      held && key("held", `testing on ${digits(held.eval_nll)}${first && first !== held ? `, at first ${digits(first.eval_nll)}` : ""}`),
    );
    fill($("#loss-caption"), h("b", {}, "Loss"), step && key("loss", digits(step.loss)));
    const weights = this.#weights.at(-1)?.weights ?? [];
    fill($("#weights-caption"), h("b", {}, "Sample weights"), weights.length > 0 && key("train", `mean ${digits(mean(weights))}`), weights.length > 0 && key("dots", "one dot a sample"));
  }

  /** One dot a sample; of long runs, of every so many steps. */
  #dots(plot: uPlot): void {
    const { ctx } = plot;
    ctx.save();
    ctx.fillStyle = this.#dotColour;
    ctx.globalAlpha = 0.45;
    const size = 3.4 * devicePixelRatio;
    const every = Math.ceil(this.#weights.length / DOTTED);
    for (let index = 0; index < this.#weights.length; index += every) {
      const { step, weights } = this.#weights[index] ?? { step: 0, weights: [] };
      const x = plot.valToPos(step, "x", true) - size / 2;
      // Squares are many times quicker than arcs, and look the same at this size.
      for (const weight of weights) ctx.fillRect(x, plot.valToPos(weight, "y", true) - size / 2, size, size);
    }
    ctx.restore();
  }

  #resize(): void {
    for (const plot of this.#plots) {
      const width = plot.root.parentElement?.clientWidth ?? 0;
      if (width > 0 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }
}

const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

function plot(place: string, last: () => number, series: uPlot.Series[], range?: [number, number], dots?: (plot: uPlot) => void): uPlot {
  const element = $(place);
  const axis: uPlot.Axis = {
    stroke: colour("--muted"),
    font: `11px ${getComputedStyle(document.body).fontFamily}`,
    grid: { stroke: colour("--rule"), width: 1 },
    ticks: { show: false },
  };
  const whole = (_: uPlot, marks: number[]) => marks.map((mark) => (Number.isInteger(mark) ? String(mark) : ""));
  return new uPlot(
    {
      width: element.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => [0, Math.max(1, last())] }, y: range ? { range } : {} },
      axes: [{ ...axis, size: 26, values: whole }, { ...axis, size: 46, values: (_, marks) => marks.map((mark) => String(Number(mark.toPrecision(3)))) }],
      series: [{}, ...series],
      ...(dots ? { hooks: { drawSeries: [dots] } } : {}),
    },
    [[], ...series.map(() => [])],
    element,
  );
}
