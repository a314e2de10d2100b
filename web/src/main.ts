import { Client } from "./client.ts";

const client = new Client(() => {});
const page = document.querySelector("#page");
client
  .call("open_device", { device: "auto" })
  .then((device) => page?.append(device.name))
  .catch((error: Error) => page?.append(error.message));
