"""Which rows of every tensor each rank holds when networks are sharded: as torch.chunk cuts the first axis."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Sharded:
    """A tensor and the rows of it that ranks hold; the first ranks hold `rows`, the last may hold fewer or none."""

    name: str
    shape: tuple[int, ...]
    rows: int
    ranks: int

    def held(self, rank: int) -> int:
        """Return how many numbers a rank holds."""
        first = min(rank * self.rows, self.shape[0])
        last = min(first + self.rows, self.shape[0])
        width = 1
        for side in self.shape[1:]:
            width *= side
        return (last - first) * width


def layout(network: nn.Module, ranks: int) -> list[Sharded]:
    """Cut every parameter of a network."""
    return [
        Sharded(name, tuple(parameter.shape), -(-parameter.shape[0] // ranks), ranks)
        for name, parameter in network.named_parameters()
    ]
