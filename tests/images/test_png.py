"""Metadata that a picture does not need costs no picture; what changes it counts."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dinokit.core.messages import BadImage
from dinokit.images.decode import decode, describe
from tests.images.hostile import png_file

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 6)  # 2 x 2 of RGB
ROWS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))


def _chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _with(*chunks: bytes) -> bytes:
    whole = png_file(2, 2, 8, 2, ROWS)
    return whole[:33] + b"".join(chunks) + whole[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1 << 21))),
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 21))),
        _chunk(b"tEXt", b"Comment\0text", crc=1),
        _chunk(b"iTXt", b"Comment\0\1\0\0\0broken"),
        _chunk(b"eXIf", b"Exif\0\0 damaged"),
        _chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
        _chunk(b"zTXt", b"Raw profile type exif\0\0damaged"),
        _chunk(b"gAMA", b"\0"),
        _chunk(b"cHRM", b"\0\0\0\1"),
        _chunk(b"pHYs", b"\0\0"),
        _chunk(b"sRGB", b""),
        _chunk(b"tIME", b""),
        _chunk(b"tRNS", b"\0\1"),
        _chunk(b"tRNS", PIXELS[0, :3].astype(">u2").tobytes(), crc=0),
        _chunk(b"acTL", b"\0"),
        _chunk(b"fcTL", b"\0"),
    ],
    ids=lambda chunk: f"{chunk[4:8].decode()}-{len(chunk)}",
)
def test_odd_ancillary_chunks_cost_no_picture(chunk: bytes) -> None:
    pixels = decode(_with(chunk)).permute(1, 2, 0).reshape(2, 6)
    assert np.array_equal(pixels.numpy(), PIXELS)
    assert describe(_with(chunk)).format == "PNG"


def test_transparency_and_orientation_count() -> None:
    clear = decode(_with(_chunk(b"tRNS", PIXELS[0, :3].astype(">u2").tobytes()))).permute(1, 2, 0)
    assert clear[0, 0].tolist() == [255, 255, 255]
    exif = Image.Exif()
    exif[274] = 3
    for chunk in (_chunk(b"eXIf", exif.tobytes()[6:]), _chunk(b"eXIf", exif.tobytes())):
        pixels = decode(_with(chunk)).permute(1, 2, 0)
        assert pixels[1, 1].tolist() == PIXELS[0, :3].tolist()
    text = b"\nexif\n    %d\n%s\n" % (len(exif.tobytes()), exif.tobytes().hex().encode())
    written = _chunk(b"tEXt", b"Raw profile type exif\0" + text)
    assert decode(_with(written)).permute(1, 2, 0)[1, 1].tolist() == PIXELS[0, :3].tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_gray_is_that_of_its_own_bits(bits: int) -> None:
    levels = 2**bits
    values = np.arange(8) % levels
    row = b"\0" + np.packbits(np.array([[value >> bit & 1 for bit in range(bits)[::-1]] for value in values])).tobytes()
    pixels = decode(png_file(8, 1, bits, 0, zlib.compress(row), transparent=struct.pack(">H", 1)), channels=1)
    assert pixels.flatten().tolist() == [255 if value == 1 else value * 255 // (levels - 1) for value in values]


def test_the_first_frame_of_an_animation_counts() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue())[0].unique().tolist() == [10]


def test_damaged_pixels_stay_bad() -> None:
    whole = png_file(2, 2, 8, 2, ROWS)
    place = whole.index(b"IDAT") + 8
    with pytest.raises(BadImage):
        decode(whole[:place] + b"\0\0\0" + whole[place + 3 :])
