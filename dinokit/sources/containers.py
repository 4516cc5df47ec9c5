"""Tar shards in the layout of WebDataset - 000123.jpg with 000123.cls or 000123.json beside it -, plain tars, and zips.

A tar is read through once, header by header, to note where its images lie. One that is cut short or damaged keeps its
images up to there, and one entry for the rest, which is reported as a bad image. A zip has a list at its end, which
says where each image lies.

A note belongs to the image of the same name up to the last dot. Where there is none, it belongs to all images of the
same name up to the first dot, which is what WebDataset calls a key: 7.left.jpg and 7.right.jpg share 7.cls.
"""

import json
import re
import struct
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from dinokit.core.messages import UserError, warn
from dinokit.sources import location
from dinokit.sources.archives import BROKEN, DEFLATED, OTHER, PLAIN, Index, IndexBuilder, open_archives
from dinokit.sources.table import LABELS, NOTES, column, word_of

TAR, ZIP = ".tar", ".zip"
_NOTES = (".cls", ".json")  # members of a tar that tell of the image beside them
_AFTER_KEY = re.compile(r"\.[^/]*$")  # from the first dot of a name on
_LARGEST_NOTE = 1 << 20  # bytes
# of a file inside a zip: signature, ..., length of the name, length of the extra field
_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1


def index_tar(shard: str) -> Index:
    """Find the images of a tar, even if it is damaged, and what is noted beside them; UserError if it is none."""
    found, images = IndexBuilder(), list[tuple[str, int, int]]()
    notes: dict[str, list[dict[Any, Any]]] = defaultdict(list)  # by the name up to the last dot
    unread: list[str] = []
    with location.open_file(shard) as file:
        try:
            for member in _members(file, shard):
                name = _inner_name(member.name)
                if not member.isreg() or location.hidden(name):
                    continue
                stem, ending = name.rpartition(".")[0], location.suffix(name)
                if location.is_image(name):
                    images.append((name, member.offset_data, member.size))
                elif ending not in _NOTES:
                    found.others[ending] += 1
                elif member.size > _LARGEST_NOTE:
                    unread.append(name)
                else:
                    file.seek(member.offset_data)
                    try:
                        text = file.read(member.size).decode("utf-8-sig")
                        note = {LABELS[0]: text} if ending == ".cls" else json.loads(text)
                    except (ValueError, RecursionError):
                        note = None
                    if isinstance(note, dict):
                        notes[stem].append(note)
                    else:
                        unread.append(name)
        except tarfile.TarError as error:
            warn(f"{shard} is damaged: {error}; the images before that are used")
            images.append(("(the rest)", 0, BROKEN))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shard}: {error}") from error
    if unread:
        warn(f"{len(unread):,} notes in {shard} are no text, no JSON or above 1 MB, such as {unread[0]}: left out")
    for image, known in _noted(shard, images, notes):
        found.add(*image, known=known)
    return found.build()


def index_zip(archive: str) -> Index:
    """Find the images of a zip, in its order; UserError if its end, with the list of its files, is missing."""
    found = IndexBuilder()
    with location.open_file(archive) as file:
        try:
            with zipfile.ZipFile(file) as opened:
                for entry in opened.infolist():
                    name = _inner_name(entry.filename)
                    if name.endswith("/") or location.hidden(name):
                        continue
                    if not location.is_image(name):
                        found.others[location.suffix(name)] += 1
                        continue
                    file.seek(entry.header_offset)
                    header = file.read(_HEADER.size)
                    if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
                        found.add(name, 0, BROKEN)
                        continue
                    _, length, extra = _HEADER.unpack(header)
                    known = entry.compress_type in (PLAIN, DEFLATED) and not entry.flag_bits & _ENCRYPTED
                    packing = entry.compress_type if known else OTHER
                    start = entry.header_offset + _HEADER.size + length + extra
                    found.add(name, start, entry.compress_size, whole=entry.file_size, packing=packing)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{archive} is no whole zip file: {error}; a zip that is cut short has lost its list"
            ) from error
    return found.build()


open_tars = partial(open_archives, ending=TAR, build=index_tar)
open_zips = partial(open_archives, ending=ZIP, build=index_zip)


def _inner_name(name: str) -> str:
    """Return the name of a file in an archive as a path with '/'; some programs of Windows write backslashes."""
    return name.replace("\\", "/").removeprefix("./")


def _noted(
    shard: str, images: list[tuple[str, int, int]], notes: dict[str, list[dict[Any, Any]]]
) -> Iterator[tuple[tuple[str, int, int], dict[str, str]]]:
    """Yield each image with what its notes say by the names of columns; say where two notes differ."""
    stems = [name.rpartition(".")[0] for name, _, _ in images]
    own = set(stems)
    shared: dict[str, list[dict[Any, Any]]] = defaultdict(list)
    for stem, said in notes.items():
        if stem not in own:
            shared[_AFTER_KEY.sub("", stem)] += said
    differing = []
    for image, stem in zip(images, stems):
        known: dict[str, str] = {}
        for wanted in NOTES:
            for said in (notes.get(stem, []), shared.get(_AFTER_KEY.sub("", stem), [])):
                words = [word_of(note.get(column(note, wanted))) for note in said]
                words = list(dict.fromkeys(filter(None, words)))
                if len(words) > 1:
                    differing.append(f"{image[0]}: {words[0]} and {words[1]}")
                if words:
                    known[wanted[0]] = words[0]
                    break
        yield image, known
    if differing:
        warn(f"{len(differing):,} images of {shard} have notes that differ, such as {differing[0]}; the first is taken")


def _members(file: Any, shard: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar; raise tarfile.TarError where it is damaged, which tarfile takes for its end."""
    size, _ = location.version(shard)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # a known attribute: tarfile would keep all of them
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} has a negative size")
            yield member
            if 0 <= size < member.offset_data + member.size:
                warn(f"{shard} is cut short in {member.name}; the images before it are used")
                return
        file.seek(tar.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if not end:
            warn(f"{shard} has no end mark: perhaps it was cut short")
        elif end.strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {tar.offset}")
