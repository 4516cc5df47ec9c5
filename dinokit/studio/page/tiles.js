// An image that is shown: its picture, and over it a map of each model, with marks.
import { Map2D } from "./colours.js";
import { source } from "./source.js";

export const LOOKING = "looking ...";

export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// What a model shows of an image.
class Pane {
  constructor(image, name, model, several) {
    this.image = image;
    this.model = model.id;
    this.canvas = made("canvas", { hidden: true });
    this.map = new Map2D(this.canvas);
    this.marks = Object.fromEntries(
      ["best", "probe", "mark"].map((kind) => [kind, made("i", { className: kind, hidden: true })]),
    );
    this.wait = made("p", { className: "wait", textContent: LOOKING });
    this.element = made("div", { className: "pane", tabIndex: 0 });
    this.element.setAttribute("role", "application");
    this.element.setAttribute("aria-roledescription", "map of patches");
    this.element.setAttribute("aria-label", several ? `${name}, ${model.name}` : name);
    const picture = made("img", { src: source.picture(model.id, image), alt: "", draggable: false });
    this.element.append(picture, this.canvas, ...Object.values(this.marks), this.wait);
    if (several) this.element.append(made("span", { className: "whose", textContent: model.name }));
  }

  // The features are there: so many patches.
  arrived({ rows, columns }) {
    this.element.style.setProperty("--aspect", columns / rows);
    this.map.size(rows, columns);
  }

  // Say what is waited for, or why there is nothing to wait for.
  says(words) {
    this.wait.textContent = words;
    this.wait.hidden = false;
  }

  // Put a mark on a patch, or take it away.
  put(kind, place) {
    const mark = this.marks[kind];
    mark.hidden = !place;
    if (!place) return;
    const { rows, columns } = place;
    mark.style.left = `${((place.column + 0.5) / columns) * 100}%`;
    mark.style.top = `${((place.row + 0.5) / rows) * 100}%`;
    mark.style.setProperty("--w", `${100 / columns}%`);
    mark.style.setProperty("--h", `${100 / rows}%`);
  }
}

// Panes of all models side by side, and a line with the name. `told` hears of pointer and keys:
// point(image, x, y, model), pin(...) with the same, large(image), away(image), key(event, pane).
export class Tile {
  constructor(image, name, models, told) {
    this.image = image;
    this.name = name;
    this.panes = new Map(models.map((model) => [model.id, new Pane(image, name, model, models.length > 1)]));
    this.value = made("span", { className: "value" });
    const large = made(
      "button",
      { type: "button", className: "name", title: `${name}: make it the large one` },
      made("bdi", {}, name),
    );
    const away = made("button", { type: "button", className: "away", textContent: "×", title: "take it away" });
    away.setAttribute("aria-label", `take ${name} away`);
    large.addEventListener("click", () => told.large(image));
    away.addEventListener("click", () => told.away(image));
    const panes = made("div", { className: "panes" }, ...[...this.panes.values()].map((pane) => pane.element));
    panes.style.setProperty("--models", models.length);
    this.element = made("figure", { className: "tile" }, panes, made("figcaption", {}, large, this.value, away));
    for (const pane of this.panes.values()) this.#listen(pane, told);
  }

  #listen(pane, told) {
    let touched = false; // a tap marks and stays, as there is no hover; a click of a mouse pins
    const at = (event, what) => {
      const box = pane.element.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      if (x >= 0 && x < 1 && y >= 0 && y < 1) what(this.image, x, y, pane.model);
    };
    pane.element.addEventListener("pointerdown", (event) => {
      touched = event.pointerType === "touch";
      if (touched) at(event, told.tap);
    });
    const moved = (event) => at(event, event.pointerType === "touch" ? told.tap : told.point);
    // browsers keep pointermove for the next frame; what comes before it is drawn by then (a patch is drawn once)
    for (const kind of ["pointerrawupdate", "pointermove"]) pane.element.addEventListener(kind, moved);
    pane.element.addEventListener("click", (event) => touched || at(event, told.pin));
    pane.element.addEventListener("keydown", (event) => told.key(event, pane));
  }
}
