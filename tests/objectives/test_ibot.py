"""The iBOT loss: a loop over hidden patches, and what happens when there are few or none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import constant
from dinokit.models.features import Features
from dinokit.models.head import Config as HeadConfig
from dinokit.objectives import assign, dino, ibot
from dinokit.objectives.base import Inputs, Seen

VIEWS, BATCH, PATCHES, DIM = 2, 3, 4, 8
HEAD = HeadConfig(hidden=16, bottleneck=8, prototypes=12)
TINY = ibot.Config(head=HEAD, teacher_temperature=constant(0.07))


def masks() -> Tensor:
    hidden = torch.zeros(VIEWS, BATCH, PATCHES, dtype=torch.bool)
    hidden[0, 0, :3] = True
    hidden[0, 2, 1] = True
    hidden[1, 1, 2:] = True
    return hidden


def features(batch: int, *, seed: int) -> Features:
    patches = torch.randn(VIEWS, batch, PATCHES, DIM, generator=torch.Generator().manual_seed(seed))
    return Features(cls=patches[:, :, 0], registers=patches[:, :, :0], patches=patches, grid=(2, 2))


def inputs(hidden: Tensor) -> Inputs:
    batch = hidden.shape[1]
    return Inputs(student_global=features(batch, seed=0), teacher_global=features(batch, seed=1), masks=hidden)


def build(config: ibot.Config = TINY) -> ibot.Objective:
    return ibot.Objective(config, dim=DIM, seed=0, siblings={})


def test_a_head_of_nobody_is_a_mistake_for_a_plan_too() -> None:
    seen = Seen(crops=2, locals=0, hidden=1.0, patches=4, dim=DIM)
    with pytest.raises(UserError, match="no dino comes before ibot"):
        replace(TINY, head=None).head_use(seen, siblings={})


def test_it_equals_a_loop_over_hidden_patches() -> None:
    objective, given = build(), inputs(masks())
    assert objective.head is not None
    assert given.student_global is not None
    assert given.teacher_global is not None
    targets = assign.sinkhorn(objective.head.teacher(given.teacher_global.patches[masks()]), temperature=0.07)
    logits = objective.head.student(given.student_global.patches)
    total = torch.zeros(())
    for row, (view, image, patch) in enumerate(masks().nonzero().tolist()):
        log_p = (logits[view, image, patch] / 0.1).log_softmax(dim=-1)
        total = total - (targets[row] * log_p).sum() / masks()[view, image].sum()
    losses = objective(given, step=0)
    torch.testing.assert_close(losses.total, total / (VIEWS * BATCH))


def test_twice_the_images_with_the_same_masks_halve_the_loss() -> None:
    losses = torch.rand(int(masks().sum()), generator=torch.Generator().manual_seed(0))
    once = ibot.mean_over_images(losses, masks=masks())
    twice = ibot.mean_over_images(losses, masks=torch.cat([masks(), torch.zeros_like(masks())]))
    torch.testing.assert_close(twice, once / 2)


@pytest.mark.parametrize("method", ["sinkhorn", "centring"])
def test_with_nothing_hidden_loss_and_gradients_are_zero_and_the_centre_stays(method: Any) -> None:
    objective = build(replace(TINY, targets=method))
    given = inputs(torch.zeros_like(masks()))
    assert objective.head is not None
    assert given.student_global is not None
    given.student_global.patches.requires_grad_()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    losses = objective(given, step=0)
    assert losses.total.item() == 0
    losses.total.backward()
    # zero rather than absent: gradients averaged over ranks need one of every parameter
    for tensor in (given.student_global.patches, *objective.head.student.parameters()):
        assert tensor.grad is not None
        assert not tensor.grad.any()
    objective.after_step(losses.statistics)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_visible_patches_get_no_gradient() -> None:
    given = inputs(masks())
    assert given.student_global is not None
    patches = given.student_global.patches.requires_grad_()
    build()(given, step=0).total.backward()
    assert patches.grad is not None
    assert torch.equal(patches.grad.abs().sum(dim=-1) > 0, masks())


def test_a_borrowed_head_is_used_but_neither_owned_nor_saved() -> None:
    lender = dino.Objective(dino.Config(head=HEAD), dim=DIM, seed=7, siblings={})
    shared = replace(TINY, head=None, targets="centring")
    objective = ibot.Objective(shared, dim=DIM, seed=0, siblings={"dino": lender})
    assert objective.pairs() == {}
    assert list(objective.parameters()) == []
    assert list(objective.state_dict()) == ["targets.centre"]
    own = ibot.Objective(replace(shared, head=HEAD), dim=DIM, seed=7, siblings={})
    torch.testing.assert_close(objective(inputs(masks()), step=0).total, own(inputs(masks()), step=0).total)


def test_borrowing_from_nobody_is_the_users_error() -> None:
    with pytest.raises(UserError, match="no dino"):
        build(replace(TINY, head=None))


def test_a_negative_weight_is_the_users_error() -> None:
    with pytest.raises(UserError, match="weight"):
        ibot.Config(weight=-1.0)
