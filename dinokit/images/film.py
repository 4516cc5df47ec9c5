"""Moving pictures, a frame at a time: animations by Pillow (GIF, WebP, APNG), videos by PyAV (extra `video`).

Memory follows one frame, not the length, in both directions. Pillow itself holds all frames of an animation that it
writes, so each is written here as a still of Pillow's whose data are put behind those before: a GIF is a row of images
with a time each (GIF89a specification, 1990), a WebP a row of chunks (RFC 9649). Frames that are equal are so in the
file, bit for bit, but in a video.
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, final

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from dinokit.core.messages import BadImage, UserError, library, warn
from dinokit.images import intensity
from dinokit.images.decode import reasons

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
WRITTEN = (".gif", ".webp", ".mp4")  # endings of what can be written
_ANIMATED = ("GIF", "PNG", "WEBP")  # of Pillow
_RATE = 15  # frames per second where a file does not say it
_WHOLE = 0.9  # of what a container states; edit lists may leave out a few frames
_SHORTEST = 20  # milliseconds of a frame; viewers show shorter ones of an animation for 100


def is_film(file: Path) -> bool:
    """Tell whether a file has several frames: by its ending, or as Pillow counts them."""
    if file.suffix.lower() in VIDEOS:
        return True
    with suppress(BadImage), reasons(), Image.open(file, formats=_ANIMATED) as opened:
        return getattr(opened, "n_frames", 1) > 1
    return False


def frames(file: Path, *, channels: int = 3) -> Iterator[tuple[intensity.Image, float]]:
    """Yield every frame of a film and for how many milliseconds it is shown.

    Raises:
        UserError: if it cannot be read, or gives other channels than 1, luminance, or 3.
    """
    if channels not in (1, 3):
        raise UserError(f"{file} has colours, the model takes images of {channels} channels; give a model of 1 or 3")
    if file.suffix.lower() in VIDEOS:
        yield from of_video(file, channels=channels)
        return
    try:
        yield from _of_animation(file, channels)
    except BadImage as error:
        raise UserError(f"cannot read the animation {file}: {error}; save it again") from error


def _of_animation(file: Path, channels: int) -> Iterator[tuple[intensity.Image, float]]:
    with reasons():
        opened: Any = Image.open(file, formats=_ANIMATED)
    with opened:
        for number in range(opened.n_frames):
            with reasons():  # not around the yield: what others warn of meanwhile is theirs
                opened.seek(number)
                shown = opened.convert("RGBA")
                white = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
                pixels = np.array(white.convert("L" if channels == 1 else "RGB"))
                lasts = float(opened.info.get("duration") or 1000 / _RATE)
            yield torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1), lasts


def of_video(file: Path, *, channels: int) -> Iterator[tuple[intensity.Image, float]]:
    """Yield every frame of a file by PyAV, upright, and its milliseconds; see `frames`."""
    av, number, until, early = library("av", extra="video"), 0, 0.0, ""
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            lasts = 1000 / float(stream.average_rate or _RATE)
            alone = len(container.streams) == 1  # a container is as long as its longest stream
            seconds = (container.duration or 0) / av.time_base if alone else 0.0
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="gray" if channels == 1 else "rgb24")
                upright = rotated(pixels.reshape(*pixels.shape[:2], -1), frame.rotation)
                number, until = number + 1, (frame.time or 0.0) + lasts / 1000
                yield torch.from_numpy(upright).permute(2, 0, 1), lasts
            if number < _WHOLE * stream.frames:
                early = f"{number} of {stream.frames} frames"
            elif not stream.frames and 0 < until < _WHOLE * seconds:
                early = f"{until:.1f} of {seconds:.1f} seconds"
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"cannot read the video {file}: {error}; convert it, or give a folder of its frames") from error
    if not number:
        raise UserError(f"{file} holds no frames")
    if early:
        _say_once(f"{file} ends early: {early}")


@cache
def _say_once(message: str) -> None:
    """Warn; a film is read several times."""
    warn(message)


def rotated(
    frame: Shaped[np.ndarray, "height width channel"], degrees: float | int
) -> Shaped[np.ndarray, "rows columns channel"]:
    """Turn a frame counter-clockwise, by the nearest quarter: what PyAV's `frame.rotation` asks."""
    return np.ascontiguousarray(np.rot90(frame, round(degrees / 90) % 4))


class _Kind(Protocol):
    """A way to write frames: times in milliseconds from the start, the first picture says the size."""

    def add(self, picture: Image.Image, start: float | int, end: float | int) -> None: ...
    def close(self) -> None: ...


@final
class Writer:
    """Writes pictures of one size as a film, one by one; a context, at whose end the file is whole."""

    def __init__(self, place: Path, *, ending: str) -> None:
        """Begin a file.

        Args:
            ending: of WRITTEN; the place may have another, until it is renamed.
        """
        kinds: dict[str, type[_Gif] | type[_WebP] | type[_Video]] = {".gif": _Gif, ".webp": _WebP, ".mp4": _Video}
        self._kind: _Kind = kinds[ending](place)
        self._time, self._size = 0.0, (0, 0)

    def add(self, picture: Image.Image, milliseconds: float | int) -> None:
        """Add a picture, which is shown for so long."""
        self._size = self._size if self._time else picture.size
        assert picture.size == self._size
        end = self._time + max(milliseconds, _SHORTEST)
        self._kind.add(picture.convert("RGB"), self._time, end)
        self._time = end

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._kind.close()


@final
class _Gif:
    """Every frame with 256 colours of its own."""

    def __init__(self, place: Path) -> None:
        self._file = place.open("wb")

    def add(self, picture: Image.Image, start: float | int, end: float | int) -> None:
        still = io.BytesIO()
        picture.quantize(256, Image.Quantize.FASTOCTREE).save(still, "GIF", interlace=0)
        data = still.getvalue()
        if start == 0:
            looped = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
            self._file.write(b"GIF89a" + data[6:10] + b"\x70\0\0" + looped)  # the size; no colours for all frames
        size, place = data[10] & 7, 13
        table = data[place : place + 3 * 2 ** (size + 1)]
        place += len(table)
        while data[place] == 0x21:  # an extension, in blocks that begin with their length
            place += 2
            while data[place]:
                place += data[place] + 1
            place += 1
        hundredths = round(end / 10) - round(start / 10)
        self._file.write(b"\x21\xf9\x04\x04" + hundredths.to_bytes(2, "little") + b"\0\0")
        self._file.write(data[place : place + 9] + bytes([0x80 | size]) + table + data[place + 10 : -1])

    def close(self) -> None:
        self._file.write(b"\x3b")
        self._file.close()


@final
class _WebP:
    """Chunks of a name, a length and content, which fill even numbers of bytes."""

    def __init__(self, place: Path) -> None:
        self._file = place.open("wb")

    def add(self, picture: Image.Image, start: float | int, end: float | int) -> None:
        still = io.BytesIO()
        picture.save(still, "WEBP", quality=90)
        data, place = still.getvalue(), 12
        size = b"".join((side - 1).to_bytes(3, "little") for side in picture.size)
        if start == 0:
            self._file.write(b"RIFF\0\0\0\0WEBP")
            self._file.write(_chunk(b"VP8X", b"\x02\0\0\0" + size) + _chunk(b"ANIM", b"\xff\xff\xff\xff\0\0"))
        pixels = b""
        while place < len(data):
            length = 8 + int.from_bytes(data[place + 4 : place + 8], "little")
            length += length % 2
            pixels += data[place : place + length] if data[place : place + 3] == b"VP8" else b""
            place += length
        about = bytes(6) + size + (round(end) - round(start)).to_bytes(3, "little") + b"\x02"  # instead of those before
        self._file.write(_chunk(b"ANMF", about + pixels))

    def close(self) -> None:
        length = self._file.tell()
        self._file.seek(4)
        self._file.write((length - 8).to_bytes(4, "little"))
        self._file.close()


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


@final
class _Video:
    """H.264, which wants sides of even numbers of pixels: white fills up."""

    def __init__(self, place: Path) -> None:
        self._av = library("av", extra="video")
        self._container = self._av.open(str(place), "w", format="mp4")
        self._stream: Any = None
        self._lasts = dict[int, int]()  # milliseconds, by the time in which a frame begins

    def add(self, picture: Image.Image, start: float | int, end: float | int) -> None:
        if self._stream is None:
            self._stream = self._container.add_stream("h264", options={"crf": "20"})
            self._stream.width, self._stream.height = (side + side % 2 for side in picture.size)
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, 1000)
        even = Image.new("RGB", (self._stream.width, self._stream.height), "white")
        even.paste(picture)
        frame = self._av.VideoFrame.from_image(even)
        frame.pts, frame.time_base = round(start), Fraction(1, 1000)
        self._lasts[round(start)] = round(end) - round(start)
        self._encode(frame)

    def close(self) -> None:
        if self._stream is not None:
            self._encode(None)
        self._container.close()

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._lasts.pop(packet.pts)  # the last frame would else last no time
            self._container.mux(packet)
