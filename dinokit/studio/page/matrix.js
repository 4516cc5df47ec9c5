// The features of all shown patches of a model as one matrix, so that a hover is one product with a vector.
import { kernel } from "./kernel.js";

const PAGE = 65536; // octets of a page of WebAssembly's memory
const WORD = 32767,
  LONG = 2 ** 31; // of int16, and what a sum of int32 stays below

export class Matrix {
  #memory = new WebAssembly.Memory({ initial: 1 });
  #products;
  #found = 0; // where products and rows lie, in octets; the vector comes first
  #rows = 0;
  #stride = 16;
  count = 0; // patches
  dim = 0;
  scale = new Float32Array(0); // of every patch
  values = new Float32Array(0); // of the last product

  static async made() {
    const matrix = new Matrix();
    matrix.#products = await kernel(matrix.#memory);
    return matrix;
  }

  // Hold the patches of some fields, one field behind the other.
  load(fields) {
    this.count = fields.reduce((sum, field) => sum + field.count, 0);
    this.dim = fields.length ? fields[0].dim : 0;
    this.#stride = Math.ceil(this.dim / 16) * 16;
    this.#found = 2 * this.#stride;
    this.#rows = this.#found + 4 * Math.ceil(this.count / 4) * 4;
    const missing = this.#rows + this.count * this.#stride - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / PAGE));
    this.scale = new Float32Array(this.count);
    this.values = new Float32Array(this.count);
    const octets = new Int8Array(this.#memory.buffer);
    octets.fill(0, 0, this.#found);
    let patch = 0;
    for (const field of fields) {
      this.scale.set(field.scale, patch);
      if (this.dim === this.#stride) octets.set(field.value, this.#rows + patch * this.#stride);
      else this.#spread(octets, field, patch);
      patch += field.count;
    }
  }

  // Fill up each row with zeros to a multiple of 16.
  #spread(octets, field, first) {
    for (let patch = 0; patch < field.count; patch += 1) {
      const start = this.#rows + (first + patch) * this.#stride;
      octets.set(field.value.subarray(patch * this.dim, (patch + 1) * this.dim), start);
      octets.fill(0, start + this.dim, start + this.#stride);
    }
  }

  // Return the features of a patch as they were sent, without its scale.
  row(patch) {
    return new Int8Array(this.#memory.buffer, this.#rows + patch * this.#stride, this.dim);
  }

  // Return the product of every patch with a vector, which is brought to int16: directions of a PCA lose 1 in 30,000.
  times(vector) {
    const largest = vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const all = vector.reduce((sum, value) => sum + Math.abs(value), 0);
    const step = Math.max(largest / WORD, (all * 128) / LONG) || 1;
    return this.#times(
      vector.map((value) => Math.round(value / step)),
      step,
    );
  }

  // Return the cosine of every patch with one of them; sums are exact.
  cosines(patch) {
    return this.#times(this.row(patch), this.scale[patch]);
  }

  // Return the cosine of two patches.
  cosine(one, other) {
    const [a, b] = [this.row(one), this.row(other)];
    let sum = 0;
    for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
    return sum * this.scale[one] * this.scale[other];
  }

  // What is returned, the next call writes over.
  #times(numbers, factor) {
    if (!this.count) return this.values;
    new Int16Array(this.#memory.buffer, 0, this.dim).set(numbers);
    this.#products(this.count, this.#stride, this.#rows, 0, this.#found);
    const found = new Int32Array(this.#memory.buffer, this.#found, this.count);
    for (let patch = 0; patch < this.count; patch += 1) this.values[patch] = found[patch] * this.scale[patch] * factor;
    return this.values;
  }
}
