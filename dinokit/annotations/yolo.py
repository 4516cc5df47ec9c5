"""Sets of boxes as YOLO's trainers have them: a text beside every image (shares.py), and a file that says the rest.

    ROOT/images/train/a.jpg, ROOT/labels/train/a.txt, and val, test; or ROOT/train/images/, ROOT/train/labels/; or
        without splits; or the texts beside the images, with classes.txt, obj.names or a .names file
    ROOT/data.yaml, by any name, or given itself: path, train, val, test - a folder of images, a .txt that lists some,
        or several of these - and names, a list or number: name; with kpt_shape, what follows a box are points that are
        passed over. obj.data of Darknet: train, valid and names, with =

The text of an image has its name, in the folder labels/ where the last images/ of its path is, or beside it; an image
without one has no boxes. Names are read as they are written, 007 and no among them; without names classes are called by
their numbers. Folders are found in any case, texts as .txt or .TXT; a backslash of a path is a slash.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from dinokit.annotations.marks import LONGEST, Readers, Split, say_twins
from dinokit.annotations.masks import say_once
from dinokit.annotations.pairing import folders_of
from dinokit.annotations.shares import Meaning, read_texts
from dinokit.core.files import read_text
from dinokit.core.messages import UserError
from dinokit.sources.location import entries, is_image, spelled, split_folders, walk

FILES = (".yaml", ".yml", ".data")
ALWAYS = ("data.yaml", "data.yml")  # which is read, whatever it says
IMAGES, LABELS = "images", "labels"
NAMES = ("classes.txt", "obj.names", "*.names")
TEXTS = (".txt", ".TXT")
KEYS = ("train", "val", "valid", "test")


def readers(root: Path) -> Readers:
    """Return what reads the splits of a folder: as its .yaml or .data says, or as its folders are called."""
    files = [root / name for name in entries(root)[0] if name.lower().endswith(FILES)]
    files = [path for path in files if path.name.lower() in ALWAYS or _describes(path)]
    if len(files) > 1:
        raise UserError(
            f"{root} holds {' and '.join(path.name for path in files)}; give the one that counts as the data"
        )
    if files:
        return of_file(files[0])
    pairs = folders_of(root, LABELS)
    if any(_has_texts(labels) for _, labels in pairs.values()):
        places = {name: images for name, (images, _) in pairs.items()}
    else:
        folders = split_folders(root) or {"": root}
        places = {name: folder for name, folder in folders.items() if _names_in(root) + _names_in(folder)}
        places = places if any(map(_has_twins, places.values())) else {}
    meaning = _meaning(root, [*places.values()])
    return {name: partial(_split, [folder], [root], meaning) for name, folder in places.items()}


def is_set(root: Path) -> bool:
    """Tell whether a folder of which nobody has said what it is, is a set for YOLO.

    UserError if nothing says so but a data.yaml with neither names of classes nor labels, which may be anything's.
    """
    for file in (root / name for name in entries(root)[0] if name.lower() in ALWAYS):
        if not (_describes(file) or any(_has_texts(labels) for _, labels in folders_of(root, LABELS).values())):
            raise UserError(f"{file} names no classes, as a set for YOLO does by names: or nc:; it is passed over")
    return bool(readers(root))


def of_file(file: Path) -> Readers:
    """Return what reads the splits that a .yaml or .data names."""
    said = _said(file)
    meaning = Meaning(str(file), *_names(said.get("names"), file), points=_points(said.get("kpt_shape"), file))
    near = [file.parent, file.parent.parent]  # Darknet's are relative to where it is started, above data/
    inside = said.get("path")
    bases = (
        [file.parent / inside, Path(os.path.expanduser(inside)), *near] if isinstance(inside, str) and inside else near
    )
    given = {key: [said[key]] if isinstance(said[key], str) else said[key] for key in KEYS if said.get(key)}
    for key, places in given.items():
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise UserError(
                f"{file}: {key} is {str(places)[:LONGEST]}; expected a folder of images, a .txt, or a list of them"
            )
    return {key: partial(_listed, places, bases, meaning, key) for key, places in given.items()}


def _describes(file: Path) -> bool:
    """Tell whether a file says what a set for YOLO is: where images are, and which classes there are."""
    with suppress(OSError):
        mark = "=" if file.suffix.lower() == ".data" else ":"
        text = file.read_bytes().decode(errors="replace")  # what is no UTF-8 is said by who reads it
        return all(re.search(rf"^(?:{words})\s*{mark}", text, re.MULTILINE) for words in ("|".join(KEYS), "names|nc"))
    return False


def _said(file: Path) -> Mapping[str, Any]:
    """Read a .yaml, in which every value is the text that was written, or a .data."""
    text = read_text(file)
    if file.suffix.lower() == ".data":
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key.strip(): value.strip() for key, _, value in pairs}
    try:
        said = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict) or not any(said.get(key) for key in KEYS):
        raise UserError(f"{file} names no images; expected train:, val: or test:, a folder of images or a .txt each")
    return said


def _points(said: Any, file: Path) -> int:
    """Return how many numbers behind a box are points."""
    if not said:
        return 0
    with suppress(TypeError, ValueError):
        points, numbers = map(int, said if isinstance(said, list) else ())
        if min(points, numbers) >= 0:
            return points * numbers
    raise UserError(f"{file}: kpt_shape is {str(said)[:LONGEST]}; expected two numbers, such as [17, 3]")


def _names(said: Any, file: Path) -> tuple[str, Mapping[int, str] | None]:
    """Return the file with the names of classes, and these by their numbers."""
    if not said:
        return "", None
    if isinstance(said, str):  # the file that lists them
        near = [file.parent, file.parent.parent]
        return _names_of(_found(said, near, f"names of {file} (a list, number: name, or the file that lists them)"))
    try:
        pairs = said.items() if isinstance(said, dict) else enumerate(said)
        found = {int(number): name for number, name in pairs}
    except ValueError as error:
        raise UserError(f"{file}: expected numbers before the names of classes, got {str(said)[:LONGEST]}") from error
    wrong = [name for name in found.values() if not isinstance(name, str)]
    if wrong:
        raise UserError(f"{file}: expected the names of classes, a list or number: name, got {str(wrong[0])[:LONGEST]}")
    return _named(file, found)


def _names_in(folder: Path) -> list[Path]:
    listed = entries(folder)[0] if folder.is_dir() else ()
    return [folder / name for pattern in NAMES for name in listed if fnmatchcase(name.lower(), pattern)]


def _names_of(file: Path) -> tuple[str, Mapping[int, str]]:
    return _named(file, dict(enumerate(read_text(file).splitlines())))


def _named(file: Path, names: Mapping[int, str]) -> tuple[str, Mapping[int, str]]:
    """Return names, but not the empty ones, and say which are of several classes."""
    found = {number: name.strip() for number, name in names.items() if name.strip()}
    say_twins(file, found.values())
    return str(file), found


def _meaning(root: Path, places: Sequence[Path]) -> Meaning:
    """Find the names of classes in a folder, or beside its texts."""
    near = [root, root / LABELS, *places, *map(_labels_of, places)]
    files = [file for folder in near for file in _names_in(folder)]
    return Meaning(str(root), *(_names_of(files[0]) if files else ()))


def _has_texts(folder: Path) -> bool:
    listed = walk(folder) if folder.is_dir() else ()
    return any(name.endswith(TEXTS) and Path(name).name.lower() not in NAMES for name in listed)


def _has_twins(folder: Path) -> bool:
    """Tell whether a text lies beside an image of its name."""
    names = set(walk(folder))
    return any(is_image(name) and f"{name.rpartition('.')[0]}{text}" in names for name in names for text in TEXTS)


def _found(name: str, bases: Sequence[Path], where: str) -> Path:
    """Return where something lies that is named relative to one of some folders."""
    slashed = name.replace("\\", "/")
    short = re.sub(r"^(\.\.?/)+", "", slashed)  # ../train/images of ./train/images, as is often exported
    places = [base / each for each in dict.fromkeys((name, slashed, short)) for base in bases]
    found = next((place for place in places if os.path.exists(place)), None)
    if found is None:
        raise UserError(f"expected {places[0]}, {where}, which is not there")
    return found


def _listed(names: Sequence[str], bases: Sequence[Path], meaning: Meaning, key: str) -> Split:
    return _split([_found(name, bases, f"{key} of {meaning.data}") for name in names], bases, meaning)


def _split(places: Sequence[Path], bases: Sequence[Path], meaning: Meaning) -> Split:
    """Read the images of folders and lists."""
    if meaning.names is None:
        lacks = (
            "has no data.yaml and no classes.txt: classes" if Path(meaning.data).is_dir() else "names no classes: they"
        )
        say_once(f"{meaning.data} {lacks} are called by their numbers")
    images = {os.path.abspath(image): image for place in places for image in _images(place, bases)}  # each once
    texts = _texts_of(images.values())
    missing = [image for image, text in texts.items() if not text.is_file()]
    if len(missing) == len(images):
        raise UserError(
            f"expected labels of the {len(images):,} images of {meaning.data}, such as {texts[missing[0]]}, found none"
        )
    if missing:
        say_once(f"{len(missing):,} of {len(images):,} images have no label file and no boxes, such as {missing[0]}")
    known = set(texts.values())
    folders = dict.fromkeys(_labels_of(place) for place in places if place.is_dir())
    others = [folder / name for folder in folders if folder not in places and folder.is_dir() for name in walk(folder)]
    lonely = [path for path in others if path.suffix in TEXTS and path not in known and path.name.lower() not in NAMES]
    if lonely:
        say_once(f"{len(lonely):,} label files of {meaning.data} have no image, such as {lonely[0]}")
    return Split(read_texts(texts, meaning))


def _images(place: Path, bases: Sequence[Path]) -> list[Path]:
    """List the images of a folder, or those that a text lists."""
    if place.is_dir():
        found = [place / name for name in sorted(walk(place)) if is_image(name)]
    else:
        lines = [line.strip() for line in read_text(place).splitlines()]
        found = [_found(line, [place.parent, *bases], f"a line of {place}") for line in lines if line]
    if not found:
        raise UserError(f"found no image in {place}")
    return found


def _texts_of(images: Iterable[Path]) -> dict[Path, Path]:
    """Return the text of each image, in its folder of texts or beside it; it may not be there."""
    folders, found = dict[Path, Path](), dict[Path, Path]()
    for image in images:
        if image.parent not in folders:
            folders[image.parent] = _labels_of(image.parent)
        both = folders[image.parent], image.parent
        places = [folder / f"{image.stem}{ending}" for folder in both for ending in TEXTS]
        found[image] = next((place for place in places if os.path.isfile(place)), places[0])
    return found


def _labels_of(images: Path) -> Path:
    """Return where the texts of a folder of images lie: in labels/ in place of the last images/, or there."""
    above = [place for place, part in enumerate(images.parts) if part.lower() == IMAGES]
    if not above:
        return images
    found = Path(*images.parts[: above[-1]])
    for part in (LABELS, *images.parts[above[-1] + 1 :]):
        found = spelled(found, part)
    return found
