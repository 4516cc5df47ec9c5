"""Published sets of things that are photographed several times, in the layouts in which they are handed out.

Revisited Oxford and Paris (arXiv:1803.11285), Met (arXiv:2202.01747), AmsterTime (arXiv:2203.16291), and Copydays
(Douze et al. 2009). What is right in Oxford and Paris stands in a pickle (`pickles.py`).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from dinokit.core.files import read_json
from dinokit.core.messages import UserError, line_of
from dinokit.sources.files import fetch_file, images_among
from dinokit.sources.listings import Image, Listing, listing
from dinokit.sources.location import entries
from dinokit.sources.pickles import unpickled
from dinokit.sources.table import Table, Texts

DATABASE, QUERY = "database", "query"
TIMES = ("new", "old")
ORIGINAL, STRONG = "original", "strong"
QUALITIES = (3, 5, 8, 10, 15, 20, 30, 50, 75)  # of JPEG
CROPS = (10, 15, 20, 30, 40, 50, 60, 70, 80)  # percent that is cut off
ATTACKS = (STRONG, *(f"jpegqual/{number}" for number in QUALITIES), *(f"crops/{number}" for number in CROPS))
_GROUP = 4  # letters of a name of Copydays that a copy shares with its original


@dataclass(frozen=True)
class Query:
    """Which images of the database show what a query shows: clearly, hardly, or so little that they do not count."""

    easy: Int64[np.ndarray, " easy"]
    hard: Int64[np.ndarray, " hard"]
    junk: Int64[np.ndarray, " junk"]


@dataclass(frozen=True)
class Landmarks:
    """The images of Oxford or Paris, by name, and what is right."""

    database: tuple[str, ...]
    query: tuple[str, ...]
    truth: tuple[Query, ...]  # of each query


def landmarks(root: Path) -> Landmarks:
    """Read what is right in the folder of revisited Oxford or Paris."""
    path = min(root.glob("gnd_*.pkl"))
    found = unpickled(path)
    try:
        database, query = (tuple(map(str, found[name])) for name in ("imlist", "qimlist"))
        each = [{kind: _rows(one[kind], len(database)) for kind in ("easy", "hard", "junk")} for one in found["gnd"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say what is right in Oxford or Paris: {line_of(error)}") from error
    if len(each) != len(query):
        raise UserError(f"{path} has {len(query)} queries and says of {len(each)} what is right; it is damaged")
    return Landmarks(database, query, tuple(Query(**one) for one in each))


def oxford(root: Path, split: str) -> Listing:
    """List the images of Oxford or Paris that are searched, or that ask."""
    names = getattr(landmarks(root), split)
    there = {PurePosixPath(name).stem: name for name in _images(root / "jpg")}
    lost = [name for name in names if name not in there]
    if lost:
        raise UserError(f"{len(lost):,} images are not in {root / 'jpg'}, such as {lost[0]}.jpg; unpack all archives")
    keys = Texts(f"jpg/{there[name]}" for name in names)
    return Listing(Table(keys=keys), partial(fetch_file, str(root), keys))


def met(root: Path, split: str, *, database: str) -> Listing:
    """List the images of a split of Met, with the ids of what they show; distractors have none.

    Args:
        database: the file that lists what is learnt from.
    """
    files = {"train": database, "val": "valset.json", "test": "testset.json"}
    found = {name: _exhibits(root / "ground_truth" / file) for name, file in files.items()}
    first = found[split][0][0]
    place = next((top for top in ("images/", "") if (root / top / first).exists()), None)
    if place is None:
        raise UserError(f"{first} is neither in {root / 'images'} nor in {root}; unpack all archives in one of both")
    images = [(f"{place}{path}", word) for path, word in found[split]]
    return listing(root, images, {word for each in found.values() for _, word in each})


def amstertime(root: Path, _: str) -> Listing:
    """List the pairs of AmsterTime, a place in two times: a class each, with the time as domain."""
    found = {time: _images(root / time) for time in TIMES}
    one, other = ({PurePosixPath(name).stem for name in names} for names in found.values())
    if one != other:
        raise UserError(f"{min(one ^ other)} is not in both {root}/new and {root}/old; unpack all archives")
    images = ((f"{time}/{name}", PurePosixPath(name).stem) for time, names in found.items() for name in names)
    return listing(root, images, domain=lambda path: path.partition("/")[0])


def copydays(root: Path, split: str) -> Listing:
    """List the originals of Copydays or the copies of one attack; a class is an original with its copies."""
    originals = {name[:_GROUP] for name in _images(root / ORIGINAL)}
    images = [(f"{split}/{name}", name[:_GROUP]) for name in _images(root / split)]
    strange = next((path for path, word in images if word not in originals), None)
    if strange is not None:
        raise UserError(f"no original of {strange} in {root / ORIGINAL}, whose name would begin alike")
    return listing(root, images, originals)


def _images(folder: Path) -> list[str]:
    """Return the names of the images in a folder, or raise UserError."""
    names, _ = images_among(entries(folder)[0], where=str(folder))
    return names


def _exhibits(path: Path) -> list[Image]:
    """Read the paths of images and the ids of what they show, -1 where that is nothing of Met."""
    found = read_json(path)
    try:
        images = [(str(entry["path"]), str(entry.get("id" if "id" in entry else "MET_id", "-1"))) for entry in found]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no list of images with a path each, as Met has them: {line_of(error)}") from error
    if not images:
        raise UserError(f"{path} lists no images")
    return images


def _rows(numbers: Any, count: int) -> Int64[np.ndarray, " row"]:
    rows = np.array(numbers, dtype=np.int64).reshape(-1)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"it names image {rows.max()} of {count}")
    return rows
