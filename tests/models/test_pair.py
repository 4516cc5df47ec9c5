"""The teacher: an average of parameters, never trained."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dinokit.models import head
from dinokit.models.head import Pair
from dinokit.models.vit import Config, VisionTransformer

CONFIG = Config(patch_size=4, dim=16, depth=1, heads=2, registers=1, ffn_hidden=32)
HEAD = head.Config(hidden=8, bottleneck=4, prototypes=6)


def test_the_teacher_starts_as_an_independent_copy() -> None:
    pair = Pair(VisionTransformer(CONFIG))
    for student, teacher in zip(pair.student.parameters(), pair.teacher.parameters(), strict=True):
        assert torch.equal(student, teacher)
        assert student.data_ptr() != teacher.data_ptr()


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_update_averages_parameters_and_leaves_buffers(momentum: float) -> None:
    pair = Pair(VisionTransformer(CONFIG))
    before = {name: value.clone() for name, value in pair.teacher.named_parameters()}
    with torch.no_grad():
        for number, parameter in enumerate(pair.student.parameters()):
            parameter.add_(0.1 * number + 1)
        pair.student.rope_embed.periods.mul_(2)
    periods = pair.teacher.rope_embed.periods.clone()
    pair.update(momentum)
    students = dict(pair.student.named_parameters())
    for name, teacher in pair.teacher.named_parameters():
        torch.testing.assert_close(teacher, momentum * before[name] + (1 - momentum) * students[name].detach())
    assert torch.equal(pair.teacher.rope_embed.periods, periods)


def test_the_teacher_gets_no_gradient_and_the_student_does() -> None:
    pair = Pair(VisionTransformer(CONFIG)).train()
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not pair.teacher(image).cls.requires_grad
    assert pair.student(image).cls.requires_grad
    pair.update(0.5)
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    assert all(p.requires_grad for p in pair.student.parameters())


def test_the_teacher_never_trains() -> None:
    pair = nn.ModuleList([Pair(VisionTransformer(replace(CONFIG, drop_path=0.5)))]).train()[0]
    assert all(module.training for module in pair.student.modules())
    assert not any(module.training for module in pair.teacher.modules())
    pair.eval()
    assert not pair.student.training


def test_update_does_not_disturb_a_backward_pass() -> None:
    pair = Pair(head.Head(5, HEAD, seed=0))
    loss = pair.student(torch.ones(2, 5)).sum()
    pair.update(0.9)
    loss.backward()
    assert pair.student.last_layer.weight.grad is not None
