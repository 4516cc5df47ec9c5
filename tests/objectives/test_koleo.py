"""KoLeo: a loop over images, and the degenerate batches that give infinite gradients to naive code."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.objectives.koleo import Config, koleo


def images(batch: int = 6, *, seed: int = 0) -> Tensor:
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed))


def by_loops(features: Tensor, *, neighbours: int) -> float:
    unit = [row / row.norm() for row in features.double()]
    logs = []
    for i, one in enumerate(unit):
        distances = sorted(float((one - other).norm()) for j, other in enumerate(unit) if j != i)
        logs += [math.log(distance) for distance in distances[:neighbours]]
    return -sum(logs) / len(logs)


@pytest.mark.parametrize("neighbours", [1, 2, 5])
def test_it_equals_a_loop_over_images(neighbours: int) -> None:
    assert koleo(images(), neighbours=neighbours).item() == pytest.approx(by_loops(images(), neighbours=neighbours))


def test_a_group_as_large_as_the_batch_changes_nothing() -> None:
    assert torch.equal(koleo(images(), group=6), koleo(images()))


def test_groups_are_consecutive_images_searched_on_their_own() -> None:
    expected = torch.stack([koleo(images()[:3]), koleo(images()[3:])]).mean()
    torch.testing.assert_close(koleo(images(), group=3), expected)


def test_the_length_of_features_does_not_matter() -> None:
    torch.testing.assert_close(koleo(images() * torch.arange(1, 7)[:, None]), koleo(images()))


def test_equal_images_and_empty_ones_have_finite_gradients() -> None:
    features = images()
    features[1] = features[0]
    features[2] = 0
    features.requires_grad_()
    loss = koleo(features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_step_against_the_gradient_moves_the_closest_pair_apart() -> None:
    features = images().requires_grad_()
    koleo(features).backward()
    assert features.grad is not None
    moved = features.detach() - 0.01 * features.grad
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (features.detach(), moved)]
    before, after = (torch.nn.functional.pdist(x).min() for x in unit)
    assert after > before


def test_a_single_image_has_no_neighbour_and_a_loss_of_zero() -> None:
    features = images(1).requires_grad_()
    loss = koleo(features)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_half_precision_is_computed_in_float32() -> None:
    half = images().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo(half)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, koleo(half.float()))


@pytest.mark.parametrize(("arguments", "message"), [({"group": 4}, "group 4"), ({"neighbours": 6}, "neighbours")])
def test_sizes_that_do_not_fit_the_batch_are_the_users_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        koleo(images(), **arguments)


@pytest.mark.parametrize(("field", "value"), [("weight", -0.1), ("neighbours", 0), ("group", 1)])
def test_nonsense_is_the_users_error(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        Config(**{field: value})
