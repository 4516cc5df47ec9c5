// What comes over the wire, little-endian: features of an image's patches, and the attention of its heads.

// A grid of patches; scale x value is the feature of a patch made length 1.
export function field(octets) {
  const [rows, columns, dim] = new Uint32Array(octets, 0, 3);
  const count = rows * columns;
  expect(octets, 12 + count * (4 + dim), "features");
  return {
    rows,
    columns,
    dim,
    count,
    octets: octets.byteLength,
    scale: new Float32Array(octets, 12, count),
    value: new Int8Array(octets, 12 + 4 * count, count * dim),
  };
}

// The mean of all heads and a map of each, from 0 to 255, its largest value.
export function heads(octets) {
  const [count, rows, columns] = new Uint32Array(octets, 0, 3);
  const size = rows * columns;
  expect(octets, 12 + count * size, "attention");
  const [mean, ...maps] = Array.from({ length: count }, (_, map) => new Uint8Array(octets, 12 + map * size, size));
  return { rows, columns, maps, mean };
}

function expect(octets, length, what) {
  if (octets.byteLength === length) return;
  throw new Error(`expected ${length} octets of ${what}, got ${octets.byteLength}; load the page again`);
}
