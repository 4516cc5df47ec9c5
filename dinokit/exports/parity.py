"""An exported file beside our own network: the worst cosine and the largest error of each output, size and batch.

Both see the same noise, normal as normalised images are, at sizes of which none was recorded: the usual one, one and a
half of it, one that leaves pixels over beyond the last whole patch (518 of 16 px patches), and a wide one; batches of 1
and 2. Ours is float32 throughout, also beside a file of half precision. Beside one of int8, whose steps fit the images
that it was calibrated with, both see others of these, resized.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.messages import line_of, warn
from dinokit.exports.outputs import USUAL, About, Precision

Run = Callable[[Tensor], tuple[Tensor, ...]]  # a file in its runtime: images -> outputs as named, or raises Refused
BATCHES = (1, 2)
SIDES = ((1.0, 1.0), (1.5, 1.5), (2.3125, 2.3125), (1.0, 2.0))  # of the usual size: 224, 336, 518 and 224 x 448


class Refused(Exception):
    """A runtime takes no images of this size; the message is its reason."""


@dataclass(frozen=True)
class Bound:
    """What an output must keep."""

    cosine: float  # at least, of every vector
    error: float  # at most, of every number, where the root mean square of the output is 1 or less; else times it
    agreement: float  # at least, of classes: share of the pixels that have the same

    def __str__(self) -> str:
        error = "" if math.isinf(self.error) else f", error at most {self.error:g}, times the rms where that is above 1"
        return f"cosine at least {self.cosine:g}{error}; of classes, {self.agreement:.1%} of pixels alike"


BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(0.99999, 1e-4, 0.9999),
    "fp16": Bound(0.999, 0.05, 0.99),
    "bf16": Bound(0.99, 0.3, 0.95),
    "int8": Bound(0.9, math.inf, 0.8),
}
MAPS = ("depth", "probability")  # one number per pixel: the image is the vector


@dataclass(frozen=True)
class Row:
    """One output at one size."""

    output: str
    batch: int
    height: int  # in pixels
    width: int
    cosine: float  # of the vector that differs most; of classes, the share of pixels that have the same
    error: float  # largest absolute difference; of classes, the share of pixels that have another
    scale: float  # root mean square of our own output
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
    bound, rows = BOUNDS[told.precision], list[Row]()
    for batch, height, width in shapes(told, batches):
        images = _images(told, batch, (height, width), photos)
        with torch.no_grad():
            expected = ours(images)
        try:
            found = run(images)
        except Refused as error:
            warn(f"images of {height} x {width} pixels, {batch} at a time, are refused: {line_of(error)}")
            found = tuple(each.new_zeros(0) for each in expected)
        for name, one, other in zip(told.outputs, found, expected, strict=True):
            rows.append(Row(name, batch, height, width, *_difference(name, one, other, bound)))
    return rows


def _images(
    told: About, batch: int, size: tuple[int, int], photos: Float[Tensor, "image channel side side"] | None
) -> Float[Tensor, "batch channel height width"]:
    if photos is None:
        draw = torch.Generator().manual_seed(size[0] * size[1])
        return torch.randn(batch, told.channels, *size, generator=draw)
    return F.interpolate(photos[torch.arange(batch) % len(photos)], size=size, mode="bicubic", antialias=True)


def shapes(told: About, batches: tuple[int, ...] = BATCHES) -> list[tuple[int, int, int]]:
    """Return (batch, height, width) of what is compared: one alone where the file takes no other."""
    if not told.dynamic:
        return [(1, told.size, told.size)]
    # of one patch per side torch.export refuses a ResNet's images, for it has recorded more
    usual = max(min(told.size, USUAL) // told.patch_size, 2) * told.patch_size
    found = [(int(usual * high), int(usual * wide)) for high, wide in SIDES]
    found += [(told.size, told.size)] * (told.size > usual)
    return [(batch, *size) for size in found for batch in batches]


def _difference(
    name: str, found: Shaped[Tensor, "*found"], expected: Shaped[Tensor, "*expected"], bound: Bound
) -> tuple[float, float, float, bool]:
    if found.shape != expected.shape:
        return float("nan"), float("nan"), float("nan"), False
    if not expected.is_floating_point():
        alike = float((found == expected).double().mean())
        return alike, 1 - alike, float(expected.double().square().mean().sqrt()), alike >= bound.agreement
    cosine, error, squares = 1.0, 0.0, 0.0
    for one, other in zip(found, expected):  # in float64 a map of many classes is large
        one, other = one.double(), other.double()
        axis = 0 if name in MAPS or (one.ndim == 3 and name == "logits") else -1
        pair = (one.flatten(), other.flatten()) if name in MAPS else (one, other)
        # a maximum or minimum passes over NaN, a tensor's does not
        cosine = float(torch.cosine_similarity(*pair, dim=axis).min().minimum(torch.tensor(cosine).double()))
        error = float((one - other).abs().max().maximum(torch.tensor(error).double()))
        squares += float(other.square().mean())
    scale = (squares / len(expected)) ** 0.5
    return cosine, error, scale, cosine >= bound.cosine and error <= bound.error * max(scale, 1.0)  # NaN does not
