// What is seen now, and its words after the # of the address, so that a view can be shared on the same machine.

export const MODES = ["cosine", "pca", "attention"];
export const LOWEST = -3; // of the threshold's slider: here every patch is seen

const plain = () => ({
  main: null, // id of the image that is large
  shown: [], // ids of all images that are shown
  at: null, // {image, x, y}: the marked patch, its centre as shares of the sides, so that models of other grids agree
  pinned: false,
  mode: "cosine",
  head: "mean", // or a number
  block: null, // of attention, from 0; null: the last
  threshold: 0, // deviations of the first component; null: every patch is seen
  opacity: 0.7,
  smooth: false,
  steps: {}, // model -> checkpoint, where it is not the last
});

export const state = plain();

const share = (text) => (Number(text) >= 0 && Number(text) < 1 ? Number(text) : 0.5);
const within = (text, low, high, other) =>
  text !== null && Number(text) >= low && Number(text) <= high ? Number(text) : other;
const ids = (text) => (text ?? "").split(",").filter((id) => /^u?\d{1,12}$/.test(id));

// Take over what the words after the # say; what is not there is as at the start.
export function read(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, "")),
    found = plain();
  [found.main = null] = ids(said.get("image"));
  found.shown = ids(said.get("shown"));
  const [image, place = ""] = (said.get("at") ?? "").split(":"),
    [x, y] = place.split(",");
  if (ids(image).length) found.at = { image, x: share(x), y: share(y) };
  found.pinned = Boolean(found.at) && said.has("pinned");
  if (MODES.includes(said.get("mode"))) found.mode = said.get("mode");
  if (/^\d+$/.test(said.get("head"))) found.head = Number(said.get("head"));
  if (/^\d+$/.test(said.get("block"))) found.block = Number(said.get("block"));
  found.threshold = said.get("threshold") === "none" ? null : within(said.get("threshold"), LOWEST, -LOWEST, 0);
  found.opacity = within(said.get("opacity"), 0, 1, found.opacity);
  found.smooth = said.has("smooth");
  for (const [key, value] of said)
    if (/^step\.\w+$/.test(key) && /^\d+$/.test(value)) found.steps[key.slice(5)] = Number(value);
  Object.assign(state, found);
}

export function written() {
  const said = new URLSearchParams(),
    start = plain();
  if (state.main !== null) said.set("image", state.main);
  if (state.shown.length) said.set("shown", state.shown.join(","));
  if (state.at) said.set("at", `${state.at.image}:${state.at.x.toFixed(4)},${state.at.y.toFixed(4)}`);
  if (state.pinned) said.set("pinned", "yes");
  for (const key of ["mode", "head", "block", "opacity"]) if (state[key] !== start[key]) said.set(key, state[key]);
  if (state.threshold !== start.threshold) said.set("threshold", state.threshold ?? "none");
  if (state.smooth) said.set("smooth", "yes");
  for (const [model, step] of Object.entries(state.steps)) said.set(`step.${model}`, step);
  return `#${said.toString().replaceAll("%2C", ",").replaceAll("%3A", ":")}`;
}

let waiting = null;

// Write it soon: browsers refuse hundreds of changes of the address in seconds.
export function remember() {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", written()), 250);
}
