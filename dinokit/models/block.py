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
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.models.features import is_recorded
from dinokit.models.position import Rotation

Bias = Literal["qkv", "qv", "none"]

# Tokens up to which a CPU is faster with the whole matrix [token, token] than with torch's fused kernel, whose gradient
# takes up to six times as long there (docs/log.md); above, and on a GPU, the fused kernel keeps no such matrix.
SHORT = {torch.float32: 128, torch.bfloat16: 320}


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
            self.register_buffer("bias_mask", torch.empty(3 * dim), persistent=False)

    def constants(self) -> dict[str, Tensor]:
        """Values of the buffers, for the initialiser."""
        if not self.key_bias_masked:
            return {}
        keep = torch.tensor([1.0, 0.0, 1.0], device="cpu")
        return {"bias_mask": keep.repeat_interleave(self.qkv.in_features)}

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Mix the tokens of each image."""
        queries, keys, values = self._project(tokens, rotation)
        mixed = attend(queries, keys, values)  # [batch, head, token, head_dim]
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # [batch, token, dim]
        return out

    def maps(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch head token token"]:
        """Return the attention itself: row i says where token i looks; rows sum to 1."""
        queries, keys, _ = self._project(tokens, rotation)
        return _weights(queries, keys)

    def _project(self, tokens: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.qkv.bias * self.bias_mask if self.key_bias_masked else self.qkv.bias
        qkv = F.linear(tokens, self.qkv.weight, bias)
        qkv = torch.unflatten(qkv, -1, (3, self.heads, -1))  # [batch, token, role, head, head_dim]
        values = qkv[:, :, 2]
        turned = qkv[:, :, :2] if rotation is None else rotation(qkv[:, :, :2])
        queries, keys = turned.unbind(2)  # [batch, token, head, head_dim]
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def attend(
    queries: Float[Tensor, "batch head token head_dim"],
    keys: Float[Tensor, "batch head token head_dim"],
    values: Float[Tensor, "batch head token head_dim"],
) -> Float[Tensor, "batch head token head_dim"]:
    """Compute softmax(q k^T / sqrt(head_dim)) v the faster way."""
    if queries.device.type != "cpu" or is_recorded() or queries.shape[-2] > SHORT.get(queries.dtype, 0):
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):  # which would keep a float32 matrix; softmax sums in float32 by itself
        return _weights(queries, keys) @ values


def _weights(queries: Tensor, keys: Tensor) -> Float[Tensor, "batch head token token"]:
    return torch.softmax((queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2), dim=-1)


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


def swiglu_hidden(dim: int, *, ratio: float, align: int = 8) -> int:
    """Width of a SwiGLU with the parameters of an MLP of `ratio`: 2/3 of it, rounded up to a multiple of `align`."""
    reduced = int(int(dim * ratio) * 2 / 3)
    return reduced + -reduced % align


class LayerScale(nn.Module):
    """Multiply every channel by a learned factor that starts small."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.empty(dim))

    def constants(self) -> dict[str, Tensor]:
        """Value of the parameter, for the initialiser."""
        return {"gamma": torch.full((self.gamma.shape[0],), self.value, device="cpu")}

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale the channels."""
        return tokens * self.gamma


class Block(nn.Module):
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
