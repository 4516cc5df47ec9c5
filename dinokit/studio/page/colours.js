// Numbers of patches to colours on a canvas of one pixel per patch; the page scales it.

const STOPS = [
  [30, 12, 60],
  [110, 25, 110],
  [200, 60, 70],
  [250, 150, 60],
  [253, 231, 140],
]; // as of dinokit look
const HEAT = Uint32Array.from({ length: 256 }, (_, share) => heat(share / 255));

function heat(share) {
  const place = share * (STOPS.length - 1),
    below = Math.min(Math.floor(place), STOPS.length - 2);
  const [red, green, blue] = STOPS[below].map((from, i) => from + (STOPS[below + 1][i] - from) * (place - below));
  return packed(Math.round(red), Math.round(green), Math.round(blue));
}

// A pixel as little-endian RGBA.
export function packed(red, green, blue) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// A canvas of patches, and the pixels that `show` puts on it.
export class Map2D {
  #context;
  #image;
  pixels;

  constructor(canvas) {
    this.#context = canvas.getContext("2d");
    this.canvas = canvas;
  }

  size(rows, columns) {
    if (this.#image?.width === columns && this.#image.height === rows) return;
    this.canvas.width = columns;
    this.canvas.height = rows;
    this.#image = this.#context.createImageData(columns, rows);
    this.pixels = new Uint32Array(this.#image.data.buffer);
  }

  // Colour values[first ...] from dark at `low` to bright at `high`.
  heat(values, first, low, high) {
    const { pixels } = this,
      factor = 255 / Math.max(high - low, 1e-9);
    for (let patch = 0; patch < pixels.length; patch += 1) {
      const share = (values[first + patch] - low) * factor;
      pixels[patch] = HEAT[share < 0 ? 0 : share > 255 ? 255 : (share + 0.5) | 0];
    }
    this.show();
  }

  show() {
    this.#context.putImageData(this.#image, 0, 0);
  }
}
