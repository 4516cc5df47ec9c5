"""Student and teacher: the teacher is an exponential moving average of the student (mean teacher, arXiv:1703.01780).

    teacher <- momentum * teacher + (1 - momentum) * student          (DINO, arXiv:2104.14294, section 3.1)

Parameters only: buffers (RoPE periods, masks, running statistics) are equal by construction or the teacher's own.
"""

import copy

import torch
from torch import nn


class Pair(nn.Module):
    """A network and its teacher, of any kind: backbone or head."""

    def __init__(self, student: nn.Module, *, teacher_train: bool = False) -> None:
        """Copy the student.

        Args:
            student: kept, not copied.
            teacher_train: let the batch norms of the teacher use and track the statistics of their own batches, as
                DINO does for convolutional networks; all else in the teacher stays in evaluation mode.
        """
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.teacher_train = teacher_train

    def train(self, mode: bool = True) -> "Pair":
        """Switch the student; of the teacher at most the batch norms."""
        super().train(mode)
        self.teacher.eval()
        if self.teacher_train:
            for module in self.teacher.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train(mode)
        return self

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move the teacher's parameters towards the student's; momentum 1 leaves it, 0 copies the student."""
        teacher, student = tuple(self.teacher.parameters()), tuple(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
