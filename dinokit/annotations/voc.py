"""Boxes as Pascal VOC has them: an XML beside every image.

    JPEGImages/NAME.jpg, Annotations/NAME.xml, ImageSets/Main/{train,val,trainval,test}.txt, or the folder above

Lists of classification, CLASS_SPLIT.txt with a name and -1, 0 or 1 in a line, are no splits; in others such a column,
an ending and folders before the name are passed over. An image that is not there as its XML calls it, by the path on
another computer or without an ending, is the one of the XML's own name. A size that is not said is that of the image.

VOC counts pixels from 1, of which the last belongs to the box, so that 1 is taken off the left and the top. (The
published code for discovery does so for VOC 2012 alone.)
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy

from dinokit.annotations.marks import Marks, Readers, Split, numbers, plain
from dinokit.core.files import read_text
from dinokit.core.messages import UserError, reason
from dinokit.sources.files import written_path
from dinokit.sources.location import EXTENSIONS, entries

ENDINGS = (".xml", ".XML")
DIFFICULT = ("1", "true", "yes")  # in any case
_ENDING = "|".join(map(re.escape, (*EXTENSIONS, ".xml")))
_LINE = re.compile(rf"^(?:.*/)?(.+?)(?:{_ENDING})?(?:\s+(?:-1|0|1))?$", re.IGNORECASE)  # of a list: the name in it
_DECLARED = re.compile(rb"<\?xml[^>]*?encoding=[\"'](?!utf-16)([\w.:-]+)", re.IGNORECASE)  # that can be so: no UTF-16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


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
    top = _annotation(file)
    things = top.findall("object")
    sides = [[each.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")] for each in things]
    boxes = numbers(sides, f"every bndbox of {file}") - (1, 1, 0, 0)
    whole = [(top.findtext(f"size/{name}") or "").strip() or "0" for name in ("width", "height")]
    width, height = numbers([["0", "0", *whole]], f"the size in {file}")[0, 2:]
    difficult = [(each.findtext("difficult") or "").strip().lower() in DIFFICULT for each in things]
    names = [(each.findtext("name") or "").strip() for each in things]
    marks = plain(
        _image(top.findtext("filename") or "", file, folder), (int(width), int(height)), boxes, names, str(file)
    )
    return replace(marks, difficult=numpy.array(difficult, dtype=bool))


def _annotation(file: Path) -> ElementTree.Element:
    """Read an XML in the encoding that it declares; not by ElementTree, which knows none of several bytes a letter."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot open {file}: {reason(error)}") from error
    declared = _DECLARED.match(data)
    encoding = "utf-16" if data.startswith(_UTF16) else declared[1].decode() if declared else "utf-8-sig"
    try:
        top = ElementTree.fromstring(data.decode(encoding))
    except (UnicodeError, LookupError) as error:
        raise UserError(f"{file} is no text of {encoding.removesuffix('-sig').upper()}; save it as UTF-8") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML: {error}") from error
    if top.tag != "annotation":
        raise UserError(f"expected <annotation> in {file}, as Pascal VOC has it, got <{top.tag}>")
    return top


def _image(said: str, file: Path, folder: Path) -> Path:
    """Return the image of an XML."""
    there = folder / written_path(said, str(folder))
    if said and os.path.isfile(there):
        return there
    own = [folder / f"{file.stem}{ending}" for each in EXTENSIONS for ending in (each, each.upper())]
    return next((path for path in own if path.is_file()), folder / (said or f"{file.stem}.jpg"))


def _split(root: Path, listed: Path | None) -> Split:
    drawn = root / "Annotations"
    if listed is None:
        stems = {Path(name).stem: drawn / name for name in entries(drawn)[0] if name.endswith(ENDINGS)}
        files = [stems[stem] for stem in sorted(stems)]
    else:
        files = [*dict.fromkeys(_listed(listed, drawn))]
    return Split(read_voc(file, root / "JPEGImages") for file in files)


def _listed(listed: Path, folder: Path) -> Iterator[Path]:
    """Find the XML of every line of a list."""
    for line in read_text(listed).splitlines():
        whole = line.strip().replace("\\", "/")
        if not whole:
            continue
        names = whole, _LINE.sub(r"\1", whole)
        places = [folder / f"{name}{ending}" for name in names for ending in ENDINGS]
        found = next((place for place in places if os.path.isfile(place)), None)
        if found is None:
            raise UserError(
                f"expected {places[2]}, a line of {listed}, which is not there; put it there or take it out"
            )
        yield found
