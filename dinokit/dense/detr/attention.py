"""Attention of a detector: among tokens, and of queries to every place of a map, drawn to their boxes (BoxRPB).

    score(query, row, column) = q . k / sqrt(d) + along(left - x, right - x) + down(top - y, bottom - y)

x and y are the centre of the column and of the row, in pixels; `along` and `down` are networks 2 -> hidden -> heads, so
the bias of a head is the sum of one number per column and one per row. Images are taken one by one, and scores are
computed again for the gradient: what is held is one image's, and the bias is never made.
Source: Plain-DETR (arXiv:2308.01904, section 4.1), where it is a tensor [batch, head, query, place].
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# below the largest score, where a weight is 2e-22 of the largest: smaller ones would be denormal numbers, by which
# processors multiply ten times as slowly
FAR = 50.0

Rows = Float[Tensor, "head query head_dim"]
Places = Float[Tensor, "head place head_dim"]


class Attention(nn.Module):
    """Tokens that ask -> what they find in others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        asking: Float[Tensor, "batch query dim"],
        values: Float[Tensor, "batch query dim"],
        seen: Bool[Tensor, "..."] | None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attend among tokens.

        Args:
            asking: queries and keys: tokens with what says their position.
            seen: True where a query may look, [query, query] or [batch, 1, 1, query]; None: everywhere.
        """
        q, k, v = (split(of, self.heads) for of in (self.q(asking), self.k(asking), self.v(values)))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        mixed: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed


class BoxAttention(nn.Module):
    """Queries with boxes -> what they find in a map."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.along, self.down = (
            nn.Sequential(nn.Linear(2, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, heads, bias=False))
            for _ in range(2)
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
        q = split(self.q(queries) * (queries.shape[-1] // self.heads) ** -0.5, self.heads)
        k, v = split(self.k(keys.flatten(1, 2)), self.heads), split(self.v(values.flatten(1, 2)), self.heads)
        unseen = [None] * len(queries) if hidden is None else hidden.flatten(1).unbind()
        found = []
        for asked, box, key, value, none in zip(q.unbind(), boxes, k.unbind(), v.unbind(), unseen, strict=True):
            along = checkpoint(self._bias, self.along, box[:, 0::2], columns, stride, use_reentrant=False)
            down = checkpoint(self._bias, self.down, box[:, 1::2], rows, stride, use_reentrant=False)
            found.append(Attend.apply(asked, key, value, along, down, none))
        mixed: Tensor = self.out(torch.stack(found).transpose(1, 2).flatten(2))
        return mixed

    @staticmethod
    def _bias(
        network: nn.Module, ends: Float[Tensor, "query 2"], count: int, stride: int
    ) -> Float[Tensor, "head query place"]:
        """Return what each head adds at every place of an axis."""
        centres = (torch.arange(count, device=ends.device, dtype=ends.dtype) + 0.5) * stride
        added: Tensor = network(ends[:, None] - centres[:, None])  # [query, place, head]
        return added.permute(2, 0, 1)


def split(tokens: Float[Tensor, "batch token dim"], heads: int) -> Float[Tensor, "batch head token head_dim"]:
    """Divide the numbers of tokens among heads."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(1, 2)


class Attend(torch.autograd.Function):
    """W v of one image, W = softmax(q k' + along + down).

    With G the gradient of what is found, dv = W' G, and of the scores W (G v' - sum of G found), of which q, k, along
    and down take their shares.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, along: Tensor, down: Tensor, hidden: Tensor | None
    ) -> Tensor:
        found = weights(q, k, along, down, hidden) @ v
        ctx.save_for_backward(q, k, v, along, down, hidden, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, along, down, hidden, found = ctx.saved_tensors
        (grad,) = grads
        share = weights(q, k, along, down, hidden)
        scores = grad @ v.transpose(1, 2)  # [head, query, place]
        scores -= (grad * found).sum(dim=-1, keepdim=True)
        scores *= share
        grid = torch.unflatten(scores, 2, (down.shape[2], along.shape[2]))  # [head, query, row, column]
        dq, dk, dv = scores @ k, scores.transpose(1, 2) @ q, share.transpose(1, 2) @ grad
        return dq, dk, dv, grid.sum(dim=2), grid.sum(dim=3), None


def weights(
    q: Rows,
    k: Places,
    along: Float[Tensor, "head query column"],
    down: Float[Tensor, "head query row"],
    hidden: Bool[Tensor, " place"] | None,
) -> Float[Tensor, "head query place"]:
    """Return how much of every place a query takes."""
    scores = q @ k.transpose(1, 2)
    grid = torch.unflatten(scores, 2, (down.shape[2], along.shape[2]))  # [head, query, row, column]
    grid += along[:, :, None]
    grid += down[:, :, :, None]
    if hidden is not None:
        scores.masked_fill_(hidden, -torch.inf)
    torch.maximum(scores, scores.amax(dim=-1, keepdim=True) - FAR, out=scores)
    return scores.softmax(dim=-1)
