"""Student and teacher: the teacher is an exponential moving average of the student (mean teacher, arXiv:1703.01780).

    teacher <- momentum * teacher + (1 - momentum) * student          (DINO, arXiv:2104.14294, section 3.1)

Of parameters: most buffers (RoPE periods, masks) are equal by construction. Batch norms of a teacher that looks at
crops see their batch and keep running statistics of their own, as in DINO's training of ResNet-50; those of one that
never looks, as in a distillation, are averaged like parameters.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from dinokit.core import dist

Network = TypeVar("Network", bound=nn.Module)


class Pair(nn.Module, Generic[Network]):
    """A network and its teacher, of any kind: backbone or head."""

    student: Network
    teacher: Network

    def __init__(self, student: Network) -> None:
        """Keep the student and copy it to be the teacher, which gets no gradient."""
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.teacher.train(bool(running_statistics(student)))

    def train(self, mode: bool = True) -> "Pair[Network]":
        """Switch the student; a teacher stays in evaluation mode, unless its batch norms are to see their batch."""
        super().train(mode)
        self.teacher.train(mode and bool(running_statistics(self.teacher)))
        return self

    @torch.no_grad()
    def update(self, momentum: float, *, statistics: bool = False) -> None:
        """Move the teacher's parameters towards the student's; momentum 1 leaves it, 0 copies the student.

        Args:
            statistics: whether running statistics of batch norms move too.
        """
        teacher = [dist.own_rows(parameter) for parameter in self.teacher.parameters()]
        student = [dist.own_rows(parameter) for parameter in self.student.parameters()]
        for own, new in zip(*map(running_statistics, (self.teacher, self.student))) if statistics else ():
            teacher += [own] if own.is_floating_point() else []  # the others count batches
            student += [new] if new.is_floating_point() else []
        torch._foreach_lerp_(teacher, student, 1 - momentum)


def running_statistics(network: nn.Module) -> list[Tensor]:
    """List what the batch norms of a network remember; its forward pass in training changes them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return [buffer for norm in norms for buffer in norm.buffers()]
