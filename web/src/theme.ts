/** Light and dark: as the system, or as chosen. */
import { $ } from "./dom.ts";

const CHOICES = ["system", "light", "dark"] as const;
type Choice = (typeof CHOICES)[number];
const SIGNS: Record<Choice, string> = { system: "◐", light: "○", dark: "●" };
const WORDS: Record<Choice, string> = { system: "as the system", light: "light", dark: "dark" };

export function themeButton(changed: () => void): void {
  const button = $<HTMLButtonElement>("#theme");
  let choice = CHOICES.find((known) => known === stored()) ?? "system";
  const apply = () => {
    document.documentElement.style.colorScheme = choice === "system" ? "light dark" : choice;
    button.textContent = SIGNS[choice];
    button.setAttribute("aria-label", `Colours: ${WORDS[choice]}`);
    button.title = `Colours: ${WORDS[choice]}`;
    changed();
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length] ?? "system";
    try {
      localStorage.setItem("theme", choice);
    } catch {
      // Storage is closed: the choice holds until the page is left.
    }
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}

function stored(): string | null {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

/** A colour of the style sheet as a canvas takes it. */
export function colour(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
