// All images of the source as a list of thumbs of which only those in sight exist, so that 10,000 cost as much as 50.
import { source } from "./source.js";
import { made } from "./tiles.js";

const SIDE = 76,
  GAP = 6; // pixels of a thumb, and between two
const MARGIN = 2; // rows above and below what is in sight
const LOT = 60,
  LOTS = 30; // names that are asked for together, and lots that are kept

export class Gallery {
  #box;
  #spacer = made("div", { className: "spacer" });
  #buttons = new Map(); // index -> button
  #lots = new Map(); // number of a lot -> promise of its images
  #count = 0;
  #columns = 1;
  #active = 0; // the one that the tab key reaches
  #shown = new Set();
  #chosen;

  // `chosen(id, name)` is called for a click.
  constructor(box, chosen) {
    this.#box = box;
    this.#chosen = chosen;
    box.append(this.#spacer);
    box.addEventListener("scroll", () => this.#render(), { passive: true });
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#measure()).observe(box);
  }

  start(count) {
    this.#count = count;
    this.#measure();
  }

  // Mark the images that are shown.
  mark(ids) {
    this.#shown = new Set(ids);
    for (const button of this.#buttons.values()) this.#pressed(button);
  }

  go(index) {
    this.#active = Math.min(Math.max(index || 0, 0), this.#count - 1);
    const row = Math.floor(this.#active / this.#columns),
      height = SIDE + GAP;
    const top = row * height,
      bottom = top + height;
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (bottom > this.#box.scrollTop + this.#box.clientHeight)
      this.#box.scrollTop = bottom - this.#box.clientHeight;
    this.#render();
  }

  // Return {id, name} of the images from an index on.
  async names(from, count) {
    const found = [];
    for (let lot = Math.floor(from / LOT); lot * LOT < from + count; lot += 1) found.push(...(await this.#lot(lot)));
    return found.slice(from % LOT, (from % LOT) + count);
  }

  #lot(number) {
    const there = this.#lots.get(number) ?? source.images(number * LOT, LOT).then(({ images }) => images);
    this.#lots.delete(number);
    this.#lots.set(number, there);
    there.catch(() => this.#lots.delete(number)); // asked again when it is next in sight
    if (this.#lots.size > LOTS) this.#lots.delete(this.#lots.keys().next().value);
    return there;
  }

  #measure() {
    this.#columns = Math.max(1, Math.floor((this.#box.clientWidth + GAP) / (SIDE + GAP)));
    this.#spacer.style.height = `${Math.ceil(this.#count / this.#columns) * (SIDE + GAP)}px`;
    this.#render();
  }

  #render() {
    const height = SIDE + GAP,
      { scrollTop, clientHeight } = this.#box;
    const first = Math.max(0, Math.floor(scrollTop / height) - MARGIN) * this.#columns;
    const end = Math.min(this.#count, (Math.ceil((scrollTop + clientHeight) / height) + MARGIN) * this.#columns);
    for (const [index, button] of this.#buttons) {
      if (index >= first && index < end) continue;
      button.remove();
      this.#buttons.delete(index);
    }
    const reached = this.#active >= first && this.#active < end ? this.#active : first;
    for (let index = first; index < end; index += 1) {
      const button = this.#buttons.get(index) ?? this.#added(index);
      button.style.left = `${(index % this.#columns) * (SIDE + GAP)}px`;
      button.style.top = `${Math.floor(index / this.#columns) * height}px`;
      button.tabIndex = index === reached ? 0 : -1;
    }
  }

  #added(index) {
    const button = made("button", { type: "button", className: "thumb" });
    button.dataset.index = index;
    button.setAttribute("aria-label", `image ${index + 1}`);
    this.#buttons.set(index, button);
    this.#spacer.append(button);
    this.names(index, 1).then(
      ([image]) => {
        if (!image || this.#buttons.get(index) !== button) return; // scrolled away meanwhile
        button.dataset.id = image.id;
        button.title = image.name;
        button.setAttribute("aria-label", image.name);
        button.append(made("img", { src: source.thumb(image.id), alt: "", decoding: "async" }));
        button.addEventListener("click", () => {
          this.#active = index;
          this.#chosen(image.id, image.name);
        });
        this.#pressed(button);
      },
      (problem) => (button.title = problem.message),
    );
    return button;
  }

  #pressed(button) {
    button.setAttribute("aria-pressed", this.#shown.has(button.dataset.id));
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.#box.clientHeight / (SIDE + GAP))) * this.#columns;
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.#columns,
      ArrowDown: this.#columns,
      PageUp: -page,
      PageDown: page,
    };
    const ends = { Home: 0, End: this.#count - 1 };
    const index = event.target.dataset?.index;
    if (index === undefined || !(event.key in steps || event.key in ends)) return;
    event.preventDefault();
    this.go(ends[event.key] ?? Number(index) + steps[event.key]);
    this.#buttons.get(this.#active)?.focus();
  }
}
