"""PNG without what a picture does not need: odd metadata must not cost an image that every viewer shows.

Kept are the critical chunks, and of the others, where their checksum is right, those that change what is seen: tRNS
(transparency) and the orientation, in eXIf or where older programs wrote it, as text "Raw profile type exif". All else
goes before decoding, as libpng does with what it cannot read: colour profiles and gamma, which are not applied here to
any format; texts; the further frames of an animation.
"""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LONGEST = 1 << 16  # bytes of an orientation
_EXIF_TEXT = b"Raw profile type exif\0"


def plain(data: bytes) -> bytes:
    """Return a PNG file without the chunks that do not count; what is broken otherwise stays as it is."""
    view, place = memoryview(data), len(SIGNATURE)
    kept = [view[:place]]
    bits, colours = data[24:26] if len(data) > 25 else (8, 0)  # 0 gray, 2 RGB, 3 palette; with alpha there is no tRNS
    while place + 12 <= len(data):
        length, kind = int.from_bytes(view[place : place + 4]), bytes(view[place + 4 : place + 8])
        end = place + 12 + length
        if end > len(data) or not kind.isalpha():
            break
        if kind[:1].isupper() or _counts(kind, view[place + 8 : end - 4], view[end - 4 : end], colours):
            kept.append(view[place:end])
            if kind == b"tRNS" and colours == 0 and bits in (2, 4):  # Pillow compares it with values brought to 8 bits
                clear = view[end - 5] * 255 // (2**bits - 1)
                body = kind + bytes([0, clear % 256])
                kept[-1] = memoryview(b"\0\0\0\2" + body + zlib.crc32(body).to_bytes(4))
        place = end
        if kind == b"IEND":
            break
    return b"".join([*kept, view[place:]])


def _counts(kind: bytes, body: memoryview, checksum: memoryview, colours: int) -> bool:
    """Tell whether a chunk that may be left out changes what is seen."""
    if kind == b"tRNS":
        fits = {0: len(body) == 2, 2: len(body) == 6, 3: 1 <= len(body) <= 256}.get(colours, False)
    elif kind in (b"tEXt", b"zTXt"):
        fits = len(body) <= _LONGEST and bytes(body[: len(_EXIF_TEXT)]) == _EXIF_TEXT
    else:
        fits = kind == b"eXIf" and len(body) <= _LONGEST
    return fits and zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(checksum)
