import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from dinokit.curation import vectors as vectors_module
from dinokit.curation.kmeans import distances, lloyd, look
from dinokit.curation.vectors import Vectors


def _blobs() -> np.ndarray:
    draw = np.random.default_rng(0)
    return (draw.normal(size=(6, 4))[draw.integers(6, size=300)] + 0.4 * draw.normal(size=(300, 4))).astype(np.float16)


def test_lloyd_is_that_of_scikit_learn_from_the_same_start() -> None:
    rows = _blobs()
    first = rows[:12].astype(np.float32)
    oracle = KMeans(12, init=first, n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(rows.astype(np.float64))
    *_, (moves, centres) = lloyd(Vectors([rows]), torch.from_numpy(first), iterations=100)
    assert moves < 100  # they stay where they are
    np.testing.assert_allclose(centres, oracle.cluster_centers_, atol=1e-6)
    found = look(Vectors([rows]), centres)
    np.testing.assert_array_equal(found.centre, oracle.labels_)
    assert distances(Vectors([rows]), centres, found.centre).sum() == pytest.approx(oracle.inertia_, rel=1e-6)


def test_pieces_of_any_size_give_the_same_centres_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _blobs()
    first = torch.from_numpy(rows[:9].astype(np.float32))
    *_, (_, whole) = lloyd(Vectors([rows]), first, iterations=5)
    monkeypatch.setattr(vectors_module, "BLOCK", 4 * 7)
    *_, (_, pieces) = lloyd(Vectors([rows[:100], rows[100:]]), first, iterations=5)
    assert torch.equal(whole, pieces)


def test_going_on_after_a_move_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = Vectors([_blobs()])
    first = torch.from_numpy(vectors.read(0, 9).astype(np.float32))
    steps = [centres for _, centres in lloyd(vectors, first, iterations=6)]
    again = [centres for _, centres in lloyd(vectors, steps[2], iterations=6, done=3)]
    assert len(again) == 3
    assert torch.equal(steps[-1], again[-1])


def test_a_centre_without_vectors_goes_to_the_farthest() -> None:
    rows = np.array([[0, 0], [0, 1], [1, 0], [0, 9], [9, 0]], dtype=np.float16)
    centres = torch.tensor([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]])
    _, moved = next(iter(lloyd(Vectors([rows]), centres, iterations=1)))
    assert moved.tolist() == [[2.0, 2.0], [0.0, 9.0], [9.0, 0.0]]
