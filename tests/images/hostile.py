"""Hostile files for the tests: seeded, of every format, whole ones cut and flipped, bombs and impostors."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image

SIDE = 24


def corpus(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of some 700 files."""
    whole = dict(originals())
    generate = np.random.default_rng(seed)
    for name, data in whole.items():
        yield name, data
        for number in range(6):
            yield f"cut-{number}-{name}", data[: generate.integers(1, len(data))]
        for number in range(12):
            flipped = np.frombuffer(data, dtype=np.uint8).copy()
            # the first bytes hold the sizes and the offsets
            reach = len(data) if number % 2 else min(len(data), 128)
            flipped[generate.integers(0, reach, 1 + number // 3)] = generate.integers(0, 256, 1 + number // 3)
            yield f"flip-{number}-{name}", flipped.tobytes()
    names = list(whole)
    for number in range(20):
        one, other = generate.choice(names, 2, replace=False)
        yield f"wrong-extension-{number}{one[one.rindex('.') :]}", whole[other]
        yield f"grafted-{number}-{one}", whole[one][: len(whole[one]) // 2] + whole[other][len(whole[other]) // 2 :]
    for extension in ("jpg", "png", "tif", "webp", "avif", "gif", "bmp", "npy"):
        yield f"empty.{extension}", b""
        yield f"zeros.{extension}", bytes(1000)
        yield f"noise.{extension}", generate.bytes(1000)
        yield f"page.{extension}", b"<!DOCTYPE html><title>404 Not Found</title>"
    yield from bombs()


def originals() -> Iterator[tuple[str, bytes]]:
    """Yield a small whole file of every format and mode."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb = rgba.convert("RGB")
    for name, image, options in (
        ("rgb.jpg", rgb, {}),
        ("gray.jpg", rgb.convert("L"), {}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("progressive.jpg", rgb, {"progressive": True}),
        ("rgb.png", rgb, {}),
        ("rgba.png", rgba, {}),
        ("palette.png", rgb.convert("P"), {"transparency": 3}),
        ("bit.png", rgb.convert("1"), {}),
        ("gray-alpha.png", rgba.convert("LA"), {}),
        ("16.png", Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), {}),
        ("rgb.bmp", rgb, {}),
        ("palette.bmp", rgb.convert("P"), {}),
        ("moving.gif", rgb.convert("P"), {"save_all": True, "append_images": [rgb.convert("L")]}),
        ("lossy.webp", rgb, {}),
        ("lossless.webp", rgba, {"lossless": True}),
        ("moving.webp", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("rgb.avif", rgb, {}),
        ("rgb.tif", rgb, {}),
        ("lzw.tif", rgb, {"compression": "tiff_lzw"}),
        ("jpeg.tif", rgb, {"compression": "jpeg"}),
        ("fax.tif", rgb.convert("1"), {"compression": "group4"}),
        ("cmyk.tif", rgb.convert("CMYK"), {}),
        ("lab.tif", rgb.convert("LAB"), {}),
        ("float.tif", rgb.convert("F"), {}),
        ("int.tif", rgb.convert("I"), {}),
    ):
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rsplit(".", 1)[1].upper())
        yield name, _encoded(image, kind, **options)
    deep = noise.astype(np.uint16) * 257
    yield "deep-rgb.png", deep_png(deep[:, :, :3])
    yield "deep-gray-alpha.png", deep_png(deep[:, :, :2])
    yield "deep-rgb.tif", tiff(deep[:, :, :3], photometric="rgb")
    yield "channels.tif", tiff(deep.repeat(2, axis=2), photometric="minisblack", planarconfig="contig")
    yield "planes.tif", tiff(np.ascontiguousarray(deep.transpose(2, 0, 1)), photometric="minisblack", compression=8)
    yield "float.npy", npy(noise.astype(np.float32))
    yield "eight.npy", npy(noise[:, :, 0])
    yield "half.npy", npy(noise.transpose(2, 0, 1).astype(np.float16))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield small files that say, or hold, gigabytes."""
    zeros = zlib.compress(bytes(4_000_000), 9)
    for side in (20_000, 65_000, 2**31 - 1):
        for bits, colour in ((1, 0), (8, 2), (16, 6)):
            yield f"bomb-{side}-{bits}-{colour}.png", png_file(side, side, bits, colour, zeros)
    jpeg = _encoded(Image.new("RGB", (SIDE, SIDE)), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    for side in (20_000, 65_500):
        yield f"bomb-{side}.jpg", jpeg[: frame + 5] + struct.pack(">HH", side, side) + jpeg[frame + 9 :]
    progressive = _encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    yield "scans.jpg", progressive[:scan] + progressive[scan:-2] * 5000 + b"\xff\xd9"
    gif = _encoded(Image.new("P", (SIDE, SIDE)), "GIF")
    yield "bomb.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    bmp = _encoded(Image.new("RGB", (SIDE, SIDE)), "BMP")
    yield "bomb.bmp", bmp[:18] + struct.pack("<ii", 2**30, 2**30) + bmp[26:]
    yield "negative.bmp", bmp[:18] + struct.pack("<ii", -(2**31), -(2**31)) + bmp[26:]
    webp = _encoded(Image.new("RGB", (SIDE, SIDE)), "WEBP", lossless=True)
    yield "bomb.webp", webp[:21] + struct.pack("<I", 0x0FFFFFFF) + webp[25:]
    for side in (30_000, 2**32 - 1):
        yield f"bomb-{side}.tif", tiff_file(side, side, samples=1, bits=8)
        yield f"bomb-{side}-13.tif", tiff_file(side, side, samples=13, bits=16)
    yield "samples.tif", tiff_file(SIDE, SIDE, samples=65_535, bits=16)
    yield "tiles.tif", tiff_file(SIDE, SIDE, samples=3, bits=8, extra=((322, 4, 2**31), (323, 4, 2**31), (324, 4, 8)))
    yield "endless.tif", tiff_file(SIDE, SIDE, samples=13, bits=16, following=8)
    for shape in ("(99999999999,)", "(1000000, 1000000, 3)", "(-1, 8)", "()", "(0, 8)", "(" * 3000 + ")" * 3000):
        yield f"bomb-{shape[:20]}.npy", _npy_file(shape, "<f4")
    for dtype in ("|O", "<M8[s]", "<c16", "|V100000000", "<U9999999"):
        yield f"type-{dtype[1:]}.npy", _npy_file("(8, 8)", dtype)
    for number in (np.nan, np.inf):
        yield f"{number}.npy", npy(np.full((SIDE, SIDE, 3), number, np.float32))
        yield f"{number}.tif", tiff(np.full((SIDE, SIDE), number, np.float32))


def deep_png(values: np.ndarray, *, transparent: bytes = b"") -> bytes:
    """Write a PNG of 16 bits and any kind of colour, which Pillow does not; one colour may be transparent."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2").reshape(height, -1))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png_file(width, height, 16, kind, zlib.compress(rows), transparent=transparent)


def png_file(width: int, height: int, bits: int, colour: int, pixels: bytes, *, transparent: bytes = b"") -> bytes:
    """Write a PNG by its parts."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chosen = [(b"tRNS", transparent)] if transparent else []
    parts = ((b"IHDR", header), *chosen, (b"IDAT", pixels), (b"IEND", b""))
    chunks = [(struct.pack(">I", len(body)), name + body) for name, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(a + b + struct.pack(">I", zlib.crc32(b)) for a, b in chunks)


def npy(array: np.ndarray) -> bytes:
    """Write an array as a file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    """Write an array as a TIFF."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _npy_file(shape: str, dtype: str) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(256)


def tiff_file(
    width: int,
    height: int,
    *,
    samples: int,
    bits: int,
    extra: tuple[tuple[int, int, int], ...] = (),
    following: int = 0,
) -> bytes:
    """Write a TIFF of one strip that may be too short; `following` is where the next image is said to begin."""
    entries = [
        *((256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8)),
        *((277, 3, samples), (278, 4, height), (279, 4, 1000), *extra),
    ]
    table = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + struct.pack("<I" if kind == 4 else "<HH", *([value] if kind == 4 else [value, 0]))
        for tag, kind, value in sorted(entries)
    )
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", following) + bytes(1000)
