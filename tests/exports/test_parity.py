"""A comparison finds what differs, at every size."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from dinokit.exports.outputs import Outputs, Precision, about
from dinokit.exports.parity import BATCHES, BOUNDS, Refused, compare, sizes
from tests.exports.conftest import network

BACKBONE = network("dinov2")
FREE = about(BACKBONE, ("cls", "patches"), model="dinov2", dynamic=True)
HALF = about(BACKBONE, ("cls", "patches"), model="dinov2", dynamic=True, precision="fp16")


def ours(images: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = Outputs(BACKBONE, FREE.outputs)(images)
    return found


def test_the_same_network_holds_everywhere() -> None:
    rows = compare(ours, ours, FREE)
    assert [((row.height, row.width), row.batch) for row in rows[::2]] == [*product(sizes(FREE), BATCHES)]
    assert {(16, 16), (24, 24), (37, 37), (16, 32)} == {(row.height, row.width) for row in rows}
    assert all(row.holds and row.error == row.relative == 0 for row in rows)


def _one_patch_off(images: Tensor) -> tuple[Tensor, ...]:
    cls, patches = ours(images)
    patches[-1, -1] += 1e-3
    return cls, patches


def _not_finite(images: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.full_like(each, torch.nan) for each in ours(images))


def _one_shape(images: Tensor) -> tuple[Tensor, ...]:
    cls, patches = ours(images)
    return cls, patches[:, :-1]


def _refused(images: Tensor) -> tuple[Tensor, ...]:
    if images.shape[2] == 24:
        raise Refused("only some sizes")
    return ours(images)


@pytest.mark.parametrize(("run", "wrong"), [(_one_patch_off, 8), (_not_finite, 16), (_one_shape, 8), (_refused, 4)])
def test_what_differs_does_not_hold(run: Callable[[Tensor], tuple[Tensor, ...]], wrong: int) -> None:
    assert sum(not row.holds for row in compare(run, ours, FREE)) == wrong


def test_a_mean_cannot_hide_one_vector_and_half_precision_has_a_wider_bound() -> None:
    def turned(images: Tensor) -> tuple[Tensor, ...]:
        cls, patches = ours(images)
        patches[0, 0] = -patches[0, 0]
        return cls, patches

    rows = compare(turned, ours, HALF)
    assert [row.cosine < -0.99 for row in rows] == [row.output == "patches" for row in rows]
    assert all(row.holds for row in compare(_one_patch_off, ours, HALF))


def test_a_large_native_size_is_compared_too() -> None:
    backbone = network("dinov2")
    backbone.pixels = type(backbone.pixels)(size=230)
    told = about(backbone, ("cls",), model="large", dynamic=True)
    assert told.size == 232  # whole patches
    assert {(224, 224), (336, 336), (518, 518), (224, 448), (232, 232)} == {*sizes(told)}


def test_a_class_that_differs_is_a_share_of_pixels_and_many_do_not_hold() -> None:
    told = replace(FREE, outputs=("mask",))

    def classes(images: Tensor) -> tuple[Tensor, ...]:
        return ((images.sum(dim=1) > 0).long(),)

    def other(images: Tensor) -> tuple[Tensor, ...]:
        (found,) = classes(images)
        found[:, :, 0] = 1 - found[:, :, 0]
        return (found,)

    assert all(row.holds and row.cosine == 1 for row in compare(classes, classes, told))
    rows = compare(other, classes, told)
    assert [row.cosine for row in rows] == pytest.approx([1 - 1 / row.width for row in rows])
    assert not any(row.holds for row in rows)


def _picked(outputs: tuple[str, ...]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return what finds outputs of these names, of which every image has others."""

    def found(images: Tensor) -> tuple[Tensor, ...]:
        cls, _ = ours(images)
        rough = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
        made = {
            "cls": cls,
            "logits": torch.stack([2 * rough[:, 0], rough[:, 1], rough.sum(dim=1)], dim=1),
            "depth": 4 + 2 * rough[:, 0],
            "mask": 1 + (rough[:, 0] > 0).long(),
        }
        return tuple(made[name] for name in outputs)

    return found


PHOTOS = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(5)) + torch.arange(-2, 3).view(5, 1, 1, 1)


@pytest.mark.parametrize(("precision", "dynamic"), [("int8", True), *((each, False) for each in BOUNDS)])
def test_scale_constant_and_shift_do_not_hold_whatever_the_precision(precision: Precision, dynamic: bool) -> None:
    """A cosine sees no scale, and none of one number per pixel; where an image is alone a constant may be right."""
    outputs = ("cls", "logits", "depth")
    told, right = replace(FREE, outputs=outputs, precision=precision, dynamic=dynamic), _picked(outputs)
    assert all(row.holds for row in compare(right, right, told, photos=PHOTOS))
    mean = [each.mean(dim=0, keepdim=True) for each in right(PHOTOS)]
    deviation = [each.std() for each in right(PHOTOS)]
    wrongs: dict[str, Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
        "ten times": lambda found: tuple(10 * each for each in found),
        "shifted": lambda found: tuple(each + 2 * by for each, by in zip(found, deviation, strict=True)),
        "constant": lambda found: (
            mean[0].expand_as(found[0]),
            mean[1].mean(dim=(2, 3), keepdim=True).expand_as(found[1]),
            mean[2].mean().expand_as(found[2]),
        ),
    }
    for name, wrong in wrongs.items():
        rows = compare(lambda images, wrong=wrong: wrong(right(images)), right, told, photos=PHOTOS)  # type: ignore[misc]
        assert not [row for row in rows if row.holds], name
        assert min(row.relative for row in rows) > 0.9, name


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_a_mask_of_the_most_common_class_does_not_hold(precision: Precision) -> None:
    """Nine of ten pixels are of it: as many alike as the bound of int8 asks for."""
    told = replace(FREE, outputs=("mask",), precision=precision)

    def right(images: Tensor) -> tuple[Tensor, ...]:
        return ((images[:, 0] > images[:, 0].flatten(1).quantile(0.9, dim=1).view(-1, 1, 1)).long(),)

    rows = compare(lambda images: (torch.zeros_like(right(images)[0]),), right, told, photos=PHOTOS)
    assert min(row.cosine for row in rows) > BOUNDS["int8"].agreement
    assert not any(row.holds for row in rows)
    assert all(row.holds for row in compare(right, right, told, photos=PHOTOS))


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_is_wrong_for_the_last_image_alone_does_not_hold(dynamic: bool) -> None:
    """At every size and batch: five images, so the last batch of two is one."""
    told = replace(FREE, precision="int8", dynamic=dynamic)
    last = {
        size: torch.nn.functional.interpolate(PHOTOS, size=size, mode="bicubic", antialias=True)[-1:]
        for size in sizes(told)
    }

    def wrong(images: Tensor) -> tuple[Tensor, ...]:
        is_last = (images == last[images.shape[2], images.shape[3]]).flatten(1).all(dim=1)
        return tuple(torch.where(is_last.view(-1, *(1,) * (each.ndim - 1)), 2 * each, each) for each in ours(images))

    rows = compare(wrong, ours, told, photos=PHOTOS)
    assert len(rows) == (16 if dynamic else 2)
    assert not any(row.holds for row in rows)


def test_relative_is_of_the_worst_image_over_the_deviation_from_the_mean_of_all() -> None:
    told = replace(FREE, outputs=("cls",), dynamic=False)
    expected = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    found = expected + torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    first = PHOTOS[:2]  # of mean -2 and -1

    def of(values: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        return lambda images: (torch.stack([values[int(image.mean() > -1.5)] for image in images]),)

    (row,) = compare(of(found), of(expected), told, photos=first)
    assert row.relative == pytest.approx((0.25 / 2) ** 0.5 / (2 / 4) ** 0.5)  # of two channels one varies, by 1
    assert row.scale == pytest.approx((42 / 4) ** 0.5)


def test_an_output_that_hardly_varies_makes_no_rounding_look_large() -> None:
    told = replace(FREE, outputs=("cls",), precision="fp16")
    rows = compare(
        lambda images: (torch.full((len(images), 4), 1.001),), lambda images: (torch.ones(len(images), 4),), told
    )
    assert all(row.holds and row.relative == pytest.approx(0.01, rel=1e-3) for row in rows)


@pytest.mark.parametrize("precision", list(BOUNDS))
@pytest.mark.parametrize("name", ["cls", "mask"])
def test_a_constant_output_does_not_hold_where_ours_varies_by_less_than_a_tenth(
    name: str, precision: Precision
) -> None:
    """The floor that spares roundings would give it 0.4."""
    told = replace(FREE, outputs=(name,), precision=precision)

    def right(images: Tensor) -> tuple[Tensor, ...]:
        if name == "mask":
            return ((images[:, 0] > images[:, 0].flatten(1).quantile(0.97, dim=1).view(-1, 1, 1)).long(),)
        return (1 + 0.04 * torch.nn.functional.normalize(images[:, :, 0, :4].flatten(1), dim=1) * 12**0.5,)

    def constant(images: Tensor) -> tuple[Tensor, ...]:
        (found,) = right(images)
        return (torch.full_like(found, 0 if name == "mask" else 1),)

    rows = compare(constant, right, told, photos=PHOTOS)
    assert not [row for row in rows if row.holds]
    assert min(row.relative for row in rows) == pytest.approx(1, abs=0.1)
    assert all(row.holds for row in compare(right, right, told, photos=PHOTOS))


def test_photos_take_the_place_of_noise_at_every_size() -> None:
    seen = []

    def keep(images: Tensor) -> tuple[Tensor, ...]:
        seen.append(images)
        return ours(images)

    photos = torch.full((3, 3, 16, 16), 0.5)
    assert all(row.holds for row in compare(keep, ours, FREE, photos=photos, batches=(1, 4)))
    assert {len(images) for images in seen} == {1, 3}  # all there are
    assert {tuple(images.shape[2:]) for images in seen} == {(16, 16), (24, 24), (37, 37), (16, 32)}
    assert all(torch.allclose(images, torch.tensor(0.5)) for images in seen)
