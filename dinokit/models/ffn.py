"""The feed-forward half of a block: GELU MLP (ViT) or SwiGLU (arXiv:2002.05202, equation 6)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
