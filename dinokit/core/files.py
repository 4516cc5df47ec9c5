"""Files that are whole or absent: written beside their place, flushed, then renamed.

A file name need not be UTF-8: Python holds its odd bytes as lone surrogates, which no encoding takes. They are written
as \\udcXX, which JSON and YAML read back as what they were.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from dinokit.core.messages import UserError, reason

ODD_BYTES = "backslashreplace"


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
    except OSError as error:
        if error.errno is not None:  # else it is no word of the system
            error.filename = error.filename or str(path)  # a full disk does not say whose
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ODD_BYTES)


def read_text(path: Path) -> str:
    """Read a text that a person wrote, in UTF-8, with or without a byte-order mark.

    Raises:
        UserError: if it cannot be opened, or is of another encoding.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text of UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} is no text of UTF-8 (it holds zeros, as UTF-16 does); save it as UTF-8")
    return text


def read_json(path: Path) -> Any:
    """Read a JSON that a person or another program wrote, or raise UserError."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, also brackets without end
        raise UserError(f"{path} is no JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically, indented for people; numbers that are not finite, which JSON lacks, as null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write one object per line, atomically."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def append_jsonl(path: Path, value: Mapping[str, Any]) -> None:
    """Append one object as a line; a crash can cut only the last line, which `read_jsonl` passes over."""
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            file.write(b"\n")  # a line cut by a crash must not swallow this one
        file.write(json.dumps(value, ensure_ascii=False).encode(errors=ODD_BYTES) + b"\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines and pass over damaged ones; a missing file is an empty list."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):  # bytes: a text would also be cut at U+2028 and its like, as in a key
        with suppress(ValueError):
            value = json.loads(line.decode())
            found += [value] if isinstance(value, dict) else []
    return found


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines of a log that are not wanted, or not of its kind; if there are none, the file is left alone."""
    lines, kept = read_jsonl(path), []
    for line in lines:
        with suppress(KeyError, TypeError):
            kept += [line] if wanted(line) else []
    if len(kept) < len(lines):
        write_jsonl(path, kept)


def check_writable(folder: Path, *, option: str = "--out") -> None:
    """Write to a folder, made if need be, and leave nothing: before the work is the time to learn that it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}; give {option} another place") from error


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk; a file gets the mode that the umask gives new ones.

    Libraries write through private files of mode 0600, which nobody else could read once they are renamed.
    """
    if path.is_file():
        path.chmod(0o666 & ~_umask())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _umask() -> int:
    mask = os.umask(0o077)  # the only way to ask is to set it
    os.umask(mask)
    return mask


def check_result(out: Path) -> None:
    """Refuse a place where one file cannot be written: it is a folder, or lies where nothing can be written."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out takes a file such as {out / 'result.json'}")
    check_writable(out.parent)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
