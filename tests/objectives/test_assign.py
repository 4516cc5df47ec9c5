"""Teacher targets: closed forms, what balancing promises, and the numbers that break naive code."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinokit.core import device
from dinokit.core.messages import UserError
from dinokit.core.numbers import Schedule, constant, ramp
from dinokit.objectives import assign


def scores(samples: int = 6, prototypes: int = 5, *, seed: int = 0) -> Tensor:
    return torch.randn(samples, prototypes, generator=torch.Generator().manual_seed(seed)) * 0.2


def by_loops(logits: Tensor, *, temperature: float, iterations: int) -> Tensor:
    """The classic form: a prototype x sample matrix in float64, divided in turn."""
    mass = (logits.double() / temperature).exp().T
    prototypes, samples = mass.shape
    mass /= mass.sum()
    for _ in range(iterations):
        for row in range(prototypes):
            mass[row] /= mass[row].sum() * prototypes
        for column in range(samples):
            mass[:, column] /= mass[:, column].sum() * samples
    return (mass * samples).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_the_classic_loop(iterations: int) -> None:
    actual = assign.sinkhorn(scores(), temperature=0.05, iterations=iterations)
    expected = by_loops(scores(), temperature=0.05, iterations=iterations)
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=1e-5)  # float32 against float64


@pytest.mark.parametrize("held", [1, 13, 15])
def test_sinkhorn_is_the_same_however_few_samples_are_read_at_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = assign.sinkhorn(scores(), temperature=0.05)
    monkeypatch.setitem(device.SLICE, "cpu", held)
    torch.testing.assert_close(assign.sinkhorn(scores(), temperature=0.05), whole)


def test_no_iteration_is_a_softmax() -> None:
    expected = (scores() / 0.05).softmax(dim=-1)
    torch.testing.assert_close(assign.sinkhorn(scores(), temperature=0.05, iterations=0), expected)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 9), prototypes=st.integers(1, 9), size=st.floats(0, 50), seed=st.integers(0, 99))
def test_rows_sum_to_one(samples: int, prototypes: int, size: float, seed: int) -> None:
    targets = assign.sinkhorn(scores(samples, prototypes, seed=seed) * size, temperature=0.04)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(samples))


def test_columns_are_balanced() -> None:
    targets = assign.sinkhorn(scores(), temperature=0.2, iterations=100)  # enough to converge
    torch.testing.assert_close(targets.sum(dim=0), torch.full((5,), 6 / 5), atol=1e-4, rtol=0)


def test_a_constant_changes_nothing() -> None:
    wanted = assign.sinkhorn(scores(), temperature=0.05)
    # 64 is exact beside the scores in float32 up to 4e-6; divided by the temperature that is 8e-5
    torch.testing.assert_close(assign.sinkhorn(scores() + 64, temperature=0.05), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_scores_in_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    targets = assign.sinkhorn((scores() * 100).to(dtype), temperature=0.04)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))


def test_autocast_does_not_lower_the_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets = assign.sinkhorn(scores(), temperature=0.05)
    assert torch.equal(targets, assign.sinkhorn(scores(), temperature=0.05))


def test_a_prototype_out_of_reach_and_a_sample_far_below_stay_finite() -> None:
    logits = scores()
    logits[:, 2] -= 1e4  # exp gives 0 in the whole column
    logits[1] -= 1e3  # exp gives 0 in the whole row, if the maximum of all rows is subtracted
    targets = assign.sinkhorn(logits, temperature=0.04)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    assert torch.equal(targets[:, 2], torch.zeros(6))


def test_a_sample_alone_with_many_prototypes_far_below_the_others_stays_finite() -> None:
    logits = torch.full((3, 20_000), -1e4)
    logits[:2, :10_000] = 0
    logits[2, 10_000:] = -1e3  # if this sample starts with no weight at all, the scales of its prototypes overflow
    targets = assign.sinkhorn(logits, temperature=0.04)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(3))


def test_no_sample_gives_no_target() -> None:
    assert assign.sinkhorn(torch.zeros(0, 5), temperature=0.05).shape == (0, 5)
    assert assign.centred(torch.zeros(0, 5), torch.zeros(5), temperature=0.05).shape == (0, 5)


def test_the_scores_stay_and_get_no_gradient() -> None:
    logits = scores().requires_grad_()
    before = logits.detach().clone()
    for targets in (
        assign.sinkhorn(logits, temperature=0.05),
        assign.centred(logits, torch.zeros(5), temperature=0.05),
    ):
        assert not targets.requires_grad
    assert torch.equal(logits, before)


def test_centred_is_a_sharpened_softmax_of_the_difference() -> None:
    centre = torch.linspace(-1, 1, 5)
    powers = ((scores() - centre) / 0.5).exp()
    torch.testing.assert_close(
        assign.centred(scores(), centre, temperature=0.5), powers / powers.sum(dim=1, keepdim=True)
    )


def test_nothing_to_average_leaves_the_centre() -> None:
    centre = torch.linspace(-1, 1, 5)
    mean = assign.mean_over_ranks(torch.zeros(0, 5), otherwise=centre)
    torch.testing.assert_close(mean, centre)


def test_only_fold_moves_the_centre() -> None:
    targets = assign.Targets(assign.Config(targets="centring", centre_momentum=0.5), prototypes=5)
    _, statistics = targets(scores() + 4, step=0)
    assert targets.centre is not None
    assert torch.equal(targets.centre, torch.zeros(5))
    targets.fold(statistics)
    torch.testing.assert_close(targets.centre, (scores() + 4).mean(dim=0) / 2)


def test_sinkhorn_has_no_state() -> None:
    targets = assign.Targets(assign.Config(targets="sinkhorn"), prototypes=5)
    assert targets(scores(), step=0)[1] == {}
    assert targets.state_dict() == {}


@pytest.mark.parametrize("method", ["sinkhorn", "centring"])
def test_the_temperature_follows_its_schedule(method: Any) -> None:
    config = assign.Config(targets=method, teacher_temperature=ramp(0.04, 0.4, steps=10))
    targets = assign.Targets(config, prototypes=5)
    assert targets(scores(), step=0)[0].max() > targets(scores(), step=10)[0].max()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("student_temperature", 0.0),
        ("teacher_temperature", constant(0.0)),
        ("teacher_temperature", ramp(0.0, 0.07, steps=10)),
        ("teacher_temperature", Schedule(peak=0.07, end=0.07, freeze=5)),
        ("sinkhorn_iterations", -1),
        ("centre_momentum", 1.0),
        ("centre_momentum", -0.1),
    ],
)
def test_nonsense_is_the_users_error(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        assign.Config(**{field: value})
