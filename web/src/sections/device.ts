/** Which device computes, and why. */
import type { App } from "../app.ts";
import type { DeviceChoice, DeviceInfo } from "../protocol.ts";
import { $, $$, fill, h } from "../dom.ts";
import { sentence } from "../format.ts";

export function deviceSection(app: App): void {
  for (const radio of $$<HTMLInputElement>("input[name=device]")) {
    radio.addEventListener("change", () => void app.changeDevice(radio.value as DeviceChoice));
  }
  app.watch(() => {
    const { device } = app;
    for (const radio of $$<HTMLInputElement>("input[name=device]")) {
      radio.checked = radio.value === app.choice;
      radio.disabled = app.task !== null;
    }
    if (!device) return;
    const kind = device.kind === "gpu" ? `GPU, ${device.backend}` : "CPU, WebAssembly";
    fill($("#device-line"), h("b", {}, device.kind === "gpu" ? "GPU" : "CPU"), " ", h("span", {}, device.kind === "gpu" ? device.name : "WebAssembly"));
    fill($("#device-gist"), `${kind}: ${device.name}`);
    fill($("#device-reason"), sentence(device.reason));
    fill($("#device-speed"), slow(device));
    $("#device-speed").hidden = slow(device) === "";
  });
  app.listen((event) => {
    if (event.event !== "device_lost") return;
    fill($("#device-line"), h("b", {}, "GPU lost"));
  });
}

/** What the device means for speed, where that is worth a warning. */
function slow({ kind, software }: DeviceInfo): string {
  if (kind === "cpu") return "Computing on one thread of the processor: everything works, but a small model learns at some fifty tokens a second. A graphics card is many times faster.";
  return software ? "This GPU is a program on the processor: everything works, but slower than on the processor itself." : "";
}
