"""Copies find their originals; every attack that is there is measured."""

from pathlib import Path
from shutil import rmtree

import pytest

from dinokit.evaluation import base, retrieval
from dinokit.models.pixels import RawPixels
from tests.sources import instance_sets


def measured(root: Path, **settings: object) -> dict[str, float]:
    return base.measure("retrieval", RawPixels(size=16), retrieval.Config(data=f"copydays:{root}", **settings))  # type: ignore[arg-type]


def test_copies_that_look_alike_find_their_originals(tmp_path: Path) -> None:
    root = instance_sets.copydays(tmp_path)
    result = measured(root)
    assert list(result) == ["mAP/strong", "mAP/jpegqual/3", "mAP/crops/80", "queries", "gallery"]
    assert result["mAP/strong"] == result["mAP/crops/80"] == 100
    assert (result["queries"], result["gallery"]) == (20, 5)
    rmtree(root / "crops")
    assert "mAP/crops/80" not in measured(root)


def test_noise_finds_nothing(tmp_path: Path) -> None:
    # the original at a random place among five scores (1 + 1/4 + 1/6 + 1/8 + 1/10) / 5
    assert measured(instance_sets.copydays(tmp_path, noise=True))["mAP/strong"] < 70


def test_a_distractor_in_front_halves_the_precision_twice(tmp_path: Path) -> None:
    root = instance_sets.copydays(tmp_path / "set")
    for path in (root / "strong").iterdir():
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / path.name).write_bytes(path.read_bytes())
    result = measured(root, distractors=str(tmp_path / "more"))
    # a copy finds itself first; its original is second or, behind the other copy, third
    assert 100 / 6 <= result["mAP/strong"] <= 100 / 4
    assert result["gallery"] == 15


@pytest.mark.parametrize("settings", [{"gem": 0.0}, {"scales": (1.0, 0.5)}, {"fit": "padded"}])
def test_settings_change_how_images_are_described(tmp_path: Path, settings: dict[str, object]) -> None:
    root = instance_sets.copydays(tmp_path)
    data = f"copydays:{root}"
    usual, other = (
        retrieval.described(RawPixels(size=16), retrieval.Config(data=data, **each))  # type: ignore[arg-type]
        for each in ({}, settings)
    )
    same = (usual.transforms, usual.reading) == (other.transforms, other.reading)
    assert same == ("scales" in settings)  # of raw pixels there is one size


def test_whitening_is_learnt_on_other_images(tmp_path: Path) -> None:
    root = instance_sets.copydays(tmp_path / "set")
    for shot in range(12):
        instance_sets.picture(tmp_path / "more" / f"{shot}.png", None, shot)
    result = measured(root, whiten=str(tmp_path / "more"), dims=8)
    assert result["mAP/strong"] > 90
