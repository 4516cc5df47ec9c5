"""The account of a curation: every image has one fate, and steps that do not belong together are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dinokit.core.files import read_json, write_json
from dinokit.core.messages import UserError
from dinokit.curation import cluster, dedup, sample
from dinokit.curation.account import NOT_CLUSTERED, NOT_RETRIEVED, OVER, read_account
from dinokit.curation.pool import Pool
from dinokit.curation.table import read_table
from tests.curation.pools import make_pool, unit
from tests.curation.steps import COPIES, CPU, ROWS, all_steps


@pytest.fixture
def out(tmp_path: Path) -> Path:
    all_steps(tmp_path / "set")
    return tmp_path / "set"


def test_every_image_has_one_fate(out: Path) -> None:
    account = read_account(out)
    fates = {one.name: one.rows.tolist() for one in account.fates}
    assert sorted(row for rows in fates.values() for row in rows) == list(range(ROWS))
    assert fates[dedup.DUPLICATE] == list(COPIES)
    assert fates[dedup.REFERENCE] == [7]
    taken = set(read_table(out / "balanced.parquet", ["place"])["place"].tolist())
    near = set(read_table(out / "retrieved-1" / "selection.parquet", ["place"])["place"].tolist())
    assert set(fates["balanced"]) == taken
    assert set(fates["retrieved-1"]) == near - taken  # what is in both counts once
    assert account.chosen.tolist() == sorted(taken | near)
    assert len(fates[OVER]) == ROWS - 5 - len(taken | near)


def test_a_step_alone_says_what_it_can(out: Path) -> None:
    def told(folder: str) -> dict[str, int]:
        return {one.name: len(one.rows) for one in read_account(out / folder).fates if len(one.rows)}

    assert told("duplicates") == {dedup.DUPLICATE: 4, dedup.REFERENCE: 1, "stays": 35}
    assert told("clusters") == {"clustered": 35, NOT_CLUSTERED: 5}
    near = len(read_table(out / "retrieved-1" / "selection.parquet", ["place"])["place"])
    assert told("retrieved-1") == {"retrieved-1": near, NOT_RETRIEVED: ROWS - near}


def test_a_folder_takes_its_embeddings_along(out: Path, tmp_path: Path) -> None:
    shutil.move(out, tmp_path / "moved")
    account = read_account(tmp_path / "moved")
    assert account.pool.folder == tmp_path / "moved" / "embeddings"
    assert account.dedup is not None
    references = account.neighbour(account.dedup.told["references"], "against")
    assert references is not None
    assert references.folder == tmp_path / "moved" / "against"
    shutil.rmtree(tmp_path / "moved" / "embeddings")
    with pytest.raises(UserError, match="embeddings of .* are gone"):
        read_account(tmp_path / "moved")


def test_an_older_result_that_names_no_embeddings_finds_them_beside_it(out: Path) -> None:
    told = read_json(out / "duplicates" / "dedup.json")
    write_json(out / "duplicates" / "dedup.json", {key: each for key, each in told.items() if key != "embeddings"})
    assert read_account(out / "duplicates").pool.folder == out / "embeddings"


def test_steps_that_do_not_belong_together_are_refused(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "duplicates", out / "again")
    with pytest.raises(UserError, match="duplicates of several runs"):
        read_account(out)
    shutil.rmtree(out / "again")
    other = make_pool(tmp_path / "other", unit(np.random.default_rng(1).normal(size=(20, 16))))
    shutil.rmtree(out / "duplicates")
    dedup.run(other, dedup.Config(threshold=0.99), out / "duplicates", device=CPU)
    with pytest.raises(UserError, match="is of other embeddings than"):
        read_account(out)
    with pytest.raises(UserError, match="holds no step of dinokit curate"):
        read_account(tmp_path / "nothing")


def test_a_choice_of_other_clusters_is_refused(out: Path) -> None:
    pool = Pool(out / "embeddings")
    stay = dedup.kept(out / "duplicates", pool)
    shutil.rmtree(out / "clusters")
    cluster.run(pool, cluster.Config(levels=(7, 2), resample=0), out / "clusters", rows=stay, device=CPU)
    with pytest.raises(UserError, match="a choice of other clusters"):
        read_account(out)
    sample.run(out / "clusters", sample.Config(size=12), out / "other.parquet")
    with pytest.raises(UserError, match="several balanced choices"):
        read_account(out)
    (out / "balanced.parquet").unlink()
    assert read_account(out).sampled is not None
    shutil.rmtree(out / "clusters")
    with pytest.raises(UserError, match="clusters that are not in"):
        read_account(out)
