"""Boxes as Pascal VOC has them: an XML beside every image.

    JPEGImages/NAME.jpg, Annotations/NAME.xml, ImageSets/Main/{train,val,trainval,test}.txt, or the folder above

Lists of classification, CLASS_SPLIT.txt with a name and -1, 0 or 1 in a line, are no splits. An image that is not there
as its XML calls it, by the path on another computer or without an ending, is the one of the XML's own name.

VOC counts pixels from 1, of which the last belongs to the box, so that 1 is taken off the left and the top. (The
published code for discovery does so for VOC 2012 alone.)
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy

from dinokit.annotations.marks import Marks, Readers, Split, numbers, plain
from dinokit.core.files import read_text
from dinokit.core.messages import UserError
from dinokit.sources.location import EXTENSIONS


def readers(root: Path) -> Readers:
    """Return what reads the splits of a year, or of the folder above a single one."""
    years = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    years = [path for path in years if (path / "JPEGImages").is_dir() and (path / "Annotations").is_dir()]
    if len(years) > 1:
        raise UserError(f"{root} holds {' and '.join(path.name for path in years)}; give the folder of one of them")
    for year in years:
        lists = [path for path in sorted((year / "ImageSets" / "Main").glob("*.txt")) if not _is_of_class(path)]
        return {path.stem: partial(_split, year, path) for path in lists} or {"": partial(_split, year, None)}
    return {}


def _is_of_class(listed: Path) -> bool:
    """Tell whether a list says of every image if a class is there."""
    if "_" not in listed.stem:
        return False
    with listed.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().split()[1:] in (["-1"], ["0"], ["1"])


def read_voc(file: Path, folder: Path) -> Marks:
    """Read an XML of Pascal VOC whose image lies in a folder, or raise UserError."""
    try:
        top = ElementTree.fromstring(read_text(file))
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML: {error}") from error
    things = top.findall("object")
    sides = [[each.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")] for each in things]
    boxes = numbers(sides, f"every bndbox of {file}") - (1, 1, 0, 0)
    whole = [top.findtext(f"size/{name}") or "" for name in ("width", "height")]
    width, height = numbers([["0", "0", *whole]], f"the size in {file}")[0, 2:]
    difficult = numpy.array([(each.findtext("difficult") or "0").strip() == "1" for each in things], dtype=bool)
    names = [(each.findtext("name") or "").strip() for each in things]
    marks = plain(
        _image(top.findtext("filename") or "", file, folder), (int(width), int(height)), boxes, names, str(file)
    )
    return replace(marks, difficult=difficult)


def _image(said: str, file: Path, folder: Path) -> Path:
    """Return the image of an XML."""
    if said and (folder / said).is_file():
        return folder / said
    own = [folder / f"{file.stem}{ending}" for each in EXTENSIONS for ending in (each, each.upper())]
    return next((path for path in own if path.is_file()), folder / (said or f"{file.stem}.jpg"))


def _split(root: Path, listed: Path | None) -> Split:
    return Split(_marks(root, listed))


def _marks(root: Path, listed: Path | None) -> Iterator[Marks]:
    if listed is None:
        names = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    else:
        names = read_text(listed).split()
    for name in names:
        yield read_voc(root / "Annotations" / f"{name}.xml", root / "JPEGImages")
