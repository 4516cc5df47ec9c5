"""Layers of a detector: what places of the map and queries pass through, and what a query says in the end."""

import math
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dinokit.dense.detr.attention import Attention, BoxAttention

PRIOR = 0.01  # chance of every class before anything is learnt


class Heads(nn.Module):
    """Queries -> logits of classes, and deltas."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(dim, classes)
        self.deltas = mlp(dim, dim, dim, 4)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))
        for zero in self.deltas[-1].parameters():
            nn.init.zeros_(zero)

    def forward(
        self, queries: Float[Tensor, "batch query dim"]
    ) -> tuple[Float[Tensor, "batch query class"], Float[Tensor, "batch query 4"]]:
        """Say what each query is and where."""
        return self.classes(queries), of_each(self.deltas, queries)


class Encoding(nn.Module):
    """One layer of the neck: places look at each other, post-norm, positions only where they ask (DETR)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.among = Attention(dim, heads)
        self.network = mlp(dim, hidden, dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch place dim"],
        places: Float[Tensor, "some place dim"],
        seen: Bool[Tensor, "batch 1 1 place"] | None,
    ) -> Float[Tensor, "batch place dim"]:
        """Let places look at each other."""
        tokens = self.norms[0](tokens + self.among(tokens, places, seen, [tokens.shape[1]]))
        passed: Tensor = self.norms[1](tokens + of_each(self.network, tokens))
        return passed


class Layer(nn.Module):
    """One layer of the decoder."""

    def __init__(self, dim: int, heads: int, hidden: int, box_hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.among = Attention(dim, heads)
        self.to_map = BoxAttention(dim, heads, box_hidden)
        self.network = mlp(dim, hidden, dim)

    def forward(
        self,
        queries: Float[Tensor, "batch query dim"],
        position: Float[Tensor, "batch query dim"],
        boxes: Float[Tensor, "batch query 4"],
        tokens: Float[Tensor, "batch rows columns dim"],
        places: Float[Tensor, "some rows columns dim"],
        stride: int,
        hidden: Bool[Tensor, "batch rows columns"] | None,
        groups: list[int],
    ) -> Float[Tensor, "batch query dim"]:
        """Let the queries of each group look at each other, then at the map.

        Args:
            groups: how many queries each has.
        """
        queries = queries + self.among(self.norms[0](queries), position, None, groups)
        asked = self.norms[1](queries) + position
        queries = queries + self.to_map(asked, boxes, tokens, places, stride, hidden)
        passed: Tensor = queries + of_each(self.network, self.norms[2](queries))
        return passed


def of_each(network: nn.Module, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token out"]:
    """Send tokens through a network as rows of one matrix.

    What a linear layer makes of a batch of them is a view, in whose place autograd copies gradients twice for a ReLU.
    """
    found: Tensor = network(tokens.flatten(0, 1))
    return torch.unflatten(found, 0, tokens.shape[:2])


def rarely(network: nn.Module, rows: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
    """Send all rows through a network of which few will be asked for a gradient: the others take no part in it.

    The deltas of thousands of places are compared with objects, those of a few are learnt from.
    """
    found: Tensor = _Rarely.apply(network, rows.flatten(0, -2), *network.parameters())
    return torch.unflatten(found, 0, rows.shape[:-1])


class _Rarely(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: nn.Module, rows: Tensor, *weights: Tensor) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(rows, *weights)
        found: Tensor = network(rows)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (rows, *weights) = grads, ctx.saved_tensors
        asked = grad.any(dim=-1).nonzero()[:, 0]
        with torch.enable_grad():
            some = rows[asked].requires_grad_()
            own, *others = torch.autograd.grad(ctx.network(some), [some, *weights], grad[asked])
        return None, torch.zeros_like(rows).index_copy_(0, asked, own), *others


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of widths, with ReLU, in the place of what it is of, between them."""
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), _Rectifier())]
    return nn.Sequential(*layers[:-1])


class _Rectifier(nn.Module):
    """ReLU between linear layers, in the place of what it is of; its gradient is made in the place of the next's."""

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Set what is below zero to zero."""
        rectified: Tensor = _Rectified.apply(tokens)
        return rectified


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        ctx.mark_dirty(tokens)
        ctx.save_for_backward(tokens.relu_())
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,), (rectified,) = grads, ctx.saved_tensors  # a linear layer's product, which nothing else reads
        masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, rectified, 0, grad_input=grad)
        return masked
