/** The steps at the side: which are done, which is in view. */
import type { App } from "./app.ts";
import { $$ } from "./dom.ts";

export function rail(app: App): void {
  const links = $$<HTMLAnchorElement>(".rail a");
  const inView = new Set<string>();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inView.add(target.id);
        else inView.delete(target.id);
      }
      const now = links.find((link) => inView.has(link.dataset["step"] ?? ""));
      for (const link of links) {
        if (link === now) link.setAttribute("aria-current", "step");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-20% 0px -60% 0px" },
  );
  for (const section of $$("main > section")) watcher.observe(section);
  app.watch(() => {
    const done: Record<string, boolean> = { model: app.model !== null, data: app.train !== null, tune: app.adapter !== null };
    for (const link of links) link.classList.toggle("done", done[link.dataset["step"] ?? ""] === true);
  });
}
