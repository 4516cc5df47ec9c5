"""A split has one role, and what is set aside is a share of every class."""

from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.evaluation import base
from dinokit.evaluation.sets import roles
from dinokit.models.pixels import RawPixels
from tests.conftest import MakeFolder
from tests.sources import instance_sets


def test_test_images_ask_and_train_images_answer(make_folder: MakeFolder) -> None:
    both = str(make_folder("train/a/0.png", "val/a/0.png", "test/a/0.png"))
    assert roles.sides(both, None, None) == ("train", "val")
    assert roles.sides(both, "train", "test") == ("train", "test")
    assert roles.sides(str(make_folder("a/0.png", name="plain")), None, None) == (None, None)
    with pytest.raises(UserError, match="give both"):
        roles.sides(both, "train", None)


def test_splits_have_one_role_each() -> None:
    settings = base.find("logreg").Config

    def found(known: tuple[str, ...], *, shared: bool = False, **given: str) -> tuple[str | None, ...]:
        return roles.roles(settings(data="x", **given), known, choosing="C", shared=shared)

    known = ("train", "val", "test")
    assert found(known) == known
    assert found(("train", "val")) == ("train", None, "val")
    assert found(known, test="val") == ("train", None, "val")
    assert found(known, train="val", val="training") == ("val", "train", "test")
    assert found(()) == (None, None, None)
    for wrong in ({"val": "train"}, {"val": "test", "test": "testing"}, {"train": "val", "val": "val"}):
        with pytest.raises(UserError, match="three different splits"):
            found(known, **wrong)
    with pytest.raises(UserError, match="expected a split train"):
        found(("val", "test"))


def test_what_is_measured_may_choose_where_that_is_how_it_was_published() -> None:
    settings = base.find("logreg").Config

    def found(known: tuple[str, ...], **given: str) -> tuple[str | None, ...]:
        return roles.roles(settings(data="x", **given), known, choosing="a head", shared=True)

    assert found(("train", "val", "test")) == ("train", "val", "test")
    assert found(("train", "val")) == ("train", "val", "val")
    assert found(("train", "test")) == ("train", "test", "test")
    assert found(("train", "val", "test"), test="val") == ("train", "val", "val")
    assert found(()) == (None, None, None)
    with pytest.raises(UserError, match="three different splits"):
        found(("train", "val"), val="train")


def test_a_tenth_of_each_class_is_set_aside_but_never_all_of_it() -> None:
    labels = torch.tensor([0] * 40 + [1] * 5 + [2] + [4] * 2)
    rest, aside = roles.parted(labels, 0.1)
    assert labels[aside].bincount(minlength=5).tolist() == [4, 1, 0, 0, 1]
    assert sorted([*rest.tolist(), *aside.tolist()]) == list(range(48))
    assert aside[:4].tolist() != [0, 1, 2, 3]


def test_a_draw_takes_so_many_of_each_class_and_another_seed_others() -> None:
    labels = torch.tensor([0] * 10 + [2] * 10 + [3] * 2)
    drawn = [roles.some_of_each(labels, 3.0, seed) for seed in range(40)]
    assert all(numpy.bincount(labels[rows]).tolist() == [3, 0, 3, 2] for rows in drawn)
    assert len({tuple(rows) for rows in drawn[:9]}) == 9
    assert {place for rows in drawn for place in rows} == set(range(22))
    assert numpy.bincount(labels[roles.some_of_each(labels, 0.25, 0)]).tolist() == [2, 0, 2, 1]  # at least one


def test_a_set_without_classes_is_told_what_measures_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none; `dinokit evaluate retrieval` measures it"):
        roles.opened(RawPixels(size=4), f"roxford5k:{instance_sets.oxford(tmp_path)}", split=None)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("cats/0.png", "cats/1.png"), "found one, cats: 2 images; put each class"),
        (("train/cats/0.png", "val/cats/1.png"), "found one, cats: 1 images; put each class"),
        (("0.png", "1.png"), "found none; put each class"),
        (("a/0.png", "b/1.png", "2.png"), "found none, for 1 images lie beside the folders, such as 2.png; put each"),
    ],
)
def test_one_class_is_not_said_to_be_none(make_folder: MakeFolder, files: tuple[str, ...], found: str) -> None:
    with pytest.raises(UserError, match=f"expected labelled images of two or more classes in .*, {found}"):
        roles.opened(RawPixels(size=4), str(make_folder(*files)), split=None)


def test_one_class_of_a_manifest_is_named(make_folder: MakeFolder) -> None:
    folder = make_folder("0.png", "1.png")
    (folder / "table.csv").write_text("path,label\n0.png,cat\n1.png,cat\n")
    with pytest.raises(UserError, match="found one, cat: 2 images; put each class"):
        roles.opened(RawPixels(size=4), str(folder / "table.csv"), split=None)
