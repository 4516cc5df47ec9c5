"""TokenCut: the cut is that of the generalised problem, the box is that of the object, and nothing breaks it."""

import numpy
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torch.nn import functional as F

from dinokit.dense import discovery
from dinokit.dense.discovery import APART, at_pixels, box_of, drawn, objects, second
from dinokit.dense.maps import Frame


def alike(count: int, *, seed: int, tau: float = 0.2) -> Bool[Tensor, "patch patch"]:
    """Which of some random patches, of three directions and noise, are alike."""
    draw = numpy.random.default_rng(seed)
    patches = draw.standard_normal((3, 8))[draw.integers(0, 3, count)] + 0.7 * draw.standard_normal((count, 8))
    patches /= numpy.linalg.norm(patches, axis=1, keepdims=True)
    return torch.from_numpy(patches @ patches.T > tau)


def naive(near: Bool[Tensor, "patch patch"]) -> Float64[Tensor, " patch"]:
    """The second smallest eigenvector by the dense solver of the generalised problem."""
    joints = numpy.where(near.numpy(), 1.0, APART)
    sums = numpy.diag(joints.sum(axis=1))
    return torch.from_numpy(scipy.linalg.eigh(sums - joints, sums)[1][:, 1])


def as_told(y: Float64[Tensor, " patch"]) -> Float64[Tensor, " patch"]:
    """Without its length and sign, of which an eigenvector has none."""
    y = y / y.norm()
    return y * y[y.abs().argmax()].sign()


@pytest.mark.parametrize("count", [5, 6, 7, 30, 200])
def test_the_eigenvector_is_that_of_the_generalised_problem(count: int) -> None:
    near = alike(count, seed=count)
    assert not near.all()
    # the residual is below 1e-9 and the next value of many patches is at least 0.2 away
    assert torch.allclose(as_told(second(near)), as_told(naive(near)), atol=1e-6)


def test_boxes_are_those_of_a_plain_tokencut() -> None:
    """Random smooth maps, all steps as the paper has them, by scipy."""
    draw, different, taus = torch.Generator().manual_seed(0), set[discovery.Box](), (0.0, 0.1, 0.3)
    for _ in range(8):
        coarse = torch.randn(1, 24, 4, 4, generator=draw)
        maps = F.interpolate(coarse, size=(9, 13), mode="bicubic")[0] + 0.4 * torch.randn(24, 9, 13, generator=draw)
        patches = maps.flatten(1).T  # [patch, dim]
        unit = F.normalize(patches.double(), dim=1)
        for tau, found in zip(taus, objects(patches, (9, 13), taus), strict=True):
            y = naive((unit @ unit.T) > tau).numpy()
            side = (y > y.mean()).reshape(9, 13)
            seed = divmod(int(numpy.abs(y).argmax()), 13)
            parts = scipy.ndimage.label(side if side[seed] else ~side)[0]
            down, across = scipy.ndimage.find_objects(parts)[parts[seed] - 1]
            assert found == (across.start, down.start, across.stop, down.stop)
            different.add(found)
    assert len(different) > 12


def test_many_patches_whose_joints_are_not_held_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    near = alike(60, seed=1)
    held = second(near)
    monkeypatch.setattr(discovery, "AT_ONCE", 0)
    assert torch.allclose(held, second(near), atol=1e-9)


def test_an_object_among_others_gives_its_exact_box_for_every_tau() -> None:
    rows, columns = 9, 12
    kinds = torch.zeros(rows, columns, dtype=torch.int64)
    kinds[2:6, 3:8] = 1
    directions = torch.eye(4)[:2] + 0.05  # of a cosine of 0.1
    patches = directions[kinds.flatten()] * torch.rand(rows * columns, 1).add(0.5)
    found = objects(patches, (rows, columns), (0.1, 0.2, 0.4))
    assert found == [(3, 2, 8, 6)] * 3


def test_of_what_looks_alike_only_what_hangs_together_counts() -> None:
    y = torch.full((4, 6), -1.0, dtype=torch.float64)
    y[0, 0], y[1, 1] = 4.0, 5.0  # a corner is no side
    y[1, 2], y[3, 4:] = 3.0, 3.0
    assert box_of(y.flatten(), (4, 6)) == (1, 1, 3, 2)
    assert box_of(-y.flatten(), (4, 6)) == (1, 1, 3, 2)  # an eigenvector has no sign


def test_of_equal_values_the_first_counts_whatever_rounding_says() -> None:
    y = torch.tensor([1.0, -1.0, -1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert box_of(y, (1, 4)) == (0, 0, 1, 1)


@pytest.mark.parametrize("patches", [torch.ones(12, 5), torch.zeros(12, 5), torch.eye(12), torch.ones(12, 5) * 1e-30])
def test_where_no_patch_stands_out_the_box_is_the_whole_image(patches: Tensor) -> None:
    assert objects(patches, (3, 4), (0.0, 0.4)) == [(0, 0, 4, 3)] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_patches_are_the_whole_image(count: int) -> None:
    assert objects(torch.eye(2)[:count], (1, count), (0.2,)) == [(0, 0, count, 1)]


def test_a_patch_without_any_value_is_a_patch_like_others() -> None:
    patches = torch.eye(4)[torch.tensor([0, 0, 1, 1, 1, 1])]
    patches[5] = 0
    for left, top, right, bottom in objects(patches, (2, 3), (0.0, 0.2)):
        assert 0 <= left < right <= 3
        assert 0 <= top < bottom <= 2


def test_a_box_lies_on_the_pixels_of_its_patches_without_the_padding() -> None:
    frame = Frame(size=(10, 21), padded=(12, 24), corner=(1, 1))
    assert at_pixels((0, 0, 1, 1), frame, 4) == (0, 0, 3, 3)
    assert at_pixels((2, 1, 4, 2), frame, 4) == (7, 3, 15, 7)
    assert at_pixels((0, 0, 6, 3), frame, 4) == (0, 0, 21, 10)


def test_a_drawing_shows_the_boxes_and_whether_it_is_right() -> None:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    truth, box = numpy.array([[2.0, 2, 8, 8]]), numpy.array([[12.0, 4, 25, 18]])
    pictures = [numpy.asarray(drawn(image, truth, box, right=right)) for right in (True, False)]
    assert [tuple(each[4, 12]) for each in pictures] == [discovery.RIGHT, discovery.WRONG]
    assert all(tuple(each[2, 2]) == discovery.TRUE and not each[10, 20].any() for each in pictures)
