from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.messages import RunError, UserError
from dinokit.finetuning.course import Course
from dinokit.finetuning.learning import Config, finetune
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeVit

CONFIG = Config(iterations=6, lr=1e-2, warmup=0, save_every=3, precision="fp32", weight_decay=0.0, layer_decay=0.5)
STAMP = {"data": "a"}


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.dropout(rows))
        return scores


def parts(make_vit: MakeVit) -> tuple[VisionTransformer, Head]:
    torch.manual_seed(0)
    return make_vit(), Head().eval().requires_grad_(False)


def course(*, ends: int | None = None, bad: bool = False) -> Course:
    """Noise of three classes, a function of the step; it may end in an error."""

    def shown(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(first, 100):
            if step == ends:
                raise KeyboardInterrupt
            draws = torch.Generator().manual_seed(step)
            images = torch.randn(4, 3, 16, 16, generator=draws)
            yield images * (torch.nan if bad else 1), torch.randint(3, (4,), generator=draws)

    return Course(
        shown,
        answer=lambda backbone, head, images: head(backbone(images).cls),
        loss=lambda scores, wanted, _: F.cross_entropy(scores, wanted),
    )


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(make_vit: MakeVit, tmp_path: Path) -> None:
    whole, halved = parts(make_vit), parts(make_vit)
    finetune(*whole, course(), CONFIG, folder=tmp_path / "whole", stamp=STAMP)
    with pytest.raises(KeyboardInterrupt):
        finetune(*halved, course(ends=5), CONFIG, folder=tmp_path / "halved", stamp=STAMP)
    assert not any(parameter.requires_grad for part in halved for parameter in part.parameters())
    again = parts(make_vit)
    finetune(*again, course(), CONFIG, folder=tmp_path / "halved", stamp=STAMP)
    for one, other, before in zip(whole, again, parts(make_vit), strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        moved = [name for name, value in before.named_parameters() if not torch.equal(value, one.state_dict()[name])]
        assert len(moved) > 1
        assert not one.training


def test_a_block_further_from_the_head_learns_more_slowly(make_vit: MakeVit, tmp_path: Path) -> None:
    backbone, head = parts(make_vit)
    before = deepcopy(backbone.state_dict()) | deepcopy(head.state_dict())
    finetune(backbone, head, course(), replace(CONFIG, iterations=1), folder=tmp_path, stamp=STAMP)
    after = backbone.state_dict() | head.state_dict()

    def step(name: str) -> float:  # the first step of Adam is the rate, up to epsilon
        return float((after[name] - before[name]).abs().max())

    rate = 1e-2
    weights = ("linear.weight", "blocks.1.mlp.fc2.weight", "blocks.0.mlp.fc2.weight", "patch_embed.proj.weight")
    names = [next(key for key in after if key.endswith(name) or key == name) for name in weights if _has(after, name)]
    found = [step(name) for name in names]
    assert found == pytest.approx([rate, rate * 0.5, rate * 0.25, rate * 0.125][: len(found)], rel=1e-2)


def _has(state: dict[str, Tensor], name: str) -> bool:
    assert any(key == name or key.endswith(name) for key in state), [*state]
    return True


def test_another_training_and_a_loss_that_is_no_number_are_refused(make_vit: MakeVit, tmp_path: Path) -> None:
    finetune(*parts(make_vit), course(), CONFIG, folder=tmp_path / "one", stamp=STAMP)
    with pytest.raises(UserError, match="data"):
        finetune(*parts(make_vit), course(), CONFIG, folder=tmp_path / "one", stamp={"data": "b"})
    with pytest.raises(UserError, match="lr"):
        finetune(*parts(make_vit), course(), replace(CONFIG, lr=1e-3), folder=tmp_path / "one", stamp=STAMP)
    with pytest.raises(RunError, match="step 0: the loss is nan at --lr 0.01"):
        finetune(*parts(make_vit), course(bad=True), CONFIG, folder=tmp_path / "two", stamp=STAMP)
