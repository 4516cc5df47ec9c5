"""Zip archives: a folder in one file; the list at its end says where each image lies."""

import struct
import zipfile
from typing import Any

from dinokit.core.errors import UserError
from dinokit.images.decode import EXTENSIONS
from dinokit.sources import location
from dinokit.sources.archives import (
    BROKEN,
    DEFLATED,
    OTHER,
    PLAIN,
    Index,
    IndexBuilder,
    SegmentSource,
    find_files,
    find_indexes,
    table_of_indexes,
)
from dinokit.sources.base import Source
from dinokit.sources.folders import hidden

SUFFIX = ".zip"
_HEADER = struct.Struct("<4s22xHH")  # of a file inside: signature, ..., length of the name, length of the extra field
_ENCRYPTED = 1


def open_zip(spec: str, *, split: str | None, channels: int) -> Source:
    """Open a zip, a pattern, or a folder of zips; folders inside are splits and labels as on a disk."""
    files, root = find_files(spec, SUFFIX)
    indexes = find_indexes(files, index_zip)
    if not any(len(index.names) for index in indexes):
        raise UserError(f"no images in {spec}: {len(files)} zip files looked at; read are {' '.join(EXTENSIONS)}")
    table = table_of_indexes(files, indexes, root=root)
    return SegmentSource(spec, files, indexes, table, split=split, channels=channels)


def index_zip(archive: str) -> Index:
    """Find the images of a zip, in its order.

    Raises:
        UserError: if it is no zip, or its end, where the list of its files is, is missing.
    """
    found = IndexBuilder()
    with location.open_file(archive) as file:
        try:
            with zipfile.ZipFile(file) as opened:
                for entry in opened.infolist():
                    _take(entry, file, found)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{archive} is no whole zip file: {error}; a zip that is cut short has lost its list"
            ) from error
    return found.build()


def _take(entry: zipfile.ZipInfo, file: Any, found: IndexBuilder) -> None:
    name = entry.filename.removeprefix("./")
    if entry.is_dir() or hidden(name) or not name.lower().endswith(EXTENSIONS):
        return
    file.seek(entry.header_offset)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
        found.add(name, 0, BROKEN)
    else:
        _, length, extra = _HEADER.unpack(header)
        known = entry.compress_type in (PLAIN, DEFLATED) and not entry.flag_bits & _ENCRYPTED
        packing = entry.compress_type if known else OTHER
        start = entry.header_offset + _HEADER.size + length + extra
        found.add(name, start, entry.compress_size, whole=entry.file_size, packing=packing)
    found.note({})
