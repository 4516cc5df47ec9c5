"""Gram: the definition, written out in float64, against both ways to compute it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dinokit.core.numbers import Schedule
from dinokit.models.features import Features
from dinokit.objectives import base
from dinokit.objectives.gram import Config, Objective, gram, on_grid


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def defined(student: Tensor, anchor: Tensor, *, clamp: str = "none") -> Tensor:
    unit = [functional.normalize(side.double(), dim=-1) for side in (student, anchor)]
    ours, theirs = (side @ side.transpose(1, 2) for side in unit)
    ours = ours.clamp(min=0) if clamp == "both" else ours
    theirs = theirs if clamp == "none" else theirs.clamp(min=0)
    return (ours - theirs).square().mean()


@pytest.mark.parametrize(
    ("form", "clamp"), [("dims", "none"), ("patches", "none"), ("patches", "both"), ("patches", "anchor")]
)
def test_loss_and_gradient_are_those_of_the_definition(form: str, clamp: str) -> None:
    student, anchor = tokens(3, 10, 6, seed=1), tokens(3, 10, 6, seed=2)
    expected_input, given = student.clone().requires_grad_(), student.clone().requires_grad_()
    expected = defined(expected_input, anchor, clamp=clamp)
    loss = gram(given, anchor, clamp=clamp, form=form)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (3 * expected).backward()
    (3 * loss).backward()
    torch.testing.assert_close(given.grad, expected_input.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", ["dims", "patches"])
def test_a_small_difference_is_not_lost_in_rounding(form: str) -> None:
    anchor = tokens(1, 400, 16)
    student = (anchor + 1e-3 * tokens(1, 400, 16, seed=1)).requires_grad_()
    exact = student.detach().double().requires_grad_()
    expected, loss = defined(exact, anchor), gram(student, anchor, form=form)  # type: ignore[arg-type]
    # |S'S|^2 + |G'G|^2 - 2 |S'G|^2 in float32 is 10 % off here
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    expected.backward()
    loss.backward()
    error = (student.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert float(error) < 2e-3


def test_the_cheaper_form_is_taken() -> None:
    student, anchor = tokens(1, 200, 4), tokens(1, 200, 4, seed=1)
    assert torch.equal(gram(student, anchor), gram(student, anchor, form="dims"))
    student, anchor = tokens(1, 4, 200), tokens(1, 4, 200, seed=1)
    assert torch.equal(gram(student, anchor), gram(student, anchor, form="patches"))


def test_double_precision_stays_so() -> None:
    student, anchor = tokens(2, 9, 5).double(), tokens(2, 9, 5, seed=1).double()
    torch.testing.assert_close(gram(student, anchor, form="dims"), defined(student, anchor), rtol=1e-12, atol=0)
    torch.testing.assert_close(gram(student, anchor, form="patches"), defined(student, anchor), rtol=1e-12, atol=0)


def test_equal_features_of_any_length_cost_nothing() -> None:
    student = tokens(2, 9, 5)
    lengths = tokens(2, 9, 1, seed=1).abs() + 0.1
    assert gram(student, student * lengths).item() < 1e-10


def test_larger_maps_are_brought_to_the_grid_before_they_are_normalised() -> None:
    maps = tokens(2, 5, 8, 8) * 10
    expected = functional.interpolate(maps, (4, 4), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(on_grid(maps, (4, 4)), expected)


def inputs() -> base.Inputs:
    student = Features.from_maps(tokens(6, 5, 3, 3)).unflatten(2)
    return base.Inputs(
        student_global=student, anchor_global=Features.from_maps(tokens(6, 5, 6, 6, seed=1)).unflatten(2)
    )


def objective(config: Config) -> Objective:
    return Objective(config, dim=5, seed=0, siblings={})


def test_the_weight_follows_its_scale() -> None:
    config = Config(weight=2.0, scale=Schedule(peak=0.0, end=1.0, decay=11, shape="cosine", inclusive=True))
    weights = [objective(config)(inputs(), step=step).weights["gram"] for step in (0, 5, 10, 99)]
    assert weights == pytest.approx([0, 1, 2, 2])
