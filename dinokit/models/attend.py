"""softmax(q k^T / sqrt(head_dim)) v of several heads, the faster way (arXiv:1706.03762, section 3.2).

Up to some hundred tokens a CPU is faster with the whole matrix [token, token] than with torch's fused kernel. There
half of the time went into moving numbers: products want the tokens of a head side by side, a projection leaves heads
side by side, and a rotation of vectors of 32 numbers works on 32 numbers at a time. `mixed` brings queries, keys and
values into their order once and does all the rest, also the gradient, there; every number is that of `attend`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinokit.core.device import slices
from dinokit.models.features import is_recorded
from dinokit.models.rope import Rotation, turned

# Tokens up to which a CPU is faster with the whole matrix [token, token] than with torch's fused kernel, whose gradient
# takes up to six times as long there (docs/log.md); above, and on a GPU, the fused kernel keeps no such matrix.
SHORT = {torch.float32: 128, torch.bfloat16: 320}


def attend(
    queries: Float[Tensor, "batch head token head_dim"],
    keys: Float[Tensor, "batch head token head_dim"],
    values: Float[Tensor, "batch head token head_dim"],
) -> Float[Tensor, "batch head token head_dim"]:
    """Compute softmax(q k^T / sqrt(head_dim)) v."""
    if queries.device.type != "cpu" or is_recorded() or queries.shape[-2] > SHORT.get(queries.dtype, 0):
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):  # which would keep a float32 matrix; softmax sums in float32 by itself
        return weights(queries, keys) @ values


def weights(
    queries: Float[Tensor, "batch head token head_dim"], keys: Float[Tensor, "batch head token head_dim"]
) -> Float[Tensor, "batch head token token"]:
    """Return how each token looks at all tokens; rows sum to 1."""
    return torch.softmax((queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2), dim=-1)


def is_short(roles: Float[Tensor, "batch token 3 head head_dim"]) -> bool:
    """Tell whether `mixed` is the faster way; a compiler makes its own of `attend`."""
    own = torch.compiler.is_compiling() or is_recorded()
    return roles.device.type == "cpu" and not own and roles.shape[1] <= SHORT.get(roles.dtype, 0)


def mixed(
    roles: Float[Tensor, "batch token 3 head head_dim"], rotation: Rotation | None
) -> Float[Tensor, "batch token dim"]:
    """Rotate queries and keys, then mix the values of each image, of few tokens."""
    tables = (None, None) if rotation is None else (rotation.cos, rotation.sin)
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Mixed.apply(roles, *tables)
    return found


class _Mixed(torch.autograd.Function):
    """Keeps rotated queries and keys, values and weights, as `attend` would."""

    @staticmethod
    def forward(ctx: Any, roles: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        batch, token, _, head, width = roles.shape
        queries, keys = _by_head(roles[:, :, :2], cos, sin)  # [batch, head, token, head_dim]
        queries = queries.mul_(width**-0.5).flatten(0, 1)  # [batch * head, token, head_dim]
        keys = keys.flatten(0, 1)
        values = roles[:, :, 2].transpose(1, 2).reshape(keys.shape)
        shares = torch.softmax(torch.bmm(queries, keys.transpose(1, 2)), dim=-1)
        ctx.save_for_backward(queries, keys, values, shares, cos, sin)
        ctx.shape = roles.shape
        return torch.bmm(shares, values).view(batch, head, token, width).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        queries, keys, values, shares, cos, sin = ctx.saved_tensors
        batch, token, _, head, width = ctx.shape
        of_mixed = torch.unflatten(gradient, -1, (head, width)).transpose(1, 2).reshape(values.shape)
        of_scores = torch._softmax_backward_data(torch.bmm(of_mixed, values.transpose(1, 2)), shares, -1, shares.dtype)
        of_pairs = torch.empty(2, batch, head, token, width, dtype=values.dtype, device=values.device)
        torch.bmm(of_scores, keys, out=of_pairs[0].flatten(0, 1)).mul_(width**-0.5)
        torch.bmm(of_scores.transpose(1, 2), queries, out=of_pairs[1].flatten(0, 1))
        of_roles = torch.empty(ctx.shape, dtype=values.dtype, device=values.device)
        of_roles[:, :, 2] = torch.bmm(shares.transpose(1, 2), of_mixed).view(batch, head, token, width).transpose(1, 2)
        for part in _parts(of_roles):
            own = of_pairs[:, part]
            if cos is not None:
                own = turned(own.to(cos.dtype), cos, -sin)
            of_roles[part, :, :2] = own.permute(1, 3, 0, 2, 4)
        return of_roles, None, None


def _by_head(pairs: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """Return queries and keys [2, batch, head, token, head_dim], rotated; a few images at a time."""
    batch, token, _, head, width = pairs.shape
    found = torch.empty(2, batch, head, token, width, dtype=pairs.dtype, device=pairs.device)
    for part in _parts(pairs):
        own = pairs[part].permute(2, 0, 3, 1, 4)
        if cos is None or sin is None:
            found[:, part] = own
        else:  # to the table's type while they are put in order, and back while they are written
            turned(own.to(cos.dtype, memory_format=torch.contiguous_format), cos, sin, out=found[:, part])
    return found


def _parts(roles: Tensor) -> list[slice]:
    return slices(roles.device, rows=roles[0].numel(), columns=len(roles))
