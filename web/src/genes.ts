/** The built-in sample: facts about human genes, from the demo of the command line. */
import trainUrl from "../../crates/xtask/data/genes/train.jsonl?url";
import heldOutUrl from "../../crates/xtask/data/genes/heldout.jsonl?url";
import embedUrl from "../../crates/xtask/data/genes/embed.jsonl?url";

async function text(url: string): Promise<string> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.text();
}

export const trainRows = () => text(trainUrl);

/** Every fourth: without a GPU, all of them would take minutes before the first step. */
export async function heldOutRows(): Promise<string> {
  const rows = (await text(heldOutUrl)).trim().split("\n");
  return rows.filter((_, index) => index % 4 === 0).join("\n");
}

/** Lines of a name, a tab and a text. */
export async function embedLines(): Promise<string> {
  const rows = (await text(embedUrl)).trim().split("\n");
  return rows.map((row) => JSON.parse(row) as { id: string; text: string }).map(({ id, text }) => `${id}\t${text}`).join("\n");
}
