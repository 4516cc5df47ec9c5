"""Cells: what a search finds in them, and how many probes it takes."""

import numpy as np
import torch

from dinokit.curation import cells
from dinokit.curation.neighbours import Ordered, Search
from dinokit.curation.vectors import Vectors
from tests.curation.test_neighbours import everything

ABOVE = 0.9
CPU = torch.device("cpu")


def clustered(rows: int = 600, dim: int = 24) -> Vectors:
    """Rows around thirty centres; every third has a copy, a little off."""
    draw = np.random.default_rng(0)
    found = draw.normal(size=(30, dim))[draw.integers(30, size=rows)] + 0.6 * draw.normal(size=(rows, dim))
    found[1::3] = found[0::3] + 0.2 * draw.normal(size=(len(found[1::3]), dim))
    return Vectors([(found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)])


def pairs_of(search: Search) -> set[frozenset[int]]:
    """The pairs that were found, from either side."""
    edges = everything(search)
    return {frozenset(pair) for pair in zip(edges.rows.tolist(), edges.others.tolist(), strict=True)}


def test_with_the_probes_that_a_sample_asks_for_the_pairs_above_the_threshold_are_found() -> None:
    vectors = clustered()
    whole, count = Ordered.single(vectors), 40
    centres = Vectors([cells.fit(vectors, np.arange(len(vectors)), count=count, seed=0, device=CPU)])
    probes, pairs = cells.needed(whole, whole, centres, k=8, above=ABOVE, same=True, seed=0, device=CPU)
    assert pairs > 200
    assert probes < count // 4
    nearest = everything(Search(whole, Ordered.single(centres), k=probes))
    ordered, visits = cells.arrange(vectors, [nearest], count=count)
    assert sum(map(len, visits)) < count * count / 3  # most are passed by
    true = pairs_of(Search(whole, k=8, above=ABOVE))
    found = pairs_of(Search(ordered, k=8, above=ABOVE, visits=visits))
    assert found <= true
    assert len(found) >= 0.99 * len(true)


def test_rows_lie_by_cell_and_a_cell_visits_whatever_one_of_its_rows_does() -> None:
    vectors = Vectors(
        [np.eye(4, dtype=np.float16)[[3, 0, 1, 0]] + np.float16(0.1) * np.eye(4, dtype=np.float16)[[0, 1, 0, 3]]]
    )
    nearest = everything(Search(Ordered.single(vectors), Ordered.single(Vectors([np.eye(4, dtype=np.float16)])), k=2))
    ordered, visits = cells.arrange(vectors, [nearest], count=4)
    assert ordered.rows.tolist() == [1, 3, 2, 0]
    assert ordered.ends.tolist() == [2, 3, 3, 4]  # the third is empty
    assert [each.tolist() for each in visits] == [[0, 1, 3], [0, 1], [], [0, 3]]


def test_a_cell_does_not_go_where_few_of_its_rows_do() -> None:
    eye = np.eye(4, dtype=np.float16)
    rows = Vectors([eye[[0] * 10] + np.float16(0.1) * eye[[1] * 9 + [2]]])
    nearest = everything(Search(Ordered.single(rows), Ordered.single(Vectors([eye])), k=2))
    for often, visited in ((0.0, [0, 1, 2]), (0.1, [0, 1, 2]), (0.2, [0, 1])):
        parts = [nearest.some(nearest.rows < 5), nearest.some(nearest.rows >= 5)]
        _, visits = cells.arrange(rows, parts, count=4, often=often)
        assert visits[0].tolist() == visited


def test_without_pairs_in_the_sample_the_number_of_probes_is_a_guess() -> None:
    vectors = Vectors([np.eye(16, dtype=np.float16)])
    whole = Ordered.single(vectors)
    assert cells.needed(whole, whole, vectors, k=2, above=0.5, same=True, seed=0, device=CPU) == (cells.PROBES, 0)
