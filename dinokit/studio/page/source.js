// Where the page asks for data: the server it came from. An exported page has `offline.js` in its place.

const TRIES = 3; // while the studio says that it is busy

async function answered(path, options, tries = TRIES) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("the studio does not answer; is its process still running?");
  if (answer.ok) return answer;
  if (answer.status === 503 && tries > 1) {
    await new Promise((go) => setTimeout(go, 1000 * Number(answer.headers.get("Retry-After") ?? 1)));
    return answered(path, options, tries - 1);
  }
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `${path}: ${answer.status} ${answer.statusText}`);
}

const json = async (path, options) => (await answered(path, options)).json();
const octets = async (path) => (await answered(path)).arrayBuffer();
const words = (asked) => new URLSearchParams(Object.entries(asked).filter(([, value]) => value !== null)).toString();
const posted = (asked) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(asked),
});

export const source = {
  live: true, // takes uploads and searches
  about: () => json("api/about"),
  images: (from, count) => json(`api/images?${words({ from, count })}`),
  thumb: (image) => `api/images/${image}/thumb`,
  picture: (model, image) => `api/images/${image}/picture?${words({ model })}`,
  features: (model, image, step) => octets(`api/features?${words({ model, image, step })}`),
  attention: (model, image, step, block) => octets(`api/attention?${words({ model, image, step, block })}`),
  search: (asked) => json("api/search", posted(asked)),
  upload: (file) =>
    json("api/images", {
      method: "POST",
      headers: { "X-Name": encodeURIComponent(file.name || "pasted") },
      body: file,
    }),
};
