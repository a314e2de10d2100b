/**
 * The service worker: keeps the page's own files for a visit without a network. Names of built files carry their
 * hash, so they are taken from the cache first; the page itself comes from the network where there is one.
 * Models are no concern of it: the engine keeps them in OPFS.
 */
const CACHE = `bft-${/* version */}`;
const FILES = ["./", "./icon.svg", /* files */];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((name) => name.startsWith("bft-") && name !== CACHE).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET") return;
  // Some servers vary their answers by origin; these files are the same for all.
  const kept = (name) => caches.match(name, { ignoreVary: true });
  if (request.mode === "navigate") {
    event.respondWith(fetch(request).catch(() => kept("./")));
  } else if (/\/assets\/|\/icon\.svg$/.test(new URL(request.url).pathname)) {
    event.respondWith(kept(request).then((found) => found ?? fetch(request)));
  }
});
