"""Nearest neighbours by cosine, against a sort of all pairs."""

import numpy as np
import pytest

from dinokit.curation import neighbours
from dinokit.curation.neighbours import Edges, Ordered, Search, cosines, places_of
from dinokit.curation.vectors import Vectors


def draw(rows: int, dim: int = 8, *, seed: int = 0) -> np.ndarray:
    """Rows of float16 and length 1."""
    found = np.random.default_rng(seed).normal(size=(rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def everything(search: Search) -> Edges:
    """The pairs of all blocks."""
    return Edges.concatenate([search.block(number) for number in range(len(search))])


def naive(queries: np.ndarray, gallery: np.ndarray, k: int, above: float = -2.0, *, among: bool = False) -> list[tuple]:
    """Sort all pairs."""
    found = []
    for row, query in enumerate(queries.astype(np.float64)):
        norms = np.linalg.norm(gallery.astype(np.float64), axis=1) * np.linalg.norm(query)
        scores = ((gallery.astype(np.float64) @ query) / norms).astype(np.float32)
        order = np.lexsort((np.arange(len(gallery)), -scores))
        kept = [int(other) for other in order if scores[other] > np.float32(above) and not (among and other == row)]
        found += [(row, other) for other in kept[:k]]
    return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and tiles in a few rows."""
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "TILE", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 5, 40, 500])
def test_the_nearest_are_those_of_a_sort(k: int) -> None:
    queries, gallery = draw(20), draw(150, seed=1)
    gallery[70:80] = gallery[3]  # equal ones: the lower row first
    queries[5] = gallery[3]
    search = Search(Ordered.single(Vectors([queries])), Ordered.single(Vectors([gallery[:50], gallery[50:]])), k=k)
    edges = everything(search)
    assert list(zip(edges.rows.tolist(), edges.others.tolist(), strict=True)) == naive(queries, gallery, k)


@pytest.mark.usefixtures("small_blocks")
def test_a_row_is_no_neighbour_of_itself_and_its_copy_is() -> None:
    rows = draw(100)
    rows[60] = rows[2]
    edges = everything(Search(Ordered.single(Vectors([rows])), k=3, above=0.7))
    assert list(zip(edges.rows.tolist(), edges.others.tolist(), strict=True)) == naive(rows, rows, 3, 0.7, among=True)
    assert edges.similarity[(edges.rows == 2) & (edges.others == 60)] == 1.0


@pytest.mark.usefixtures("small_blocks")
def test_more_equal_rows_than_asked_for_leave_the_lowest() -> None:
    rows = np.repeat(draw(1), 300, axis=0)
    edges = everything(Search(Ordered.single(Vectors([rows])), k=2))
    assert edges.others[edges.rows == 0].tolist() == [1, 2]
    assert edges.others[edges.rows == 299].tolist() == [0, 1]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 4, 40])
def test_rows_that_rounding_cannot_tell_apart_are_told_apart(k: int) -> None:
    queries, gallery = draw(3, 64), np.repeat(draw(1, 64, seed=1), 300, axis=0)
    gallery[:, abs(gallery[0]).argmax()] = np.linspace(-5e-5, 5e-5, 300)  # less apart than a product may round
    edges = everything(Search(Ordered.single(Vectors([queries])), Ordered.single(Vectors([gallery])), k=k))
    assert list(zip(edges.rows.tolist(), edges.others.tolist(), strict=True)) == naive(queries, gallery, k)


@pytest.mark.usefixtures("small_blocks")
def test_some_rows_in_another_order_keep_their_numbers() -> None:
    rows = draw(60)
    chosen = np.array([40, 7, 30, 12, 55])
    edges = everything(Search(Ordered.single(Vectors([rows]), chosen), k=1))
    assert edges.rows.tolist() == chosen.tolist()
    assert set(edges.others.tolist()) <= set(chosen.tolist())
    assert (edges.rows != edges.others).all()


def test_a_similarity_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Vectors([draw(90, 48)])
    whole = everything(Search(Ordered.single(rows), k=9))
    monkeypatch.setattr(neighbours, "QUERIES", 11)
    monkeypatch.setattr(neighbours, "TILE", 32)
    cut = everything(Search(Ordered.single(rows), k=9))
    assert [getattr(whole, name).tobytes() for name in vars(whole)] == [
        getattr(cut, name).tobytes() for name in vars(cut)
    ]


def test_a_cosine_takes_lengths_into_account() -> None:
    vectors = Vectors([np.array([[1, 0], [0.5, 0.5]], dtype=np.float16)])
    assert cosines(vectors, np.array([0]), vectors, np.array([1])) == pytest.approx(np.sqrt(0.5))


def test_places_count_each_run_from_zero() -> None:
    assert places_of(np.array([3, 3, 5, 7, 7, 7])).tolist() == [0, 1, 0, 0, 1, 2]
    assert len(places_of(np.empty(0, dtype=np.int64))) == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_rows_of_float32_that_hardly_differ_are_told_apart(k: int, spread: float) -> None:
    # cosines differ from 1 in the tenth digit, of which a product in float32 knows seven
    rows = (draw(1).astype(np.float32) + spread * draw(170, seed=1).astype(np.float32)).astype(np.float32)
    rows[70:80] = rows[3]
    queries, gallery = rows[:20], rows[20:]
    middle = rows.astype(np.float64).mean(axis=0) / np.linalg.norm(rows.astype(np.float64).mean(axis=0))
    search = Search(Ordered.single(Vectors([queries])), Ordered.single(Vectors([gallery])), k=k, middle=middle)
    edges = everything(search)
    one, other = (each.astype(np.float64) for each in (queries, gallery))
    norms = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    scores = np.einsum("qd,gd->qg", one, other) / norms
    found = scores[edges.rows, edges.others]
    assert edges.similarity == pytest.approx(found, abs=1e-15)
    # of equal ones the order is theirs; what differs by rounding alone may be in either
    assert found == pytest.approx(-np.sort(-scores, axis=1)[:, :k].ravel(), abs=1e-15)
    of_twins = edges.others[(edges.rows == 3) & (edges.others >= 50) & (edges.others < 60)]
    assert of_twins.tolist() == list(range(50, 60))[: len(of_twins)]


@pytest.mark.usefixtures("small_blocks")
def test_more_waiting_pairs_than_there_is_room_for_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(200, 3, seed=4)
    rows[20:170] = rows[5]
    whole = everything(Search(Ordered.single(Vectors([rows])), k=4))
    monkeypatch.setattr(neighbours, "ROOM", 2)
    cut = everything(Search(Ordered.single(Vectors([rows])), k=4))
    assert list(zip(cut.rows.tolist(), cut.others.tolist(), strict=True)) == naive(rows, rows, 4, among=True)
    assert whole.others.tobytes() == cut.others.tobytes()


def test_a_row_of_zeros_is_like_nothing() -> None:
    rows = Vectors([np.array([[0, 0], [0, 1]], dtype=np.float32)])
    assert cosines(rows, np.array([0, 0, 1]), rows, np.array([0, 1, 1])).tolist() == [0, 0, 1]
