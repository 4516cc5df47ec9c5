"""Frames of a clip are painted by one fit: nothing flickers, whatever else moves."""

from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.images.film import Writer
from dinokit.looks import attention, clip, clusters, pca, similarity
from dinokit.looks.sheet import Row
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeVit

PIXELS = PatchPixels(patch_size=4)


def frame(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8))


def film(place: Path, seeds: list[int]) -> Path:
    with Writer(place, ending=place.suffix) as made:
        for seed in seeds:
            made.add(frame(seed), 40)
    return place


def frames(place: Path, style: Literal["dinov2", "dinov3"] = "dinov3") -> list[Row]:
    found = [
        (row, lasts) for (row,), lasts in clip.painted(pca, {"a": PIXELS}, place, pca.Config(style=style), size=16)
    ]
    assert {lasts for _, lasts in found} == {40}
    return [row for row, _ in found]


@pytest.mark.parametrize("style", ["dinov2", "dinov3"])
def test_equal_frames_are_painted_alike_whatever_lies_between(
    style: Literal["dinov2", "dinov3"], tmp_path: Path
) -> None:
    found = frames(film(tmp_path / "a.gif", [1, 1, 2, 3, 1]), style)
    maps = [row[1].colours for row in found]
    assert numpy.array_equal(maps[0], maps[1])
    assert numpy.array_equal(maps[0], maps[4])
    assert not numpy.array_equal(maps[0], maps[2])
    assert [row[0].caption for row in found] == ["a.gif"] * 5


def test_the_fit_is_of_the_whole_clip_and_a_few_frames_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = film(tmp_path / "a.gif", [1, 2, 3, 4, 5, 6, 7])
    monkeypatch.setattr(clip, "SAMPLE", 3)  # the first, the fourth and the last
    fitted = []
    fit = pca.fit
    monkeypatch.setattr(pca, "fit", lambda *given: fitted.append(given[1]) or fit(*given))
    found = frames(place)
    (sample,) = fitted
    assert len(found) == 7
    for number, each in zip((0, 3, 6), sample, strict=True):
        assert numpy.array_equal(each.picture, found[number][0].colours)
    paint = fit(PIXELS, sample, pca.Config())
    assert all(
        numpy.array_equal(found[number][1].colours, paint(each)[0][1]) for number, each in zip((0, 3, 6), sample)
    )


def test_a_mark_of_the_first_frame_is_followed_through_all(tmp_path: Path, make_vit: MakeVit) -> None:
    place = film(tmp_path / "a.webp", [1, 2, 1])
    models: dict[str, VisionTransformer | PatchPixels] = {"a": make_vit(), "b": PIXELS}
    config = similarity.Config(at=((9.0, 5.0),))
    found = [row for (row,), _ in clip.painted(similarity, models, place, config, size=16)]
    assert [len(row) for row in found] == [3] * 3
    for column in (1, 2):
        first, last = found[0][column].colours, found[2][column].colours
        assert first[1, 2].tolist() == list(similarity.MARK)
        changed = (first != last).any(axis=2)
        assert changed.sum() == 1  # the mark alone
        assert found[0][column].caption == found[1][column].caption


def test_frames_of_several_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = film(tmp_path / "a.gif", [1, 2])
    other = numpy.asarray(frame(3, 24, 24))
    odd = torch.from_numpy(other.copy()).permute(2, 0, 1)
    read = clip.frames
    monkeypatch.setattr(clip, "frames", lambda *args, **kwargs: [*read(*args, **kwargs), (odd, 40.0)])
    with pytest.raises(UserError, match="frame 2 of .*a.gif has another size than those before; a clip has one"):
        list(clip.painted(pca, {"a": PIXELS}, place, pca.Config(), size=16))


@pytest.mark.parametrize("look", [attention, clusters])
def test_every_fitted_look_takes_a_clip(look: ModuleType, tmp_path: Path, make_vit: MakeVit) -> None:
    place = film(tmp_path / "a.gif", [1, 2, 1])
    found = [row for (row,), _ in clip.painted(look, {"a": make_vit()}, place, look.Config(), size=16)]
    assert numpy.array_equal(found[0][1].colours, found[2][1].colours)
    assert not numpy.array_equal(found[0][1].colours, found[1][1].colours)
