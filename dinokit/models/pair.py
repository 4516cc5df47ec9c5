"""Student and teacher: the teacher is an exponential moving average of the student (mean teacher, arXiv:1703.01780).

    teacher <- momentum * teacher + (1 - momentum) * student          (DINO, arXiv:2104.14294, section 3.1)

Parameters only: buffers (RoPE periods, masks) are equal by construction.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from dinokit.core import dist

Network = TypeVar("Network", bound=nn.Module)


class Pair(nn.Module, Generic[Network]):
    """A network and its teacher, of any kind: backbone or head."""

    student: Network
    teacher: Network

    def __init__(self, student: Network) -> None:
        """Keep the student and copy it to be the teacher, which stays in evaluation mode and gets no gradient."""
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Pair[Network]":
        """Switch the student alone."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move the teacher's parameters towards the student's; momentum 1 leaves it, 0 copies the student."""
        teacher = [dist.own_rows(parameter) for parameter in self.teacher.parameters()]
        student = [dist.own_rows(parameter) for parameter in self.student.parameters()]
        torch._foreach_lerp_(teacher, student, 1 - momentum)
