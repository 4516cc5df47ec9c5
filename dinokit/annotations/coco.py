"""Boxes as COCO has them, and those who follow it: one JSON for a split.

    COCO           annotations/instances_{train2017,...}.json, and the images in train2017/ or images/train2017/; the
                   split 20k are those of train2014 that coco_20k_filenames.txt lists
    LVIS           lvis_v1_{train,val}.json in a folder of COCO's images or in its annotations/: images by coco_url,
                   train2017/NAME.jpg; beside instances_*.json the splits are called as the files are
    domains        DOMAIN/annotations/instances_val2017.json and DOMAIN/val2017/, as COCO-O has them: splits by DOMAIN

A box is left, top, width, height in the file; `area` is that of the outline. Ids of images and classes are kept as the
file has them, with their gaps. As pycocotools has it, an annotation of an image or a class that the file does not list
counts for nothing, which is said here. Two images of one id are refused, two classes of one name are one. An area that
is null, not finite or below 0 is that of the box; but for null, it is said.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy

from dinokit.annotations.marks import LONGEST, Kind, Marks, Readers, Split, areas, numbers, say
from dinokit.annotations.masks import say_once
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import UserError
from dinokit.sources.location import SPLITS, entries, split_name

TWENTY = "coco_20k_filenames.txt"
NEGATIVE, PARTLY = "neg_category_ids", "not_exhaustive_category_ids"  # of an image of LVIS
_LVIS = re.compile(r"lvis_v[0-9.]+_(?!image_info)(.+)")


def readers(root: Path) -> Readers:
    """Return what reads the splits of COCO or LVIS, or the domains of a folder."""
    found = _splits(root)
    return found or {name: _judged(_splits(folder)) for name, folder in domains(root).items()}


def domains(root: Path) -> Mapping[str, Path]:
    """Return the folders in a folder that hold a set of COCO each, by name."""
    names = entries(root)[1] if root.is_dir() else ()
    return {name: root / name for name in names if any((root / name / "annotations").glob("instances_*.json"))}


def _splits(root: Path) -> Readers:
    found = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        name = path.stem.removeprefix("instances_")
        found[name] = partial(read_coco, path)
        if name == "train2014" and (root / TWENTY).is_file():
            found["20k"] = partial(read_coco, path, root / TWENTY)
    lvis = {
        path: _LVIS.fullmatch(path.stem) for folder in (root, root / "annotations") for path in folder.glob("*.json")
    }
    return found | {
        path.stem if found else name[1]: partial(read_coco, path) for path, name in sorted(lvis.items()) if name
    }


def _judged(splits: Readers) -> Callable[[], Split]:
    """Return what reads the split of a domain on which is measured: val, test, or the first."""
    names = sorted(splits, key=lambda name: [*SPLITS[1:], split_name(name)].index(split_name(name)))
    return splits[names[0]]


def read_coco(file: Path, chosen: Path | None = None) -> Split:
    """Read a JSON of COCO, in the order of its images, or raise UserError.

    Args:
        chosen: a list of some of its images.
    """
    plain: Any = read_json(file)
    with _understood(file):
        for key in ("images", "annotations"):
            if not isinstance(plain, dict) or not isinstance(plain.get(key), list):
                raise UserError(f"{file} is no list of images and boxes as COCO writes it: it has no list of {key}")
        categories = plain.get("categories") or ()
        kinds = _kinds(categories, file)
        images = {_of(image, "id", f"an image of {file}"): image for image in plain["images"]}
        if len(images) < len(plain["images"]):
            ids = [image["id"] for image in plain["images"]]
            twice = next(one for one in ids if ids.count(one) > 1)
            raise UserError(
                f"{file} lists {ids.count(twice)} images of the id {twice}; which of them a box is of, it does not say"
            )
        drawn = _drawn(plain["annotations"], images, kinds, file)
        listed = [*images.values()]
        if chosen is not None:
            wanted = {Path(line).name for line in read_text(chosen).split()}
            listed = [image for image in listed if Path(image["file_name"]).name in wanted]
        if not images:
            raise UserError(f"{file} is no list of images and boxes as COCO writes it: it lists no image")
        folder = _folder(file, _name(plain["images"][0], file))
        marks = [_marks(image, drawn[image["id"]], kinds, folder, file) for image in listed]
    numbered = {name: kind for kind, name in reversed(kinds.items()) if isinstance(kind, int)}
    often = {category["id"]: str(category.get("frequency", "")) for category in categories}
    said = {name: Kind(number, often[number]) for name, number in numbered.items()}
    return Split(marks, said, federated=any(image.get(NEGATIVE) is not None for image in listed))


@contextmanager
def _understood(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError:  # a ValueError
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is no list of images and boxes as COCO writes it: {error!r}") from error


def _of(part: Any, key: str, called: str) -> Any:
    """Return a value of a part of a file, or raise UserError."""
    if not isinstance(part, dict):
        raise UserError(f"expected {called} as {{...}}, got {str(part)[:LONGEST]}")
    if key not in part:
        raise UserError(f"{called} has no {key}; add it")
    return part[key]


def _number(mark: Any, key: str, called: str) -> float | None:
    """Return a number of an annotation, None where it says none, or raise UserError."""
    said = mark.get(key)
    try:
        return None if said is None else float(said)
    except (TypeError, ValueError) as error:
        raise UserError(f"{called} has the {key} {str(said)[:LONGEST]!r}; expected a number") from error


def _is_area(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _kinds(categories: Iterable[Any], file: Path) -> dict[Any, str]:
    """Return the names of classes by their ids."""
    found: dict[Any, str] = {}
    for category in categories:
        number = _of(category, "id", f"a category of {file}")
        name = str(_of(category, "name", f"category {number} of {file}"))
        if number in found:
            raise UserError(f"{file} lists the category id {number} twice, as {found[number]} and as {name}")
        if name in found.values():
            say_once(f"{file} calls several categories {name}: they are one class")
        found[number] = name
    return found


def _drawn(
    marks: Iterable[Any], images: Mapping[Any, Any], kinds: Mapping[Any, str], file: Path
) -> dict[Any, list[Any]]:
    """Return the annotations of every image that count."""
    found: dict[Any, list[Any]] = {number: [] for number in images}
    odd: dict[str, list[str]] = {"of images": [], "of classes": []}
    sizeless = list[str]()
    for place, mark in enumerate(marks):
        called = f"annotation {mark.get('id', place)}"
        image, kind = _of(mark, "image_id", f"{called} of {file}"), mark.get("category_id")
        if image not in images:
            odd["of images"].append(f"{called} of image {image}")
        elif kind is not None and kinds and kind not in kinds:
            odd["of classes"].append(f"{called} of category {kind}")
        else:
            found[image].append(mark)
            area = _number(mark, "area", f"{called} of {file}")
            if area is not None and not _is_area(area):
                sizeless.append(f"{called} of {mark['area']}")
    say(file, {f"{what} that it does not list are left out": places for what, places in odd.items()})
    say(file, {"with an area that is none are taken to have that of the box": sizeless})
    return found


def _marks(image: Any, drawn: list[Any], kinds: Mapping[Any, str], folder: Path, file: Path) -> Marks:
    where = f"image {image['id']} of {file}"
    called = [f"annotation {mark['id']} of {file}" if "id" in mark else f"an annotation of {where}" for mark in drawn]
    boxes = numbers([_of(mark, "bbox", what) for mark, what in zip(drawn, called)], f"every bbox of {where}")
    boxes[:, 2:] += boxes[:, :2]
    sides = [_of(image, side, where) for side in ("width", "height")]
    size = numbers([[0, 0, *sides]], f"width and height of {where}")[0, 2:]
    own = [_number(mark, "area", what) for mark, what in zip(drawn, called)]
    crowd = [bool(_number(mark, "iscrowd", what)) for mark, what in zip(drawn, called)]
    return Marks(
        image=folder / _name(image, file),
        size=(int(size[0]), int(size[1])),
        boxes=boxes,
        names=tuple(kinds.get(mark.get("category_id"), "") for mark in drawn),
        crowd=numpy.array(crowd, dtype=bool),
        difficult=numpy.zeros(len(boxes), bool),
        areas=numpy.array(
            [area if said is None or not _is_area(said) else said for said, area in zip(own, areas(boxes))]
        ),
        where=where,
        number=image["id"] if isinstance(image["id"], int) else None,
        absent=frozenset(kinds[kind] for kind in image.get(NEGATIVE) or () if kind in kinds),
        some_drawn=frozenset(kinds[kind] for kind in image.get(PARTLY) or () if kind in kinds),
    )


def _name(image: Any, file: Path) -> str:
    """Return the file of an image; LVIS has the address at which it was published, the folder of COCO and its name."""
    if "file_name" in image or "coco_url" not in image:
        return str(_of(image, "file_name", f"image {image['id']} of {file}"))
    return str(PurePosixPath(*PurePosixPath(urlsplit(image["coco_url"]).path).parts[-2:]))


def _folder(file: Path, first: str) -> Path:
    """Return where the images of a file lie, of which the first is given."""
    top = file.parent.parent if file.parent.name == "annotations" else file.parent
    split = file.stem.removeprefix("instances_")
    places = [top / "images" / split, top / split, top / "images", top]
    return next((place for place in places if (place / first).is_file()), places[0])
