"""Multi-head self-attention, softmax(q k^T / sqrt(head_dim)) v (arXiv:1706.03762, section 3.2)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.models.rope import Rotation

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
    if queries.device.type != "cpu" or queries.shape[-2] > SHORT.get(queries.dtype, 0):
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):  # which would keep a float32 matrix; softmax sums in float32 by itself
        return _weights(queries, keys) @ values


def _weights(queries: Tensor, keys: Tensor) -> Float[Tensor, "batch head token token"]:
    return torch.softmax((queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2), dim=-1)
