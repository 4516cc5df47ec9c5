"""What a source holds, before a run finds out: formats, sizes, channels, duplicates, statistics, and what is broken.

Every image is decoded whole, in threads. Per image some 40 bytes are kept, so that a million need no more than 40 MB.
What labels alone say of a comparison of two parts is said here too (`doubts`).
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64

from dinokit.core.messages import UserError, listed, progress
from dinokit.images import intensity
from dinokit.images.decode import decode, describe
from dinokit.sources.source import Source, Unusable, remarks, thinned
from dinokit.sources.table import members

SIDES = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # pixels; edges of the classes of the short side
_CLASSES = (f"< {SIDES[0]}", *(f"{low}-{high - 1}" for low, high in pairwise(SIDES)), f">= {SIDES[-1]}")
LISTED = 1000  # groups of duplicates; all are counted

T = TypeVar("T")


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
    values: tuple[float, float] | None  # the least and the largest, 1.0 = white; None if nothing is readable
    duplicates: int  # images whose content came before
    duplicate_groups: tuple[tuple[str, ...], ...]  # keys of equal content, the first groups
    unreadable: tuple[Unreadable, ...]
    remarks: tuple[str, ...]  # such as what was passed over
    seconds: float
    images_per_second: float
    seconds_per_pass: float  # over the whole source, decoded at full size by as many threads


@dataclass(frozen=True)
class _Look:
    """What is counted of one image."""

    digest: bytes  # of its content
    bytes: int
    width: int
    height: int
    values: tuple[float, float]
    kinds: tuple[str, ...]  # format, mode, channels, depth


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of every channel: what a normalisation should be told of new kinds of images.

    Of values with 1.0 as white; one number per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # the least value of all images
    high: tuple[float, ...]
    images: int
    bad: int  # left out


def check(source: Source, *, channels: int | None = None, limit: int | None = None, workers: int = 2) -> Check:
    """Look at all images of a source, or at `limit` evenly spaced ones.

    Args:
        channels: that every image must give; None takes each as it is.
        workers: threads that read.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("formats", "modes", "channels", "depths")}
    widths, heights, rows, digests, size = array("I"), array("I"), array("q"), bytearray(), 0
    unreadable, low, high = [], np.inf, -np.inf
    began = time.monotonic()
    some = thinned(source, limit)
    looks = some.each(partial(_look, some, channels), range(len(some)), workers=workers)
    for index, found in progress(looks, len(some)):
        if isinstance(found, Unusable):
            unreadable.append(Unreadable(found.key, found.reason))
            continue
        rows.append(index)
        widths.append(found.width)
        heights.append(found.height)
        digests += found.digest
        size += found.bytes
        low, high = min(low, found.values[0]), max(high, found.values[1])
        for counter, kind in zip(counts.values(), found.kinds, strict=True):
            counter[kind] += 1
    seconds = time.monotonic() - began
    groups = _groups(digests, rows)
    sides = np.bincount(np.searchsorted(SIDES, np.minimum(widths, heights), side="right"), minlength=len(_CLASSES))
    return Check(
        source=source.name,
        images=len(some),
        total=len(source),
        readable=len(rows),
        bytes=size,
        values=(low, high) if rows else None,
        width=_spread(widths),
        height=_spread(heights),
        short_side={name: count for name, count in zip(_CLASSES, sides.tolist(), strict=True) if count},
        **{name: {value: n for value, n in counter.most_common() if value} for name, counter in counts.items()},
        duplicates=sum(len(group) - 1 for group in groups),
        duplicate_groups=tuple(tuple(map(some.key, group)) for group in groups[:LISTED]),
        unreadable=tuple(unreadable),
        remarks=(*remarks(source), *filter(None, [numbered(source)])),
        seconds=seconds,
        images_per_second=len(some) / seconds,
        seconds_per_pass=seconds / len(some) * len(source),
    )


def doubts(asks: Source, answers: Source) -> list[str]:
    """Say what makes a number on classes doubtful, before it is computed, a line each; both sides are labelled.

    Args:
        asks: images that are classified, by those of `answers`; the same object where each is by all others.
    """
    found = [numbered(answers)]
    (classes, wanted, _), (_, known, of_image) = images_of_classes(asks), images_of_classes(answers)
    for one, other, what in ((wanted, known, "asked, with no image to answer"), (known, wanted, "there to answer")):
        lost = np.flatnonzero((one > 0) & (other == 0)).tolist()
        if lost:
            names = listed([classes[place] for place in lost])
            found.append(f"classes that are only {what}, {len(lost):,}: {names}")
    alone = np.flatnonzero(~(of_image(known > 1))).tolist() if asks is answers else []
    if alone:
        found.append(f"images without another of their class, {len(alone):,}: {listed([*map(asks.key, alone)])}")
    return [line for line in found if line]


def images_of_classes(source: Source) -> tuple[Sequence[str], Int64[np.ndarray, "class"], Callable[..., Any]]:
    """Return the classes, how many images each has, and what tells of each image whether one of its is among some."""
    assert source.labels is not None
    labels, several = source.labels, members(source.classes)
    counts = np.bincount(labels, minlength=len(source.classes))
    if several is None:
        return source.classes, counts, lambda some: some[labels]
    classes, named = several
    return classes, counts @ named, lambda some: (named & some).any(axis=1)[labels]


def numbered(source: Source) -> str:
    """Say that the folders of classes are numbers, which may mean places in a list of names elsewhere."""
    names = source.classes
    if source.labels is None or not names or not all(name.isdecimal() for name in names):
        return ""
    place = int(source.labels.argmax())
    if names[int(source.labels[place])] not in source.key(place).split("/")[:-1]:
        return ""
    return f"the folders of classes are numbers, {listed(names)}: each is a name, whatever its place in a list"


def stats(source: Source, *, limit: int | None = None, workers: int = 2) -> Stats:
    """Measure all images of a source, or `limit` evenly spaced ones, at full size.

    Every image counts the same, whatever its size, as it does in training. The variance is that within images plus that
    between their means (Chan, Golub & LeVeque 1983): exact in one pass, also where the mean is a thousand times the
    spread. UserError if no image is readable.
    """
    mean, within, between = (np.zeros(source.channels) for _ in range(3))
    low, high = np.full(source.channels, np.inf), np.full(source.channels, -np.inf)
    images, first, some = 0, "", thinned(source, limit)

    def moments(index: int) -> Float64[np.ndarray, "4 channel"]:
        rows = []
        for channel in some.read(index, holes=True):  # one by one: float64 of a whole photo would be 8 times its size
            values = intensity.to_unit(channel).double()
            values = values[values.isfinite()]  # pixels without data are NaN
            variance, mean = torch.var_mean(values, correction=0)
            rows.append([float(mean), float(variance), *map(float, torch.aminmax(values))])
        return np.array(rows).T

    for _, found in progress(some.each(moments, range(len(some)), workers=workers), len(some)):
        if isinstance(found, Unusable):
            first = first or f"{found.key}: {found.reason}"
            continue
        images += 1
        step = found[0] - mean
        mean += step / images
        between += step * (found[0] - mean)
        within += found[1]
        low, high = np.minimum(low, found[2]), np.maximum(high, found[3])
    if not images:
        raise UserError(f"no image of {source.name} can be used, the first is {first}")
    std = np.sqrt((within + between) / images)
    found_mean, found_std, lowest, highest = (tuple(each.tolist()) for each in (mean, std, low, high))
    return Stats(found_mean, found_std, lowest, highest, images=images, bad=len(some) - images)


def _look(source: Source, channels: int | None, index: int) -> _Look:
    data = source.encoded(index)
    if data is None:
        image, format_and_mode = source.read(index), ("", "")
        data = image.contiguous().numpy().tobytes() + repr(tuple(image.shape)).encode()
        size = image.numel() * image.element_size()
    else:
        image, about, size = decode(data, channels=channels, white=source.white_of(index)), describe(data), len(data)
        format_and_mode = about.format, about.mode
    channel, height, width = image.shape
    least, largest = (float(value) / (255 if image.dtype == torch.uint8 else 1) for value in torch.aminmax(image))
    kinds = (*format_and_mode, str(channel), str(image.dtype).removeprefix("torch."))
    return _Look(blake2b(data, digest_size=16).digest(), size, width, height, (least, largest), kinds)


def _groups(digests: bytes | bytearray, rows: Sequence[int]) -> list[list[int]]:
    """Return the rows of equal content, group by group, in the order of the first of each."""
    _, first, inverse = np.unique(np.frombuffer(bytes(digests), dtype="V16"), return_index=True, return_inverse=True)
    groups: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.bincount(inverse, minlength=1)[inverse] > 1).tolist():
        groups.setdefault(int(first[inverse[place]]), []).append(rows[place])
    return list(groups.values())


def _spread(values: "array[int]") -> Spread | None:
    if not values:
        return None
    least, median, largest = np.percentile(values, [0, 50, 100], method="lower").astype(int).tolist()
    return Spread(least, median, largest)
