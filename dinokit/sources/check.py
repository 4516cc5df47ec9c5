"""What a source holds, before a run finds out: formats, sizes, channels, duplicates, and what cannot be read and why.

Every image is decoded whole, in threads. Per image some 40 bytes are kept, so that a million need no more than 40 MB.
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from jaxtyping import Shaped

from dinokit.core.prefetch import ahead
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage
from dinokit.images.decode import decode, describe
from dinokit.sources.base import Source, thinned

SIDES = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # pixels; edges of the classes of the short side
LISTED = 1000  # groups of duplicates; all are counted


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used."""

    key: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """Of a number that every readable image has."""

    least: int
    median: int
    largest: int


@dataclass(frozen=True)
class Check:
    """What was found; every count but `images` is of readable images."""

    source: str
    images: int  # looked at
    total: int  # in the source
    readable: int
    bytes: int
    width: Spread | None  # pixels; None if nothing is readable
    height: Spread | None
    short_side: dict[str, int]  # class -> images
    formats: dict[str, int]
    modes: dict[str, int]  # as in the file: RGB, RGBA, P, I;16, ...
    channels: dict[str, int]  # as decoded
    depths: dict[str, int]  # uint8, or float32 for deeper files
    duplicates: int  # images whose content came before
    duplicate_groups: tuple[tuple[str, ...], ...]  # keys of equal content, the first groups
    unreadable: tuple[Unreadable, ...]
    seconds: float
    images_per_second: float
    seconds_per_pass: float  # over the whole source, decoded at full size by as many threads


@dataclass(frozen=True)
class _Found:
    size: int
    digest: bytes
    shape: tuple[int, ...]  # channel, height, width
    depth: str
    format: str
    mode: str


def check(
    source: Source,
    *,
    channels: int | None = None,
    limit: int | None = None,
    workers: int = 2,
    shown: Callable[[Iterable[object], int], Iterable[object]] = lambda items, total: items,
) -> Check:
    """Look at all images of a source, or at `limit` evenly spaced ones.

    Args:
        channels: that every image must give; None takes each as it is.
        workers: threads that read.
        shown: passes the images on, one by one, to show how far it is.
    """
    rows = thinned(source, limit).rows
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("format", "mode", "channels", "depth")}
    widths, heights, places, digests = array("I"), array("I"), array("q"), bytearray()
    unreadable, size = [], 0

    def look(number: int) -> _Found | str:
        try:
            return _look(source, int(rows[number]), channels)
        except BadImage as error:
            return str(error)

    began = time.monotonic()
    for number, found in enumerate(shown(ahead(look, len(rows), workers=workers), len(rows))):
        if not isinstance(found, _Found):
            unreadable.append(Unreadable(source.key(int(rows[number])), str(found)))
            continue
        size += found.size
        widths.append(found.shape[2])
        heights.append(found.shape[1])
        places.append(int(rows[number]))
        digests += found.digest
        for name, value in zip(counts, (found.format, found.mode, str(found.shape[0]), found.depth), strict=True):
            counts[name][value] += 1
    seconds = time.monotonic() - began
    groups = _groups(np.frombuffer(bytes(digests), dtype="V16"))
    return Check(
        source=source.name,
        images=len(rows),
        total=len(source),
        readable=len(places),
        bytes=size,
        width=_spread(widths),
        height=_spread(heights),
        short_side=_classes(np.minimum(widths, heights)),
        formats=_ordered(counts["format"]),
        modes=_ordered(counts["mode"]),
        channels=_ordered(counts["channels"]),
        depths=_ordered(counts["depth"]),
        duplicates=sum(len(group) - 1 for group in groups),
        duplicate_groups=tuple(tuple(source.key(places[row]) for row in group) for group in groups[:LISTED]),
        unreadable=tuple(unreadable),
        seconds=seconds,
        images_per_second=len(rows) / seconds,
        seconds_per_pass=seconds / len(rows) * len(source),
    )


def _look(source: Source, index: int, channels: int | None) -> _Found:
    data = source.encoded(index)
    if data is not None:
        image = decode(data, channels=channels)
        about = describe(data)
        return _found(image, len(data), blake2b(data, digest_size=16).digest(), about.format, about.mode)
    image = source.read(index)
    pixels = image.contiguous().numpy()
    digest = blake2b(pixels.tobytes() + repr(pixels.shape).encode(), digest_size=16).digest()
    return _found(image, pixels.nbytes, digest, "", "")


def _found(image: intensity.Image, size: int, digest: bytes, form: str, mode: str) -> _Found:
    return _Found(size, digest, tuple(image.shape), str(image.dtype).removeprefix("torch."), form, mode)


def _groups(digests: Shaped[np.ndarray, "image"]) -> list[list[int]]:
    """Return the positions of equal digests, in order of the first of each, where there are several."""
    _, first, inverse, counts = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    groups: dict[int, list[int]] = {}
    for row in repeated.tolist():
        groups.setdefault(int(first[inverse[row]]), []).append(row)
    return list(groups.values())


def _spread(values: "array[int]") -> Spread | None:
    if not values:
        return None
    least, median, largest = np.percentile(values, [0, 50, 100], method="lower").astype(int).tolist()
    return Spread(least, median, largest)


def _classes(sides: Shaped[np.ndarray, "image"]) -> dict[str, int]:
    names = [f"< {SIDES[0]}", *(f"{low}-{high - 1}" for low, high in pairwise(SIDES))]
    counts = np.bincount(np.searchsorted(SIDES, sides, side="right"), minlength=len(SIDES) + 1).tolist()
    return {name: count for name, count in zip([*names, f">= {SIDES[-1]}"], counts, strict=True) if count}


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.most_common() if name}
