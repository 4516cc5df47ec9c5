"""Teacher and anchor see crops in parts, which changes no number of theirs beyond rounding."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dinokit.core import device
from dinokit.models.vit import Config
from dinokit.training.step import Trainer
from tests.training.test_step import CPU, anchored, make_views, with_anchor_crops


def gradients(trainer: Trainer) -> list[Tensor]:
    losses = trainer.losses(with_anchor_crops(make_views()), step=0)
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    return [each.grad for each in trainer.backbone.student.parameters() if each.grad is not None]


def test_crops_in_parts_teach_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(Trainer(anchored(), CPU))
    monkeypatch.setitem(device.SLICE, "cpu", 3 * 96 * 96 * 3)  # three of the eight anchor crops at a time
    parts = gradients(Trainer(anchored(), CPU))
    # products of other numbers of rows may round otherwise on some machine: 1e-5 of gradients up to 1
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_an_anchor_computes_by_its_blocks_to_the_bit() -> None:
    backbone = Config(patch_size=8, dim=192, depth=2, heads=3, ffn_hidden=256)  # wide enough to be packed
    trainer = Trainer(replace(anchored(), backbone=backbone), CPU)
    views = with_anchor_crops(make_views())
    assert trainer.anchor is not None
    assert views.anchor_crops is not None
    (learner,) = trainer.learners.values()
    found = learner._inputs(views).anchor_global
    assert found is not None
    with torch.no_grad():
        assert torch.equal(found.flatten().patches, trainer.anchor(views.anchor_crops.flatten(0, 1)).patches)
