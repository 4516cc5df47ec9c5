"""Which images of a curation are shown, and in which order."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinokit.curation import dedup, retrieve
from dinokit.curation.account import Account, read_account
from dinokit.curation.table import read_table
from dinokit.visuals import exhibits
from dinokit.visuals.exhibits import Groups, Hierarchy
from dinokit.visuals.tiles import Album
from tests.curation.pools import make_pool
from tests.curation.steps import COPIES, CPU, all_steps, vectors


@pytest.fixture
def account(tmp_path: Path) -> Account:
    all_steps(tmp_path / "set")
    return read_account(tmp_path / "set")


def shown(html: str) -> list[int]:
    """Which rows are on tiles; the sources of made-up vectors do not exist, so that all are grey."""
    return [int(number) for number in re.findall(r">(\d+)\.png</div>", html)]


def test_a_cluster_shows_its_own_images_nearest_to_the_centre_first(account: Account) -> None:
    tree, album = Hierarchy(account), Album(account.pool)
    levels = account.levels
    assert levels is not None
    for cluster in range(int(levels.parents[0].max()) + 1):
        mine = np.flatnonzero(levels.parents[0] == cluster)
        wanted = levels.rows[mine[np.argsort(levels.distance[mine], kind="stable")]]
        assert shown(tree.shown(album, 0, cluster)) == wanted[: exhibits.SHOWN].tolist()


def test_a_cluster_of_clusters_shows_each_of_its_parts(account: Account) -> None:
    tree, levels = Hierarchy(account), account.levels
    assert levels is not None
    for cluster in range(int(levels.parents[1].max()) + 1):
        rows = shown(tree.shown(Album(account.pool), 1, cluster))
        places = np.searchsorted(levels.rows, rows)
        parts = np.flatnonzero(levels.parents[1] == cluster)
        assert set(levels.parents[0][places].tolist()) == set(parts.tolist())
        assert len(rows) == len(set(rows)) <= exhibits.SHOWN


def test_a_mosaic_holds_different_clusters_of_a_coarse_level_the_largest_first(account: Account) -> None:
    tree = Hierarchy(account)
    for level, sizes in enumerate(tree.sizes):
        found = tree.mosaic(Album(account.pool), level, seed=0)
        counts = [int(count) for count in re.findall(r"<h3>(\d+) image", found)]
        assert len(counts) == min(len(sizes), exhibits.CLUSTERS)
        assert counts == sorted(counts, reverse=True)
        assert len(set(shown(found))) == len(shown(found))
        assert counts[0] == sizes.max() or level == 0


def test_frequent_concepts_are_the_largest_clusters_and_rare_ones_are_no_others(account: Account) -> None:
    tree = Hierarchy(account)
    most, least = (
        [int(count) for count in re.findall(r"<h3>(\d+) image", each)]
        for each in tree.concepts(Album(account.pool), seed=0)
    )
    assert most == sorted(tree.sizes[0].tolist(), reverse=True)[: exhibits.CLUSTERS]
    assert least == sorted(tree.sizes[0].tolist())[:2]  # of eight clusters six are shown above


def test_a_group_shows_what_stays_then_its_copies_by_similarity(account: Account) -> None:
    lines = {
        "row": np.array([1, 2, 5, 9]),
        "other": np.array([0, 0, 7, 0]),
        "similarity": np.array([0.8, 0.95, 0.9, 0.9], dtype=np.float32),
    }
    found = Groups(np.array([0, 7]), np.array([3, 1]), lines).shown(Album(account.pool), 0)
    assert shown(found) == [0, 2, 9, 1]
    assert re.findall("<figcaption>(.*?)</figcaption>", found) == ["stays", "0.9500", "0.9000", "0.8000"]
    assert "<h3>4 images</h3>" in found


def test_groups_are_of_duplicates_not_of_what_resembles_a_reference(account: Account) -> None:
    groups = exhibits.groups_of(account)
    assert groups is not None
    assert dict(zip(groups.kept.tolist(), groups.counts.tolist(), strict=True)) == dict.fromkeys(range(4), 1)
    assert sorted(groups.lines["row"].tolist()) == list(COPIES)


def test_what_is_drawn_by_lot_follows_from_the_seed(account: Account) -> None:
    fate, album = max(account.fates, key=lambda one: len(one.rows)), Album(account.pool)
    drawn = [shown(exhibits.fate(account, fate, album, seed=seed, turn=0)) for seed in (0, 0, 1)]
    assert len(fate.rows) > exhibits.SHOWN == len(drawn[0])
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) <= set(fate.rows.tolist())


def test_a_seed_stands_before_what_it_brought(account: Account) -> None:
    found = exhibits.retrieved(account, 0, Album(account.pool), seed=0)
    assert found.count("<figcaption>seed</figcaption>") == 3
    for part in found.split('<li class="tray')[1:]:
        near = [float(value) for value in re.findall(r"<figcaption>(-?[\d.]+)</figcaption>", part)]
        assert 1 <= len(near) <= 2
        assert near == sorted(near, reverse=True)


def test_retrieval_by_cluster_shows_the_clusters_that_were_hit_the_most_first(account: Account) -> None:
    folder, pool = account.folder, account.pool
    near = retrieve.Config(by="cluster", hits=0, per_cluster=3)
    given = {"queries": make_pool(folder / "many", vectors()[:20]), "clusters": folder / "clusters"}
    stay = dedup.kept(folder / "duplicates", pool)
    retrieve.run(pool, near, folder / "by-cluster", rows=stay, device=CPU, **given)
    again = read_account(folder)
    turn = [step.folder.name for step in again.retrieve].index("by-cluster")
    found = exhibits.retrieved(again, turn, Album(pool), seed=0)
    hits = [int(count) for count in re.findall(r"hit by (\d+) seeds", found)]
    assert len(hits) > 1
    assert hits == sorted(hits, reverse=True)
    lines = read_table(folder / "by-cluster" / "selection.parquet", ["place", "cluster"])
    for part in found.split('<li class="tray')[1:]:
        cluster = int(re.findall(r"cluster (\d+): hit", part)[0])
        assert shown(part) == sorted(lines["place"][lines["cluster"] == cluster].tolist())


def test_seeds_and_references_that_are_gone_are_grey_and_what_they_were_for_is_shown(account: Account) -> None:
    for name in ("seeds-1", "against"):
        shutil.rmtree(account.folder / name)
    album = Album(account.pool)
    near = exhibits.retrieved(account, 0, album, seed=0)
    assert "gone</div><figcaption>seed" in near
    assert len(shown(near)) >= 3
    turn, fate = next((at, one) for at, one in enumerate(account.fates) if one.name == dedup.REFERENCE)
    found = exhibits.fate(account, fate, album, seed=0, turn=turn)
    assert shown(found) == [7]
    assert "gone</div><figcaption>reference" in found
