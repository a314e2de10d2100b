/** Numbers as a person reads them. */

const plain = new Intl.NumberFormat("en");

export const count = (value: number) => plain.format(Math.round(value));

export const plural = (value: number, one: string, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** Decimal units, as on a disk. */
export function bytes(value: number): string {
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let unit = -1;
  do {
    value /= 1000;
    unit += 1;
  } while (value >= 999.5 && unit < units.length - 1);
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

export function many(value: number): string {
  if (value < 1e4) return count(value);
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)} K`;
  if (value < 1e9) return `${(value / 1e6).toFixed(value < 1e8 ? 1 : 0)} M`;
  return `${(value / 1e9).toFixed(2)} B`;
}

export function duration(seconds: number): string {
  if (seconds < 1) return "less than a second";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function ago(milliseconds: number): string {
  const seconds = Math.max(0, (Date.now() - milliseconds) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(milliseconds).toLocaleDateString();
}

/** Four digits that matter: `2.314`, `0.0173`, `3.2e-6`. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e5) return value.toExponential(1);
  return size >= 10 ? value.toFixed(2) : value.toFixed(size < 0.1 ? 4 : 3);
}

export const percent = (share: number) => `${Math.round(share * 100)} %`;

/** `23.4 tokens/s`; nothing where no time went by. */
export function speed(perSecond: number): string {
  return Number.isFinite(perSecond) && perSecond > 0 ? `${perSecond < 100 ? perSecond.toPrecision(3) : count(perSecond)} tokens/s` : "";
}

/** The engine's errors begin small and end without a point, as a command line's do; names stay as they are. */
export function sentence(message: string): string {
  const text = message.trim().replace(/^[a-z]+(?=[ ,;])/, (word) => word.charAt(0).toUpperCase() + word.slice(1));
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
