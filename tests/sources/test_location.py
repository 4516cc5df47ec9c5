"""One rule for names of splits, however the images lie."""

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from dinokit.annotations.boxes import box_splits
from dinokit.annotations.depths import splits_of
from dinokit.annotations.pairs import open_pairs, pair_splits
from dinokit.core.messages import UserError
from dinokit.evaluation.sets.roles import sides
from dinokit.sources.location import existing_folder
from dinokit.sources.source import Source, open_source, remarks, splits

COLOURS = ("blue", "green", "red")


def _tree(root: Path, *folders: str) -> Path:
    for folder in folders:
        for colour in COLOURS:
            (root / folder / colour).mkdir(parents=True)
            Image.new("L", (2, 2)).save(root / folder / colour / "1.png")
    return root


def _zip(root: Path) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root).as_posix())
    return root.with_suffix(".zip")


def _found(source: Source) -> tuple[int, tuple[str, ...], list[int]]:
    assert source.labels is not None
    return len(source), source.classes, source.labels.tolist()


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        ("train", "valid", ""),
        ("train", "val", ""),
        ("Train", "Val", ""),
        ("TRAIN", "validation", ""),
        ("train", "dev", ""),
        ("Training", "Testing", ""),
        ("training", "Valid", "test"),
        ("val", "test", ""),
    ],
)
def test_folders_zips_and_patterns_know_the_same_splits(tmp_path: Path, first: str, second: str, third: str) -> None:
    root = _tree(tmp_path / "d", *filter(None, (first, second, third)))
    names = ("val", "test") if first == "val" else ("train", "test" if "est" in second else "val")
    for spec in (str(root), str(_zip(root)), f"{root}/*/*/*.png"):
        assert splits(spec) == (*names, *(("test",) if third else ()))
        for split in (None, *names, second, second.upper()):
            assert _found(open_source(spec, split=split)) == (3, COLOURS, [0, 1, 2])
    if first != "val":
        assert sides(str(root), None, None) == names


def test_what_lies_beside_the_splits_is_in_none(tmp_path: Path) -> None:
    root = _tree(tmp_path / "d", "train", "valid", "extra")
    Image.new("L", (2, 2)).save(root / "cover.png")
    for spec in (str(root), str(_zip(root))):
        assert splits(spec) == ("train", "val")
        assert _found(open_source(spec)) == _found(open_source(spec, split="valid")) == (3, COLOURS, [0, 1, 2])


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    root = _tree(tmp_path / "d", "train", "val", "valid")
    for spec in (str(root), str(_zip(root))):
        with pytest.raises(UserError, match="has val and valid, both names of the split val; rename one"):
            open_source(spec)


def test_a_class_named_as_a_split_alone_is_a_class(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("train", "bus", "ship"):
        (root / name).mkdir(parents=True)
        Image.new("L", (2, 2)).save(root / name / "1.png")
    for spec in (str(root), str(_zip(root))):
        assert splits(spec) == ()
        assert _found(open_source(spec)) == (3, ("bus", "ship", "train"), [0, 1, 2])


def test_annotated_folders_know_the_same_splits(tmp_path: Path) -> None:
    for split in ("Training", "Valid"):
        for kind in ("Images", "masks", "depth"):
            (tmp_path / "a" / split / kind).mkdir(parents=True)
            (tmp_path / "b" / kind / split).mkdir(parents=True)
            if kind != "depth":
                Image.new("L", (2, 2)).save(tmp_path / "a" / split / kind / "1.png")
                Image.new("L", (2, 2)).save(tmp_path / "b" / kind / split / "1.png")
    for root in ("a", "b"):
        assert pair_splits(str(tmp_path / root)) == ("train", "val")
        assert len(open_pairs(str(tmp_path / root), split="valid")) == 1
    assert splits_of(str(tmp_path / "a")) == ("train", "val")


@pytest.mark.parametrize("second", ["eval", "evaluation", "validate", "holdout", "val2017", "val_set", "seg_val"])
@pytest.mark.parametrize("first", ["train", "train2017", "train-set"])
def test_a_split_may_have_a_year_or_a_word_around_it(first: str, second: str, tmp_path: Path) -> None:
    root = _tree(tmp_path, first, second)
    assert splits(str(root)) == ("train", "val")
    assert _found(open_source(str(root))) == (3, COLOURS, [0, 1, 2])


def test_other_words_with_a_split_in_them_stay_classes(tmp_path: Path) -> None:
    for names in (("trainers", "sunset"), ("train2", "tests"), ("dataset", "train_ticket")):
        assert splits(str(_tree(tmp_path / names[0], *names))) == ()


def test_images_beside_the_splits_are_said(tmp_path: Path) -> None:
    source = open_source(str(_tree(tmp_path, "train", "test", "unlabeled")))
    assert [each for each in remarks(source) if "unlabeled/" in each]


def test_the_folder_of_nobody_is_none() -> None:
    for look in (existing_folder, box_splits):
        with pytest.raises(UserError, match="no folder ~nosuchuser/x"):
            look("~nosuchuser/x")


def test_a_word_before_a_folder_that_is_there_is_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"'voc07:' means nothing here, .* try {tmp_path}"):
        existing_folder(f"voc07:{tmp_path}")
    with pytest.raises(UserError, match="no folder voc07:nowhere"):
        existing_folder("voc07:nowhere")
