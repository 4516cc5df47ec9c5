// Draws what the state says: maps over the pictures, marks, and in words where the mark lies and what is like it.
import { packed } from "./colours.js";
import { state } from "./state.js";
import { made } from "./tiles.js";

const PAUSE = 500; // ms without a change until the words are read out

export class View {
  #layers;
  #tiles;
  #probe = null; // where the pointer is while the mark is pinned
  #saying = null;
  #best = new Map(); // layer -> image -> its patch that is most like the marked one
  #scales = new Map(); // model -> {low, high, box}

  // `tiles`: image -> Tile, of what is shown now.
  constructor(layers, tiles) {
    this.#layers = layers;
    this.#tiles = tiles;
    document.body.classList.toggle("several", layers.length > 1);
    for (const { model } of layers) {
      const [low, high] = [made("span"), made("span")];
      const name = made("b", { textContent: layers.length > 1 ? model.name : "cosine" });
      const box = made("p", { className: "scale", hidden: true }, name, low, made("i"), high);
      this.#scales.set(model.id, { low, high, box });
      document.getElementById("scales").append(box);
    }
  }

  // Draw all of it: another mode, other images, another setting.
  async draw() {
    document.body.classList.toggle("smooth", state.smooth);
    document.body.style.setProperty("--opacity", state.opacity);
    this.#waits();
    for (const { box } of this.#scales.values()) box.hidden = state.mode !== "cosine";
    if (state.mode === "cosine") this.#cosines();
    else for (const tile of this.#tiles.values()) tile.value.textContent = "";
    if (state.mode === "pca") for (const layer of this.#layers) this.#rainbow(layer);
    if (state.mode === "attention") await Promise.all(this.#layers.map((layer) => this.#attention(layer)));
    this.#marks();
  }

  // Draw what changes with the mark alone.
  follow() {
    if (state.mode === "cosine") this.#cosines();
    this.#marks();
  }

  // Say what lies at a place while the mark stays where it is pinned.
  probe(at) {
    this.#probe = at;
    this.#marks();
  }

  // Where features are not there yet, the picture alone is seen.
  #waits() {
    for (const layer of this.#layers) {
      for (const [image, tile] of this.#tiles) {
        const pane = tile.panes.get(layer.model.id),
          there = layer.fields.has(image);
        pane.wait.hidden = there;
        if (there) continue;
        pane.canvas.hidden = true;
        for (const kind of ["mark", "probe", "best"]) pane.put(kind, null);
      }
    }
  }

  *#panes(layer) {
    for (const [image, first] of layer.first) {
      const tile = this.#tiles.get(image);
      if (tile) yield { image, first, tile, pane: tile.panes.get(layer.model.id) };
    }
  }

  #cosines() {
    this.#best.clear();
    for (const layer of this.#layers) {
      const found = layer.likeness();
      if (!found) continue;
      const { values, low, high, best } = found,
        scale = this.#scales.get(layer.model.id);
      for (const { image, first, pane } of this.#panes(layer)) {
        const { rows, columns } = layer.fields.get(image);
        pane.map.size(rows, columns);
        pane.map.heat(values, first, low, high);
        pane.canvas.hidden = false;
        pane.put("best", best.get(image));
      }
      [scale.low.textContent, scale.high.textContent] = [low.toFixed(2), high.toFixed(2)];
      this.#best.set(layer, best);
    }
    for (const [image, tile] of this.#tiles) {
      const cosines = [...this.#best.values()].map((best) => best.get(image)?.value.toFixed(2));
      tile.value.textContent = cosines.filter(Boolean).join(" · ");
    }
  }

  #rainbow(layer) {
    if (!layer.matrix.count) return;
    const { colours, seen } = layer.rainbow();
    const [red, green, blue] = colours ?? [];
    for (const { image, first, pane } of this.#panes(layer)) {
      const { rows, columns, count } = layer.fields.get(image);
      pane.map.size(rows, columns);
      for (let patch = 0, at = first; patch < count; patch += 1, at += 1) {
        const [r, g, b] = seen[at] ? [red[at], green[at], blue[at]] : [0, 0, 0];
        pane.map.pixels[patch] = packed(255 * r + 0.5, 255 * g + 0.5, 255 * b + 0.5);
      }
      pane.map.show();
      pane.canvas.hidden = false;
      pane.put("best", null);
    }
  }

  async #attention(layer) {
    for (const { image, pane } of this.#panes(layer)) {
      pane.put("best", null);
      try {
        if (!layer.model.heads) throw new Error("attention is known of ViTs only");
        const { rows, columns, maps, mean } = await layer.attention(image);
        if (state.mode !== "attention") return;
        const values = maps[state.head] ?? mean;
        pane.map.size(rows, columns);
        pane.map.heat(
          values,
          0,
          0,
          values.reduce((most, value) => Math.max(most, value), 0),
        );
        pane.canvas.hidden = false;
      } catch (problem) {
        pane.canvas.hidden = true;
        pane.says(problem.message);
      }
    }
  }

  #marks() {
    for (const layer of this.#layers) {
      const mark = layer.place(state.at),
        probe = state.pinned ? layer.place(this.#probe) : null;
      for (const { image, pane } of this.#panes(layer)) {
        pane.put("mark", image === state.at?.image ? mark : null);
        pane.put("probe", image === this.#probe?.image ? probe : null);
      }
    }
    document.body.classList.toggle("pinned", state.pinned);
    this.#say();
  }

  #say() {
    const words = this.#words();
    document.getElementById("readout").textContent = words;
    clearTimeout(this.#saying);
    this.#saying = setTimeout(() => (document.getElementById("said").textContent = words), PAUSE);
  }

  #words() {
    const [layer] = this.#layers,
      mark = layer.place(state.at);
    if (!mark) return "Nothing is marked yet.";
    const where = ({ row, column }, image) => `row ${row + 1}, column ${column + 1} of ${this.#tiles.get(image)?.name}`;
    const probe = state.pinned ? layer.place(this.#probe) : null;
    if (probe) {
      const cosines = this.#layers.map((each) =>
        each.matrix.cosine(each.place(state.at).patch, each.place(this.#probe).patch).toFixed(2),
      );
      return `Cosine ${cosines.join(" and ")}: ${where(probe, this.#probe.image)}, with the pinned ${where(mark, state.at.image)}.`;
    }
    const start = `${state.pinned ? "Pinned: row" : "Row"}${where(mark, state.at.image).slice(3)}.`;
    const others =
      state.mode === "cosine" ? [...(this.#best.get(layer) ?? [])].filter(([image]) => this.#tiles.has(image)) : [];
    if (!others.length) return start;
    const [image, found] = others.reduce((most, each) => (each[1].value > most[1].value ? each : most));
    return `${start} Most alike elsewhere, ${found.value.toFixed(2)}: ${where(found, image)}.`;
  }
}
