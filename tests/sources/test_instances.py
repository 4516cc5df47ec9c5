"""Every published set for retrieval opens in its layout; what is missing or damaged is one line, and nothing is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest

from dinokit.core.messages import UserError
from dinokit.sources import instances
from dinokit.sources.source import open_source, splits
from tests.sources import instance_sets


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_oxford_and_paris_are_searched_and_ask(name: str, tmp_path: Path) -> None:
    root = instance_sets.oxford(tmp_path / name, name=name)
    assert splits(f"{name}:{root}") == ("database", "query")
    database, query = (open_source(f"{name}:{root}", split=split) for split in ("database", "query"))
    assert (len(database), len(query)) == (21, 3)
    assert database.key(20) == "jpg/house_000020.jpg"
    assert query.labels is database.labels is None
    assert query.read(0).shape == (3, 18, 24)
    truth = instances.landmarks(root).truth[1]
    assert (truth.easy.tolist(), truth.hard.tolist(), truth.junk.tolist()) == ([5, 6], [7, 8], [9])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_right_may_be_arrays_of_numbers(tmp_path: Path, protocol: int) -> None:
    rows = {"easy": numpy.array([0, 2]), "hard": [numpy.int64(1)], "junk": numpy.empty(0)}
    value = {"imlist": ["a", "b", "c"], "qimlist": numpy.array(["d"]), "gnd": [rows]}
    instance_sets.written(tmp_path, value, protocol=protocol)
    truth = instances.landmarks(tmp_path).truth[0]
    assert (truth.easy.tolist(), truth.hard.tolist(), truth.junk.tolist()) == ([0, 2], [1], [])


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


@pytest.mark.parametrize("value", [Harmful(), Path("x"), numpy.array([{}], dtype=object), {"gnd": Harmful()}])
def test_a_pickle_runs_nothing(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    instance_sets.written(tmp_path, value)
    with pytest.raises(UserError, match="no whole pickle of plain values") as error:
        instances.landmarks(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "does not say what is right"),
        ({"imlist": [], "qimlist": []}, "'gnd'"),
        ({"imlist": ["a"], "qimlist": ["b"], "gnd": []}, "1 queries and says of 0"),
        ({"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy": [1], "hard": [], "junk": []}]}, "image 1 of 1"),
        ({"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy": [-1], "hard": [], "junk": []}]}, "image -1 of 1"),
        ({"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy": ["x"], "hard": [], "junk": []}]}, "does not say"),
    ],
)
def test_a_damaged_list_is_the_users_error(value: Any, message: str, tmp_path: Path) -> None:
    instance_sets.written(tmp_path, value)
    with pytest.raises(UserError, match=message):
        instances.landmarks(tmp_path)


def test_a_pickle_that_is_cut_off_is_the_users_error(tmp_path: Path) -> None:
    path = instance_sets.oxford(tmp_path) / "gnd_roxford5k.pkl"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="no whole pickle"):
        open_source(f"roxford5k:{tmp_path}")


def test_met_has_the_classes_of_all_splits_and_distractors_have_none(tmp_path: Path) -> None:
    root = instance_sets.met(tmp_path)
    assert splits(f"met:{root}") == ("train", "val", "test")
    train, val, test = (open_source(f"met:{root}", split=split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (15, 10, 20)
    assert train.classes == test.classes == ("100", "101", "102", "103", "104")
    assert val.labels is not None
    assert val.labels.tolist() == [0, 1, 2, 3, 4] + [-1] * 5
    assert test.read(19).shape == (3, 18, 24)
    (root / "images").rename(root / "MET")  # what is in no folder of its own lies beside the lists
    with pytest.raises(UserError, match="1.jpg is neither in"):
        open_source(f"met:{root}")
    for folder in ("MET_database", "valset", "testset", "other"):
        (root / "MET" / folder).rename(root / folder)
    mini = open_source(f"met-mini:{root}")
    assert mini.read(0).shape == (3, 18, 24)
    assert (len(mini), len(mini.classes)) == (9, 5)  # photos may show what is not learnt


def test_amstertime_is_pairs_of_two_times(tmp_path: Path) -> None:
    source = open_source(f"amstertime:{instance_sets.amstertime(tmp_path)}")
    assert source.domains is not None
    assert source.domains.tolist() == ["new"] * 6 + ["old"] * 6
    assert source.labels is not None
    assert source.labels.tolist() == [*range(6)] * 2
    (tmp_path / "old" / "0003.jpg").unlink()
    with pytest.raises(UserError, match="0003 is not in both"):
        open_source(f"amstertime:{tmp_path}")


def test_a_copy_of_copydays_is_of_the_class_of_its_original(tmp_path: Path) -> None:
    root = instance_sets.copydays(tmp_path)
    originals, strong = open_source(f"copydays:{root}"), open_source(f"copydays:{root}", split="strong")
    assert (len(originals), len(strong)) == (5, 10)
    assert originals.classes == strong.classes
    assert strong.labels is not None
    assert strong.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    instance_sets.picture(root / "strong" / "999900.jpg", 0, 0)
    with pytest.raises(UserError, match=r"no original of strong/999900.jpg"):
        open_source(f"copydays:{root}", split="strong")


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("roxford5k", "gnd_roxford5k.pkl", "no gnd_roxford5k.pkl"),
        ("rparis6k", "gnd_rparis6k.pkl", "no gnd_rparis6k.pkl"),
        ("roxford5k", "jpg/house_000004.jpg", r"1 images are not in .*jpg, such as house_000004.jpg"),
        ("met", "ground_truth/MET_database.json", "no ground_truth/MET_database.json"),
        ("met-mini", "ground_truth/mini_MET_database.json", "no ground_truth/mini_MET_database.json"),
        ("met", "ground_truth/valset.json", "no ground_truth/valset.json"),
        ("amstertime", "old", "no old"),
        ("copydays", "strong", "no strong"),
        ("copydays", "original", "no original"),
    ],
)
def test_what_is_missing_is_named_with_the_layout(name: str, lost: str, message: str, tmp_path: Path) -> None:
    if name in ("roxford5k", "rparis6k"):
        instance_sets.oxford(tmp_path, name=name)
    else:
        getattr(instance_sets, name.removesuffix("-mini"))(tmp_path)
    (tmp_path / lost).rename(tmp_path / "away")
    with pytest.raises(UserError, match=message) as error:
        open_source(f"{name}:{tmp_path}")
    assert "\n" not in str(error.value)
    assert name in str(error.value) or "unpack" in str(error.value)


def test_a_list_of_met_that_is_none_is_the_users_error(tmp_path: Path) -> None:
    root = instance_sets.met(tmp_path)
    for text, message in (("[]", "lists no images"), ('[{"id": 3}]', "no list of images"), ("{}", "lists no images")):
        (root / "ground_truth" / "valset.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_source(f"met:{root}")
