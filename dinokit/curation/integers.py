"""Products in whole numbers of eight bits, several times faster than in float32 where a CPU multiplies them.

    x = u X + e,  c = v C + f               X, C: whole numbers up to 127
    |x . c - u v X . C| <= |e| |c| + |u X| |f|

Products of whole numbers are exact, so the last line is all that rounding can do. Before rounding all are turned by a
random rotation, after which no coordinate is much larger than the others and u, v are small (as in Ailon and Chazelle
2006): of 20,000 centres of embeddings a handful are left that may be the nearest.
"""

from functools import cache

import torch
from jaxtyping import Float32, Float64, Int8, Int32
from torch import Tensor
from torch.nn import functional

LARGEST = 127


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
    """Vectors to be multiplied with, in whole numbers."""

    dtype = torch.int32  # of products

    def __init__(self, vectors: Float32[Tensor, "centre dim"], *, fill: int) -> None:
        """Turn and round.

        Args:
            fill: how many vectors of zeros are added at the end.
        """
        self.turn = rotation(vectors.shape[1]).float()
        turned = vectors.double() @ self.turn.double()
        self.unit = max(float(turned.abs().max()) / LARGEST, torch.finfo(torch.float32).tiny)
        whole = (turned / self.unit).round()
        self.off = float((turned - whole * self.unit).norm(dim=1).max())
        # a rotation in float32 keeps lengths up to its own rounding
        self.longest = max(float(each.double().norm(dim=1).max()) for each in (vectors, turned))
        self.whole = functional.pad(whole.to(torch.int8), (0, 0, 0, fill))

    def prepare(
        self, vectors: Float32[Tensor, "row dim"]
    ) -> tuple[Int8[Tensor, "row dim"], float, Float32[Tensor, "row 1"]]:
        """Round, too.

        Returns:
            What `multiply` takes, the unit of the products, and by how much two products of a row may be misjudged
            together.
        """
        turned = vectors @ self.turn
        unit = max(float(turned.abs().max()) / LARGEST, torch.finfo(torch.float32).tiny)
        whole = (turned / unit).round()
        rounded = whole * unit
        sizes, errors = (each.square().sum(dim=1, keepdim=True).sqrt() for each in (rounded, turned - rounded))
        dim = len(self.turn)
        # of turning in float32, by vectors at most as long as these and their errors together
        errors += dim**1.5 * torch.finfo(torch.float32).eps * (sizes + errors)
        return whole.to(torch.int8), unit * self.unit, 2 * (errors * self.longest + sizes * self.off)

    def multiply(self, rows: Int8[Tensor, "row dim"], part: slice, out: Int32[Tensor, "row centre"]) -> None:
        """Write the products with some of the vectors."""
        torch._int_mm(rows, self.whole[part].T, out=out)
