// The bar: what is set there goes to the state, and what the state says is shown there.
import { LOWEST, MODES, state } from "./state.js";
import { made } from "./tiles.js";

const by = (id) => document.getElementById(id);

// Wire the bar. `told.changed()` after a setting that only draws, `told.step()` after another checkpoint.
export class Controls {
  #layers;
  #sliders = new Map(); // model -> its slider and what it says
  #told;

  constructor(layers, live, told) {
    this.#layers = layers;
    this.#told = told;
    for (const element of document.querySelectorAll(".of-live")) element.hidden = !live;
    by("attention").hidden = !layers.some(({ model }) => model.heads);
    for (const radio of document.querySelectorAll("input[name=mode]"))
      radio.addEventListener("change", () => this.set({ mode: radio.value }));
    by("threshold").addEventListener("input", ({ target }) =>
      this.set({ threshold: target.valueAsNumber <= LOWEST ? null : target.valueAsNumber }),
    );
    by("opacity").addEventListener("input", ({ target }) => this.set({ opacity: target.valueAsNumber }));
    by("smooth").addEventListener("change", ({ target }) => this.set({ smooth: target.checked }));
    by("head").addEventListener("change", ({ target }) =>
      this.set({ head: target.value === "mean" ? "mean" : Number(target.value) }),
    );
    by("block").addEventListener("change", ({ target }) =>
      this.set({ block: target.value === "" ? null : Number(target.value) }),
    );
    const heads = Math.max(0, ...layers.map(({ model }) => model.heads ?? 0));
    const blocks = live ? Math.max(0, ...layers.map(({ model }) => model.blocks ?? 0)) : 0;
    by("head").append(
      option("mean", "mean of all"),
      ...Array.from({ length: heads }, (_, head) => option(head, `${head + 1} of ${heads}`)),
    );
    by("block").append(
      option("", "last"),
      ...Array.from({ length: blocks }, (_, block) => option(block, `${block + 1} of ${blocks}`)),
    );
    by("of-block").hidden = !blocks;
    for (const layer of layers) if (layer.model.steps?.length > 1) this.#slider(layer);
    by("help-open").addEventListener("click", () => by("help").showModal());
    this.show();
  }

  // Change settings and draw.
  set(changes) {
    Object.assign(state, changes);
    this.show();
    this.#told.changed();
  }

  // Bring the bar to what the state says.
  show() {
    for (const radio of document.querySelectorAll("input[name=mode]")) radio.checked = radio.value === state.mode;
    by("of-pca").hidden = state.mode !== "pca";
    by("of-attention").hidden = state.mode !== "attention";
    by("threshold").value = state.threshold ?? LOWEST;
    by("threshold-said").textContent = state.threshold === null ? "all" : state.threshold.toFixed(2);
    by("opacity").value = state.opacity;
    by("smooth").checked = state.smooth;
    by("head").value = state.head;
    by("block").value = state.block ?? "";
    for (const layer of this.#layers) {
      const there = this.#sliders.get(layer.model.id);
      if (!there) continue;
      there.slider.value = layer.model.steps.indexOf(layer.step);
      there.said.textContent = there.slider.ariaValueText = `step ${layer.step.toLocaleString("en")}`;
    }
  }

  // Go to a checkpoint of every run, so many further.
  move(by) {
    for (const layer of this.#layers) this.#go(layer, (layer.model.steps?.indexOf(layer.step) ?? 0) + by);
  }

  next(key) {
    const heads = Math.max(0, ...this.#layers.map(({ model }) => model.heads ?? 0));
    if (key === "head")
      this.set({ head: state.head === "mean" ? 0 : state.head + 1 < heads ? state.head + 1 : "mean" });
    else if (MODES[key] && (MODES[key] !== "attention" || heads)) this.set({ mode: MODES[key] });
  }

  #slider(layer) {
    const { steps, name } = layer.model;
    const slider = made("input", { type: "range", min: 0, max: steps.length - 1, step: 1 });
    const said = made("output");
    slider.addEventListener("input", () => this.#go(layer, slider.valueAsNumber));
    by("steps").append(
      made("label", {}, this.#layers.length > 1 ? `Checkpoint of ${name} ` : "Checkpoint ", slider),
      said,
    );
    this.#sliders.set(layer.model.id, { slider, said });
  }

  #go(layer, number) {
    const { steps, id } = layer.model;
    if (!steps || !(number in steps)) return;
    if (number === steps.length - 1) delete state.steps[id];
    else state.steps[id] = steps[number];
    this.show();
    this.#told.step();
  }
}

function option(value, text) {
  return made("option", { value, textContent: text });
}
