"""What of a backbone learns: all of it, its last blocks, low-rank changes of its matrices, or nothing.

    all       everything
    last:N    the last N blocks and the final norms
    lora:R    W = W0 + up down, of every matrix in the blocks; up [rows, R] begins at 0, down [R, columns] at random
    heads     nothing: the heads of the objectives learn alone
    ...+mask  of last and lora, the mask token as well: that of a network from which nothing was hidden is not loaded

What does not learn gets no gradient and no moments, and no graph is kept of what comes before the first that learns.

The low-rank change is outside of the network, which always holds W: its gradient is folded into those of the factors,
and what the factors moved by is added to W. So no forward pass, checkpoint or export knows of it, and the average of
the network is a plain one. PEFT puts layers of its own in place of linear ones; our attention reads their weights
without calling them, and would pass them by.
Source: LoRA (arXiv:2106.09685) section 4.1, with alpha = R.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from dinokit.core.messages import UserError
from dinokit.core.seed import derived
from dinokit.models.features import Built

ALL, HEADS = "all", "heads"
MASK, MASKED = "mask_token", "+mask"  # its name in a network, which may have none; what says that it learns
How = Literal["all", "heads", "last", "lora"]
_STREAM = 1 << 20  # keeps the factors' random numbers apart from those of the heads


def parsed(word: str) -> tuple[How, int, bool]:
    """Read what a setting says: how, how many blocks or of which rank, and whether the mask token learns.

    Raises:
        UserError: if it says nothing of the kind.
    """
    how, _, number = word.removesuffix(MASKED).partition(":")
    if word == "all":
        return "all", 0, True
    if word == "heads":
        return "heads", 0, False
    if how in ("last", "lora") and number.isascii() and number.isdecimal() and 0 < int(number) < 1 << 16:
        return ("last" if how == "last" else "lora"), int(number), word.endswith(MASKED)
    raise UserError(
        "optim.trained is all, heads, last:BLOCKS or lora:RANK, such as last:4 or lora:8, "
        f"or with the mask token last:4{MASKED}; got {word}"
    )


def choose(network: Built, word: str, *, seed: int) -> "LowRank | None":
    """Leave gradients to what learns alone; return the factors, if it learns by such.

    Raises:
        UserError: if the network has no such blocks or matrices.
    """
    how, count, masked = parsed(word)
    depth = network.config.depth
    if how == "last" and count > depth:
        raise UserError(f"optim.trained {word}: the network has {depth} blocks; give last:{depth} or fewer")
    matrices, depths = dict[str, nn.Parameter](), dict[str, int]()
    for name, parameter in network.named_parameters():
        block = network.depth_of(name)  # 1 to depth
        learns = how == "all" or (how == "last" and block > depth - count) or (masked and name == MASK)
        if how == "lora" and 1 <= block <= depth and parameter.ndim == 2:
            matrices[name], depths[name] = parameter, block
            learns = True
        parameter.requires_grad_(parameter.requires_grad and learns)
    if how != "lora":
        return None
    if not matrices:
        raise UserError(f"optim.trained {word}: the blocks of a {network.config.kind} have no matrices; give last:1")
    return LowRank(matrices, depths, depth=depth, rank=count, seed=seed)


@final
class LowRank(nn.Module):
    """The factors of changes of some matrices, which it moves; they are what the optimiser sees.

    Args:
        matrices: by name, of a network that somebody else owns.
        depths: of these, see `Built.depth_of`.
        depth: of the network, in blocks.
        rank: of every change; no more than a matrix has rows or columns.
    """

    def __init__(
        self, matrices: Mapping[str, nn.Parameter], depths: Mapping[str, int], *, depth: int, rank: int, seed: int
    ) -> None:
        super().__init__()
        self.depth, self._depths = depth, {name.replace(".", "/"): block for name, block in depths.items()}
        self._matrices = tuple(matrices.values())  # no parameters of this module
        self.names = tuple(name.replace(".", "/") for name in matrices)  # a dot would be a module
        draw = torch.Generator().manual_seed(derived(seed, _STREAM))
        for name, matrix in zip(self.names, self._matrices, strict=True):
            rows, columns = matrix.shape
            own = min(rank, rows, columns)
            down = torch.randn(own, columns, generator=draw) * columns**-0.5
            self.register_parameter(f"{name}/up", nn.Parameter(torch.zeros(rows, own, device=matrix.device)))
            self.register_parameter(f"{name}/down", nn.Parameter(down.to(matrix.device)))

    def depth_of(self, name: str) -> int:
        """Say where the matrix of a factor stands, see `Built`."""
        return self._depths[name.rpartition("/")[0]]

    @torch.no_grad()
    def fold(self) -> None:
        """Turn the gradients of the matrices, which are then gone, into those of the factors."""
        for matrix, up, down in self._all():
            if matrix.grad is not None:
                up.grad, down.grad = matrix.grad @ down.T, up.T @ matrix.grad
                matrix.grad = None

    @torch.no_grad()
    def products(self) -> list[Tensor]:
        """Return what the factors make of every matrix now."""
        return [up @ down for _, up, down in self._all()]

    @torch.no_grad()
    def follow(self, before: Sequence[Tensor]) -> None:
        """Move the matrices by what the factors have moved since `products` gave this."""
        for (matrix, up, down), old in zip(self._all(), before, strict=True):
            matrix.add_(up @ down - old)

    def _all(self) -> list[tuple[nn.Parameter, nn.Parameter, nn.Parameter]]:
        factors = [(self.get_parameter(f"{name}/up"), self.get_parameter(f"{name}/down")) for name in self.names]
        return [(matrix, up, down) for matrix, (up, down) in zip(self._matrices, factors, strict=True)]


@final
class WithMask(nn.Module):
    """Low-rank changes and the mask token that learns beside them: the one part of a backbone that the optimiser moves.

    It has no state of its own: the factors are `LowRank`'s, by their names there, the token is the network's.
    """

    def __init__(self, changes: LowRank, mask: nn.Parameter) -> None:
        super().__init__()
        self.depth, self._changes = changes.depth, (changes,)  # no module of this one
        for name, parameter in changes.named_parameters():
            self.register_parameter(name, parameter)
        self.register_parameter(MASK, mask)

    def depth_of(self, name: str) -> int:
        """Say where a parameter stands, see `Built`: the token embeds images."""
        return 0 if name == MASK else self._changes[0].depth_of(name)
