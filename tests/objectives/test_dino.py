"""The DINO loss: loops over pairs of crops, as the paper writes it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import constant
from dinokit.models.features import Features
from dinokit.models.head import Config as HeadConfig
from dinokit.objectives import assign, dino
from dinokit.objectives.base import Inputs

BATCH, DIM = 3, 8
TINY = dino.Config(head=HeadConfig(hidden=16, bottleneck=8, prototypes=12), teacher_temperature=constant(0.07))


def features(views: int, *, seed: int) -> Features:
    cls = torch.randn(views, BATCH, DIM, generator=torch.Generator().manual_seed(seed))
    return Features(cls=cls, registers=cls[:, :, None][:, :, :0], patches=cls[:, :, None], grid=(1, 1))


def inputs(crops: int = 2, local_crops: int = 8) -> Inputs:
    return Inputs(
        student_global=features(crops, seed=0),
        student_local=features(local_crops, seed=1) if local_crops else None,
        teacher_global=features(crops, seed=2),
    )


def build(config: dino.Config = TINY) -> dino.Objective:
    return dino.Objective(config, dim=DIM, seed=0, siblings={})


def mean_over_pairs(objective: dino.Objective, given: Inputs, pairs: list[tuple[int, int]]) -> Tensor:
    """Loop over (teacher crop, student crop), local crops counted after the global ones."""
    assert given.student_global is not None
    assert given.teacher_global is not None
    student = given.student_global.cls
    if given.student_local is not None:
        student = torch.cat([student, given.student_local.cls])
    logits = objective.head.teacher(given.teacher_global.cls.flatten(0, 1))
    targets = assign.sinkhorn(logits, temperature=0.07).reshape(-1, BATCH, 12)
    total = torch.zeros(())
    for teacher_crop, student_crop in pairs:
        log_p = (objective.head.student(student[student_crop]) / 0.1).log_softmax(dim=-1)
        total = total - (targets[teacher_crop] * log_p).sum(dim=-1).mean()
    return total / len(pairs)


def test_it_is_the_mean_over_the_eighteen_pairs_of_the_double_loop() -> None:
    objective = build()
    pairs = [(teacher, student) for teacher in range(2) for student in range(10) if teacher != student]
    assert len(pairs) == 18
    losses = objective(inputs(), step=0)
    torch.testing.assert_close(losses.total, mean_over_pairs(objective, inputs(), pairs))
    assert losses.weights == {"dino_global": pytest.approx(1 / 9), "dino_local": pytest.approx(8 / 9)}


def test_with_the_diagonal_it_is_the_mean_over_all_twenty_pairs() -> None:
    objective = build(replace(TINY, ignore_diagonal=False))
    pairs = [(teacher, student) for teacher in range(2) for student in range(10)]
    torch.testing.assert_close(objective(inputs(), step=0).total, mean_over_pairs(objective, inputs(), pairs))


def test_the_local_weight_scales_the_local_term_alone() -> None:
    whole = build()(inputs(), step=0)
    half = build(replace(TINY, local_weight=constant(0.5), weight=2.0))(inputs(), step=0)
    assert half.weights["dino_global"] == pytest.approx(2 * whole.weights["dino_global"])
    assert half.weights["dino_local"] == pytest.approx(whole.weights["dino_local"])
    assert torch.equal(half.terms["dino_local"], whole.terms["dino_local"])


@pytest.mark.parametrize("local", [None, features(0, seed=1)])
def test_without_local_crops_only_the_global_pairs_count(local: Features | None) -> None:
    objective = build()
    given = replace(inputs(local_crops=0), student_local=local)
    losses = objective(given, step=0)
    assert losses.weights == {"dino_global": 1.0}
    expected = mean_over_pairs(objective, inputs(local_crops=0), [(0, 1), (1, 0)])
    torch.testing.assert_close(losses.total, expected)


def test_a_single_global_crop_learns_from_its_local_crops() -> None:
    objective = build()
    losses = objective(inputs(crops=1, local_crops=3), step=0)
    assert list(losses.terms) == ["dino_local"]
    expected = mean_over_pairs(objective, inputs(crops=1, local_crops=3), [(0, 1), (0, 2), (0, 3)])
    torch.testing.assert_close(losses.total, expected)


def test_a_single_crop_is_refused() -> None:
    with pytest.raises(UserError, match="different crops"):
        build()(inputs(crops=1, local_crops=0), step=0)


def test_the_centre_moves_once_per_step_and_only_then() -> None:
    objective = build(replace(TINY, targets="centring", centre_momentum=0.9))
    given = inputs()
    assert given.teacher_global is not None
    mean = objective.head.teacher(given.teacher_global.cls.flatten(0, 1)).mean(dim=0)
    centre = torch.zeros(12)
    for step in range(3):
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        statistics = objective(given, step=step).statistics
        for name, value in objective.state_dict().items():
            assert torch.equal(value, before[name]), name
        objective.after_step(statistics)
        centre = 0.9 * centre + 0.1 * mean
        torch.testing.assert_close(objective.state_dict()["targets.centre"], centre)


@pytest.mark.parametrize(("field", "value"), [("weight", -1.0), ("local_weight", constant(-1.0))])
def test_nonsense_is_the_users_error(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="weight"):
        dino.Config(**{field: value})
