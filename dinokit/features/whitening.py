"""PCA whitening of descriptors: what all images share counts less than what tells them apart.

Descriptors of length 1 are turned to the principal axes of others, divided along each by its standard deviation there,
and brought to length 1 again. Sources: Jegou and Chum 2012 (ECCV), as DINO (arXiv:2104.14294, section 4.2.1) whitens
for Copydays, about zero, and the Met dataset (arXiv:2202.01747, section 4.1) for its classifier, about the mean.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.features.embedding import unit

BLOCK = 1 << 22  # numbers that are held in float64 at a time
LEAST = 1e-10  # of the largest variance; along an axis with less, there is nothing but rounding


@dataclass(frozen=True)
class Whitening:
    """What is learnt of some descriptors."""

    middle: Float64[Tensor, " dim"]
    axes: Float64[Tensor, "dim kept"]  # each divided by its deviation

    @staticmethod
    def learnt(vectors: Float[Tensor, "image dim"], *, dims: int | None, centred: bool) -> "Whitening":
        """Learn it; the memory it takes does not grow with the number of descriptors.

        Args:
            dims: numbers that are kept, those of the largest variances; None: all. Axes without variance are never.
            centred: about the mean; else about zero.
        """
        count, dim = vectors.shape
        if dims is not None and dims > dim:
            raise UserError(f"whitening can keep no more than the {dim} numbers of a descriptor, got dims {dims}")
        middle, product = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for part in torch.split(vectors, max(1, BLOCK // dim)):
            exact = unit(part)
            middle += exact.sum(dim=0) / count
            product += exact.T @ exact / count
        middle = middle if centred else torch.zeros_like(middle)
        variances, axes = torch.linalg.eigh(product - middle[:, None] * middle)  # ascending
        some = variances >= LEAST * variances[-1]
        variances, axes = variances[some].flip(0)[:dims], axes[:, some].flip(1)[:, :dims]
        return Whitening(middle, axes / variances.clamp(min=torch.finfo(torch.float64).tiny).sqrt())

    def __call__(self, vectors: Float[Tensor, "image dim"]) -> Float32[Tensor, "image kept"]:
        """Whiten descriptors, to length 1."""
        parts = torch.split(vectors, max(1, BLOCK // vectors.shape[1]))
        return torch.cat([unit((unit(part) - self.middle) @ self.axes).float() for part in parts])
