"""The pre-norm transformer block with LayerScale (arXiv:2103.17239, section 2) and stochastic depth (arXiv:1603.09382).

    x = x + ls1(attention(norm1(x)));   x = x + ls2(ffn(norm2(x)))

Stochastic depth drops samples, not layers: a branch runs only on a random subset of the batch and its result is scaled
up to keep the expectation, which saves the work that the per-sample form of DINO multiplies by zero (DINOv2,
arXiv:2304.07193, section 4). The subset form is used for every model here, also for those of DINO.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.models.attention import Attention, Bias
from dinokit.models.rope import Rotation


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
