"""Attention of a detector: among tokens, and of queries to every place of a map, drawn to their boxes (BoxRPB).

    score(query, row, column) = q . k / sqrt(d) + along(left - x, right - x) + down(top - y, bottom - y)

x and y are the centre of the column and of the row, in pixels; `along` and `down` are networks 2 -> hidden -> heads, so
the bias of a head is the sum of one number per column and one per row. Scores are made of some heads of one image at a
time, as many as a processor's cache holds, and again for the gradient; the bias is never made. They stand place by
query: what is added of a row or column, and sums over either, then go along whole runs of memory.
Source: Plain-DETR (arXiv:2308.01904, section 4.1), where it is a tensor [batch, head, query, place].
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.device import slices

# below the largest score, where a weight is 2e-22 of the largest: smaller ones would be denormal numbers, by which
# processors multiply ten times as slowly
FAR = 50.0
HELD = 4  # numbers that are at hand of each score: itself, its gradient, and what they are made of


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
            boxes: corners, in pixels of the image; they get no gradient.
            keys: with what says their position.
            stride: pixels from one place to the next.
            hidden: True where there is no image.
        """
        rows, columns = keys.shape[1:3]
        q = split(self.q(queries) * (queries.shape[-1] // self.heads) ** -0.5, self.heads)
        k, v = split(self.k(keys.flatten(1, 2)), self.heads), split(self.v(values.flatten(1, 2)), self.heads)
        along = _bias(self.along, boxes[..., 0::2], columns, stride)
        down = _bias(self.down, boxes[..., 1::2], rows, stride)
        found: Tensor = Attend.apply(q, k, v, along, down, None if hidden is None else hidden.flatten(1))
        mixed: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed


def split(tokens: Float[Tensor, "batch token dim"], heads: int) -> Float[Tensor, "batch head token head_dim"]:
    """Divide the numbers of tokens among heads."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(1, 2)


def _bias(
    network: nn.Sequential, ends: Float[Tensor, "batch query 2"], count: int, stride: int
) -> Float[Tensor, "batch head place query"]:
    """Return what each head adds at every place of an axis."""
    centres = (torch.arange(count, device=ends.device, dtype=ends.dtype) + 0.5) * stride
    added: Tensor = Apart.apply(ends, centres, *network.parameters())
    return added


class Apart(torch.autograd.Function):
    """last relu(first (ends - centre) + shift) for every query and centre, an image at a time.

    first (ends - centre) is a number of the query less a number of the centre, so that the product of two numbers by
    two is made of queries and of centres, not of their pairs. What is behind relu is computed again for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, ends: Tensor, centres: Tensor, first: Tensor, shift: Tensor, last: Tensor) -> Tensor:
        ctx.save_for_backward(ends, centres, first, shift, last)
        batch, query, _ = ends.shape
        added = ends.new_empty(batch, len(last), len(centres) * query)  # [batch, head, place and query]
        for image, each in enumerate(ends):
            torch.mm(last, _reached(each, centres, first, shift).flatten(1), out=added[image])
        return torch.unflatten(added, 2, (-1, query))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ends, centres, first, shift, last = ctx.saved_tensors
        to_first, to_shift, to_last = (torch.zeros_like(each) for each in (first, shift, last))
        for each, grad in zip(ends, grads[0].flatten(2), strict=True):
            reached = _reached(each, centres, first, shift)  # [hidden, place, query]
            to_last += grad @ reached.flatten(1).T
            inner = torch.unflatten(last.T @ grad, 1, reached.shape[1:])
            inner *= reached.sign_()
            of_query = inner.sum(dim=1)
            to_shift += of_query.sum(dim=1)
            to_first += of_query @ each - (inner.sum(dim=2) @ centres)[:, None]
        return None, None, to_first, to_shift, to_last


def _reached(
    ends: Float[Tensor, "query 2"],
    centres: Float[Tensor, " place"],
    first: Float[Tensor, "hidden 2"],
    shift: Float[Tensor, " hidden"],
) -> Float[Tensor, "hidden place query"]:
    """Return relu(first (ends - centre) + shift)."""
    one, other = first[:, :1], first[:, 1:]
    of_query = one * ends[:, 0] + other * ends[:, 1] + shift[:, None]
    return (of_query[:, None] - ((one + other) * centres)[:, :, None]).relu_()


class Attend(torch.autograd.Function):
    """W v, W = softmax(q k' + along + down).

    With G the gradient of what is found, dv = W' G, and of the scores W (G v' - sum of G found), of which q, k, along
    and down take their shares.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, along: Tensor, down: Tensor, hidden: Tensor | None
    ) -> Tensor:
        found, sums = torch.empty_like(q), q.new_empty(q.shape[:3])
        for at in _parts(q, k):
            share = scores(q[at], k[at], along[at], down[at], None if hidden is None else hidden[at[0]])
            best = share.amax(dim=1, keepdim=True)  # [head, 1, query]
            share -= best
            share.clamp_(min=-FAR).exp_()
            total = share.sum(dim=1)  # [head, query]
            found[at] = (share.transpose(1, 2) @ v[at]) / total[..., None]
            sums[at] = best[:, 0] + total.log()
        ctx.save_for_backward(q, k, v, along, down, hidden, found, sums)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, along, down, hidden, found, sums = ctx.saved_tensors
        dq, dk, dv, across, deep = (torch.empty_like(each) for each in (q, k, v, along, down))
        for at in _parts(q, k):
            grad, less = grads[0][at], down[at] - sums[at][:, None]
            share = scores(q[at], k[at], along[at], less, None if hidden is None else hidden[at[0]])
            share.clamp_(min=-FAR).exp_()
            torch.bmm(share, grad, out=dv[at])
            change = v[at] @ grad.transpose(1, 2)  # [head, place, query]
            change -= (grad * found[at]).sum(dim=-1)[:, None]
            change *= share
            torch.bmm(change, q[at], out=dk[at])
            torch.bmm(change.transpose(1, 2), k[at], out=dq[at])
            grid = torch.unflatten(change, 1, (down.shape[2], along.shape[2]))  # [head, row, column, query]
            torch.sum(grid, dim=1, out=across[at])
            torch.sum(grid, dim=2, out=deep[at])
        return dq, dk, dv, across, deep, None


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield images, each with some heads."""
    batch, heads, query, _ = q.shape
    for image in range(batch):
        for some in slices(q.device, rows=HELD * query * k.shape[2], columns=heads):
            yield image, some


def scores(
    q: Float[Tensor, "head query head_dim"],
    k: Float[Tensor, "head place head_dim"],
    along: Float[Tensor, "head column query"],
    down: Float[Tensor, "head row query"],
    hidden: Bool[Tensor, " place"] | None,
) -> Float[Tensor, "head place query"]:
    """Return how much every place of an image says to a query."""
    found = k @ q.transpose(1, 2)
    grid = torch.unflatten(found, 1, (down.shape[1], along.shape[1]))  # [head, row, column, query]
    grid += along[:, None]
    grid += down[:, :, None]
    return found if hidden is None else found.masked_fill_(hidden[:, None], -torch.inf)
