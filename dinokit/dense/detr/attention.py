"""Attention of a detector: among tokens, and of queries to every place of a map, drawn to their boxes (BoxRPB).

    score(query, row, column) = q . k / sqrt(d) + along(left - x, right - x) + down(top - y, bottom - y)

x and y are the centre of the column and of the row, in pixels; `along` and `down` are networks 2 -> hidden -> heads, so
the bias of a head is the sum of one number per column and one per row. Scores are made of some heads of one image at a
time, as many as a processor's cache holds, and again for the gradient; the bias is never made. They stand place by
query: what is added of a row or column, and sums over either, then go along whole runs of memory.
Source: Plain-DETR (arXiv:2308.01904, section 4.1), where it is a tensor [batch, head, query, place].
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.device import slices

# below the largest score, where a weight is 2e-22 of the largest: smaller ones would be denormal numbers, by which
# processors multiply ten times as slowly
FAR = 50.0
HELD = 3  # numbers that are at hand of each score: itself, its gradient, and what they are made of


class Attention(nn.Module):
    """Tokens that ask -> what they find in others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch query dim"],
        position: Float[Tensor, "some query dim"],
        seen: Bool[Tensor, "batch 1 1 query"] | None,
        groups: list[int],
    ) -> Float[Tensor, "batch query dim"]:
        """Attend among the tokens of each group.

        Args:
            position: what says their position, where they ask and are compared; one may be that of all images.
            seen: True where a query may look; None: everywhere.
            groups: how many tokens each has.
        """
        q, k, v = self._projected(tokens, position)
        if len(groups) == 1:  # else the gradient of a division would copy all of it
            found = F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2)
        else:
            parts = zip(*(torch.split(rows, groups, dim=2) for rows in (q, k, v)), strict=True)
            each = [
                F.scaled_dot_product_attention(own_q, own_k, own_v, seen).transpose(1, 2)
                for own_q, own_k, own_v in parts
            ]
            found = torch.cat(each, dim=1)
        mixed: Tensor = self.out(found.flatten(2))
        return mixed

    def _projected(
        self, tokens: Float[Tensor, "batch query dim"], position: Float[Tensor, "some query dim"]
    ) -> Sequence[Float[Tensor, "batch head query head_dim"]]:
        """Return q(tokens + position), k(tokens + position) and v(tokens), of as few products as positions allow."""
        both = torch.cat([self.q.weight, self.k.weight]), torch.cat([self.q.bias, self.k.bias])
        if len(position) == len(tokens):
            asked = torch.unflatten(F.linear(tokens + position, *both), -1, (2, self.heads, -1))
            q, k = asked.permute(2, 0, 3, 1, 4).unbind()  # [batch, head, query, head_dim]
            return q, k, split(self.v(tokens), self.heads)
        made = F.linear(tokens, torch.cat([both[0], self.v.weight]))
        made += torch.cat([F.linear(position, *both), self.v.bias.expand_as(position)], dim=-1)
        return torch.unflatten(made, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


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
        tokens: Float[Tensor, "batch rows columns dim"],
        places: Float[Tensor, "some rows columns dim"],
        stride: int,
        hidden: Bool[Tensor, "batch rows columns"] | None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attend.

        Args:
            boxes: corners, in pixels of the image; they get no gradient.
            places: what says the position of tokens; one may be that of all images.
            stride: pixels from one place to the next.
            hidden: True where there is no image.
        """
        rows, columns, flat = *tokens.shape[1:3], tokens.flatten(1, 2)
        q = split(self.q(queries) * (queries.shape[-1] // self.heads) ** -0.5, self.heads)
        k = split(placed(self.k, flat, places.flatten(1, 2)), self.heads).contiguous()
        v = split(self.v(flat), self.heads).contiguous()
        along = _bias(self.along, boxes[..., 0::2], columns, stride)
        down = _bias(self.down, boxes[..., 1::2], rows, stride)
        found: Tensor = Attend.apply(q, k, v, along, down, None if hidden is None else hidden.flatten(1))
        mixed: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed


def placed(
    layer: nn.Linear, tokens: Float[Tensor, "batch token dim"], position: Float[Tensor, "some token dim"]
) -> Float[Tensor, "batch token out"]:
    """Return layer(tokens + position) without their sum; the position of all images is multiplied once."""
    if len(position) == len(tokens):
        found: Tensor = layer(tokens + position)
    else:
        found = F.linear(tokens, layer.weight) + layer(position)
    return found


def split(tokens: Float[Tensor, "batch token dim"], heads: int) -> Float[Tensor, "batch head token head_dim"]:
    """Divide the numbers of tokens among heads; where those of a head lie one after another, products are faster."""
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
            torch.ops.aten.threshold_backward.grad_input(inner, reached, 0, grad_input=inner)
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
        found, sums = _woven(q), q.new_empty(q.shape[:3])
        for padding, q_, k_, v_, along_, down_, found_, sums_ in _parts(hidden, q, k, v, along, down, found, sums):
            scores = _scores(q_, k_, along_, down_, padding)
            best = scores.amax(dim=1)  # [head, query]
            scores -= best[:, None]
            share = scores.clamp_(min=-FAR).exp_()
            total = share.sum(dim=1)
            torch.bmm(share.transpose(1, 2), v_, out=found_)
            found_ /= total[..., None]
            torch.add(best, total.log_(), out=sums_)
        ctx.save_for_backward(q, k, v, along, down, hidden, found, sums)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, along, down, hidden, found, sums = ctx.saved_tensors
        given, less, mean = grads[0].contiguous(), down - sums[:, :, None], (grads[0] * found).sum(dim=-1)
        made = *(_woven(each) for each in (q, k, v)), torch.empty_like(along), torch.empty_like(down)
        for padding, q_, k_, v_, along_, less_, given_, mean_, dq, dk, dv, across, deep in _parts(
            hidden, q, k, v, along, less, given, mean, *made
        ):
            share = _scores(q_, k_, along_, less_, padding).clamp_(min=-FAR).exp_()
            torch.bmm(share, given_, out=dv)
            change = v_ @ given_.transpose(1, 2)
            change -= mean_[:, None]
            change *= share
            torch.bmm(change, q_, out=dk)
            torch.bmm(change.transpose(1, 2), k_, out=dq)
            grid = torch.unflatten(change, 1, (less_.shape[1], -1))  # [head, row, column, query]
            torch.sum(grid, dim=1, out=across)
            torch.sum(grid, dim=2, out=deep)
        return *made, None


def _woven(like: Tensor) -> Float[Tensor, "batch head token head_dim"]:
    """Return room for heads whose numbers lie as those of tokens do, for the linear layer that they go to."""
    batch, heads, tokens, dim = like.shape
    return like.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def _parts(hidden: Tensor | None, q: Tensor, k: Tensor, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield what is hidden of an image, and some of its heads of all other tensors."""
    _, heads, query, _ = q.shape
    numbers = HELD * query * k.shape[2] // torch.get_num_threads()  # a head each: every core has a cache of its own
    width = slices(q.device, rows=numbers, columns=heads)[0].stop
    for image, each in enumerate(zip(q, k, *others, strict=True)):
        for some in zip(*(tensor.split(width) for tensor in each), strict=True):
            yield None if hidden is None else hidden[image], *some


def _scores(
    q: Float[Tensor, "head query head_dim"],
    k: Float[Tensor, "head place head_dim"],
    along: Float[Tensor, "head column query"],
    down: Float[Tensor, "head row query"],
    hidden: Bool[Tensor, " place"] | None,
) -> Float[Tensor, "head place query"]:
    """Return how much every place of an image says to a query of some heads."""
    found = (along[:, None] + down[:, :, None]).flatten(1, 2).baddbmm_(k, q.transpose(1, 2))
    if hidden is not None:
        found.masked_fill_(hidden[:, None], -torch.inf)
    return found
