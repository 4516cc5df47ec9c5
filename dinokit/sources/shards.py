"""Tar shards in the layout of WebDataset: 000123.jpg with 000123.cls or 000123.json beside it; plain tars too.

A shard is read through once, header by header, to note where its images lie. One that is cut short or damaged keeps its
images up to there, and one entry for the rest, which is reported as a bad image.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from dinokit.core.errors import UserError
from dinokit.core.log import warn
from dinokit.images.decode import EXTENSIONS
from dinokit.sources import location
from dinokit.sources.archives import (
    BROKEN,
    Index,
    IndexBuilder,
    SegmentSource,
    find_files,
    find_indexes,
    table_of_indexes,
)
from dinokit.sources.base import Source
from dinokit.sources.folders import hidden
from dinokit.sources.table import LABELS

SUFFIX = ".tar"
_NOTES = (".cls", ".json")  # members that tell of the image beside them
_LARGEST_NOTE = 1 << 20  # bytes


def open_shards(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a tar, a range {000..099} of them, a pattern, or a folder of tars.

    Splits are folders or words of the shards' names; labels are the .cls members, label or class of the .json members,
    or else folders inside the tars.
    """
    files, root = find_files(spec, SUFFIX)
    indexes = find_indexes(files, index_tar)
    if not any((index.size >= 0).any() for index in indexes):
        damaged = sum(bool((index.size < 0).any()) for index in indexes)
        seen = f"{len(files)} tar files looked at{f', {damaged} of them damaged or no tar' if damaged else ''}"
        raise UserError(f"no images in {spec}: {seen}; read are {' '.join(EXTENSIONS)}")
    table = table_of_indexes(files, indexes, root=root)
    return SegmentSource(spec, files, indexes, table, split=split, channels=channels)


def index_tar(shard: str) -> Index:
    """Find the images of a tar and what is noted beside them.

    Raises:
        UserError: if it cannot be read; one that is damaged can.
    """
    found, notes, owners = IndexBuilder(), dict[str, dict[str, Any]](), list[str]()
    with location.open_file(shard) as file:
        try:
            for member in _members(file, shard):
                _take(member, file, found, notes, owners)
        except tarfile.TarError as error:
            warn(f"{shard} is damaged: {error}; the images before that are used")
            found.add("(the rest)", 0, BROKEN)
            owners.append("")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shard}: {error}") from error
    for owner in owners:
        found.note(notes.get(owner, {}))
    return found.build()


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


def _take(
    member: tarfile.TarInfo,
    file: Any,
    found: IndexBuilder,
    notes: dict[str, dict[str, Any]],
    owners: list[str],
) -> None:
    name = member.name.removeprefix("./")
    if not member.isreg() or hidden(name):
        return
    folder, _, last = name.rpartition("/")
    owner = f"{folder}/{last.split('.', 1)[0]}"
    if name.lower().endswith(EXTENSIONS):
        found.add(name, member.offset_data, member.size)
        owners.append(owner)
    elif name.endswith(_NOTES) and member.size <= _LARGEST_NOTE:
        file.seek(member.offset_data)
        data = file.read(member.size)
        with suppress(ValueError):  # a note that is no JSON, or no text, says nothing
            notes.setdefault(owner, {}).update(_noted(name, data))


def _noted(name: str, data: bytes) -> dict[str, Any]:
    if name.endswith(".cls"):
        return {LABELS[0]: data.decode().strip()}
    value = json.loads(data)
    return value if isinstance(value, dict) else {}
