"""Which sets lie in a folder: published ones by their layouts, folders of classes and of instances, and dense truth.

What is neither is passed over, what should be a set and cannot be opened is one line. Nothing is decoded.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy

from dinokit.annotations import coco, depths, matching, pairing, pairs, tables, voc, yolo
from dinokit.core.files import digest
from dinokit.core.messages import UserError, reason
from dinokit.sources import containers, demo, files, published, rows
from dinokit.sources.location import entries, folder_splits, split_name, walk
from dinokit.sources.source import open_source, splits

FEW = 5  # images of a class on average, up to which a class is a thing
DEEP = 3  # folders below the root that are looked into
CROWDED = 100  # folders in one from which on they are taken for classes
TABLES = (*files.MANIFESTS, rows.PARQUET, containers.TAR, containers.ZIP)
# what is asked of a head that learnt on imagenet
ROBUSTNESS = {"imagenet-real", "imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-c", "imagenet-sketch", "objectnet"}
VOC07 = "voc07"  # which has boxes, too
DENSE = {  # of published sets with masks, depths: layout -> name
    "ADE20K": "ade20k",
    "Cityscapes": "cityscapes",
    "Pascal VOC": "voc12",
    "NYUv2": "nyuv2",
    "KITTI": "kitti",
    "SUN RGB-D": "sunrgbd",
}


@dataclass(frozen=True)
class Found:
    """A set of data."""

    name: str  # as tables call it
    kind: str  # see suites/table.WANTS
    source: str  # SOURCE of commands

    def digest(self) -> str:
        """Return what changes when a file is added, taken away, or written again; of a demo set its name."""
        path = Path(self.source.partition(":")[2] if not os.path.exists(self.source) else self.source)
        if self.source.startswith(demo.PREFIX) or not path.exists():
            return self.source
        try:
            places = sorted(_files(path))
        except UserError as error:  # who measures the set says it
            return str(error)
        return digest(f"{place}\0{size}\0{time}\0" for place, size, time in places)


def find(data: Sequence[str]) -> tuple[list[Found], list[str]]:
    """Return the sets that words mean - folders of sets, or sources themselves - and a line for what cannot be opened.

    Raises:
        UserError: if a folder is not there.
    """
    found, lines = list[Found](), list[str]()
    for word in data:
        path = Path(os.path.expanduser(word))
        if path.is_dir():
            inside, said = _in_folder(path.resolve())
            found += inside
            lines += said
        else:
            found += _labelled(word, name=word.removeprefix(demo.PREFIX) if word.startswith(demo.PREFIX) else path.stem)
    names = [one.name for one in found]
    for place, one in enumerate(found):  # a name stands for one set of a kind
        twins = [other for other in found[:place] if (other.name, other.kind) == (one.name, one.kind)]
        if twins and names.count(one.name) > 1:
            found[place] = Found(one.source, one.kind, one.source)
    return found, lines


def _in_folder(root: Path) -> tuple[list[Found], list[str]]:
    """Look through a folder; a set is not looked into."""
    known, lines = published.find_sets(root), dict[Path, str]()  # what is passed over, and why
    places = {name: Path(spec.partition(":")[2]) for name, spec in known.items()}
    found = [Found(name, _kind(name), spec) for name, spec in known.items()]
    found += [Found(VOC07, "boxes", str(places[VOC07]))] if VOC07 in places else []
    taken = set(places.values())
    if root in taken:
        return found, []
    dense = _kept(root, root.parent, lines)
    if dense:
        return found + dense, [*lines.values()]
    for place in _below(root, DEEP):
        if any(place.is_relative_to(one) for one in taken):
            continue
        dense = _kept(place, root, lines)
        if dense:
            found += dense
            taken.add(place)
    if folder_splits(root):  # the root itself is a set
        return found + _labelled(str(root), name=root.name), [*lines.values()]
    inner = [root / name for name in entries(root)[1] if root / name not in taken]
    inner = [place for place in inner if not _around(place, root)]
    inner = [place for place in inner if not any(one.is_relative_to(place) for one in taken)]
    tables = [root / name for name in entries(root)[0] if name.lower().endswith(TABLES)]
    before = len(found)
    for place in (*inner, *tables):
        try:
            found += _labelled(str(place), name=place.stem)
        except (UserError, OSError) as error:
            lines[place] = _line(place.relative_to(root), error)
    if len(found) == before and len(inner) > 1:  # perhaps its folders are the classes
        found += _labelled(str(root), name=root.name)
        lines = {} if len(found) > before else lines
    return found, [*lines.values()]


def _kept(place: Path, root: Path, lines: dict[Path, str]) -> list[Found]:
    """Return what a folder holds up to what cannot be opened, of which there is a line then."""
    found = list[Found]()
    try:
        for one in _dense(place):
            found.append(one)  # so that what comes before a mistake stays
    except (UserError, OSError) as error:
        lines[place] = _line(place.relative_to(root), error)
    return found


def _line(place: Path, error: Exception) -> str:
    """Say why a place is passed over."""
    return f"{place}: {reason(error) if isinstance(error, OSError) else error}"


def _around(place: Path, root: Path) -> bool:
    """Tell whether a link leads back to the folder that is looked through, or above it."""
    return root.is_relative_to(place.resolve())


def _kind(name: str) -> str:
    """Return the kind of a published set."""
    if name in ROBUSTNESS:
        return "robustness"
    return "instances" if published.SETS[name].metric is None else "classes"


def _labelled(source: str, *, name: str) -> list[Found]:
    """Return a set of labelled images: of classes, or of things if there are few images of each; else nothing."""
    opened = open_source(source)
    if opened.labels is None or len(opened.classes) < 2:
        return []
    counts = numpy.bincount(opened.labels[opened.labels >= 0], minlength=len(opened.classes))
    things = not splits(source) and (opened.domains is not None or counts.mean() <= FEW)
    return [Found(name, "instances" if things else "classes", source)]


def _dense(folder: Path) -> Iterator[Found]:
    """Yield what a folder holds of images with more than classes."""
    place = str(folder)
    layout = pairs.layout_of(folder)
    if layout is not None:
        yield Found(DENSE[layout], "masks", place)
    elif splits := _splits(folder, "masks"):
        yield Found(folder.name, "masks" if splits > 1 else "few masks", place)
    known = depths.layout_of(folder)
    if known is not None:
        yield Found(DENSE[known.name], "depth", place)
    elif _splits(folder, "depth") > 1:
        yield Found(folder.name, "depth", place)
    voc12 = layout is not None or (folder / "ImageSets" / "Main").is_dir()
    drawn = folder / "Annotations"
    boxed = voc12 or any(any(drawn.glob(f"*{ending}")) for ending in voc.ENDINGS)
    if not boxed and any((each / "JPEGImages").is_dir() and (each / "Annotations").is_dir() for each in _parts(folder)):
        yield Found(_video(folder), "videos", place)
    if (folder / "PairAnnotation").is_dir():
        yield Found("spair", "pairs", place)
    elif next(folder.glob("*/wild_set/annotations.json"), None) is not None:
        yield Found("navi", "pairs", place)
    elif any((folder / name).is_file() for name in matching.LISTS):
        yield Found(folder.name, "pairs", place)
    if boxed and drawn.is_dir():
        own = "voc12" if voc12 else folder.name
        yield Found(VOC07 if "2007" in folder.name else own, "boxes", place)
    # the last of all, for a data.yaml may be anything's
    elif coco.splits(folder) or tables.is_set(folder) or yolo.is_set(folder):
        yield Found("coco20k" if (folder / coco.TWENTY).is_file() else folder.name, "boxes", place)


def _splits(folder: Path, kind: str) -> int:
    """Count the splits of a folder of images and what lies beside them."""
    return sum(others.is_dir() for _, others in pairing.folders_of(folder, kind).values())


def _parts(folder: Path) -> list[Path]:
    """Return a folder and those in it that are splits."""
    return [folder, *(folder / name for name in entries(folder)[1] if split_name(name) in ("train", "val", "test"))]


def _video(folder: Path) -> str:
    """Name a set of videos: DAVIS has lists of a year, the others are known by their folders' names."""
    plain = folder.name.lower().replace("_", "").replace("-", "")
    if (folder / "ImageSets" / "2017").is_dir() and plain.startswith("davis"):
        return "davis"
    known = {"youtubevos": "youtube-vos", "ytvos": "youtube-vos", "mose": "mose"}
    return next((name for start, name in known.items() if plain.startswith(start)), folder.name)


def _below(root: Path, deep: int) -> Iterator[Path]:
    """Yield the folders below one, the nearest first, but for those of many, which are classes."""
    level = [root]
    for _ in range(deep):
        inner = list[tuple[Path, list[str]]]()
        for place in level:
            with suppress(UserError):  # which is said where it is looked into
                inner.append((place, entries(place)[1]))
        places = (place / name for place, names in inner if len(names) <= CROWDED for name in names)
        level = [place for place in places if not _around(place, root)]
        yield from level


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield what is known of each file of a folder, or of a file: its place, size and time."""
    if path.is_file():
        about = path.stat()
        yield path.name, about.st_size, about.st_mtime_ns
        return
    for place in walk(path):
        try:
            about = (path / place).stat()
        except OSError:  # a link to nothing
            about = (path / place).lstat()
        yield place, about.st_size, about.st_mtime_ns
