"""One step of DINOv3's first stage in plain PyTorch, straight from the formulas: eager, every logit materialised.

    L = mean over pairs of crops CE(Sinkhorn(teacher), student) + CE on masked patches + 0.1 KoLeo

No stochastic depth, no augmented positions. What anybody would write first, for benchmarks/step.py to compare with.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.scale1, self.scale2 = nn.Parameter(torch.full((dim,), 1e-5)), nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (y * cos + torch.cat([-y.chunk(2, -1)[1], y.chunk(2, -1)[0]], -1) * sin for y in (q, k))
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2)
        x = x + self.scale1 * self.proj(mixed)
        return x + self.scale2 * self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.cls, self.mask = nn.Parameter(torch.randn(1, 1, dim) * 0.02), nn.Parameter(torch.zeros(1, 1, dim))
        self.registers = nn.Parameter(torch.randn(1, 4, dim) * 0.02)
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.width = dim // heads

    def forward(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.embed(images)
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask.to(x.dtype), x)
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.registers.expand(len(x), -1, -1), x], 1)
        cos, sin = self._angles(side)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm(x)
        return x[:, 0], x[:, 5:]

    def _angles(self, side: int) -> tuple[Tensor, Tensor]:
        device = self.cls.device
        place = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
        grid = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1).flatten(0, 1)
        periods = 100 ** (torch.arange(self.width // 4, device=device) / (self.width // 4))
        angles = (2 * torch.pi * grid[:, :, None] / periods).flatten(1).tile(2)
        angles = F.pad(angles, (0, 0, 5, 0))
        return angles.cos(), angles.sin()


class Head(nn.Module):
    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.last = nn.Linear(256, prototypes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.normalize(self.mlp(x), dim=-1))
        return out


@torch.no_grad()
def sinkhorn(logits: Tensor) -> Tensor:
    q = torch.exp((logits.float() - logits.max()) / 0.07).T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


class Step:
    """Student, teacher and AdamW; calling it takes one step on random crops."""

    def __init__(self, *, dim: int, depth: int, heads: int, patch: int, prototypes: int, bf16: bool) -> None:
        self.student = nn.ModuleDict(
            {"vit": Vit(dim, depth, heads, patch), "dino": Head(dim, prototypes), "ibot": Head(dim, prototypes)}
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4)
        self.bf16 = bf16

    def __call__(self, crops: Tensor, local: Tensor, masks: Tensor) -> float:
        """Learn from [2, batch] global and [8, batch] local crops with the masks of the global ones."""
        self.optimizer.zero_grad()
        with torch.autocast(crops.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            loss = self._loss(crops, local, masks)
        loss.backward()
        for part in self.student.values():
            nn.utils.clip_grad_norm_(part.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.mul_(0.99).add_(other, alpha=0.01)
        return float(loss.detach())

    def _loss(self, crops: Tensor, local: Tensor, masks: Tensor) -> Tensor:
        hidden = masks.flatten(0, 1)
        with torch.no_grad():
            cls, patches = self.teacher["vit"](crops.flatten(0, 1))
            targets = sinkhorn(self.teacher["dino"](cls)).unflatten(0, (2, -1))
            patch_targets = sinkhorn(self.teacher["ibot"](patches[hidden]))
        cls, patches = self.student["vit"](crops.flatten(0, 1), hidden)
        small, _ = self.student["vit"](local.flatten(0, 1))
        students = [*self.student["dino"](cls).chunk(2), *self.student["dino"](small).chunk(len(local))]
        pairs = [
            -(target * F.log_softmax(student.float() / 0.1, -1)).sum(-1).mean()
            for t, target in enumerate(targets)
            for s, student in enumerate(students)
            if s != t
        ]
        predicted = F.log_softmax(self.student["ibot"](patches[hidden]).float() / 0.1, -1)
        weights = (1 / hidden.sum(1, keepdim=True).clamp_min(1)).expand_as(hidden)[hidden]
        ibot = -((patch_targets * predicted).sum(-1) * weights).sum() / len(hidden)
        return torch.stack(pairs).mean() + ibot + 0.1 * sum(koleo(crop) for crop in cls.float().chunk(2))


def koleo(cls: Tensor) -> Tensor:
    unit = F.normalize(cls, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest]) + 1e-8).log().mean()
