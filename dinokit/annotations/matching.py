"""Pairs of images that show the same: SPair-71k or a list, with points that belong together; or NAVI (`navi`).

    SPair-71k       JPEGImages/CATEGORY/*.jpg, PairAnnotation/{trn,val,test}/*.json
    list            a file .jsonl or .csv, or a folder with pairs.jsonl or pairs.csv; one pair per line:

        {"image_a": "1.jpg", "image_b": "2.jpg", "points_a": [[12, 40.5]], "points_b": [[30, 41]]}

Paths of a list are relative to it. Points are [x, y] in pixels of the image as it is shown, [0, 0] the centre of the
first; those at the same place in points_a and points_b belong together. A pair may have `box_b`, [left, top, right,
bottom] of the object in image_b, and `name`, its category. The cells of a CSV hold the same: "[[12, 40.5]]".
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from jaxtyping import Float

from dinokit.annotations.navi import SCENE, Points, ViewPair, views_of
from dinokit.annotations.pairing import read_image
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import UserError, unknown_name
from dinokit.images import intensity

LISTS = ("pairs.jsonl", "pairs.csv")  # in a folder
SPLITS = ("trn", "val", "test")  # of SPair-71k
UNNAMED = "all"  # the category of pairs without a name
_FORM = (
    'expected {"image_a": "1.jpg", "image_b": "2.jpg", "points_a": [[x, y]], "points_b": [[x, y]]} '
    "and, if known, box_b and name"
)
_OF_SPAIR = {  # our name -> that of SPair-71k
    "name": "category",
    "image_a": "src_imname",
    "image_b": "trg_imname",
    "points_a": "src_kps",
    "points_b": "trg_kps",
    "box_b": "trg_bndbox",
}

Box = tuple[float, float, float, float]
Images = tuple[intensity.AnyImage, intensity.AnyImage]


@dataclass(frozen=True)
class PointPair:
    """Two images and the points that belong together."""

    name: str  # category
    images: tuple[Path, Path]
    points: tuple[Points, Points]
    box: Box | None  # left, top, right, bottom of the object in the second image

    def read(self, channels: int, white: float | int | None = None) -> Images:
        """Read both images, or raise UserError: also if a point lies beyond its own."""
        found = read_both(self.images, channels, white)
        for path, image, points in zip(self.images, found, self.points, strict=True):
            height, width = image.shape[1:]
            # a pixel of grace: published points count from 0 or from 1
            outside = points[((points < -1) | (points > (width, height))).any(axis=1)]
            if len(outside):
                x, y = outside[0].tolist()
                raise UserError(f"the point [{x:g}, {y:g}] lies outside {path}, which is {width} x {height} pixels")
        return found


def read_both(paths: tuple[Path, Path], channels: int, white: float | int | None) -> Images:
    """Read two images of any sizes, or raise UserError."""
    first, second = (read_image(path, channels=channels, white=white) for path in paths)
    return first, second


def open_matching(data: str, *, split: str | None = None) -> list[PointPair] | list[ViewPair]:
    """Open SPair-71k, NAVI or a list.

    Args:
        split: of SPair-71k; None is test.

    Raises:
        UserError: names what is missing, or the file and the line that is wrong.
    """
    root = Path(os.path.expanduser(data))
    if not root.exists():
        raise UserError(f"{data} does not exist; give SPair-71k, NAVI or a list of pairs .jsonl or .csv")
    if (root / "PairAnnotation").is_dir():
        return _spair(root, split or "test")
    names = [root / name for name in LISTS if (root / name).is_file()]
    if root.is_file() or names:
        return _listed(root if root.is_file() else names[0], split)
    base = root / "navi_v1" if (root / "navi_v1").is_dir() else root
    files = sorted(base.glob(f"*/{SCENE}/annotations.json"))
    if files:
        return views_of(base, files)
    expected = f"PairAnnotation/ (SPair-71k), OBJECT/{SCENE}/ (NAVI), {' or '.join(LISTS)}"
    raise UserError(f"expected {expected} in {data}; found none of these")


def _listed(file: Path, split: str | None) -> list[PointPair]:
    if split is not None:
        raise UserError(f"{file} has no splits such as '{split}'; leave out split")
    pairs = [_pair(row, file.parent, f"{file}, line {line}") for line, row in _rows(file)]
    if not pairs:
        raise UserError(f"{file} holds no pair; {_FORM} on every line")
    boxed = [pair for pair in pairs if pair.box is not None]
    if boxed and len(boxed) < len(pairs):
        raise UserError(f"{len(boxed)} of {len(pairs)} pairs of {file} have a box_b; give one to all or to none")
    return pairs


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each line and what stands in it."""
    if file.suffix.lower() not in (".jsonl", ".csv"):
        raise UserError(f"expected a list of pairs .jsonl or .csv, got {file}")
    text = read_text(file)
    if file.suffix.lower() == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for cells in table:
                row = {str(name): value for name, value in cells.items() if value}
                # numbers in brackets where points or a box stand, else text
                yield table.line_num, {n: _json(v) if n.startswith(("points_", "box_")) else v for n, v in row.items()}
        except csv.Error as error:
            raise UserError(f"{file}, line {table.line_num + 1} is no line of a CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line)
            if not isinstance(row, dict):
                raise UserError(f"{file}, line {number} is no object of JSON; {_FORM}")
            yield number, row


def _json(text: str) -> Any:
    """Read JSON; None if it is none, or holds numbers or brackets without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _pair(row: Mapping[str, Any], folder: Path, where: str) -> PointPair:
    missing = [name for name in ("image_a", "image_b", "points_a", "points_b") if name not in row]
    if missing:
        raise UserError(f"{where} has no {missing[0]}; {_FORM}")
    first, second = (_numbers(row[name], f"{name} in {where}", columns=2) for name in ("points_a", "points_b"))
    if len(first) != len(second):
        raise UserError(f"{where} has {len(first)} points_a and {len(second)} points_b; expected as many of both")
    images = folder / str(row["image_a"]), folder / str(row["image_b"])
    for image in images:
        if not image.is_file():
            raise UserError(f"the image {image} of {where} does not exist; paths are relative to the list")
    box: Box | None = None
    if row.get("box_b") is not None:
        left, top, right, bottom = _numbers([row["box_b"]], f"the box in {where}", columns=4)[0].tolist()
        box = left, top, right, bottom
    return PointPair(str(row.get("name") or UNNAMED), images, (first, second), box)


def _numbers(value: Any, what: str, *, columns: int) -> Float[numpy.ndarray, "row column"]:
    """Return points or a box: rows of so many finite numbers, at least one."""
    try:
        found = numpy.asarray(value, dtype=numpy.float64)
    except (TypeError, ValueError, OverflowError):
        found = numpy.empty(0)
    right = found.ndim == 2 and found.shape[1] == columns and len(found) and numpy.isfinite(found).all()
    if not right or (columns == 4 and (found[:, 2:] <= found[:, :2]).any()):
        form = "a list of [x, y], at least one" if columns == 2 else "[left, top, right, bottom] in pixels"
        raise UserError(f"{what} must be {form}, got {str(value)[:60]}")
    return found


def _spair(root: Path, split: str) -> list[PointPair]:
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    pairs = []
    for file in sorted((root / "PairAnnotation" / split).glob("*.json")):
        about = read_json(file)
        lost = [name for name in _OF_SPAIR.values() if not isinstance(about, dict) or name not in about]
        if lost:
            raise UserError(f"{file} has no {lost[0]}; expected the annotation of a pair of SPair-71k")
        row = {ours: about[theirs] for ours, theirs in _OF_SPAIR.items()}
        pairs.append(_pair(row, root / "JPEGImages" / str(about["category"]), str(file)))
    if not pairs:
        raise UserError(f"found no *.json in {root / 'PairAnnotation' / split}; the set is not complete")
    return pairs
