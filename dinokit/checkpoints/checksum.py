"""Checksums of the files in a folder: what was written is what is read, after a crash and on a tired disk."""

import json
import zlib
from pathlib import Path
from typing import Any

from dinokit.core.files import write_json

NAME = "checksums.json"
_BLOCK = 1 << 22  # bytes read at a time


def write(folder: Path) -> None:
    """Note the CRC-32 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / NAME, {path.relative_to(folder).as_posix(): crc32(path) for path in files})


def verify(folder: Path) -> None:
    """Read every file that has a checksum; a folder without checksums passes.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is not what was written.
    """
    if not (folder / NAME).exists():
        return
    noted = json.loads((folder / NAME).read_text(encoding="utf-8"))
    if not isinstance(noted, dict):
        raise ValueError(f"{NAME} is not of this kind")
    for name, value in noted.items():
        if not (folder / name).exists():
            raise FileNotFoundError(f"{name} is missing")
        if crc32(folder / name) != value:
            raise ValueError(f"{name} is not what was written: its checksum differs")


def crc32(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def of_plain(value: Any) -> int:
    """Return the CRC-32 of plain values, whatever the order of their keys and the spaces between them."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
