"""Zip archives: a folder in one file; the list at its end says where each image lies."""

import struct
import zipfile
from functools import partial

from dinokit.core.errors import UserError
from dinokit.images.decode import EXTENSIONS
from dinokit.sources import location
from dinokit.sources.archives import BROKEN, DEFLATED, OTHER, PLAIN, Index, IndexBuilder, inner_name, open_archives
from dinokit.sources.folders import hidden

SUFFIX = ".zip"
_HEADER = struct.Struct("<4s22xHH")  # of a file inside: signature, ..., length of the name, length of the extra field
_ENCRYPTED = 1


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
                    name = inner_name(entry.filename)
                    if name.endswith("/") or hidden(name):
                        continue
                    if not name.lower().endswith(EXTENSIONS):
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


open_zip = partial(open_archives, ending=SUFFIX, build=index_zip)
