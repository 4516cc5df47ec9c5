// The page: which images are shown, what pointer, keys and buttons do. Data come from `source.js`.
import { Controls } from "./controls.js";
import { takeFiles } from "./files.js";
import { search } from "./found.js";
import { Gallery } from "./gallery.js";
import { keys } from "./keys.js";
import { Layer } from "./layers.js";
import { source } from "./source.js";
import { read, remember, state } from "./state.js";
import { LOOKING, Tile } from "./tiles.js";
import { View } from "./view.js";

const MOST = 12; // images that are shown at a time

class Studio {
  #names = new Map(); // image -> name
  #tiles = new Map(); // image -> Tile, of what is shown
  #drawing = null; // of several changes before the next frame one is drawn
  #probe = null;

  async start() {
    const about = await source.about();
    this.about = about;
    document.title = `${about.title} · dinokit studio`;
    document.getElementById("title").textContent = about.title;
    document.getElementById("models").textContent = about.models
      .map(({ name, patch }) => `${name} (patches of ${patch} px)`)
      .join("  |  ");
    this.layers = await Promise.all(about.models.map(Layer.made));
    read(location.hash);
    this.view = new View(this.layers, this.#tiles);
    this.controls = new Controls(this.layers, source.live, { changed: () => this.changed(), step: () => this.load() });
    this.gallery = new Gallery(document.getElementById("gallery"), (image, name) => this.large(image, name));
    this.gallery.start(about.count);
    this.told = this.#told();
    this.#wire();
    await this.#choose();
    if (Number(state.main)) this.gallery.go(Number(state.main)); // uploads are not in the list
    await this.show();
    addEventListener("hashchange", () => this.#again());
  }

  // Without words in the address: images from all over the source, the first of them large.
  async #choose() {
    const { count } = this.about,
      some = Math.min(MOST, count);
    if (!state.shown.length)
      state.shown = Array.from({ length: some }, (_, number) => String(Math.floor((number * count) / some)));
    if (state.main !== null && !state.shown.includes(state.main)) state.shown.unshift(state.main);
    state.shown = [...new Set(state.shown)].slice(0, MOST);
    state.main ??= state.shown[0] ?? null;
    await Promise.all(state.shown.map((image) => this.#named(image)));
  }

  async #named(image) {
    if (this.#names.has(image)) return;
    const [found] = image.startsWith("u") ? [] : await this.gallery.names(Number(image), 1);
    this.#names.set(image, found?.name ?? `image ${image}`);
  }

  async #again() {
    read(location.hash);
    this.controls.show();
    await this.#choose();
    await this.show();
  }

  // Bring the tiles to what the state says, then their features.
  async show() {
    const [main, others] = [document.getElementById("main"), document.getElementById("others")];
    for (const [image, tile] of this.#tiles) {
      if (state.shown.includes(image)) continue;
      tile.element.remove();
      this.#tiles.delete(image);
    }
    for (const image of state.shown) {
      if (!this.#tiles.has(image))
        this.#tiles.set(image, new Tile(image, this.#names.get(image), this.about.models, this.told));
      const { element } = this.#tiles.get(image),
        home = image === state.main ? main : others;
      if (element.parentNode !== home) home.append(element);
    }
    this.gallery.mark(state.shown);
    await this.load();
  }

  async load() {
    remember();
    this.#soon();
    await Promise.all(this.layers.map((layer) => this.#loaded(layer)));
  }

  async #loaded(layer) {
    const pane = (image) => this.#tiles.get(image)?.panes.get(layer.model.id);
    for (const image of state.shown) pane(image).wait.textContent = LOOKING;
    const arrived = (image) => {
      pane(image).arrived(layer.fields.get(image));
      if (image === state.main) state.at ??= { image, x: 0.5, y: 0.5 };
      this.#soon();
    };
    await layer.load(arrived, (image, reason) => pane(image).says(reason));
  }

  changed() {
    remember();
    this.#soon();
  }

  #soon() {
    this.#drawing ??= requestAnimationFrame(() => {
      this.#drawing = null;
      this.view.draw().catch((problem) => this.problem(problem));
    });
  }

  // Return the centre of the patch at shares of an image's sides, in the grid of a model.
  #centre(image, x, y, model) {
    const grid = this.#grid(image, model);
    if (!grid) return null;
    const middle = (share, count) => (Math.min(Math.floor(share * count), count - 1) + 0.5) / count;
    return { image, x: middle(x, grid.columns), y: middle(y, grid.rows) };
  }

  #grid(image, model) {
    return this.layers.find((layer) => layer.model.id === model).fields.get(image);
  }

  // Mark a patch; while one is pinned, say how alike this one is.
  point(image, x, y, model) {
    const at = this.#centre(image, x, y, model);
    const before = state.pinned ? this.#probe : state.at;
    if (!at || (before?.image === image && before.x === at.x && before.y === at.y)) return;
    if (state.pinned) {
      this.#probe = at;
      this.view.probe(at);
    } else this.#mark(at, false);
  }

  #mark(at, pinned) {
    Object.assign(state, { at, pinned });
    this.#probe = null;
    this.view.probe(null);
    this.view.follow();
    remember();
  }

  // Pin the patch at a place; let it go where it is the pinned one.
  pin(image, x, y, model) {
    const at = this.#centre(image, x, y, model);
    if (!at) return;
    const same = state.at?.image === image && state.at.x === at.x && state.at.y === at.y;
    this.#mark(at, !(state.pinned && same));
  }

  // Show an image beside the others; the oldest of those that are neither large nor marked makes room.
  async add(image, name) {
    this.#names.set(image, name);
    if (state.shown.includes(image)) return this.show();
    if (state.shown.length >= MOST) {
      const oldest = state.shown.find((each) => each !== state.main && each !== state.at?.image);
      state.shown = state.shown.filter((each) => each !== oldest);
    }
    state.shown.push(image);
    return this.show();
  }

  async large(image, name = this.#names.get(image)) {
    if (!state.pinned) state.at = null;
    state.main = image;
    await this.add(image, name);
  }

  async away(image) {
    if (state.shown.length < 2) return;
    state.shown = state.shown.filter((each) => each !== image);
    if (state.main === image) [state.main] = state.shown;
    if (state.at?.image === image) Object.assign(state, { at: null, pinned: false });
    await this.show();
  }

  async open(file) {
    this.problem(null);
    try {
      const { bytes } = this.about.upload;
      if (file.size > bytes)
        throw new Error(
          `${file.name} has ${file.size.toLocaleString("en")} octets, at most ${bytes.toLocaleString("en")} are taken; give a smaller image`,
        );
      const { id, name } = await source.upload(file);
      await this.large(id, name);
    } catch (problem) {
      this.problem(problem);
    }
  }

  // Search by an image; null: by the marked patch.
  find(like) {
    if (!source.live) return;
    const [layer] = this.layers,
      place = layer.place(state.at);
    if (like === null && !place) return;
    const image = like ?? state.at.image;
    search({
      model: layer.model.id,
      step: layer.step,
      image,
      name: this.#names.get(image),
      patch: like === null ? place : null,
      chosen: (id, name) => this.add(id, name),
    });
  }

  problem(problem) {
    const line = document.getElementById("problem");
    line.hidden = !problem;
    line.textContent = problem?.message ?? "";
  }

  #told() {
    const doing = {
      move: (...place) => this.point(...place),
      pin: () => state.at && this.#mark(this.#probe ?? state.at, this.#probe !== null || !state.pinned),
      free: () => state.pinned && this.#mark(state.at, false),
      large: (image) => this.large(image),
      away: (image) => this.away(image),
      find: (like) => this.find(like),
      help: () => document.getElementById("help").showModal(),
      grid: (image, model) => this.#grid(image, model),
      spot: (image) => [this.#probe, state.at].find((at) => at?.image === image),
    };
    return {
      point: (...place) => this.point(...place),
      tap: (...place) => this.#tap(...place),
      pin: (...place) => this.pin(...place),
      large: doing.large,
      away: doing.away,
      key: keys(doing, this.controls),
    };
  }

  #tap(...place) {
    state.pinned = false;
    this.point(...place);
  }

  #wire() {
    const on = (id, kind, what) => document.getElementById(id).addEventListener(kind, what);
    on("jump", "change", ({ target }) => this.gallery.go(target.valueAsNumber - 1));
    document.getElementById("jump").max = this.about.count;
    on("found-close", "click", () => (document.getElementById("found").hidden = true));
    if (!source.live) return;
    on("find-image", "click", () => this.find(state.main));
    on("find-patch", "click", () => this.find(null));
    takeFiles((file) => this.open(file));
  }
}

const studio = new Studio();
studio.start().catch((problem) => studio.problem(problem));
