import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.evaluation import base, retrieval
from dinokit.evaluation.sets import labelled
from dinokit.features import compare
from dinokit.features.embedding import unit
from dinokit.images.intensity import Pixels
from dinokit.images.transforms import Inner, Padded, Square, Squashed, Transform, Whole
from dinokit.models.classifier import Reading
from dinokit.models.gem import WithGem
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from tests.sources import instance_sets
from tests.vits import ARCHITECTURE

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


def task(labels: list[int], vectors: Tensor) -> labelled.Task:
    rows, numbers = unit(vectors), torch.tensor(labels)
    return labelled.Task(rows, numbers, None, rows, numbers, None, leave_one_out=True)


def test_a_query_never_finds_itself() -> None:
    # in the plane: 0 and 1 degrees are a pair, 2 and 90 degrees are one
    angles = torch.deg2rad(torch.tensor([0.0, 1.0, 2.5, 90.0]))
    precision, first = retrieval.search(task([0, 0, 1, 1], torch.stack([angles.cos(), angles.sin()], dim=1)))
    assert precision.tolist() == pytest.approx([1, 1, 1 / 3, 1])
    assert first.tolist() == [1, 1, 0, 1]


def test_a_thing_with_a_single_picture_is_not_asked() -> None:
    precision, _ = retrieval.search(task([0, 0, 1], torch.eye(3)))
    assert len(precision) == 2


def test_an_interval_stands_beside_both_numbers(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data = str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)), tinted=False))
    numbers, details = retrieval.run(make_vit(), retrieval.Config(data=data), None)
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert all(ends[name][0] < numbers[name] < ends[name][1] for name in ("mAP", "R@1"))


def test_chunks_do_not_change_the_result(
    make_vit: MakeVit, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = retrieval.Config(data=str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)))))
    whole = base.measure("retrieval", make_vit(), config)
    monkeypatch.setattr(compare, "CHUNK", 13)  # one query at a time
    assert base.measure("retrieval", make_vit(), config) == pytest.approx(whole)


def test_equal_features_are_one_threshold() -> None:
    same = torch.ones(18, 4)
    for labels in ([0] * 6 + [1] * 6 + [2] * 6, [0, 1, 2] * 6):  # another order of the same images
        precision, _ = retrieval.search(task(labels, same))
        assert precision.tolist() == pytest.approx([5 / 17] * 18)


@pytest.mark.parametrize("chunk", [1 << 24, 19])
def test_of_equal_images_the_first_answers(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CHUNK", chunk)
    vectors = torch.randn(1, 47, generator=torch.Generator().manual_seed(0)).expand(9, -1)
    _, first = retrieval.search(task([0] * 3 + [1] * 3 + [2] * 3, vectors))
    assert first.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_domains_search_each_other_in_both_directions() -> None:
    config = retrieval.Config(data="demo:emoji")
    result = base.measure("retrieval", RawPixels(size=8), config)
    assert result["queries"] == 2 * 1911
    directions = [result["mAP/noto-twemoji"], result["mAP/twemoji-noto"]]
    assert result["mAP"] == pytest.approx(sum(directions) / 2)
    assert result["mAP"] > 10  # chance is 0.4


def test_data_without_pairs_is_the_users_error(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="pairs"):
        base.measure("retrieval", make_vit(), retrieval.Config(data=str(make_folder("a/0.png", "b/0.png"))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "roxford5k:x", "split": "query"}, "says itself which images ask"),
        ({"data": "met:x", "whiten": "more"}, "of its own"),
        ({"data": "met-mini:x", "distractors": "more"}, "of its own"),
        ({"data": "copydays:x", "dims": 8}, "give whiten"),
        ({"data": "x", "size": 4_000_000}, "size must be between 1 and 16384"),
        ({"data": "x", "scales": (1.0, 1e9)}, "scales must be between 0 and 16 without 0"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retrieval.Config(**settings)


@pytest.mark.parametrize(
    ("data", "patch", "transform", "reading"),
    [
        ("roxford5k:x", 14, Padded(224, 14), Reading()),
        ("rparis6k:x", 16, Padded(224, 16), Reading()),
        ("met:x", 16, Whole(512, 16), Reading()),
        ("met-mini:x", 14, Whole(508, 14), Reading()),
        ("amstertime:x", 16, Inner(224, 16), Reading()),
        ("copydays:x", 16, Squashed(224, 16), WithGem(4.0)),
        ("copydays:x", 8, Squashed(320, 8), WithGem(4.0)),
        ("photos", 16, Square(64, 16), Reading()),
    ],
)
def test_a_set_is_shown_as_published(data: str, patch: int, transform: Transform, reading: Reading | WithGem) -> None:
    backbone = VisionTransformer(replace(ARCHITECTURE, patch_size=patch), seed=0)
    backbone.pixels = Pixels(size=64)
    found = retrieval.described(backbone, retrieval.Config(data=data))
    assert found.transforms == (transform,)
    assert found.reading == reading
    other = retrieval.described(
        backbone, retrieval.Config(data=data, fit="whole", size=512, scales=(1.0, 0.5), gem=0.0)
    )
    assert other.transforms == (Whole(512, patch), Whole(256, patch))
    assert other.reading == Reading()


def test_vectors_of_several_sizes_are_averaged_as_they_are(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder("a/0.png", "a/1.png", "b/0.png")))
    both, one, half = (
        retrieval.described(make_vit(), retrieval.Config(data="x", scales=scales))(source).vectors
        for scales in ((1.0, 0.5), (1.0,), (0.5,))
    )
    assert both == pytest.approx((one + half) / 2, abs=1e-6)


def test_a_model_of_any_size_is_told_which(make_vit: MakeVit) -> None:
    backbone = make_vit(size=None)
    assert retrieval.described(backbone, retrieval.Config(data="x")).transforms == (Square(None, 4),)
    with pytest.raises(UserError, match="--size"):
        retrieval.described(backbone, retrieval.Config(data="x", fit="padded"))


@pytest.mark.parametrize("noise", [False, True])
def test_places_of_amstertime_are_searched_in_both_directions(tmp_path: Path, noise: bool) -> None:
    root = instance_sets.amstertime(tmp_path, noise=noise)
    result = base.measure("retrieval", RawPixels(size=16), retrieval.Config(data=f"amstertime:{root}"))
    assert result["queries"] == 12
    assert result["mAP"] == pytest.approx((result["mAP/new-old"] + result["mAP/old-new"]) / 2)
    assert (result["mAP"] == result["R@1"] == 100) != noise  # chance is 41


def test_distractors_are_searched_in_every_direction(tmp_path: Path) -> None:
    root = instance_sets.amstertime(tmp_path / "set")
    more = shutil.copytree(root, tmp_path / "more")
    result = base.measure(
        "retrieval", RawPixels(size=16), retrieval.Config(data=f"amstertime:{root}", distractors=str(more))
    )
    assert result["gallery"] == 24
    assert result["R@1/new-old"] == result["R@1/old-new"] == 0  # a query finds itself among the distractors
    assert result["mAP"] < 50


def test_distractors_are_no_domain_beside_a_single_one() -> None:
    vectors = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    domains = numpy.array(["photo"] * 4)
    images = replace(task([0, 0, 1, 1], vectors), gallery_domains=domains, query_domains=domains)
    ((name, found),) = retrieval._directions(retrieval._among(images, torch.tensor([[-1.0, 0]])))
    assert (name, len(found.gallery)) == ("", 5)
    precision, first = retrieval.search(found)
    assert precision.tolist() == first.tolist() == [1, 1, 1, 1]


def test_a_folder_in_a_folder_is_a_thing(tmp_path: Path) -> None:
    for shot in range(9):
        instance_sets.picture(tmp_path / "things" / f"{shot % 3}" / f"{shot}.png", shot % 3, shot)
    result = base.measure("retrieval", RawPixels(size=16), retrieval.Config(data=str(tmp_path / "things")))
    assert result["mAP"] == result["R@1"] == 100


def test_a_killed_search_that_starts_again_finds_the_same(make_vit: MakeVit, tmp_path: Path) -> None:
    config = retrieval.Config(data=f"met:{instance_sets.met(tmp_path / 'set', noise=True)}", size=16)
    for name in ("one", "two"):
        base.measure("retrieval", make_vit(), config, tmp_path / name)
    assert (tmp_path / "one" / "retrieval.json").read_bytes() == (tmp_path / "two" / "retrieval.json").read_bytes()


def test_sizes_that_no_memory_holds_are_refused(make_vit: MakeVit) -> None:
    with pytest.raises(UserError, match="images would have 160,000 pixels a side, at most 16,384 fit"):
        retrieval.described(make_vit(), retrieval.Config(data="x", size=10_000, scales=(1.0, 16.0)))


def test_too_few_images_to_whiten_with_are_said(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(make_folder("a/0.png", "a/1.png", "b/0.png", "b/1.png"))
    base.measure("retrieval", make_vit(), retrieval.Config(data=data, whiten=data))
    assert "4 images tell 4 numbers apart, and whitening is to keep 16" in capsys.readouterr().err
