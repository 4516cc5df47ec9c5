// The rainbows of DINOv2 (arXiv:2304.07193, figure 1): the first component parts foreground from background, three
// components of the foreground of all shown images are red, green and blue. One decomposition of a model for all
// images, so that a colour means the same in each. Components come from a sample of patches, by subspace iteration.
// A component's sign is free: it is low at the pictures' borders, as in `dinokit look pca`. One that rounding to int8 may
// have made is grey.

const SAMPLE = 2048; // patches
const SPARE = 4; // directions beside those asked for, which make it converge
const ROUNDED = 2; // times the deviation of rounding to int8 are no component
const TURNS = 16,
  STILL = 1e-5; // of the iteration at most, and the change of a variance that ends it

// Numbers in [0, 1) from a seed (mulberry32), the same in every browser.
export function drawn(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// Colours of patches, with what makes the next of them quick.
export class Rainbow {
  #starts = {};

  // Return {first, colours: [red, green, blue], seen}: where patches lie along the first component, in deviations, and
  // shares 0 to 1 of those that are seen, whose first lies above the threshold (null: all).
  of(matrix, grids, threshold) {
    const all = new Uint8Array(matrix.count).fill(1);
    const [first] = this.#scores("all", matrix, grids, all, 1).map(({ scores }) => scores);
    const seen = threshold === null ? all : Uint8Array.from(first, (score) => (score > threshold ? 1 : 0));
    const colours = seen.includes(1)
      ? this.#scores("seen", matrix, grids, seen, 3).map((each) => shares(each, seen))
      : null;
    return { first, colours, seen };
  }

  // Forget where the last iteration ended: the images are others.
  restart() {
    this.#starts = {};
  }

  #scores(what, matrix, grids, chosen, count) {
    const { rows, taken, rounding } = sampled(matrix, chosen);
    const near = this.#starts[what];
    const found = principal(rows, taken, matrix.dim, count, near);
    this.#starts[what] = found.block;
    return found.directions.map((direction, number) => {
      const scores = Float32Array.from(matrix.times(direction));
      const middle = dot(found.mean, direction),
        deviation = found.deviations[number] || 1;
      for (let patch = 0; patch < scores.length; patch += 1) scores[patch] = (scores[patch] - middle) / deviation;
      const sign = outwards(scores, grids);
      return { scores: scores.map((score) => sign * score), varies: found.deviations[number] > rounding };
    });
  }
}

// From the least to the largest value of those that are seen; a component that does not vary is grey.
function shares({ scores, varies }, seen) {
  if (!varies) return scores.fill(0.5);
  let low = Infinity,
    high = -Infinity;
  scores.forEach((score, patch) => {
    if (seen[patch]) [low, high] = [Math.min(low, score), Math.max(high, score)];
  });
  return scores.map((score) => (score - low) / (high - low));
}

// Return 1, or -1 where the borders of the images lie on the high side; where no patch has an inside, the skew decides.
function outwards(scores, grids) {
  let around = 0,
    skew = 0,
    middle = 0,
    borders = 0,
    patch = 0;
  for (const { rows, columns } of grids) {
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, patch += 1) {
        const border = row === 0 || column === 0 || row === rows - 1 || column === columns - 1;
        skew += scores[patch] ** 3;
        if (border) [around, borders] = [around + scores[patch], borders + 1];
        else middle += scores[patch];
      }
    }
  }
  const towards = patch > borders ? middle / (patch - borders) - around / borders : skew;
  return towards < 0 ? -1 : 1;
}

// Return the features of at most SAMPLE of the chosen patches, one of each equal stretch, and the deviation that their
// rounding to int8 may have along a direction. Errors of 1 / sqrt(12) of a step each, independent of one another, reach
// 1 + sqrt(dim / rows) times that (Bai and Yin 1993), of rows that differ, for equal ones are rounded alike. Similar
// ones are so in part, hence the margin: of features in a plane up to 1.7 times as much was seen.
function sampled(matrix, chosen) {
  const there = [];
  chosen.forEach((yes, patch) => yes && there.push(patch));
  const taken = Math.min(there.length, SAMPLE),
    random = drawn(0),
    kinds = new Set(),
    { dim } = matrix;
  let steps = 0;
  const rows = new Float64Array(taken * dim);
  for (let number = 0; number < taken; number += 1) {
    const patch = there[Math.floor(((number + random()) * there.length) / taken)];
    const values = matrix.row(patch),
      scale = matrix.scale[patch];
    let kind = 0;
    for (let i = 0; i < dim; i += 1) {
      rows[number * dim + i] = values[i] * scale;
      kind = (Math.imul(kind, 31) + values[i]) | 0;
    }
    kinds.add(kind);
    steps += scale ** 2;
  }
  const error = Math.sqrt(steps / (12 * Math.max(taken, 1)));
  return { rows, taken, rounding: ROUNDED * error * (1 + Math.sqrt(dim / Math.max(kinds.size, 1))) };
}

// Return the directions of the largest variance of some rows, in order, of length 1, with mean and deviations.
export function principal(rows, taken, dim, count, near) {
  const mean = centre(rows, taken, dim);
  const width = Math.min(count + SPARE, dim),
    random = drawn(1);
  const start = Array.from({ length: width }, () => Float64Array.from({ length: dim }, () => random() - 0.5));
  let next = near?.length === width && near[0].length === dim ? near : start;
  for (let turn = 1, before = []; ; turn += 1) {
    const block = upright(next);
    next = product(rows, dim, block);
    const { values, vectors } = diagonal(block.map((a) => next.map((b) => dot(a, b))));
    const still = values.slice(0, count).every((value, i) => Math.abs(value - before[i]) <= STILL * values[0]);
    if (still || turn === TURNS) {
      const turned = vectors.map((vector) => combined(block, vector));
      const deviations = values.map((value) => Math.sqrt(Math.max(value, 0) / Math.max(taken, 1)));
      return { mean, block: turned, directions: turned.slice(0, count), deviations: deviations.slice(0, count) };
    }
    before = values;
  }
}

function centre(rows, taken, dim) {
  const mean = new Float64Array(dim);
  for (let at = 0; at < rows.length; at += 1) mean[at % dim] += rows[at] / Math.max(taken, 1);
  for (let at = 0; at < rows.length; at += 1) rows[at] -= mean[at % dim];
  return mean;
}

// Return rows^T (rows direction) of every direction.
function product(rows, dim, block) {
  const sums = block.map(() => new Float64Array(dim));
  for (let start = 0; start < rows.length; start += dim) {
    const row = rows.subarray(start, start + dim); // stays near while all directions pass
    block.forEach((direction, each) => {
      const along = dot(row, direction),
        sum = sums[each];
      for (let i = 0; i < dim; i += 1) sum[i] += row[i] * along;
    });
  }
  return sums;
}

// Gram and Schmidt's: directions of length 1 at right angles; what is nothing stays nothing.
function upright(block) {
  const done = [];
  for (const direction of block) {
    const rest = Float64Array.from(direction);
    for (const other of [...done, ...done]) {
      // twice: once leaves rounding where directions were alike
      const along = dot(rest, other);
      for (let i = 0; i < rest.length; i += 1) rest[i] -= along * other[i];
    }
    const length = Math.sqrt(dot(rest, rest)),
      before = Math.sqrt(dot(direction, direction));
    done.push(rest.map((value) => (length > 1e-9 * before ? value / length : 0)));
  }
  return done;
}

// Jacobi's rotations: values of a small symmetric matrix from the largest, and their vectors.
function diagonal(matrix) {
  const size = matrix.length;
  const vectors = matrix.map((_, i) => matrix.map((__, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 12; sweep += 1) {
    for (let p = 0; p < size; p += 1) for (let q = p + 1; q < size; q += 1) rotate(matrix, vectors, p, q);
  }
  const order = matrix.map((_, i) => i).sort((a, b) => matrix[b][b] - matrix[a][a]);
  return { values: order.map((i) => matrix[i][i]), vectors: order.map((i) => vectors.map((row) => row[i])) };
}

function rotate(matrix, vectors, p, q) {
  if (Math.abs(matrix[p][q]) < 1e-300) return;
  const angle = 0.5 * Math.atan2(2 * matrix[p][q], matrix[p][p] - matrix[q][q]);
  const cos = Math.cos(angle),
    sin = Math.sin(angle);
  const turned = (a, b) => [cos * a + sin * b, cos * b - sin * a];
  for (const row of [...matrix, ...vectors]) [row[p], row[q]] = turned(row[p], row[q]);
  for (let i = 0; i < matrix.length; i += 1) [matrix[p][i], matrix[q][i]] = turned(matrix[p][i], matrix[q][i]);
}

function combined(block, weights) {
  return block[0].map((_, i) => block.reduce((sum, direction, each) => sum + weights[each] * direction[i], 0));
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}
