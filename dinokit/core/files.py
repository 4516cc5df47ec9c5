"""Files that are whole or absent: written beside their place, flushed, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it takes the place of `path`, on failure it is removed.

    A reader sees the old file or the new one, never a part, also after a crash or with a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically, indented for people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_jsonl(path: Path, value: dict[str, Any]) -> None:
    """Append one object as a line; a crash can cut only the last line, which `read_jsonl` passes over."""
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            file.write(b"\n")  # a line cut by a crash must not swallow this one
        file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines; a missing file is an empty list."""
    if not path.exists():
        return []
    return [value for line in path.read_text(encoding="utf-8").splitlines() if (value := _parsed(line)) is not None]


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
