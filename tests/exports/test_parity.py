"""A comparison finds what differs, at every size."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dinokit.exports.outputs import Outputs, about
from dinokit.exports.parity import Refused, compare, shapes
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
    assert [(row.batch, row.height, row.width) for row in rows[::2]] == shapes(FREE)
    assert {(16, 16), (24, 24), (37, 37), (16, 32)} == {(row.height, row.width) for row in rows}
    assert all(row.holds and row.error == 0 for row in rows)


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
    assert {(224, 224), (336, 336), (518, 518), (224, 448), (232, 232)} == {size[1:] for size in shapes(told)}


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


def test_photos_take_the_place_of_noise_at_every_size() -> None:
    seen = []

    def keep(images: Tensor) -> tuple[Tensor, ...]:
        seen.append(images)
        return ours(images)

    photos = torch.full((3, 3, 16, 16), 0.5)
    assert all(row.holds for row in compare(keep, ours, FREE, photos=photos, batches=(1, 4)))
    assert {len(images) for images in seen} == {1, 4}
    assert {tuple(images.shape[2:]) for images in seen} == {(16, 16), (24, 24), (37, 37), (16, 32)}
    assert all(torch.allclose(images, torch.tensor(0.5)) for images in seen)
