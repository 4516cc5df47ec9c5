"""Met: the classifier by hand, and the whole on a small copy."""

import math
from pathlib import Path

import numpy
import pytest
import torch
from sklearn.decomposition import PCA

from dinokit.core.messages import UserError
from dinokit.evaluation import base, retrieval
from dinokit.evaluation.sets import met
from dinokit.evaluation.sets.met import Answers
from dinokit.features.embedding import unit
from dinokit.features.extraction import Embeddings
from dinokit.models.pixels import RawPixels
from dinokit.sources.source import open_source
from tests.conftest import MakeVit
from tests.metrics.test_ranking import naive_gap
from tests.sources import instance_sets


def measured(root: Path, name: str = "met", **settings: object) -> dict[str, float]:
    return base.measure("retrieval", RawPixels(size=16), retrieval.Config(data=f"{name}:{root}", **settings))  # type: ignore[arg-type]


def naive_confidence(similarity: list[float], named: list[int], k: int, temperature: float, count: int) -> float:
    best: dict[int, float] = {}
    for value, name in zip(similarity[:k], named[:k]):
        best[name] = max(value, best.get(name, -math.inf))
    total = sum(math.exp(temperature * value) for value in best.values()) + count - len(best)
    return math.exp(temperature * best[named[0]]) / total


@pytest.mark.parametrize("k", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 30.0])
def test_confidence_is_that_of_a_loop(k: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(k)
    similarity = torch.rand(6, 7, generator=draw, dtype=torch.float64).sort(dim=1, descending=True).values
    named = torch.randint(0, 3, (6, 7), generator=draw)
    odds = Answers(similarity, named, named[:, 0]).odds(k, temperature, exhibits=9)
    wanted = [
        naive_confidence(row.tolist(), names.tolist(), k, temperature, 9) for row, names in zip(similarity, named)
    ]
    assert (1 / (1 + numpy.exp(-odds))).tolist() == pytest.approx(wanted)


def test_confidences_that_round_to_1_keep_their_order() -> None:
    similarity = torch.tensor([[0.9, 0.1], [0.8, 0.1]], dtype=torch.float64)
    odds = Answers(similarity, torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 0])).odds(2, 500.0, exhibits=3)
    assert odds[0] > odds[1] > 100


def test_exhibits_that_look_alike_are_all_named_and_distractors_are_not_trusted(tmp_path: Path) -> None:
    result = measured(instance_sets.met(tmp_path))
    assert {result[name] for name in ("GAP", "GAP-", "ACC", "val")} == {100.0}
    assert next(iter(result)) == "GAP"
    assert (result["queries"], result["gallery"]) == (20, 15)
    assert result["K"] <= 3  # of equal ones the first


def test_noise_is_named_by_chance(tmp_path: Path) -> None:
    result = measured(instance_sets.met(tmp_path, noise=True))
    assert result["ACC"] <= 50
    assert result["GAP"] <= result["GAP-"] < 50


def test_an_exhibit_that_is_not_learnt_is_never_right(tmp_path: Path) -> None:
    result = measured(instance_sets.met(tmp_path), "met-mini")
    assert result["gallery"] == 9
    assert result["ACC"] == pytest.approx(60)


def test_photos_of_the_museum_there_must_be(tmp_path: Path) -> None:
    root = instance_sets.met(tmp_path)
    lists = root / "ground_truth" / "valset.json"
    lists.write_text('[{"path": "other/26.jpg"}]')
    instance_sets.picture(root / "images" / "other" / "26.jpg", None, 26)
    with pytest.raises(UserError, match="no photo of val"):
        measured(root)


def test_numbers_are_those_of_a_loop_over_photos_and_settings(tmp_path: Path, make_vit: MakeVit) -> None:
    root = instance_sets.met(tmp_path, noise=True)
    config = retrieval.Config(data=f"met:{root}", size=16, dims=4)
    result = base.measure("retrieval", make_vit(), config)
    describe = retrieval.described(make_vit(), config)
    train, val, test = (describe(open_source(f"met:{root}", split=split)) for split in ("train", "val", "test"))
    known = unit(torch.from_numpy(train.vectors)).numpy()
    axes = PCA(4, whiten=True, svd_solver="full").fit(known)
    gallery = unit(torch.from_numpy(axes.transform(known))).numpy()
    assert train.labels is not None

    def answered(photos: Embeddings, k: int, temperature: float) -> tuple[list[float], list[bool], list[bool]]:
        found = unit(torch.from_numpy(axes.transform(unit(torch.from_numpy(photos.vectors)).numpy()))).numpy()
        confidence, right, answerable = [], [], []
        assert photos.labels is not None
        assert train.labels is not None
        for photo, label in zip(found, photos.labels.tolist(), strict=True):
            order = numpy.argsort(-(gallery @ photo))
            similarity, named = (gallery @ photo)[order].tolist(), train.labels[order].tolist()
            confidence.append(naive_confidence(similarity, named, k, temperature, 5))
            right.append(named[0] == label)
            answerable.append(label >= 0)
        return confidence, right, answerable

    tried = {(k, t): naive_gap(*answered(val, k, t)) for k in met.KS for t in met.TEMPERATURES if t < 100}
    best = max(tried.values())
    assert result["val"] == pytest.approx(100 * best)  # at 100 and more a loop's confidences round to 1
    chosen = answered(test, int(result["K"]), result["T"])
    assert result["GAP"] == pytest.approx(100 * naive_gap(*chosen))
    inside = [[value for value, there in zip(each, chosen[2]) if there] for each in chosen]
    assert result["GAP-"] == pytest.approx(100 * naive_gap(*inside))  # type: ignore[arg-type]
    assert result["ACC"] == pytest.approx(100 * sum(inside[1]) / len(inside[1]))
