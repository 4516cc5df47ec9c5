"""How far an output of a file is from our own, over all images of one size: four numbers, of which three are bounded.

    cosine    of the vector that differs most. A vector is a class token, a patch, the classes of a pixel or an image;
              of one number per pixel the image. It does not see a scale.
    error     largest absolute difference
    relative  root mean square error of the worst image, over that of the best constant output, which is our own
              output's deviation from its mean over all vectors of all images, per channel. A constant output has 1 or
              more, one that is ten times too large 9 or more, one that is shifted by one deviation 1; the last two
              where the deviation is a tenth of the scale or more.
    scale     root mean square of our own

Of classes, of the worst image: the share of pixels that have the same; that have another; the latter over the share of
all images' that is not of the most common class; and the scale as above. An output that hardly varies, as class tokens
of noise do, would make a rounding look large: a deviation counts as at least FLOOR of the scale, of classes as at least
FLOOR. Where images differ from the first by less than a tenth of what ours do, and ours by more than a rounding, the
output is constant, and has 1 at least whatever the floor makes of it.
"""

from typing import final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

MAPS = ("depth", "probability")  # one number per pixel: the image is the vector
FLOOR = 0.1
ROUNDING = 0.01  # of the scale, of classes of the pixels: by which images that differ by rounding differ
_TINY = 1e-300  # of a network whose every number is 0


@final
class Difference:
    """Of one output at one size, batch after batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.differs = False  # whether shapes do, or a runtime refused
        self.is_classes = False
        self._worst = torch.tensor([-1.0, 0.0, 0.0]).double()  # least cosine negated, largest error, rms of an image
        self._vectors, self._squares = 0, torch.zeros(()).double()
        self._sums = torch.zeros(1).double()  # per channel; of classes, how many pixels have each
        self._first: tuple[Tensor, Tensor] | None = None  # image, of both
        self._spread = torch.zeros(2).double()  # rms, of classes share of pixels, by which one differs from it, of both

    def add(self, found: Shaped[Tensor, "*found"], expected: Shaped[Tensor, "*expected"]) -> None:
        """See one batch of both."""
        if found.shape != expected.shape:
            self.differs = True
            return
        self.is_classes = not expected.is_floating_point()
        for one, other in zip(found, expected, strict=True):  # in float64 a map of many classes is large
            seen = self._classes(one, other) if self.is_classes else self._numbers(one, other)
            self._worst = self._worst.maximum(seen)  # which keeps NaN
            self._first = self._first or (one.clone(), other.clone())
            apart = [_apart(now, first) for now, first in zip((one, other), self._first, strict=True)]
            self._spread = self._spread.maximum(torch.stack(apart))

    def numbers(self) -> tuple[float, float, float, float]:
        """Return cosine, error, relative, scale; NaN where shapes differ."""
        if self.differs:
            return (float("nan"),) * 4
        cosine, error, worst = -self._worst[0], self._worst[1], self._worst[2]
        scale = (self._squares / max(self._vectors, 1)).sqrt()
        if self.is_classes:
            least = torch.tensor(FLOOR).double()
            deviation = 1 - self._sums.max() / self._vectors
        else:
            least = FLOOR * scale
            means = self._sums / self._vectors
            deviation = (self._squares / self._vectors - means.square().mean()).clamp(min=0).sqrt()
        relative = worst / deviation.maximum(least).clamp(min=_TINY)
        theirs, ours = self._spread
        if ours > ROUNDING * (1 if self.is_classes else scale) and theirs < ours / 10:
            relative = relative.clamp(min=1)
        return float(cosine), float(error), float(relative), float(scale)

    def _numbers(self, one: Float[Tensor, "*image"], other: Float[Tensor, "*image"]) -> Float[Tensor, "3"]:
        found, expected = (_table(self.name, each.double()) for each in (one, other))
        self._vectors += len(expected)
        self._squares += expected.square().mean(dim=1).sum()
        self._sums = self._sums + expected.sum(dim=0)
        wrong = found - expected
        cosine = torch.cosine_similarity(found, expected, dim=0 if self.name in MAPS else 1).min()
        return torch.stack([-cosine, wrong.abs().max(), wrong.square().mean().sqrt()])

    def _classes(self, one: Int[Tensor, "*image"], other: Int[Tensor, "*image"]) -> Float[Tensor, "3"]:
        self._vectors += other.numel()
        self._squares += other.double().square().sum()
        counts = torch.bincount(other.flatten(), minlength=len(self._sums)).double()
        counts[: len(self._sums)] += self._sums
        self._sums = counts
        other_share = (one != other).double().mean()
        return torch.stack([other_share - 1, other_share, other_share])


def _apart(image: Shaped[Tensor, "*image"], first: Shaped[Tensor, "*image"]) -> Float[Tensor, ""]:
    if not image.is_floating_point():
        return (image != first).double().mean()
    return (image.double() - first.double()).square().mean().sqrt()


def _table(name: str, image: Float[Tensor, "*image"]) -> Float[Tensor, "vector channel"]:
    """Return the vectors of one image; of a map one number each."""
    if name in MAPS:
        return image.reshape(-1, 1)
    if image.ndim == 3:  # of every pixel
        return image.flatten(1).T
    return image.reshape(-1, image.shape[-1])
