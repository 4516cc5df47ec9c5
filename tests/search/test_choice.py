"""The descriptor that ranks images of the same class first is chosen, and the query never finds itself."""

import numpy as np
import pytest

from dinokit.search import choice
from dinokit.search.choice import best, sample, scores
from tests.curation.pools import unit


def halves(good: np.ndarray, bad: np.ndarray, *, gem: bool) -> np.ndarray:
    return unit(np.concatenate([bad, good] if gem else [good, bad], axis=1))


def test_what_tells_classes_apart_is_chosen() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    good = np.eye(4)[labels] + 0.1 * draw.standard_normal((24, 4))
    bad = draw.standard_normal((24, 4))
    for gem, wanted in ((False, "cls"), (True, "gem")):
        found = scores(halves(good, bad, gem=gem), labels)
        assert best(found) == wanted
        assert found[wanted].precision > 99
        assert found["both"].precision < found[wanted].precision


def test_a_score_is_the_mean_precision_of_a_naive_ranking_of_the_others() -> None:
    rows, labels = unit(np.random.default_rng(1).standard_normal((9, 6))), np.array([0, 0, 0, 1, 1, 1, 1, 2, -1])
    labels[8] = 0
    cls = rows[:, :3].astype(np.float64)
    cls /= np.linalg.norm(cls, axis=1, keepdims=True)
    precisions, firsts = [], []
    for query in range(9):
        order = sorted((i for i in range(9) if i != query), key=lambda i: -cls[query] @ cls[i])
        right = [labels[i] == labels[query] for i in order]
        if any(right):
            hits = [sum(right[: place + 1]) / (place + 1) for place, each in enumerate(right) if each]
            precisions.append(np.mean(hits))
            firsts.append(right[0])
    found = scores(rows, labels)["cls"]
    assert (found.images, len(precisions)) == (8, 8)  # one is alone in its class
    assert np.isclose(found.precision, 100 * np.mean(precisions), atol=1e-3)
    assert np.isclose(found.nearest, 100 * np.mean(firsts))


def test_without_two_classes_of_which_one_has_two_images_nothing_is_measured() -> None:
    assert not len(sample(np.array([-1, -1, -1])))
    assert not len(sample(np.array([0, 0, 0, -1])))
    assert not len(sample(np.array([0, 1, 2])))
    assert not len(sample(np.array([0, 1, 1])))
    assert sample(np.array([0, -1, 1, 1, 2, 0])).tolist() == [0, 2, 3, 5]


def test_a_sample_keeps_pairs_together_and_takes_as_many_of_large_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "IMAGES", 20)
    pairs = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 2))
    chosen = pairs[sample(pairs)]
    assert len(chosen) == 20
    assert set(np.unique(chosen, return_counts=True)[1]) == {2}
    large = np.random.default_rng(0).integers(0, 4, 1000)
    assert np.unique(large[sample(large)], return_counts=True)[1].tolist() == [5, 5, 5, 5]
