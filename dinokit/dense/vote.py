"""A dense head that is not trained: every patch takes the classes of its most similar training patches.

Weights are softmax(cosine / temperature) over the k nearest, as in the k-NN classification of DINO (arXiv:2104.14294).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.annotations.masks import IGNORED
from dinokit.models.features import Features

_AT_ONCE = 1 << 24  # similarities held at a time: 64 MiB


class PatchVote(nn.Module):
    """Features of some layers -> the share of each class among the neighbours of every patch."""

    def __init__(
        self,
        bank: Float[Tensor, "known width"],
        labels: Int64[Tensor, " known"],
        *,
        classes: int,
        k: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.bank, self.labels = F.normalize(bank, dim=1), labels
        self.classes, self.k, self.temperature = classes, min(k, len(bank)), temperature

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch class rows columns"]:
        """Let the neighbours of every patch vote."""
        maps = torch.cat([layer.maps for layer in features], dim=1).float()  # [batch, width, rows, columns]
        batch, _, rows, columns = maps.shape
        asks = F.normalize(maps.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)  # [batch * patch, width]
        step = max(1, _AT_ONCE // len(self.bank))
        votes = torch.cat([self._votes(asks[start : start + step]) for start in range(0, len(asks), step)])
        return votes.view(batch, rows, columns, self.classes).permute(0, 3, 1, 2)

    def _votes(self, asks: Float[Tensor, "patch width"]) -> Float[Tensor, "patch class"]:
        near = (asks @ self.bank.T).topk(self.k)
        weights = torch.softmax(near.values / self.temperature, dim=1)  # [patch, neighbour]
        return weights.new_zeros(len(asks), self.classes).scatter_add_(1, self.labels[near.indices], weights)


def cell_labels(labels: Int64[Tensor, "height width"], patch: int) -> Int64[Tensor, "rows columns"]:
    """Return the most frequent label of every patch; sides are multiples of the patch; 255 where it is that."""
    cells = labels.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2)  # [rows, columns, pixel]
    return cells.mode(dim=2).values


def labelled_patches(
    maps: Float[Tensor, "width rows columns"], labels: Int64[Tensor, "rows columns"]
) -> tuple[Float[Tensor, "known width"], Int64[Tensor, " known"]]:
    """Return the patches whose label counts."""
    counts = labels != IGNORED
    return maps.permute(1, 2, 0)[counts], labels[counts]
