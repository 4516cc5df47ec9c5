"""How published sets list their images: class folders, texts of a line per image, tables of MATLAB, JSON.

A reader takes the folder of a set and the name of a split and returns a `Listing`. Its classes are those of all splits,
so that a label means the same in each.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dinokit.core.files import read_json
from dinokit.core.messages import UserError, library, line_of
from dinokit.sources import location
from dinokit.sources.base import Fetch
from dinokit.sources.files import fetch_file
from dinokit.sources.location import EXTENSIONS, entries, is_image, walk
from dinokit.sources.table import ColumnBuilder, Table, Texts, label_of

EXTRA = "mat"
PLACES = "data/vision/torralba/deeplearning/images256|images256"
PLACES_LISTS = {
    split: f"trainvalsplit_places205/{split}_places205.csv|{split}_places205.csv" for split in ("train", "val")
}
_BACKGROUND, _SHOTS = "BACKGROUND_Google", 30
_DRAW = 101  # of Caltech-101's images to learn from: part of the definition of the split, never change

Image = tuple[str, str]  # path below the folder of the set, class


@dataclass(frozen=True)
class Listing:
    """The images of a split and what reads one."""

    table: Table
    fetch: Fetch
    border: int = 0  # pixels on each side that are no part of the image


def listing(
    root: Path, images: Iterable[Image], classes: Iterable[str] = (), *, domain: Callable[[str], str] | None = None
) -> Listing:
    """List image files; UserError if there are none.

    Args:
        classes: of the set, whether these images are of them or not.
        domain: path -> domain, if the images have some.
    """
    words, domains = (
        ColumnBuilder({word: number for number, word in enumerate(dict.fromkeys(classes))}),
        ColumnBuilder(),
    )

    def paths() -> Iterator[str]:
        for path, word in images:
            words.add(word)
            domains.add("" if domain is None else domain(path))
            yield path

    keys = Texts(paths())
    if not len(keys):
        raise UserError(f"no images are listed in {root}; read are {' '.join(EXTENSIONS)}")
    table = Table(keys=keys, label=words.build(), domain=domains.build())
    return Listing(table, partial(fetch_file, str(root), keys))


def one_of(root: Path, names: str) -> Path:
    """Return the first that is there of the names that a file may have, a|b; else the first name."""
    places = [root / name for name in names.split("|")]
    return next((place for place in places if place.exists()), places[0])


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text that are not empty, without blanks around them."""
    return filter(None, map(str.strip, location.lines(str(path))))


def class_folders(
    root: Path, split: str, *, folders: Mapping[str, str] | None = None, pattern: str = "*", known: Iterable[str] = ()
) -> Listing:
    """Read images in folders of their class.

    Args:
        folders: above those of the classes, by split (a|b: one of both); None: the set's own, without splits.
        pattern: of the names of class folders; others are passed over.
        known: classes of the set, whether they have a folder or not.
    """
    tops = {name: one_of(root, folder) for name, folder in (folders or {split: ""}).items()}
    inner = {name: [folder for folder in entries(top)[1] if fnmatchcase(folder, pattern)] for name, top in tops.items()}
    images = in_folders(root, tops[split], inner[split])
    return listing(root, images, {*known, *(folder for found in inner.values() for folder in found)})


def in_folders(root: Path, top: Path, folders: Iterable[str]) -> Iterator[Image]:
    """Yield the images of some folders, each of the class of its name."""
    start = "" if top == root else f"{top.relative_to(root).as_posix()}/"
    for folder in folders:
        for path in sorted(filter(is_image, walk(top / folder))):
            yield f"{start}{folder}/{path}", folder


def caltech(root: Path, split: str) -> Listing:
    """Draw 30 images of each class of Caltech-101 to learn from; the others are the test images."""
    top = root / "101_ObjectCategories"
    classes = [name for name in entries(top)[1] if name != _BACKGROUND]
    images = list(in_folders(root, top, classes))
    of_class = np.array([word for _, word in images])
    learnt = np.zeros(len(images), dtype=bool)
    for word in classes:
        # NumPy itself, not core.seed: the split stays the same whatever becomes of the streams of training
        draw = np.random.default_rng((_DRAW, *word.encode(errors="surrogateescape")))
        learnt[draw.permutation(np.flatnonzero(of_class == word))[:_SHOTS]] = True
    chosen = np.flatnonzero(learnt == (split == "train")).tolist()
    return listing(root, (images[row] for row in chosen), classes)


def listed(
    root: Path, split: str, *, lists: Mapping[str, str], parse: Callable[[str], Image], images: str = ""
) -> Listing:
    """Read texts of a line per image, a text per split.

    Args:
        lists: the text of each split (a|b: one of both).
        parse: line -> path and class; ValueError or IndexError if it is none.
        images: folder that the paths are below of.
    """
    start = f"{one_of(root, images).relative_to(root).as_posix()}/" if images else ""
    own, others = one_of(root, lists[split]), (one_of(root, file) for name, file in lists.items() if name != split)
    classes = {word for other in others for _, word in _parsed(other, parse)}
    # one by one: Places205 has 2.4 million
    return listing(root, ((start + path, word) for path, word in _parsed(own, parse)), classes)


def _parsed(path: Path, parse: Callable[[str], Image]) -> Iterator[Image]:
    for number, line in enumerate(lines(path), start=1):
        try:
            yield parse(line)
        except (ValueError, IndexError) as error:
            raise UserError(f"line {number} of {path} is '{line}', which names no image and class") from error


def food(line: str) -> Image:
    """Read apple_pie/1005649."""
    word, _ = line.split("/")
    return f"images/{line}.jpg", word


def scene(line: str) -> Image:
    """Read /a/abbey/sun_aakbdcgfpksytcwj.jpg, or a/abbey/gsun_0003586d.jpg 0: the class is the path of its folder."""
    path = line.split()[0].lstrip("/")
    _, word, *more, _ = path.split("/")
    return path, "/".join((word, *more))


def texture(line: str) -> Image:
    """Read banded/banded_0002.jpg."""
    word, _ = line.split("/")
    return f"images/{line}", word


def aircraft(line: str) -> Image:
    """Read 1025794 707-320."""
    name, word = line.split(" ", 1)
    return f"images/{name}.jpg", word.strip()


def pet(line: str) -> Image:
    """Read Abyssinian_201 1 1 1: the class is the name without its number."""
    name = line.split()[0]
    word, _ = name.rsplit("_", 1)
    return f"images/{name}.jpg", word


def birds(root: Path, split: str) -> Listing:
    """Read CUB-200-2011: a text of images, and one that says of each whether it is to be learnt."""
    paths = dict(_pairs(root / "images.txt"))
    learnt = dict(_pairs(root / "train_test_split.txt"))
    for name, one, other in (("train_test_split.txt", learnt, paths), ("images.txt", paths, learnt)):
        lost = next((number for number in other if number not in one), None)
        if lost is not None:
            raise UserError(f"{root / name} says nothing of image {lost}; the set is not complete")
    words = {number: path.split("/")[0] for number, path in paths.items()}
    rows = [number for number in paths if (learnt[number] == "1") == (split == "train")]
    return listing(root, ((f"images/{paths[number]}", words[number]) for number in rows), words.values())


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines(path), start=1):
        name, _, value = line.partition(" ")
        if not value:
            raise UserError(f"line {number} of {path} is '{line}', expected a number and what belongs to it")
        yield name, value


def voc(root: Path, split: str) -> Listing:
    """Read VOC 2007: a text per class says of every image 1, -1, or 0 where all its objects are difficult."""
    lists = root / "ImageSets" / "Main"
    classes = sorted(path.name.removesuffix("_train.txt") for path in lists.glob("*_train.txt"))
    labels = {name: _shown(lists, classes, name) for name in ("train", "val", "test")}
    images = ((f"JPEGImages/{name}.jpg", word) for name, word in labels[split].items())
    return listing(root, images, {*classes, *(word for each in labels.values() for word in each.values())})


def _shown(lists: Path, classes: Sequence[str], split: str) -> dict[str, str]:
    """Return the label of each image of a split."""
    named, doubtful = dict[str, list[str]](), dict[str, list[str]]()
    told = {lists / f"{word}_{split}.txt": set[str]() for word in classes}
    for word, (path, images) in zip(classes, told.items()):
        for number, line in enumerate(lines(path), start=1):
            name, _, value = line.partition(" ")
            if value.strip() not in ("1", "0", "-1"):
                raise UserError(f"line {number} of {path} is '{line}', expected an image and 1, 0 or -1")
            images.add(name)
            for found, wanted in ((named, "1"), (doubtful, "0")):
                found.setdefault(name, []).extend([word] * (value.strip() == wanted))
    for path, images in told.items():
        lost = min(named.keys() - images, default=None)
        if lost is not None:
            raise UserError(f"{path} says nothing of {lost}, which the list of another class names; it is cut short")
    return {name: label_of(named[name], doubtful[name]) for name in named}


def cars(root: Path, split: str, *, test: str) -> Listing:
    """Read the Stanford Cars: tables of file names and numbers of classes, from 1 on."""
    names = [str(name) for name in _mat(root / "devkit" / "cars_meta.mat", "class_names")]
    path = root / "devkit" / "cars_train_annos.mat" if split == "train" else one_of(root, test)
    rows = _mat(path, "annotations")
    lost = [name for name in ("fname", "class") if name not in (rows.dtype.names or ())]
    if lost:
        raise UserError(f"{path} says no {lost[0]} of an image; expected the table of the devkit, with labels")
    words = _of_numbers(names, rows["class"], path)
    return listing(root, zip((f"cars_{split}/{name}" for name in rows["fname"]), words), names)


def flowers(root: Path, split: str) -> Listing:
    """Read the Oxford flowers: the number of each image's class, and the numbers of each split's images, from 1 on."""
    path, wanted = root / "setid.mat", {"train": "trnid", "val": "valid", "test": "tstid"}[split]
    words, numbers = [str(number) for number in _mat(root / "imagelabels.mat", "labels")], _mat(path, wanted)
    images = zip((f"jpg/image_{int(number):05d}.jpg" for number in numbers), _of_numbers(words, numbers, path))
    return listing(root, images, words)


def _of_numbers(words: Sequence[str], numbers: Iterable[Any], path: Path) -> list[str]:
    """Return the words at some places, from 1 on."""
    places = [int(number) for number in numbers]
    wrong = [number for number in places if not 1 <= number <= len(words)]
    if wrong:
        raise UserError(f"{path} holds the number {wrong[0]} of {len(words)}; it is another file, or damaged")
    return [words[number - 1] for number in places]


def _mat(path: Path, name: str) -> Any:
    """Read a row of a file of MATLAB."""
    loadmat = library("scipy.io", extra=EXTRA).loadmat
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[name])
    except KeyError as error:
        raise UserError(f"{path} holds no {name}; it is another file, or of another version of the set") from error
    except Exception as error:  # of a damaged file it raises what it likes
        raise UserError(f"{path} is no whole table of MATLAB: {line_of(error)}") from error


def inaturalist(root: Path, split: str) -> Listing:
    """Read iNaturalist 2018: the class of an image is the name of its category, with its number if two share it."""
    path = root / f"{split}2018.json"
    found = read_json(path)
    try:
        often = Counter(str(each["name"]) for each in found["categories"])
        names = {
            each["id"]: str(each["name"]) if often[str(each["name"])] == 1 else f"{each['name']} ({each['id']})"
            for each in found["categories"]
        }
        of_image = {each["image_id"]: names[each["category_id"]] for each in found["annotations"]}
        images = [(str(each["file_name"]), of_image[each["id"]]) for each in found["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks {line_of(error)} in images, annotations or categories") from error
    return listing(root, images, names.values())
