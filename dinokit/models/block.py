"""The pre-norm transformer block: attention, then a feed-forward network, with LayerScale and stochastic depth.

    x = x + ls1(attention(norm1(x)));   x = x + ls2(ffn(norm2(x)))

- attention: softmax(q k^T / sqrt(head_dim)) v of several heads (arXiv:1706.03762, section 3.2);
- feed-forward network: GELU MLP (ViT) or SwiGLU (arXiv:2002.05202, equation 6);
- LayerScale: arXiv:2103.17239, section 2; stochastic depth: arXiv:1603.09382.

Stochastic depth drops samples, not layers: a branch runs only on a random subset of the batch and its result is scaled
up to keep the expectation, which saves the work that the per-sample form of DINO multiplies by zero (DINOv2,
arXiv:2304.07193, section 4). The subset form is used for every model here, also for those of DINO.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.models.attend import attend, is_short, mixed, weights
from dinokit.models.features import Residual
from dinokit.models.rope import Rotation

Bias = Literal["qkv", "qv", "none"]


class Attention(nn.Module):
    """Attention with one projection to [Q | K | V], each head-major, as in all official weights.

    bias "qv" keeps a bias of 3 * dim whose K part is masked out: a constant added to every key changes no softmax, so
    it would only drift. The mask is not a part of the weights: official DINOv3 files store a wrong one, all zero.
    """

    bias_mask: Tensor

    def __init__(self, dim: int, heads: int, *, bias: Bias) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias != "none")
        self.proj = nn.Linear(dim, dim)
        self.key_bias_masked = bias == "qv"
        if self.key_bias_masked:
            self.constants = {"bias_mask": partial(_kept_bias, dim)}
            self.register_buffer("bias_mask", torch.empty(3 * dim), persistent=False)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Mix the tokens of each image."""
        roles = self._project(tokens)  # [batch, token, role, head, head_dim]
        if is_short(roles):
            found = mixed(roles, rotation)  # [batch, token, dim]
        else:
            found = attend(*_apart(roles, rotation)).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(found)
        return out

    def maps(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch head token token"]:
        """Return the attention itself: row i says where token i looks; rows sum to 1."""
        queries, keys, _ = _apart(self._project(tokens), rotation)
        return weights(queries, keys)

    def bias_of_roles(self) -> Float[Tensor, " three_dims"] | None:
        """Return the bias of queries, keys and values, as it is added."""
        bias: Tensor | None = self.qkv.bias * self.bias_mask if self.key_bias_masked else self.qkv.bias
        return bias

    def _project(self, tokens: Tensor) -> Float[Tensor, "batch token 3 head head_dim"]:
        return torch.unflatten(F.linear(tokens, self.qkv.weight, self.bias_of_roles()), -1, (3, self.heads, -1))


def _apart(roles: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [batch, head, token, head_dim], the first two rotated."""
    turned = roles[:, :, :2] if rotation is None else rotation(roles[:, :, :2])
    queries, keys = turned.unbind(2)  # [batch, token, head, head_dim]
    return queries.transpose(1, 2), keys.transpose(1, 2), roles[:, :, 2].transpose(1, 2)


class Mlp(nn.Module):
    """fc2(GELU(fc1 x)), with the exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Apply to every token on its own."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class SwiGlu(nn.Module):
    """w3(SiLU(w1 x) * w2 x): w1 is the gate, w2 the value. DINOv2 packs w1 and w2 into one matrix, gate rows first."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Apply to every token on its own."""
        out: Tensor = self.w3(F.silu(self.w1(tokens)) * self.w2(tokens))
        return out


def _kept_bias(dim: int) -> Float[Tensor, " three_dims"]:
    """Return 1 where queries and values have a bias, 0 for the keys."""
    return torch.tensor([1.0, 0.0, 1.0], device="cpu").repeat_interleave(dim)


class LayerScale(nn.Module):
    """Multiply every channel by a learned factor that starts small."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.constants = {"gamma": partial(torch.full, (dim,), value, device="cpu")}
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale the channels."""
        return tokens * self.gamma


class Block(Residual):
    """Attention, then a feed-forward network, each a residual branch."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        bias: Bias,
        ffn: nn.Module,
        layer_scale: float | None,
        drop_path: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, bias=bias)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = ffn
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Add both branches to the residual stream."""
        rate = self.drop_path if self.training else 0.0
        tokens = add_branch(tokens, lambda x: self.ls1(self.attn(self.norm1(x), rotation)), drop=rate)
        return add_branch(tokens, lambda x: self.ls2(self.mlp(self.norm2(x))), drop=rate)


def add_branch(
    tokens: Float[Tensor, "batch token dim"], branch: Callable[[Tensor], Tensor], *, drop: float
) -> Float[Tensor, "batch token dim"]:
    """Return tokens + branch(tokens), the branch taken by a random subset of the batch.

    Args:
        tokens: the residual stream.
        branch: sees [kept, token, dim].
        drop: fraction of the batch to leave out, in [0, 1); at least one sample is kept. The subset comes from the
            global torch generator.
    """
    if drop == 0:
        return tokens + branch(tokens)
    batch = tokens.shape[0]
    kept = max(int(batch * (1 - drop)), 1)
    subset = torch.randperm(batch, device=tokens.device)[:kept]
    update = branch(tokens[subset]).to(tokens.dtype)
    return torch.index_add(tokens, 0, subset, update, alpha=batch / kept)
