"""Revisited Oxford and Paris, against the plainest way to measure them."""

from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.evaluation import base, retrieval
from dinokit.models.pixels import RawPixels
from dinokit.sources.instances import landmarks
from tests.conftest import MakeVit
from tests.metrics.test_ranking import naive_places, naive_trapezoids
from tests.sources import instance_sets

KINDS = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}


def measured(root: Path, name: str = "roxford5k", **settings: object) -> dict[str, float]:
    return base.measure("retrieval", RawPixels(size=16), retrieval.Config(data=f"{name}:{root}", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_buildings_that_look_alike_are_all_found(name: str, tmp_path: Path) -> None:
    result = measured(instance_sets.oxford(tmp_path, name=name), name)
    scores = {number: value for number, value in result.items() if number.startswith("m")}
    assert len(scores) == 3 + 9
    assert set(scores.values()) == {100.0}
    assert next(iter(result)) == "mAP/medium"
    assert (result["queries"], result["gallery"]) == (3, 21)


def test_noise_finds_nothing(tmp_path: Path) -> None:
    result = measured(instance_sets.oxford(tmp_path, noise=True))
    assert result["mAP/hard"] < result["mAP/medium"] < 60


def test_numbers_are_those_of_a_loop(tmp_path: Path, make_vit: MakeVit) -> None:
    root = instance_sets.oxford(tmp_path, noise=True)
    config = retrieval.Config(data=f"roxford5k:{root}", size=16)
    result = base.measure("retrieval", make_vit(), config)
    describe = retrieval.described(make_vit(), config)
    database, query = (
        torch.from_numpy(describe(retrieval.open_source(f"roxford5k:{root}", split=split)).vectors)
        for split in ("database", "query")
    )
    similarity = torch.cosine_similarity(query[:, None].double(), database[None].double(), dim=-1)
    for name, kinds in KINDS.items():
        areas = []
        for row, truth in enumerate(landmarks(root).truth):
            right = {number for kind in kinds for number in getattr(truth, kind).tolist()}
            ignored = {5 * row + place for place in range(5)} - right  # all five of a building are of one kind or other
            places = naive_places(similarity[row].tolist(), right, ignored)
            areas.append(naive_trapezoids(places, len(right)))
        assert result[f"mAP/{name}"] == pytest.approx(100 * sum(areas) / 3)


def test_distractors_are_searched_and_never_right(tmp_path: Path) -> None:
    root = instance_sets.oxford(tmp_path / "set")
    for thing in range(3):  # copies of the queries come first
        instance_sets.picture(tmp_path / "more" / f"{thing}.jpg", thing, 6 * thing + 6)
    result = measured(root, distractors=str(tmp_path / "more"))
    assert result["gallery"] == 24
    assert result["mP@1/medium"] == 0


def test_a_query_with_nothing_to_find_is_not_counted(tmp_path: Path) -> None:
    root = instance_sets.oxford(tmp_path)
    found = landmarks(root)
    truth = [{kind: getattr(each, kind).tolist() for kind in ("easy", "hard", "junk")} for each in found.truth]
    truth[0]["hard"] = truth[1]["hard"] = truth[2]["hard"] = []
    instance_sets.written(root, {"gnd": truth, "imlist": list(found.database), "qimlist": list(found.query)})
    result = measured(root)
    assert "mAP/hard" not in result
    assert result["mAP/medium"] == result["mAP/easy"]
    truth = [dict.fromkeys(("easy", "hard", "junk"), numpy.empty(0)) for _ in truth]
    instance_sets.written(root, {"gnd": truth, "imlist": list(found.database), "qimlist": list(found.query)})
    with pytest.raises(UserError, match="anything to find"):
        measured(root)


def test_an_image_that_cannot_be_read_is_said_and_not_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = instance_sets.oxford(tmp_path)
    for name in ("house_000000.jpg", "asked_0.jpg"):
        (root / "jpg" / name).write_bytes(b"no image")
    result = measured(root)
    assert (result["queries"], result["gallery"]) == (2, 20)
    assert result["mAP/medium"] == 100
    assert "images that cannot be read and do not count, 1: jpg/house_000000.jpg" in capsys.readouterr().err
