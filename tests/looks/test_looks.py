"""What is drawn of patches is what their features say, in colours that mean the same in every image."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import numpy
import pytest
import torch
from sklearn.decomposition import PCA

from dinokit.core.messages import UserError
from dinokit.looks import attention, clusters, pca, similarity
from dinokit.looks.field import Field, Map, TooLong, field, shown
from dinokit.models.features import Backbone
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from tests.vits import ARCHITECTURE

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)


def made(patches: torch.Tensor, name: str = "a.png") -> Field:
    rows, columns = patches.shape[:2]
    return Field(name, torch.zeros(3, 4 * rows, 4 * columns, dtype=torch.uint8), patches, (8 * columns, 8 * rows))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(look: ModuleType, fields: list[Field], config: Any, backbone: Backbone = PIXELS) -> list[list[Map]]:
    paint = look.fit(backbone, fields, config)
    return [paint(each) for each in fields]


def test_a_large_image_is_seen_window_by_window_and_where_they_overlap_as_their_mean(
    monkeypatch: pytest.MonkeyPatch, make_vit: MakeVit
) -> None:
    image = torch.randint(0, 256, (3, 40, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("dinokit.dense.strips.WINDOW", 4)
    of_pixels = field(PIXELS, image, name="x", size=24)
    expected = PIXELS(image[None].float() / 255).patches.reshape(10, 6, -1)
    torch.testing.assert_close(of_pixels.patches, expected)  # pixels do not depend on what is around them
    vit = make_vit()
    found = field(vit, image, name="x", size=24).patches
    ready = (image[None].float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        seen = {
            (top, left): vit(ready[..., top : top + 16, left : left + 16]) for top in (0, 8, 16, 24) for left in (0, 8)
        }
    both = [seen[0, 0].patches.reshape(4, 4, -1)[2, 1], seen[8, 0].patches.reshape(4, 4, -1)[0, 1]]
    torch.testing.assert_close(found[2, 1], torch.stack(both).mean(dim=0))


@pytest.mark.parametrize(("size", "shape"), [(16, (4, 6)), (30, (8, 11))])
def test_sides_go_to_the_nearest_whole_patch(size: int, shape: tuple[int, int]) -> None:
    assert field(PIXELS, torch.zeros(3, 20, 30), name="x", size=size).patches.shape[:2] == shape


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="wide would be 8000x16 pixels, at most 4096 a side fit; give a smaller --size"):
        field(PIXELS, torch.zeros(3, 2, 1000), name="wide", size=16)
    for patch_size in (4, 14, 16):  # models beside each other show the same images
        assert shown(torch.zeros(3, 2, 128), patch_size=patch_size, name="x", size=64).shape[2] >= 4096
        with pytest.raises(TooLong):
            shown(torch.zeros(3, 2, 129), patch_size=patch_size, name="x", size=64)


def test_axes_are_those_of_scikit_learn_up_to_their_sign() -> None:
    rows = noise(50, 6) * torch.tensor([5.0, 4, 3, 2, 1, 0.5])
    axes, whitened = pca.Axes.of(rows, 3), PCA(3, whiten=True).fit(rows.double().numpy())
    torch.testing.assert_close(axes.deviations, torch.from_numpy(whitened.explained_variance_ * 49 / 50).sqrt())
    expected = torch.from_numpy(whitened.transform(rows.double().numpy())) * (50 / 49) ** 0.5  # it divides by n - 1
    torch.testing.assert_close(axes.whitened(rows).abs(), expected.abs(), atol=1e-9, rtol=1e-9)
    signs = torch.sign(axes.whitened(rows)) * torch.sign(expected)
    assert (signs == signs[0]).all()  # of a whole component


def difference(backbone: VisionTransformer, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch, side: int) -> float:
    """Return by how much colours differ, of 255, between an image seen in windows and seen whole; one fit of each."""
    maps = []
    for window in (side, 10**6):
        monkeypatch.setattr("dinokit.dense.strips.WINDOW", window)
        seen = field(backbone, image, name="x", size=image.shape[1])
        maps.append(drawn(pca, [seen], pca.Config(), backbone)[0][0][1].astype(float))
    assert maps[0].std() > 20
    return float(abs(maps[0] - maps[1]).mean())


def scene(height: int, width: int) -> torch.Tensor:
    """Return discs of several colours on a slope, and a little noise."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, width / height, width)[None]
    image = torch.stack(torch.broadcast_tensors(rows, columns / 2, 1 - rows)) * 120
    for number, (y, x) in enumerate(((0.3, 0.3), (0.7, 0.8), (0.4, 1.4))):
        image[number, (rows - y) ** 2 + (columns - x) ** 2 < 0.05] += 120
    noisy = image + 8 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    return noisy.clamp(0, 255).to(torch.uint8)


def test_windows_change_colours_by_little(make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(make_vit(), scene(96, 128), monkeypatch, 16) < 2.5


@pytest.mark.slow
def test_4096_pixels_in_windows_have_the_colours_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = VisionTransformer(replace(ARCHITECTURE, patch_size=16)).eval()
    assert difference(backbone, scene(2048, 4096), monkeypatch, 64) < 2.5


def test_a_colour_means_the_same_in_every_image() -> None:
    both = noise(6, 6, 8)
    apart = drawn(pca, [made(both), made(both.flip(0), "b.png")], pca.Config())
    assert numpy.array_equal(apart[0][0][1], apart[1][0][1][::-1])
    assert apart[0][0][1].std() > 20


def test_dinov3_is_the_sigmoid_of_whitened_components() -> None:
    rows = noise(8, 8, 5)
    ((_, found),) = drawn(pca, [made(rows)], pca.Config(style="dinov3"))[0]
    axes = pca.outwards(pca.Axes.of(rows.flatten(0, 1), 3), [made(rows)])
    expected = 255 / (1 + torch.exp(-2 * axes(rows) / axes.deviations))
    assert abs(found.astype(float) - expected.numpy()).max() <= 0.5


def test_dinov2_blackens_the_borders_side_of_the_first_component() -> None:
    rows = 0.1 * noise(6, 6, 4)
    rows[2:4, 2:4, 0] += 5  # an object in the middle
    ((_, found),) = drawn(pca, [made(rows)], pca.Config(style="dinov2"))[0]
    assert (found.sum(axis=2) > 0).sum() <= 4
    assert (found[[0, -1]] == 0).all()
    assert found[2:4, 2:4].max() == 255


def test_patches_that_are_all_alike_are_grey_not_noise() -> None:
    ((_, found),) = drawn(pca, [made(torch.ones(4, 4, 3))], pca.Config(style="dinov3"))[0]
    assert set(numpy.unique(found).tolist()) == {128}


@pytest.mark.parametrize("style", ["dinov2", "dinov3"])
def test_a_component_that_is_but_rounding_is_grey(style: Literal["dinov2", "dinov3"]) -> None:
    rows = noise(6, 6, 2) @ noise(2, 16, seed=1)  # two components, in float32
    ((_, found),) = drawn(pca, [made(rows)], pca.Config(style=style))[0]
    shown = found[found.any(axis=2)]
    assert set(shown[:, 2].tolist()) == {128}
    assert shown[:, :2].std() > 20


def test_cosines_are_those_with_the_marked_patch() -> None:
    first, second = noise(4, 6, 8), noise(3, 3, 8, seed=1)
    fields = [made(first), made(second, "b.png")]
    assert fields[0].at(17, 31) == (3, 2)  # 8 pixels a patch as the image lies there
    maps = [similarity.cosines(fields[0], (3, 2), each) for each in fields]
    expected = torch.cosine_similarity(second.double(), first[3, 2].double()[None, None], dim=-1)
    torch.testing.assert_close(maps[1], expected)
    assert maps[0][3, 2] == pytest.approx(1)
    found = drawn(similarity, fields, similarity.Config(at=((17.0, 31.0), (0.0, 0.0))))
    assert [len(each) for each in found] == [2, 2]
    assert found[0][0][1][3, 2].tolist() == list(similarity.MARK)
    with pytest.raises(UserError, match=r"expected x in 0\.\.47 and y in 0\.\.31 of a\.png, got 48,0"):
        drawn(similarity, fields, similarity.Config(at=((48.0, 0.0),)))


def test_where_all_patches_are_alike_all_are_bright() -> None:
    first = made(torch.ones(2, 3, 4) * (1 + 1e-7 * noise(2, 3, 1)))
    found = drawn(similarity, [first], similarity.Config(at=((0.0, 0.0),)))[0][0][1]
    assert found[1].tolist() == [[253, 231, 140]] * 3


def test_attention_is_that_of_the_class_token(make_vit: MakeVit) -> None:
    vit = make_vit()
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = field(vit, image, name="x", size=16)
    found = attention.from_cls(vit, seen, 0)
    with torch.no_grad():
        whole = vit.attention((image[None].float() / 255 - 0.5) / 0.25, 0)[0]
    torch.testing.assert_close(found, whole[:, 0, -24:].reshape(-1, 4, 6))
    assert [name for name, _ in drawn(attention, [seen], attention.Config(), vit)[0]] == ["mean", "head 0", "head 1"]


def test_the_fewest_patches_keep_the_mass() -> None:
    kept = attention.largest(torch.tensor([[[0.1, 0.4], [0.3, 0.2]]]), 0.6)
    assert kept.tolist() == [[[0.0, pytest.approx(0.4)], [pytest.approx(0.3), 0.0]]]


def test_groups_are_shared_by_all_images() -> None:
    kinds = torch.eye(3)
    one, other = kinds[[0, 0, 1, 1]].reshape(2, 2, 3), kinds[[2, 1, 0, 2]].reshape(2, 2, 3)
    left, right = (each[0][1] for each in drawn(clusters, [made(one), made(other)], clusters.Config(k=3)))
    assert (left[0, 0] == left[0, 1]).all()
    assert (left[1, 0] == right[0, 1]).all()
    assert (left[0, 0] == right[1, 0]).all()
    assert (right[0, 0] == right[1, 1]).all()
    assert len({tuple(colour) for colour in numpy.concatenate([left, right]).reshape(-1, 3).tolist()}) == 3
