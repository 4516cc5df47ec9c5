// A layer is a model as the page sees it: the features of all shown images at one checkpoint, in one matrix.
import { field, heads } from "./field.js";
import { Matrix } from "./matrix.js";
import { Rainbow } from "./pca.js";
import { source } from "./source.js";
import { state } from "./state.js";

const KEPT = 256e6; // octets of features that are kept for images and checkpoints that are not shown now
const ATTENDED = 64; // images whose attention is kept

// What was fetched, the least recently used thrown away first.
class Kept {
  #fields = new Map();
  #octets = 0;

  async get(key, fetched) {
    const there = this.#fields.get(key) ?? field(await fetched());
    if (!this.#fields.has(key)) this.#octets += there.octets;
    this.#fields.delete(key);
    this.#fields.set(key, there);
    for (const [oldest, { octets }] of this.#fields) {
      if (this.#octets <= KEPT || oldest === key) break;
      this.#fields.delete(oldest);
      this.#octets -= octets;
    }
    return there;
  }
}

const kept = new Kept();

export class Layer {
  fields = new Map(); // image -> field
  first = new Map(); // image -> its first patch in the matrix
  #attended = new Map(); // image, checkpoint and block -> promise of heads
  #rainbow = new Rainbow();
  #asked = 0; // a later request makes an earlier one stop
  #shown = null; // the checkpoint of the fields

  static async made(model) {
    const layer = new Layer();
    layer.model = model;
    layer.matrix = await Matrix.made();
    return layer;
  }

  get step() {
    const { steps } = this.model,
      wanted = state.steps[this.model.id];
    return steps && (steps.includes(wanted) ? wanted : steps.at(-1));
  }

  // Bring the features of the shown images, the large one first; `arrived(image)` and `failed(image, reason)` are told
  // of each. What is there of another checkpoint is let go at once: cosines across checkpoints mean nothing.
  async load(arrived, failed) {
    const asked = (this.#asked += 1),
      { step } = this,
      { id } = this.model;
    const stays = (image) => step === this.#shown && state.shown.includes(image);
    for (const image of [...this.fields.keys()]) if (!stays(image)) this.fields.delete(image);
    this.#shown = step;
    this.#arrange();
    for (const image of [state.main, ...state.shown.filter((each) => each !== state.main)]) {
      try {
        const found = await kept.get(`${id}/${image}/${step}`, () => source.features(id, image, step));
        if (asked !== this.#asked) return;
        if (!this.fields.has(image)) {
          this.fields.set(image, found);
          this.#arrange();
        }
        arrived(image);
      } catch (problem) {
        if (asked !== this.#asked) return;
        failed(image, problem.message);
      }
    }
  }

  #arrange() {
    const images = state.shown.filter((image) => this.fields.has(image));
    const fields = images.map((image) => this.fields.get(image));
    this.matrix.load(fields);
    this.first = new Map();
    let patch = 0;
    images.forEach((image, number) => {
      this.first.set(image, patch);
      patch += fields[number].count;
    });
    this.#rainbow.restart();
  }

  // Return {row, column, patch} at shares of an image's sides; patch counts in the matrix. Null: not there yet.
  place(at) {
    const there = at && this.first.has(at.image) && this.fields.get(at.image);
    if (!there) return null;
    const row = Math.min(Math.floor(at.y * there.rows), there.rows - 1);
    const column = Math.min(Math.floor(at.x * there.columns), there.columns - 1);
    return {
      row,
      column,
      rows: there.rows,
      columns: there.columns,
      patch: this.first.get(at.image) + row * there.columns + column,
    };
  }

  // Return how alike all patches are to the marked one: {values, low, high, best}, best by image {row, column, rows,
  // columns, value}. Null: its features are not there yet.
  likeness() {
    const place = this.place(state.at);
    if (!place) return null;
    const values = this.matrix.cosines(place.patch),
      best = new Map();
    let low = 1,
      high = -1;
    for (const [image, first] of this.first) {
      const { count, rows, columns } = this.fields.get(image);
      let most = first;
      for (let patch = first; patch < first + count; patch += 1) {
        if (values[patch] > values[most]) most = patch;
        if (values[patch] < low) low = values[patch];
      }
      if (values[most] > high) high = values[most];
      best.set(image, {
        row: Math.floor((most - first) / columns),
        column: (most - first) % columns,
        rows,
        columns,
        value: values[most],
      });
    }
    best.delete(state.at.image); // there it is the patch itself
    return { values, low, high, best };
  }

  rainbow() {
    const grids = [...this.first.keys()].map((image) => this.fields.get(image));
    return this.#rainbow.of(this.matrix, grids, state.threshold);
  }

  // Bring the attention of an image, once however often it is asked for meanwhile.
  attention(image) {
    const key = `${image}/${this.step}/${state.block}`;
    if (this.#attended.size > ATTENDED) this.#attended.clear();
    if (!this.#attended.has(key)) {
      const found = source.attention(this.model.id, image, this.step, state.block).then(heads);
      found.catch(() => this.#attended.delete(key)); // asked again when it is drawn again
      this.#attended.set(key, found);
    }
    return this.#attended.get(key);
  }
}
