"""Rotary positions: closed form, relativity, options, augmentation."""

import math

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.models import rope
from dinokit.models.init import initialise


def build(head_dim: int = 16, **options: object) -> rope.Rope:
    module = rope.Rope(head_dim, rope.RopeConfig(**options))
    initialise(module, "dinov3", seed=0)
    return module.eval()


def test_table_of_a_small_grid_is_the_closed_form() -> None:
    table = build(8)((2, 3), prefix=1)
    periods = [1.0, 10.0]  # 100^(i/2)
    assert torch.equal(table.cos[0], torch.ones(8))
    assert torch.equal(table.sin[0], torch.zeros(8))
    for row in range(2):
        for column in range(3):
            y, x = 2 * (row + 0.5) / 2 - 1, 2 * (column + 0.5) / 3 - 1
            angles = [2 * math.pi * c / p for c in (y, x) for p in periods]
            cos = torch.tensor([math.cos(a) for a in angles] * 2)
            sin = torch.tensor([-math.sin(a) for a in angles] + [math.sin(a) for a in angles])
            token = 1 + row * 3 + column
            torch.testing.assert_close(table.cos[token], cos, atol=1e-5, rtol=0)
            torch.testing.assert_close(table.sin[token], sin, atol=1e-5, rtol=0)


def test_channel_j_turns_with_channel_j_plus_half() -> None:
    table = build(8)((2, 3), prefix=0)
    vectors = torch.randn(2, 6, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    real, imaginary = vectors.chunk(2, dim=-1)
    angles = torch.complex(table.cos[:, :4], table.sin[:, 4:])[:, None, None]
    turned = torch.complex(real, imaginary) * angles
    torch.testing.assert_close(table(vectors), torch.cat([turned.real, turned.imag], dim=-1))


def test_products_depend_on_differences_of_coordinates_only() -> None:
    table = build()((4, 5), prefix=0)
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    both = torch.stack([query, key]).expand(20, 2, 16)[None, :, :, None]  # [1, token, role, head, head_dim]
    queries, keys = table(both)[0, :, :, 0].unbind(1)
    products = (queries @ keys.T).unflatten(0, (4, 5)).unflatten(2, (4, 5))  # [row, column, row', column']
    torch.testing.assert_close(products[1, 2, 3, 1], products[0, 3, 2, 2], atol=1e-4, rtol=0)
    assert (products[1, 2, 3, 1] - products[1, 2, 3, 3]).abs() > 1e-3  # another difference in x
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(20))


@pytest.mark.parametrize(("how", "sides"), [("separate", (2, 4)), ("max", (4, 4)), ("min", (2, 2))])
def test_coordinates_are_divided_by_the_chosen_side(how: str, sides: tuple[int, int]) -> None:
    coords = rope.coordinates((2, 4), how)
    assert coords[0].tolist() == [1 / sides[0] - 1, 1 / sides[1] - 1]
    assert coords[-1].tolist() == [3 / sides[0] - 1, 7 / sides[1] - 1]
    assert coords[1][0] == coords[0][0]  # row-major: x runs first


def test_periods_span_what_the_config_says() -> None:
    torch.testing.assert_close(build(base=16.0).periods, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    ranged = build(base=None, min_period=0.5, max_period=4.0).periods
    torch.testing.assert_close(ranged, torch.tensor([0.5, 1.0, 2.0, 4.0]))


def test_bfloat16_periods_are_those_of_the_released_files() -> None:
    published = [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5]
    published += [10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]
    assert build(64, dtype="bfloat16").periods.tolist() == published
    assert build(64, dtype="bfloat16")((2, 2), prefix=0).cos.dtype == torch.bfloat16


def test_casting_a_network_does_not_round_its_angles() -> None:
    module, exact = build(), build()((3, 5), prefix=1)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        assert module.to(dtype).periods.dtype == torch.float32
    assert torch.equal(module((3, 5), prefix=1).sin, exact.sin)
    outline = module.to("meta")
    assert (outline.bfloat16().periods.dtype, outline.periods.device.type) == (torch.float32, "meta")
    assert outline.to_empty(device="cpu").periods.device.type == "cpu"


def test_shift_jitter_and_rescale_stay_in_their_range() -> None:
    coords = rope.coordinates((3, 3), "separate")
    torch.manual_seed(0)
    for _ in range(20):
        shifted = rope.augmented_coordinates(coords, rope.RopeConfig(shift=0.2)) - coords
        torch.testing.assert_close(shifted, shifted[:1].expand_as(shifted), atol=1e-6, rtol=0)
        assert shifted.abs().max() <= 0.2
        assert shifted[0, 0] != shifted[0, 1]
        jittered = rope.augmented_coordinates(coords, rope.RopeConfig(jitter=3.0))[0] / coords[0]
        assert jittered[0] != jittered[1]
        rescaled = rope.augmented_coordinates(coords, rope.RopeConfig(rescale=2.0))[0] / coords[0]
        torch.testing.assert_close(rescaled[0], rescaled[1])
        assert 1 / 3 <= jittered.min() <= jittered.max() <= 3
        assert 0.5 <= rescaled.min() <= rescaled.max() <= 2


def test_rescaling_is_symmetric_on_a_log_scale() -> None:
    coords = torch.ones(1, 2)
    torch.manual_seed(0)
    draws = [rope.augmented_coordinates(coords, rope.RopeConfig(rescale=2.0))[0, 0].log() for _ in range(400)]
    # the mean of 400 U(-ln 2, ln 2) has a standard deviation of 0.02; of U(0.5, 2) the mean logarithm would be 0.16
    assert abs(torch.stack(draws).mean()) < 0.08


@pytest.mark.parametrize(
    "options",
    [
        {"base": None},
        {"min_period": 1.0, "max_period": 2.0},
        {"base": None, "min_period": 1.0},
        {"max_period": 2.0},
        {"base": -1.0},
        {"rescale": 0.5},
        {"shift": -0.1},
    ],
)
def test_contradicting_options_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="rope|must be above"):
        rope.RopeConfig(**options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradient_turns_back(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinokit.core.device.SLICE", {"cpu": 6 * 2 * 3 * 8 * 2})  # two images at a time
    table = build(8)((2, 3), prefix=0)
    vectors = torch.randn(5, 6, 3, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    turned = table(vectors[:, :, :2])
    turned.backward(turned.detach())  # the way back leads to where it began
    assert vectors.grad is not None
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    torch.testing.assert_close(vectors.grad[:, :, :2], vectors[:, :, :2].detach(), rtol=tolerance, atol=tolerance)
    assert not vectors.grad[:, :, 2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_in_parts_is_the_formula_to_the_bit(dtype: torch.dtype) -> None:
    rotation = build(8)((3, 4), prefix=2)
    draw = torch.Generator().manual_seed(0)
    projected = torch.randn(5, 14, 3, 2, 8, generator=draw).to(dtype)[:, :, :2]  # beside the values, as in a network
    cos, sin, exact = rotation.cos[:, None, None], rotation.sin[:, None, None], projected.float()
    expected = torch.addcmul(exact * cos, exact.roll(4, dims=-1), sin).to(dtype)
    assert torch.equal(rotation(projected), expected)
