"""Splits have many names - train, Training, val, valid, validation, dev, test, Testing - and one rule for all of them.

Folders, archives, patterns, columns of tables and data sets of others: whoever reads the name of a split asks here.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from dinokit.core.messages import UserError, unknown_name
from dinokit.sources.location import entries

SPLITS = ("train", "val", "test")  # the default first
_OTHER_NAMES = {"training": "train", "testing": "test"} | dict.fromkeys(
    ("validation", "validate", "valid", "dev", "eval", "evaluation", "holdout"), "val"
)
_AROUND = re.compile(r"(?:seg[-_ ])?([a-z]+?)[-_ ]?(?:set|\d{4})?")  # train2017, test_set, seg_train


def split_name(word: str) -> str:
    """Return the name that a split has everywhere here: train, val, test, or its own in lower case."""
    word = word.strip().lower()
    inner = _AROUND.fullmatch(word)
    name = inner[1] if inner else word
    name = _OTHER_NAMES.get(name, name)
    return name if name in SPLITS else word


def known_splits(words: Iterable[str]) -> tuple[str, ...]:
    """Return the splits among words, the default first; empty unless train and another one, or val and test."""
    names = {split_name(word) for word in words}
    first = [name for name in SPLITS if name in names]
    several = len(names) > 1 and ("train" in names or len(first) == len(names))
    return (*first, *sorted(names - set(first))) if several else ()


def choose_split(spec: str, split: str | None, known: tuple[str, ...]) -> str | None:
    """Return the split that is asked for, or else the default one, or None where there are none."""
    if split is None:
        return known[0] if known else None
    if not known:
        raise UserError(
            f"{spec} has no splits, got split '{split}'; leave it out, or make folders train and val or a column split"
        )
    if split_name(split) not in known:
        raise unknown_name(f"split of {spec}", split, known)
    return split_name(split)


def named_as_splits(folders: Iterable[str], *, where: str) -> dict[str, str]:
    """Return the folders that are named as splits, by the name of the split, train first.

    Raises:
        UserError: if two are named as the same, such as val and valid.
    """
    found: dict[str, str] = {}
    for folder in sorted(folders):
        name = split_name(folder)
        if name in found:
            raise UserError(f"{where} has {found[name]} and {folder}, both names of the split {name}; rename one")
        if name in SPLITS:
            found[name] = folder
    return {name: found[name] for name in SPLITS if name in found}


def split_folders(root: Path) -> dict[str, Path]:
    """Return the sub-folders that are named as splits, by the name of the split, train first; perhaps a single one."""
    folders = entries(root)[1] if root.is_dir() else ()
    return {name: root / folder for name, folder in named_as_splits(folders, where=str(root)).items()}


def folder_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split, train first; empty unless there are several (`known_splits`)."""
    found = split_folders(root)
    return found if known_splits(found) else {}
