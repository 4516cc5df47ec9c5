"""Attention of queries to every place of a map, drawn to where their boxes lie (BoxRPB).

    score(query, row, column) = q . k / sqrt(d) + along(left - x, right - x) + down(top - y, bottom - y)

x and y are the centre of the column and of the row, in pixels; `along` and `down` are networks 2 -> hidden -> heads, so
the bias of a head is the sum of one number per column and one per row. It is never made: a sum over one-hot columns and
rows is a product, so it is a part of q . k, with q = [q, along, down] and k = [k, one-hot column, one-hot row].
Source: Plain-DETR (arXiv:2308.01904, section 4.1), where it is a tensor [head, query, place].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 512


class BoxAttention(nn.Module):
    """Queries with boxes -> what they find in a map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.along, self.down = (
            nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads, bias=False)) for _ in range(2)
        )

    def forward(
        self,
        queries: Float[Tensor, "batch query dim"],
        boxes: Float[Tensor, "batch query 4"],
        keys: Float[Tensor, "batch rows columns dim"],
        values: Float[Tensor, "batch rows columns dim"],
        stride: int,
        hidden: Bool[Tensor, "batch rows columns"] | None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attend.

        Args:
            boxes: corners, in pixels of the image.
            keys: with what says their position.
            stride: pixels from one place to the next.
            hidden: True where there is no image.
        """
        rows, columns = keys.shape[1:3]
        q = self._heads(self.q(queries))  # [batch, head, query, head_dim]
        k = self._heads(self.k(keys.flatten(1, 2)))  # [batch, head, place, head_dim]
        v = self._heads(self.v(values.flatten(1, 2)))
        along = self._bias(self.along, boxes[..., 0::2], columns, stride)  # [batch, head, query, column]
        down = self._bias(self.down, boxes[..., 1::2], rows, stride)  # [batch, head, query, row]
        q = torch.cat([q * q.shape[-1] ** -0.5, along, down], dim=-1)
        place = torch.arange(rows * columns, device=k.device)
        where = torch.cat([F.one_hot(place % columns, columns), F.one_hot(place // columns, rows)], dim=-1).to(k)
        k = torch.cat([k, where.expand(*k.shape[:2], -1, -1)], dim=-1)
        seen = None if hidden is None else ~hidden.flatten(1)[:, None, None]  # [batch, 1, 1, place]
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
        mixed: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch head token head_dim"]:
        return torch.unflatten(tokens, -1, (self.heads, -1)).transpose(1, 2)

    @staticmethod
    def _bias(
        network: nn.Module, ends: Float[Tensor, "batch query 2"], count: int, stride: int
    ) -> Float[Tensor, "batch head query place"]:
        """Return what each head adds at every place of an axis."""
        centres = (torch.arange(count, device=ends.device, dtype=ends.dtype) + 0.5) * stride
        apart = ends[:, :, None] - centres[:, None]  # [batch, query, place, 2]
        added: Tensor = network(apart)
        return added.permute(0, 3, 1, 2)
