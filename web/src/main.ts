import "./style/base.css";
import "./style/controls.css";
import "./style/layout.css";
import "./style/steps.css";
import { App } from "./app.ts";
import { $$ } from "./dom.ts";
import { refuseStrayDrops } from "./files.ts";
import { themeButton } from "./theme.ts";
import { deviceSection } from "./sections/device.ts";
import { modelSection } from "./sections/model.ts";
import { storageSection } from "./sections/storage.ts";
import { dataSection } from "./sections/data.ts";
import { previewSection } from "./sections/preview.ts";
import { setDefaults, settingsForm } from "./sections/settings.ts";
import { tuneSection } from "./sections/tune.ts";
import { compareSection } from "./sections/compare.ts";
import { embedSection } from "./sections/embed.ts";
import { takeSection } from "./sections/take.ts";
import { rail } from "./rail.ts";

// A button that waits for something keeps the focus and says so; it does nothing.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target instanceof Element ? event.target.closest("button") : null;
    if (button?.getAttribute("aria-disabled") !== "true") return;
    event.preventDefault();
    event.stopImmediatePropagation();
  },
  { capture: true },
);

const app = new App();
refuseStrayDrops();
deviceSection(app);
modelSection(app);
storageSection(app);
dataSection(app);
previewSection(app);
settingsForm(app);
const charts = tuneSection(app);
compareSection(app);
embedSection(app);
takeSection(app);
rail(app);
themeButton(() => charts.restyle());
for (const element of $$("input, textarea, select")) element.setAttribute("autocomplete", "off");
app.changed();

void start();
// A page from a file or a host without TLS has no service worker, and no need of one.
if (import.meta.env.PROD) void navigator.serviceWorker?.register("./offline.js").catch(() => {});

async function start(): Promise<void> {
  if (!(await app.changeDevice("auto"))) return;
  await app.work(document.querySelector("#global-notice") ?? document.body, null, async () => {
    setDefaults(await app.client.call("default_settings", {}));
    await app.refreshStorage();
  });
}
