"""What does a step of attentive probes cost? One probe, a sweep of 18, and one made of torch's own attention.

    python benchmarks/attentive.py [--images 64] [--tokens 257] [--dim 384] [--classes 100] [--steps 5]

A step is forward, backward and AdamW on tokens in memory. One thread, processor time, medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from dinokit.dense.attentive import Member, Probes, Scale, Training, heads_of


class Plain(nn.Module):
    """The same probe by `nn.MultiheadAttention`, without its second projection."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, heads_of(dim), batch_first=True)
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Score the classes."""
        query = self.query.expand(len(tokens), -1, -1)
        return self.linear(self.norm(self.attention(query, tokens, tokens, need_weights=False)[0][:, 0]))


def ours(tokens: torch.Tensor, labels: torch.Tensor, classes: int, count: int) -> Callable[[int], None]:
    """Return what takes a step with so many probes."""
    probes = Probes(
        [Member(lr=1e-3, weight_decay=1e-2)] * count,
        Scale.of([tokens[:4]]),
        classes=classes,
        training=Training(iterations=100, seed=0),
        device=torch.device("cpu"),
    )
    return lambda step: probes.step(tokens, labels, step=step)


def plain(tokens: torch.Tensor, labels: torch.Tensor, classes: int) -> Callable[[int], None]:
    """Return what takes a step with torch's own."""
    probe = Plain(tokens.shape[2], classes)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=1e-2)

    def step(_: int) -> None:
        optimiser.zero_grad()
        F.cross_entropy(probe(tokens), labels).backward()
        optimiser.step()

    return step


def main() -> None:
    """Print a line per side."""
    options = argparse.ArgumentParser()
    for name, usual in {"images": 64, "tokens": 257, "dim": 384, "classes": 100, "steps": 5}.items():
        options.add_argument(f"--{name}", type=int, default=usual)
    given = options.parse_args()
    torch.set_num_threads(1)
    tokens = torch.randn(given.images, given.tokens, given.dim)
    labels = torch.randint(given.classes, (given.images,))
    sides = {"1 probe": ours(tokens, labels, given.classes, 1), "18 probes": ours(tokens, labels, given.classes, 18)}
    sides["1 by nn.MultiheadAttention"] = plain(tokens, labels, given.classes)
    for name, step in sides.items():
        took = []
        for number in range(given.steps + 1):
            start = time.process_time()
            step(number)
            took.append(time.process_time() - start)
        print(f"{name}: {statistics.median(took[1:]):.3f} s a step", flush=True)


if __name__ == "__main__":
    main()
