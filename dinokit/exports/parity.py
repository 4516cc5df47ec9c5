"""An exported file beside our own network: how far each output is from ours, by size and batch (`difference`).

Both see the same noise, normal as normalised images are, at sizes of which none was recorded: the usual one, one and a
half of it, one that leaves pixels over beyond the last whole patch (518 of 16 px patches), and a wide one; batches of 1
and 2. Ours is float32 throughout, also beside a file of half precision. Beside one of int8, whose steps fit the images
that it was calibrated with, both see others of these, resized. Every row has seen every image, in batches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.messages import line_of, warn
from dinokit.exports.difference import Difference
from dinokit.exports.outputs import USUAL, About, Precision

Run = Callable[[Tensor], tuple[Tensor, ...]]  # a file in its runtime: images -> outputs as named, or raises Refused
BATCHES = (1, 2)
LEAST = 2  # images: of one alone a constant class token is right
SIDES = ((1.0, 1.0), (1.5, 1.5), (2.3125, 2.3125), (1.0, 2.0))  # of the usual size: 224, 336, 518 and 224 x 448


class Refused(Exception):
    """A runtime takes no images of this size; the message is its reason."""


@dataclass(frozen=True)
class Bound:
    """What an output must keep."""

    cosine: float  # at least, of every vector
    error: float  # at most, of every number, where the root mean square of the output is 1 or less; else times it
    relative: float  # at most, of every image; a constant output has 1. Also of classes
    agreement: float  # at least, of classes: share of the pixels that have the same

    def __str__(self) -> str:
        return (
            f"cosine at least {self.cosine:g}, error at most {self.error:g}, times the rms where that is above 1, "
            f"relative at most {self.relative:g}; of classes, {self.agreement:.2%} of pixels alike"
        )


BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(0.99999, 1e-4, 1e-3, 0.9999),
    "fp16": Bound(0.999, 0.05, 0.05, 0.99),
    "bf16": Bound(0.99, 0.3, 0.2, 0.95),
    "int8": Bound(0.9, 2.0, 0.5, 0.8),
}


@dataclass(frozen=True)
class Row:
    """One output at one size."""

    output: str
    batch: int
    height: int  # in pixels
    width: int
    cosine: float  # these four as `difference` says
    error: float
    relative: float
    scale: float
    holds: bool


def compare(
    run: Run,
    ours: Run,
    told: About,
    *,
    photos: Float[Tensor, "image channel side side"] | None = None,
    batches: tuple[int, ...] = BATCHES,
) -> list[Row]:
    """Run a file and our network on the same images; a row per batch, size and output.

    Args:
        photos: normalised images that take the place of noise, resized.
    """
    rows = list[Row]()
    batches = batches if told.dynamic else (1,)
    for size in sizes(told):
        found = {batch: [Difference(name) for name in told.outputs] for batch in batches}
        for images in torch.split(_images(told, size, photos, at_least=max(batches)), max(batches)):
            with torch.no_grad():
                expected = ours(images)
            for batch, differences in found.items():
                _see(run, images, expected, batch, differences)
        rows += [_row(each, batch, size, BOUNDS[told.precision]) for batch in batches for each in found[batch]]
    return rows


def sizes(told: About) -> list[tuple[int, int]]:
    """Return height and width of what is compared: the model's alone where the file takes no other."""
    if not told.dynamic:
        return [(told.size, told.size)]
    # of one patch per side torch.export refuses a ResNet's images, for it has recorded more
    usual = max(min(told.size, USUAL) // told.patch_size, 2) * told.patch_size
    found = [(int(usual * high), int(usual * wide)) for high, wide in SIDES]
    return found + [(told.size, told.size)] * (told.size > usual)


def _images(
    told: About, size: tuple[int, int], photos: Float[Tensor, "image channel side side"] | None, *, at_least: int
) -> Float[Tensor, "image channel height width"]:
    if photos is None:
        draw = torch.Generator().manual_seed(size[0] * size[1])
        return torch.randn(max(LEAST, at_least), told.channels, *size, generator=draw)
    return F.interpolate(photos, size=size, mode="bicubic", antialias=True)


def _see(run: Run, images: Tensor, expected: tuple[Tensor, ...], batch: int, differences: list[Difference]) -> None:
    """Show images to a file, a batch at a time, until it refuses them."""
    for part, *wanted in zip(*(torch.split(each, batch) for each in (images, *expected)), strict=True):
        if all(each.differs for each in differences):
            return
        try:
            found = run(part)
        except Refused as error:
            _, _, height, width = images.shape
            warn(f"images of {height} x {width} pixels, {batch} at a time, are refused: {line_of(error)}")
            found = tuple(each.new_zeros(0) for each in wanted)
        for difference, one, other in zip(differences, found, wanted, strict=True):
            difference.add(one, other)


def _row(found: Difference, batch: int, size: tuple[int, int], bound: Bound) -> Row:
    cosine, error, relative, scale = found.numbers()
    holds = relative <= bound.relative  # NaN does not
    if found.is_classes:
        holds &= cosine >= bound.agreement
    else:
        holds &= cosine >= bound.cosine and error <= bound.error * max(scale, 1.0)
    return Row(found.name, batch, *size, cosine, error, relative, scale, holds)
