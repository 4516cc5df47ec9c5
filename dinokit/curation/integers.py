"""Scores of centres in whole numbers of eight bits, several times faster than in float32 where a CPU multiplies them.

    score(x, c) = x . c - |c|^2 / 2         about the mean of the centres, which moves all scores of a row alike
    x = u X + e,  c = v C + f               X, C: whole numbers up to 127
    |score(x, c) - (u v X . C - |c|^2 / 2)| <= |e| |c| + |u X| |f|

Products of whole numbers are exact, so the last line is all that rounding can do: who is worse than the best by more
than twice as much is not the nearest. Before rounding all are turned by a random rotation, after which no coordinate is
much larger than the others and u, v are small (as in Ailon and Chazelle 2006): on embeddings that leaves a handful of
centres, to be settled by their true distances.
"""

from functools import cache

import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor
from torch.nn import functional

LARGEST = 127
NEVER = 1 << 30  # less than any score, as a bias


def are_fast(device: torch.device) -> bool:
    """Tell whether products of bytes are: they are exact, and several times faster than float32, with AVX512-VNNI."""
    return device.type == "cpu" and torch.cpu._is_vnni_supported()


@cache
def rotation(dim: int) -> Float64[Tensor, "dim dim"]:
    """Return a random rotation, always the same."""
    draw = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(draw).Q
    return turn


class Integers:
    """Centres in whole numbers; those that only fill up are never the best."""

    dtype = torch.int32  # of scores

    def __init__(self, centres: Float32[Tensor, "centre dim"], *, fill: int) -> None:
        """Round.

        Args:
            fill: how many are added at the end.
        """
        exact = centres.double()
        self.middle = exact.mean(dim=0).float()
        self.turn = rotation(centres.shape[1]).float()
        about = exact - self.middle.double()
        turned = about @ self.turn.double()
        self.unit = max(float(turned.abs().max()), torch.finfo(torch.float32).tiny) / LARGEST
        whole = (turned / self.unit).round()
        self.off = float((turned - whole * self.unit).norm(dim=1).max())
        self.longest = float(turned.norm(dim=1).max())
        self.halves = about.square().sum(dim=1) / 2  # in float32 a rotation changes lengths
        self.whole = functional.pad(whole.to(torch.int8), (0, 0, 0, fill))
        self.fill = fill

    def __call__(
        self, vectors: Float32[Tensor, "row dim"], out: Int32[Tensor, "tile row member"]
    ) -> Int32[Tensor, "row 1"]:
        """Write the scores of all centres, a tile of them after the other.

        Returns:
            By how much two scores of a row may be misjudged together.
        """
        turned = (vectors - self.middle) @ self.turn  # [row, dim]
        unit = max(float(turned.abs().max()) / LARGEST, self.unit)  # not much less, or a bias would not fit
        whole = (turned / unit).round()
        scale = unit * self.unit  # of a score
        bias = functional.pad((self.halves / scale).round().int(), (0, self.fill), value=NEVER)
        rows, tile = whole.to(torch.int8), out.shape[2]
        for number, scores in enumerate(out):
            part = slice(number * tile, (number + 1) * tile)
            torch._int_mm(rows, self.whole[part].T, out=scores)
            scores -= bias[part]
        sizes, errors = (each.square().sum(dim=1).sqrt().double() for each in (whole * unit, turned - whole * unit))
        dim = len(self.turn)
        # of turning in float32, by vectors at most as long as these and their errors together
        errors = errors + dim**1.5 * torch.finfo(torch.float32).eps * (sizes + errors)
        margin: Tensor = 2 * (errors * self.longest + sizes * self.off) / scale + 3
        return margin.ceil().int()[:, None]
