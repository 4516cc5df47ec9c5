"""An exported file beside our own network: the worst cosine and the largest error of each output, size and batch.

Both see the same noise, normal as normalised images are, at sizes of which none was recorded: the usual one, one and a
half of it, one that leaves pixels over beyond the last whole patch (518 of 16 px patches), and a wide one; batches of 1
and 2. Ours is float32 throughout, also beside a file of half precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.messages import line_of, warn
from dinokit.exports.outputs import USUAL, About, Outputs, Precision
from dinokit.models.features import Built

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


BOUNDS: dict[Precision, Bound] = {"fp32": Bound(0.99999, 1e-4), "fp16": Bound(0.999, 0.05)}


@dataclass(frozen=True)
class Row:
    """One output at one size."""

    output: str
    batch: int
    height: int  # in pixels
    width: int
    cosine: float  # of the vector that differs most
    error: float  # largest absolute difference
    scale: float  # root mean square of our own output
    holds: bool


def compare(run: Run, backbone: Built, told: About) -> list[Row]:
    """Run a file and our network on the same images; a row per batch, size and output."""
    network, bound, rows = Outputs(backbone, told.outputs), BOUNDS[told.precision], []
    for batch, height, width in shapes(told):
        draw = torch.Generator().manual_seed(height * width)
        images = torch.randn(batch, told.channels, height, width, generator=draw)
        with torch.no_grad():
            ours = network(images)
        try:
            theirs = run(images)
        except Refused as error:
            warn(f"images of {height} x {width} pixels, {batch} at a time, are refused: {line_of(error)}")
            theirs = tuple(each.new_zeros(0) for each in ours)
        for name, found, expected in zip(told.outputs, theirs, ours, strict=True):
            rows.append(Row(name, batch, height, width, *_difference(found, expected, bound)))
    return rows


def shapes(told: About) -> list[tuple[int, int, int]]:
    """Return (batch, height, width) of what is compared: one alone where the file takes no other."""
    if not told.dynamic:
        return [(1, told.size, told.size)]
    # of one patch per side torch.export refuses a ResNet's images, for it has recorded more
    usual = max(min(told.size, USUAL) // told.patch_size, 2) * told.patch_size
    found = [(int(usual * high), int(usual * wide)) for high, wide in SIDES]
    found += [(told.size, told.size)] * (told.size > usual)
    return [(batch, *size) for size in found for batch in BATCHES]


def _difference(
    found: Float[Tensor, "*found"], expected: Float[Tensor, "*batch dim"], bound: Bound
) -> tuple[float, float, float, bool]:
    if found.shape != expected.shape:
        return float("nan"), float("nan"), float("nan"), False
    found, expected = found.double(), expected.double()
    cosine = float(torch.cosine_similarity(found, expected, dim=-1).min())
    error, scale = float((found - expected).abs().max()), float(expected.square().mean().sqrt())
    return cosine, error, scale, cosine >= bound.cosine and error <= bound.error * max(scale, 1.0)  # NaN does not
