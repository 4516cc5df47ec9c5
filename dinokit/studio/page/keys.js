// What keys do while an image has the focus; nothing elsewhere, so that no key of a reader or a browser is taken.
import { state } from "./state.js";

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const FAR = 5; // patches, with Shift

// Return the handler of keys of a pane. `doing` has what they do: move(image, x, y), pin(), free(), large(image),
// away(image), find(image, or null: by the mark), help(), and tells `grid(image, model)`, the rows and columns, and
// `spot(image)`, where the mark, or the probe of a pinned one, lies; `controls` is the bar.
export function keys(doing, controls) {
  return (event, pane) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act =
      event.key in ARROWS
        ? () => arrow(doing, pane, ARROWS[event.key], event.shiftKey ? FAR : 1)
        : others(doing, controls, pane)[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  };
}

function arrow(doing, pane, [down, right], far) {
  const grid = doing.grid(pane.image, pane.model);
  if (!grid) return;
  const spot = doing.spot(pane.image);
  const next = (share, count, by) => (Math.min(Math.max(Math.floor(share * count) + by, 0), count - 1) + 0.5) / count;
  const [y, x] = spot ? [next(spot.y, grid.rows, down * far), next(spot.x, grid.columns, right * far)] : [0.5, 0.5];
  doing.move(pane.image, x, y, pane.model);
}

function others(doing, controls, pane) {
  const louder = (by) => () =>
    controls.set({ opacity: Math.min(Math.max(Math.round((state.opacity + by) * 20) / 20, 0), 1) });
  return {
    enter: doing.pin,
    " ": doing.pin,
    escape: doing.free,
    m: () => doing.large(pane.image),
    delete: () => doing.away(pane.image),
    1: () => controls.next(0),
    2: () => controls.next(1),
    3: () => controls.next(2),
    h: () => controls.next("head"),
    "[": () => controls.move(-1),
    "]": () => controls.move(1),
    "-": louder(-0.05),
    "+": louder(0.05),
    s: () => controls.set({ smooth: !state.smooth }),
    f: () => doing.find(pane.image),
    p: () => doing.find(null),
    "?": doing.help,
  };
}
