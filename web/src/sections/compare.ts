/** Step 4: one question to the base model and to the tuned one. */
import type { App } from "../app.ts";
import type { Generated, GenerateOptions } from "../protocol.ts";
import { $, fill, hide, input } from "../dom.ts";
import { plural, speed } from "../format.ts";

const ENDS: Record<Generated["finish_reason"], string> = { stop: "ended by itself", length: "cut at the limit", cancelled: "stopped" };
/** Where tokens go that the engine sends now. */
let writing: HTMLElement | null = null;

export function compareSection(app: App): void {
  $("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (app.model && app.task === null && $<HTMLFormElement>("#ask").reportValidity()) void ask(app);
  });
  $("#ask-stop").addEventListener("click", () => app.stop());
  app.listen((event) => {
    if (event.event === "token") writing?.append(event.text);
  });
  app.watch(() => {
    hide($("#ask-stop"), app.task !== "generate", $("#ask-both"));
    fill($("#tuned-title"), app.adapter && app.adapter.name !== "tuned" ? `Tuned: ${app.adapter.name}` : "Tuned");
    if (app.task === null && !app.adapter) fill($("#tuned-foot"), app.model ? "Tune in step 3, or load an adapter in step 6." : "");
    else if ($("#tuned-foot").textContent?.startsWith("Tune in")) fill($("#tuned-foot"));
    const chat = input("#chat-template");
    chat.disabled = app.model !== null && !app.model.has_chat_template;
    if (chat.disabled) chat.checked = false;
  });
}

async function ask(app: App): Promise<void> {
  const options = {
    prompt: $<HTMLTextAreaElement>("#prompt").value,
    chat_template: input("#chat-template").checked,
    max_new_tokens: Number(input("#max-new").value),
    temperature: Number(input("#temperature").value),
    top_p: Number(input("#top-p").value),
    seed: Number(input("#ask-seed").value),
  };
  for (const who of ["base", "tuned"]) {
    fill($(`#${who}-answer`));
    fill($(`#${who}-foot`));
  }
  const again = () => void ask(app);
  await app.work(
    $("#compare-notice"),
    "generate",
    async () => {
      const base = await answer(app, "base", { ...options, adapter: false });
      if (base.finish_reason !== "cancelled" && app.adapter) await answer(app, "tuned", { ...options, adapter: true });
    },
    again,
  );
}

async function answer(app: App, who: "base" | "tuned", options: GenerateOptions): Promise<Generated> {
  const place = $(`#${who}-answer`);
  const foot = $(`#${who}-foot`);
  place.setAttribute("aria-busy", "true");
  fill(foot, "Writing");
  writing = place;
  try {
    const found = await app.client.call("generate", options);
    fill(place, found.text);
    fill(foot, [plural(found.tokens, "token"), speed(found.tokens / found.seconds), ENDS[found.finish_reason]].filter(Boolean).join(", "));
    return found;
  } catch (error) {
    fill(foot);
    throw error;
  } finally {
    writing = null;
    place.removeAttribute("aria-busy");
  }
}
