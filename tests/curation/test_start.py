import math

import numpy as np
import pytest
import torch
from sklearn.cluster import kmeans_plusplus

from dinokit.core.seed import generator
from dinokit.curation import start as module
from dinokit.curation.kmeans import distances, look
from dinokit.curation.start import plus_plus, start, weighted_plus_plus
from dinokit.curation.vectors import Vectors

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [2, 9, 30])
def test_greedy_plus_plus_is_that_of_scikit_learn_under_equal_draws(count: int) -> None:
    points = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    _, wanted = kmeans_plusplus(points.astype(np.float64), count, random_state=7)
    draws = np.random.RandomState(7)
    first = int(draws.choice(200, p=np.full(200, 1 / 200)))
    uniforms = draws.uniform(size=(count - 1, 2 + int(math.log(count))))
    np.testing.assert_array_equal(plus_plus(torch.from_numpy(points), first, uniforms), wanted)


def test_a_row_without_weight_is_never_drawn() -> None:
    points = torch.eye(6)
    weights = torch.tensor([1.0, 1, 0, 1, 0, 1], dtype=torch.float64)
    rows = weighted_plus_plus(points, weights, 4, np.random.default_rng(0))
    assert set(rows.tolist()) == {0, 1, 3, 5}


def test_a_row_is_drawn_by_its_weight_and_the_square_of_its_distance() -> None:
    points, weights = torch.tensor([[0.0], [1], [2]]), torch.tensor([10, 2, 1], dtype=torch.float64)
    second = [int(weighted_plus_plus(points, weights, 2, np.random.default_rng(seed))[1]) for seed in range(600)]
    # 2 x 1 to 1 x 4; by distance it were a half, without weights 0.8; 0.06 is three standard deviations
    assert np.mean(np.array(second) == 2) == pytest.approx(2 / 3, abs=0.06)


@pytest.mark.parametrize("several", [1024, 5], ids=["one by one", "four at a time"])
def test_what_is_far_and_heavy_is_drawn_first(several: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 heavy groups far from each other, each with light rows beside it
    monkeypatch.setattr(module, "SEVERAL", several)
    points = 100 * torch.eye(20).repeat(5, 1) + torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(100, dtype=torch.float64)
    rows = weighted_plus_plus(points, weights, 20, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 20
    assert len({row % 20 for row in rows.tolist()}) >= (20 if several == 1024 else 16)
    heavy = weighted_plus_plus(points, weights.index_fill(0, torch.arange(20), 1e6), 20, np.random.default_rng(0))
    assert sum(row < 20 for row in heavy.tolist()) >= (20 if several == 1024 else 16)


def test_candidates_that_are_looked_at_in_pieces_give_the_same_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEVERAL", 5)
    points = torch.randint(9, (100, 4), generator=torch.Generator().manual_seed(0)).float()  # products are exact
    whole = weighted_plus_plus(points, torch.ones(100, dtype=torch.float64), 20, np.random.default_rng(0))
    monkeypatch.setattr(module, "DISTANCES", 40)
    pieces = weighted_plus_plus(points, torch.ones(100, dtype=torch.float64), 20, np.random.default_rng(0))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0)


def _blobs(blobs: int, each: int) -> Vectors:
    draw = np.random.default_rng(0)
    centres = 20 * draw.normal(size=(blobs, 8))
    return Vectors([(np.repeat(centres, each, axis=0) + draw.normal(size=(blobs * each, 8))).astype(np.float16)])


def _within(vectors: Vectors, centres: torch.Tensor) -> float:
    """The mean squared distance to the nearest centre."""
    return float(distances(vectors, centres, look(vectors, centres).centre).mean())


@pytest.mark.parametrize("small", [5e10, 0], ids=["greedy", "parallel"])
def test_every_blob_gets_a_centre(small: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    vectors = _blobs(20, 50)
    centres = start(vectors, 20, key=(3,), device=CPU)
    within = _within(vectors, centres)
    assert (
        within < 2.5 * 8 * 2
    )  # one of its own rows is twice the variance away; a blob without a centre costs 50 times
    torch.testing.assert_close(start(vectors, 20, key=(3,), device=CPU), centres, rtol=0, atol=0)
    assert not torch.equal(start(vectors, 20, key=(4,), device=CPU), centres)


def test_no_two_draws_share_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = list[tuple[int, ...]]()

    def told(*key: int) -> np.random.Generator:
        keys.append(key)
        return generator(*key)

    monkeypatch.setattr(module, "generator", told)
    monkeypatch.setattr(module, "HELD", 100)
    for small in (5e10, 0):
        monkeypatch.setattr(module, "SMALL", small)
        for key in ((3, 1, 0), (3, 1, 0, 0), (3, 1, 0, 1), (3, 1, 1)):
            start(_blobs(4, 9), 4, key=key, device=CPU)
    assert len(set(keys)) == len(keys) - 4  # the sample is the same for both ways


def test_large_pools_are_sampled_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 100)
    monkeypatch.setattr(module, "LEAST", 40)
    vectors = _blobs(20, 50)
    assert _within(vectors, start(vectors, 20, key=(0,), device=CPU)) < 2.5 * 8 * 2


@pytest.mark.parametrize("small", [5e10, 0], ids=["greedy", "parallel"])
def test_equal_vectors_are_enough_for_any_number_of_centres(small: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    vectors = Vectors([np.repeat(np.eye(2, 4, dtype=np.float16), 30, axis=0)])
    centres = start(vectors, 5, key=(0,), device=CPU)
    assert centres.shape == (5, 4)
    assert _within(vectors, centres) == 0
