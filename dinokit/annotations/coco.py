"""Boxes as COCO has them, and those who follow it: one JSON for a split.

    COCO           annotations/instances_{train2017,...}.json, and the images in train2017/ or images/train2017/; the
                   split 20k are those of train2014 that coco_20k_filenames.txt lists
    LVIS           lvis_v1_{train,val}.json in a folder of COCO's images or in its annotations/: images by coco_url,
                   train2017/NAME.jpg; beside instances_*.json the splits are called as the files are
    domains        DOMAIN/annotations/instances_val2017.json and DOMAIN/val2017/, as COCO-O has them: splits by DOMAIN

A box is left, top, width, height in the file; `area` is that of the outline. Ids of images and classes are kept as the
file has them, with their gaps; where it lists no classes they are called by their ids, which is said. As pycocotools
has it, an annotation of an image or a class that the file does not list counts for nothing, which is said here; 7 and
"7" are two ids, and where one of them is meant it is refused. Two images of one id are refused, two classes of one name
are one. An area that is null, not finite or below 0 is that of the box; but for null, it is said. A width or height
that is not said is that of the image.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy

from dinokit.annotations.marks import LONGEST, Kind, Marks, Readers, Split, areas, numbers, say, say_twins
from dinokit.annotations.masks import say_once
from dinokit.core.files import read_json, read_text
from dinokit.core.messages import UserError
from dinokit.sources.files import written_path
from dinokit.sources.location import SPLITS, entries, spelled, split_name

START = "instances_"  # of the name of a file
TWENTY = "coco_20k_filenames.txt"
IDS = (int, float, str)  # of images and classes; a text is another than the number it says
NEGATIVE, PARTLY = "neg_category_ids", "not_exhaustive_category_ids"  # of an image of LVIS
_LVIS = re.compile(r"lvis_v[0-9.]+_(?!image_info)(.+)")


def readers(root: Path) -> Readers:
    """Return what reads the splits of COCO or LVIS, or the domains of a folder."""
    found = splits(root)
    return found or {name: _judged(splits(folder)) for name, folder in domains(root).items()}


def domains(root: Path) -> Mapping[str, Path]:
    """Return the folders in a folder that hold a set of COCO each, by name."""
    names = entries(root)[1] if root.is_dir() else ()
    return {name: root / name for name in names if any(map(_split_of, _files(root / name / "annotations")))}


def _files(folder: Path) -> list[Path]:
    """List the JSONs of a folder, which need not be there."""
    names = entries(folder)[0] if folder.is_dir() else ()
    return [folder / name for name in names if name.lower().endswith(".json")]


def _split_of(file: Path) -> str:
    """Return what a file of COCO calls its split, "" if it is none."""
    return file.stem.removeprefix(START) if file.stem.startswith(START) else ""


def splits(root: Path) -> Readers:
    """Return what reads the splits of a set, not of several."""
    found, inside = {}, _files(root / "annotations")
    for path in filter(_split_of, inside):
        name = _split_of(path)
        found[name] = partial(read_coco, path)
        if name == "train2014" and (root / TWENTY).is_file():
            found["20k"] = partial(read_coco, path, root / TWENTY)
    lvis = {path: _LVIS.fullmatch(path.stem) for path in (*_files(root), *inside)}
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
    for key in ("images", "annotations"):
        if not isinstance(plain, dict) or not isinstance(plain.get(key), list):
            raise UserError(f"{file} is no list of images and boxes as COCO writes it: it has no list of {key}")
    if not plain["images"]:
        raise UserError(f"{file} is no list of images and boxes as COCO writes it: it lists no image")
    categories = _list(plain, "categories", str(file)) or _numbered(plain["annotations"], file)
    kinds = _kinds(categories, file)
    images = {_id(image, "id", f"an image of {file}"): image for image in plain["images"]}
    if len(images) < len(plain["images"]):
        twice, times = Counter(image["id"] for image in plain["images"]).most_common(1)[0]
        raise UserError(f"{file} lists {times} images of the id {twice}; which of them a box is of, it does not say")
    drawn = _drawn(plain["annotations"], images, kinds, file)
    listed = [*images.values()]
    if chosen is not None:
        wanted = {Path(line).name for line in read_text(chosen).split()}
        listed = [image for image in listed if Path(_name(image, file)).name in wanted]
    folder = _folder(file, _name(plain["images"][0], file))
    marks = [_marks(image, drawn[image["id"]], kinds, folder, file) for image in listed]
    numbered = {name: kind for kind, name in reversed(kinds.items()) if isinstance(kind, int)}
    often = {category["id"]: str(category.get("frequency") or "") for category in categories}
    said = {name: Kind(number, often[number]) for name, number in numbered.items()}
    return Split(marks, said, federated=any(image.get(NEGATIVE) is not None for image in listed))


def _shown(value: Any) -> str:
    """Return the beginning of a value as a JSON has it."""
    return json.dumps(value, ensure_ascii=False)[:LONGEST]


def _of(part: Any, key: str, called: str) -> Any:
    """Return a value of a part of a file, or raise UserError."""
    if not isinstance(part, dict):
        raise UserError(f"expected {called} as {{...}}, got {_shown(part)}")
    if key not in part:
        raise UserError(f"{called} has no {key}; add it")
    return part[key]


def _id(part: Any, key: str, called: str) -> Any:
    """Return the id in a part of a file, or raise UserError."""
    value = _of(part, key, called)
    if not isinstance(value, IDS):
        raise UserError(f"{called} has the {key} {_shown(value)}; expected a number")
    return value


def _list(part: Mapping[str, Any], key: str, called: str) -> Sequence[Any]:
    """Return the list in a part of a file, nothing where there is none, or raise UserError."""
    value = part.get(key) or []
    if not isinstance(value, list):
        raise UserError(f"{called} has the {key} {_shown(value)}; expected a list")
    return value


def _number(mark: Any, key: str, called: str) -> float | None:
    """Return a number of an annotation, None where it says none, or raise UserError."""
    said = mark.get(key)
    try:
        return None if said is None else float(said)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{called} has the {key} {_shown(said)}; expected a number") from error


def _is_area(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _numbered(marks: Iterable[Any], file: Path) -> list[dict[str, Any]]:
    """Return classes that are called by their numbers, since the file does not name any."""
    said = [mark.get("category_id") for mark in marks if isinstance(mark, dict)]
    found = dict.fromkeys(each for each in said if isinstance(each, int | float | str))
    if found:
        say_once(f"{file} lists no categories: classes are called by their numbers")
    return [{"id": each, "name": each} for each in found]


def _kinds(categories: Iterable[Any], file: Path) -> dict[Any, str]:
    """Return the names of classes by their ids."""
    found: dict[Any, str] = {}
    for category in categories:
        number = _id(category, "id", f"a category of {file}")
        said = _of(category, "name", f"category {number} of {file}")
        name = str(said).strip()
        if not name or not isinstance(said, IDS):
            raise UserError(f"category {number} of {file} has the name {_shown(said)}; name it")
        if number in found:
            raise UserError(f"{file} lists the category id {number} twice, as {found[number]} and as {name}")
        found[number] = name
    say_twins(file, found.values(), kind="categories")
    return found


def _drawn(
    marks: Iterable[Any], images: Mapping[Any, Any], kinds: Mapping[Any, str], file: Path
) -> dict[Any, list[Any]]:
    """Return the annotations of every image that count."""
    found: dict[Any, list[Any]] = {number: [] for number in images}
    odd: dict[str, list[str]] = {"of images": [], "of classes": []}
    sizeless, name = list[str](), str(file)
    alike = {key: {str(one): one for one in known} for key, known in (("image_id", images), ("category_id", kinds))}
    for place, mark in enumerate(marks):
        own = mark.get("id") if isinstance(mark, dict) else None
        called = f"annotation {place if own is None else own}"
        where = f"{called} of {name}"
        image = _id(mark, "image_id", where)
        kind = None if mark.get("category_id") is None else _id(mark, "category_id", where)
        if image not in images:
            odd["of images"].append(f"{called} of image {image}")
            _check_type(image, alike["image_id"], "image_id", where)
        elif kind is not None and kinds and kind not in kinds:
            odd["of classes"].append(f"{called} of category {kind}")
            _check_type(kind, alike["category_id"], "category_id", where)
        else:
            found[image].append(mark)
            area = _number(mark, "area", where)
            if area is not None and not _is_area(area):
                sizeless.append(f"{called} of {mark['area']}")
    say(file, {f"{what} that it does not list are left out": places for what, places in odd.items()})
    say(file, {"with an area that is none are taken to have that of the box": sizeless})
    return found


def _check_type(said: Any, known: Mapping[str, Any], key: str, called: str) -> None:
    """Refuse an id that is there, but as a text instead of a number, or as a number instead of a text."""
    if str(said) in known:
        raise UserError(
            f"{called} has the {key} {_shown(said)}, where {_shown(known[str(said)])} is listed; write both as numbers"
        )


def _marks(image: Any, drawn: list[Any], kinds: Mapping[Any, str], folder: Path, file: Path) -> Marks:
    where = f"image {image['id']} of {file}"
    called = [
        f"annotation {mark['id']} of {file}" if mark.get("id") is not None else f"an annotation of {where}"
        for mark in drawn
    ]
    boxes = numbers([_of(mark, "bbox", what) for mark, what in zip(drawn, called)], f"every bbox of {where}")
    boxes[:, 2:] += boxes[:, :2]
    sides = [image.get(side) or 0 for side in ("width", "height")]
    size = numbers([[0, 0, *sides]], f"width and height of {where}")[0, 2:]
    own = [_number(mark, "area", what) for mark, what in zip(drawn, called)]
    crowd = [bool(_number(mark, "iscrowd", what)) for mark, what in zip(drawn, called)]
    return Marks(
        image=folder / written_path(_name(image, file), str(folder)),
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
        absent=_names(image, NEGATIVE, kinds, where),
        some_drawn=_names(image, PARTLY, kinds, where),
    )


def _names(image: Mapping[str, Any], key: str, kinds: Mapping[Any, str], where: str) -> frozenset[str]:
    listed = _list(image, key, where)
    return frozenset(kinds[kind] for kind in listed if isinstance(kind, IDS) and kind in kinds)


def _name(image: Any, file: Path) -> str:
    """Return the file of an image; LVIS has the address at which it was published, the folder of COCO and its name."""
    key = "file_name" if "file_name" in image or "coco_url" not in image else "coco_url"
    said = _of(image, key, f"image {image['id']} of {file}")
    if not isinstance(said, str) or not said:
        raise UserError(f"image {image['id']} of {file} has the {key} {_shown(said)}; expected a path")
    return said if key == "file_name" else str(PurePosixPath(*PurePosixPath(urlsplit(said).path).parts[-2:]))


def _folder(file: Path, first: str) -> Path:
    """Return where the images of a file lie, of which the first is given."""
    top = file.parent.parent if file.parent.name == "annotations" else file.parent
    split, images = file.stem.removeprefix(START), spelled(top, "images")
    places = [images / split, top / split, images, top]
    return next((place for place in places if os.path.isfile(place / written_path(first, str(place)))), places[0])
