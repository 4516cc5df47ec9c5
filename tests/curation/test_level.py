"""One level: what resampling takes. How levels come out, after kills and on ranks, stands in test_cluster.py."""

import numpy as np
import torch

from dinokit.curation.level import Level, _few, half


def test_resampling_takes_the_entries_next_to_each_centre_or_any() -> None:
    parent = np.array([1, 0, 1, 0, 0, 1, 2], dtype=np.int32)
    distance = np.array([3, 1, 1, 3, 2, 2, 9], dtype=np.float32)
    level = Level(torch.zeros(3, 2), parent, distance)
    assert _few(level, 2, "closest", key=(0,)).tolist() == [1, 2, 4, 5, 6]  # all of a cluster of one
    drawn = {tuple(_few(level, 2, "random", key=(seed,)).tolist()) for seed in range(20)}
    assert len(drawn) > 1
    assert all(np.bincount(parent[list(rows)]).tolist() == [2, 2, 1] for rows in drawn)


def test_half_a_cluster_is_that_of_the_published_runs() -> None:
    assert [half(entries, 1) for entries in (20, 10, 5, 3)] == [10, 5, 3, 2]
    assert half(299, 100) == 2  # a few clusters of the level below were empty
