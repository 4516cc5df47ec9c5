"""Curation from the shell: what goes together, and a training set of a folder in one go."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest

import dinokit
from dinokit import cli
from dinokit.cli import arguments
from dinokit.commands.curate import curate
from dinokit.commands.curating import nearest_first
from dinokit.core.files import read_json
from dinokit.core.messages import UserError
from dinokit.core.seed import generator
from dinokit.curation.account import read_account
from dinokit.curation.table import read_table
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder
from tests.curation.pools import files, make_pool, unit


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


@pytest.fixture
def pile(make_folder: MakeFolder) -> Path:
    return make_folder(*(f"{folder}/{number}.png" for folder in "abcde" for number in range(8)), name="pile")


def test_auto_makes_one_set_of_what_is_balanced_what_resembles_seeds_and_the_seeds(
    tmp_path: Path, model: Path, pile: Path, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = make_folder(*(f"f/{number}.png" for number in range(6)), name="seeds")
    held = make_folder("a/0.png", "a/1.png", name="held")  # as in the pile, where others are below 0.9999
    out = tmp_path / "set"
    words: tuple[Any, ...] = ("curate", "auto", pile, "--out", out, "--model", model, "--size", "24")
    words += ("--seeds", seeds, "--against", held, "--threshold", "0.9999", "--levels", "[6,2]", "--resample", "1")
    words += ("--retrieved", "0.25")
    assert run(*words) == 0
    assert f"seeds are taken whole, also what of them resembles {held}" in capsys.readouterr().err
    chosen = read_table(out / "selection.parquet")
    counts = {name: int((chosen["component"] == name).sum()) for name in ("balanced", "retrieved-1", "seeds-1")}
    assert counts == {"balanced": 18, "retrieved-1": 6, "seeds-1": 6}
    ours = chosen["key"][chosen["component"] != "seeds-1"]
    assert len(set(ours)) == 24
    assert not {"a/0.png", "a/1.png"} & set(ours)
    shares = {
        name: tuple(chosen[of][chosen["component"] == name][0] for of in ("weight", "homogeneous")) for name in counts
    }
    assert shares == {"balanced": (18, 0), "retrieved-1": (6, 0), "seeds-1": (0, 0.1)}
    near = read_table(out / "retrieved-1" / "selection.parquet")
    best = {key: near["rank"][near["key"] == key].min() for key in near["key"]}
    taken = chosen["key"][chosen["component"] == "retrieved-1"]
    assert len(best) > 6  # so some were cut: those that are far from every seed
    assert max(best[key] for key in taken) <= min(rank for key, rank in best.items() if key not in taken)
    assert open_source(str(out / "selection.parquet")).mix is not None
    counted = {one.name: len(one.rows) for one in read_account(out).fates if len(one.rows)}
    dropped = read_table(out / "duplicates" / "dropped.parquet", ["reason"])["reason"]
    assert counted.pop("reference") == (dropped == "reference").sum() >= 2
    assert counted == {"balanced": 18, "retrieved-1": 6, "over the budget": 40 - 24 - len(dropped)}
    page = (out / "report.html").read_bytes()  # made at the end, and the same when it is asked for
    assert run("curate", "report", out, "--out", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_auto_needs_no_clusters_where_all_is_retrieved_and_returns_what_it_wrote(
    tmp_path: Path, model: Path, pile: Path
) -> None:
    given: dict[str, Any] = {"model": model, "threshold": 1, "size": 6, "retrieved": 1, "homogeneous": 0}
    told = dinokit.curate("auto", pile, out=tmp_path / "set", seeds=f"{pile}/a", **given)
    assert told["chosen"] == {"retrieved-1": 6, "seeds-1": 8}
    assert told == read_json(tmp_path / "set" / "curate.json")
    assert not (tmp_path / "set" / "clusters").exists()
    # without batches of their own the seeds are mixed by their number
    assert open_source(str(tmp_path / "set" / "selection.parquet")).mix.weights == (6, 8)  # type: ignore[union-attr]


def test_a_model_is_not_asked_for_again_once_the_threshold_is_known(tmp_path: Path, model: Path, pile: Path) -> None:
    few, pool, out = tmp_path / "few", tmp_path / "pool", tmp_path / "out"
    shutil.copytree(pile / "a", few)
    assert run("embed", "--model", model, "--data", few, "--out", pool) == 0
    assert run("curate", "dedup", pool, "--out", out, "--threshold", "auto") == 0
    model.unlink()
    (out / "dedup.json").unlink()
    assert run("curate", "dedup", pool, "--out", out, "--threshold", "auto") == 0  # from threshold.json
    assert run("curate", "dedup", pool, "--out", out, "--threshold", "auto") == 0  # from dedup.json


def test_auto_looks_at_all_sources_before_it_embeds_one(
    tmp_path: Path, model: Path, pile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("curate", "auto", pile, "--model", model, "--threshold", "0.9")
    for more, said in (
        (("--size", "3", "--seeds", tmp_path / "no"), "no folder"),
        (("--size", "3", "--against", tmp_path / "no"), "no folder"),
        (("--size", "41"), "size: expected at most the 40 images of"),
        (
            ("--size", "3", "--levels", "[2,5]"),
            "levels: expected at most 2 clusters of 2 vectors, got 5; fine to coarse",
        ),
    ):
        assert run(*words, "--out", tmp_path / "set", *more) == 2
        assert said in capsys.readouterr().err
        assert not list((tmp_path / "set").iterdir())
    assert run(*words, "--out", pile / "set", "--size", "3") == 2
    assert "lies among the images of" in capsys.readouterr().err


def test_auto_mixes_no_two_settings_and_goes_on_with_embeddings_that_were_moved(
    tmp_path: Path, model: Path, pile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("curate", "auto", pile, "--model", model, "--threshold", "0.9999", "--levels", "[4]", "--resample", "0")
    assert run(*words, "--size", "9", "--out", tmp_path / "one") == 0
    before = files(tmp_path / "one")
    assert run(*words, "--size", "8", "--out", tmp_path / "one") == 2
    assert (
        "one was made with other size (size is 8, was 9); delete it, or give another folder" in capsys.readouterr().err
    )
    assert files(tmp_path / "one") == before
    assert run(*words, "--size", "9", "--out", tmp_path / "one") == 0
    assert files(tmp_path / "one") == before
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "embeddings").rename(tmp_path / "two" / "embeddings")
    assert run(*words, "--size", "8", "--out", tmp_path / "two") == 0
    assert "nothing new in" in capsys.readouterr().err


def test_a_full_disk_ends_a_step_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, out = make_pool(tmp_path / "pool", unit(numpy.random.default_rng(0).normal(size=(40, 8)))), tmp_path / "out"
    words = ("curate", "cluster", pool.folder, "--levels", "[9,3]", "--out", out)

    def full(*_: object, **__: object) -> None:
        raise OSError("9 requested and 0 written")

    with monkeypatch.context() as patch:
        patch.setattr(numpy, "save", full)
        assert run(*words) == 3
    said = "No space left on device: .*; what was computed stays, the same command goes on"
    assert re.search(said, capsys.readouterr().err)
    assert run(*words) == 0


def test_a_place_on_a_server_is_stood_clear_of_as_it_is_written() -> None:
    words = ["auto", "photos", "--out", "set", "--model", "m", "--against", "s3://bucket/held"]
    assert arguments(curate, words)["against"] == "s3://bucket/held"  # a Path would have one slash


def test_a_cut_takes_the_nearest_of_every_query_before_the_second_of_any() -> None:
    places, ranks = numpy.arange(12)[::-1].copy(), numpy.tile([1, 2, 3], 4)
    found = nearest_first(places, ranks, 6, draw=generator(0, 1))
    assert set(places[ranks == 1]) < set(found)
    assert set(found) < set(places[ranks < 3])
    again = nearest_first(numpy.append(places, places[-1]), numpy.append(ranks, 1), 5, draw=generator(0, 1))
    assert set(again) == {*places[ranks == 1], places[-1]}  # a third of one that is the first of another
    assert found.tolist() == sorted(found)
    lots = {tuple(nearest_first(places, ranks, 6, draw=generator(seed, 1)).tolist()) for seed in range(20)}
    assert len(lots) > 3  # of the six pairs of seconds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "clusters", "--out", "{out}", "--size", "3"), "expected --out FILE.parquet, got {out}"),
        (
            ("retrieve", "{pool}", "--queries", "{pool}", "--clusters", "c", "--out", "{out}"),
            "--clusters would do nothing",
        ),
        (("retrieve", "{pool}", "--queries", "{pool}", "--by", "cluster", "--out", "{out}"), "needs --clusters"),
        (("retrieve", "{pool}", "--out", "{out}"), "needs --queries"),
        (("dedup", "{pool}", "--reach", "direct", "--out", "{out}"), "give --against, an embedded set, too"),
        (
            ("dedup", "{pool}", "--against_threshold", "0.5", "--out", "{out}"),
            "--against_threshold would do nothing; give --against",
        ),
        (("cluster", "{pool}", "--queries", "{pool}", "--out", "{out}"), "takes no --queries; it is for retrieve"),
        (("retrieve", "{pool}", "--queries", "{pool}", "--cap", "9", "--out", "{out}"), "--cap would do nothing"),
        (
            (
                "retrieve",
                "{pool}",
                "--queries",
                "p",
                "--by",
                "cluster",
                "--clusters",
                "c",
                "--exact",
                "9",
                "--out",
                "o",
            ),
            "--exact would do nothing; retrieve by sample",
        ),
        (("cluster", "{pool}", "--resample", "0", "--pick", "random", "--out", "{out}"), "--pick would do nothing"),
        (
            ("auto", "photos", "--out", "{out}", "--model", "m", "--size", "3", "--retrieved", "0.5"),
            "--retrieved would do nothing; give --seeds, too",
        ),
        (("auto", "photos", "--out", "{out}", "--size", "3"), "needs --model"),
        (("dedup", "{pool}"), "curate dedup needs --out"),
        (("report", "{out}"), "{out} holds no step of dinokit curate"),
        (("report", "{out}", "--after", "{pool}"), "takes no --after"),
        (("auto", "photos", "--out", "{out}", "--model", "m"), "needs --size"),
        (
            ("auto", "photos", "--out", "{out}", "--model", "m", "--size", "3", "--threshold", "2"),
            "threshold must be auto",
        ),
        (("auto", "photos", "--out", "{out}", "--model", "m", "--size", "3", "--seeds", "3"), "expected a list"),
        (("dedupe", "{pool}", "--out", "{out}"), "dedup"),
    ],
)
def test_words_that_do_not_go_together_are_refused_before_any_work(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"out": tmp_path / "out", "pool": tmp_path / "pool"}
    assert run("curate", *(word.format(**place) for word in words)) == 2
    assert said.format(**place) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_steps_take_the_folders_of_the_steps_before(tmp_path: Path) -> None:
    draw = numpy.random.default_rng(0)
    pool = make_pool(tmp_path / "pool", unit(draw.normal(size=(40, 8))))
    queries = make_pool(tmp_path / "near", unit(numpy.eye(8)))
    same = str(tmp_path / "same")
    assert dinokit.curate("dedup", pool.folder, out=same, against=queries.folder, threshold=0.9)["kept"] <= 40
    dinokit.curate("cluster", pool.folder, out=tmp_path / "clusters", after=same, levels=[4, 2])
    assert dinokit.curate("sample", tmp_path / "clusters", out=tmp_path / "chosen.parquet", size=10) == 10
    again = ("curate", "sample", tmp_path / "clusters", "--out", tmp_path / "chosen.parquet", "--size", 10)
    assert run(*again) == 0  # ten images are no exit code
    by = {"queries": queries.folder, "after": same}
    assert dinokit.curate("retrieve", pool.folder, out=tmp_path / "one", neighbours=2, **by)["nominal"] == 16
    places = read_table(tmp_path / "one" / "selection.parquet")["place"]
    assert len(set(places)) == len(places)
    found = dinokit.curate(
        "retrieve", pool.folder, out=tmp_path / "two", by="cluster", clusters=str(tmp_path / "clusters"), hits=1, **by
    )
    assert found["retrieved"] > 0
    with pytest.raises(UserError, match="takes no --after"):
        dinokit.curate("dedup", pool.folder, out=tmp_path / "no", after=same)
