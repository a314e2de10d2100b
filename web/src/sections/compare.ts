/** Step 4: one question to the base model and to the tuned one. */
import type { App } from "../app.ts";
import type { Answers, Generated } from "../protocol.ts";
import { SAMPLING } from "../contract.ts";
import { $, fill, hide, input, limit } from "../dom.ts";
import { plural, speed } from "../format.ts";
import { templateVars } from "./data.ts";

type Who = keyof Answers;

const ENDS: Record<Generated["finish_reason"], string> = { stop: "ended by itself", length: "cut at the limit", cancelled: "stopped" };
const answerOf = (who: Who) => $(`#${who}-answer`);
const footOf = (who: Who) => $(`#${who}-foot`);

/** The fields of how tokens are chosen. */
const FIELDS = { max_new_tokens: "#max-new", temperature: "#temperature", top_p: "#top-p", seed: "#ask-seed" } as const;

export function compareSection(app: App): void {
  for (const name of ["max_new_tokens", "temperature", "top_p", "seed"] as const) {
    const field = input(FIELDS[name]);
    limit(field, SAMPLING[name]);
    field.value ||= String(SAMPLING[name].default);
  }
  $("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (app.model && app.task === null && $<HTMLFormElement>("#ask").reportValidity()) void ask(app);
  });
  $("#ask-stop").addEventListener("click", () => app.stop());
  app.listen((event) => {
    if (event.event === "token") answerOf(event.who).append(event.text);
  });
  app.watch(() => {
    hide($("#ask-stop"), app.task !== "generate", $("#ask-both"));
    fill($("#tuned-title"), app.adapter && app.adapter.name !== "tuned here" ? `Tuned: ${app.adapter.name}` : "Tuned");
    if (app.task === null && !app.adapter) fill(footOf("tuned"), app.model ? "Tune in step 3, or load an adapter in step 6." : "");
    else if (footOf("tuned").textContent?.startsWith("Tune in")) fill(footOf("tuned"));
    const chat = input("#chat-template");
    chat.disabled = app.model !== null && !app.model.has_chat_template;
    if (chat.disabled) chat.checked = false;
  });
}

async function ask(app: App): Promise<void> {
  const options = {
    prompt: $<HTMLTextAreaElement>("#prompt").value,
    chat_template: input("#chat-template").checked,
    template_vars: templateVars(),
    max_new_tokens: Number(input(FIELDS.max_new_tokens).value),
    temperature: Number(input(FIELDS.temperature).value),
    top_p: Number(input(FIELDS.top_p).value),
    seed: Number(input(FIELDS.seed).value),
  };
  const asked: Who[] = app.adapter ? ["base", "tuned"] : ["base"];
  for (const who of ["base", "tuned"] as const) {
    fill(answerOf(who));
    fill(footOf(who), asked.includes(who) && "Writing");
    answerOf(who).setAttribute("aria-busy", String(asked.includes(who)));
  }
  const answers = await app.work(
    $("#compare-notice"),
    "generate",
    () => app.client.call("ask", options),
    () => void ask(app),
  );
  for (const who of asked) {
    const answer = answers?.[who];
    answerOf(who).removeAttribute("aria-busy");
    if (answer) fill(answerOf(who), answer.text);
    fill(footOf(who), answer && [plural(answer.tokens, "token"), speed(answer.tokens / answer.seconds), ENDS[answer.finish_reason]].filter(Boolean).join(", "));
  }
}
