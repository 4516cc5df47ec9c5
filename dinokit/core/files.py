"""What is kept on disk and used again: files whole or absent, one owner per folder, and what they were made with.

A file is written beside its place, flushed, then renamed. One process at a time owns a folder (`only_owner`). With what
is kept - the state of a head's training, the pictures of a prediction - lies its stamp, plain values and digests of the
weights, settings and data that made it: it is used again if the stamp is the same, and else refused by name
(`check_same`), neither mixed nor overwritten. Files are told by what they hold, for a copied folder has other times.

A file name need not be UTF-8: Python holds its odd bytes as lone surrogates, which no encoding takes. They are written
as \\udcXX, which JSON and YAML read back as what they were.
"""

import errno
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Shaped
from torch import nn

from dinokit.core.lock import lock as locked
from dinokit.core.messages import RunError, UserError, reason

ODD_BYTES = "backslashreplace"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# settings that change no feature: of training, of the first weights, and the size of a whole image; RoPE's are weights
_OTHER = {"drop_path", "drop_path_shape", "init", "layer_scale", "base", "min_period", "max_period"}
_OTHER |= {"shift", "jitter", "rescale", "size"}
LONGEST, SAID = 100, 6  # letters of a value that is said; settings
_DIGEST = re.compile(r"\b[0-9a-f]{16,}\b")
_SETTING = re.compile(r"(\w+)=([^=()]+?)(?=, \w+=|\)|$)")  # of a dataclass as it is printed


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
        if error.errno is None or (error.filename and str(error.filename) != str(temporary)):
            raise  # no word of the system, or one of another file
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say whose
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ODD_BYTES)


def no_room(path: Path, *, then: str = "free space: the same command goes on") -> RunError:
    """Return what is said where a disk is full, by default of what a command goes on from."""
    return RunError(f"no room is left for {path}; {then}")


@contextmanager
def in_one_go(path: Path) -> Iterator[None]:
    """Name the file that the body writes by a library, where the disk is full: then it is begun anew.

    Raises:
        RunError: if the disk is full.
        OSError: with this path, if the system refuses otherwise and does not say where.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(path, then="free space and give the same command again") from error
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_state(path: Path, values: Any) -> None:
    """Write what `torch.save` writes, atomically.

    Raises:
        RunError: if the disk is full, of which torch says a RuntimeError about a place in its file.
    """
    try:
        with write_atomic(path) as temporary, temporary.open("wb") as file:  # of a name torch would hide the reason
            torch.save(values, file)
    except (OSError, RuntimeError) as error:
        refused = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refused, OSError):
            raise
        if refused.errno in NO_ROOM:
            raise no_room(path) from error
        raise OSError(refused.errno, refused.strerror, str(path)) from error


def utf8(text: str) -> str:
    """Write the odd bytes of a file's name as a text that every table takes; `odd_bytes` reads it."""
    return text if text.isascii() else text.encode(errors=ODD_BYTES).decode()


def odd_bytes(text: str) -> str:
    """Return the file's name of which `utf8` has written the odd bytes out."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)


def read_text(path: Path) -> str:
    """Read a text of UTF-8 that a person wrote, with or without a byte-order mark, or raise UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is no text of UTF-8 (byte {error.start}, line {line}); save it as UTF-8") from error
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
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    write_text(path, json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
    elif sys.platform == "win32":  # which opens no folder as a file, and keeps a list of names that was renamed in
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _umask() -> int:
    mask = os.umask(0o077)  # the only way to ask is to set it
    os.umask(mask)
    return mask


def check_result(out: Path, *, json: bool = False) -> None:
    """Refuse a place where one file cannot be written: it is a folder, or lies where nothing can be written.

    Args:
        json: of the result; a file of anything else that is there, such as a model or a picture, is not written over.
    """
    if out.is_dir():
        name = f"result{out.suffix or '.json'}"
        raise UserError(f"{out} is a folder; --out takes a file such as {out / name}")
    check_writable(out.parent)
    if json and out.is_file() and out.stat().st_size:
        with out.open("rb") as file:
            begins = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not begins.startswith((b"{", b"[")) or b"\0" in begins:  # weights begin with a number, which may be a brace
            raise UserError(f"{out} is there and no JSON; --out would write over it: give another file")


@contextmanager
def only_owner(folder: Path, *, doing: str = "writes to", option: str | None = "--out") -> Iterator[None]:
    """Keep a second process out of a folder, made if need be; the lock goes with the process, however it ends.

    Args:
        option: by which another folder can be chosen; None: there is none.
    """
    another = "" if option is None else f"choose another {option}"
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}{another and '; '}{another}") from error
    with lock:
        try:
            locked(lock, wait=False)
            if not path.exists() or os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError  # its owner has just left and taken the file along
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another process {doing} {folder}; wait for it{another and ' or '}{another}") from error
        try:
            yield
        finally:
            if sys.platform != "win32":  # where nobody can remove a file that is open
                path.unlink(missing_ok=True)


def check_same(
    kept: object, stamp: Mapping[str, object], *, place: Path, instead: str = "delete it, or give another folder"
) -> None:
    """Refuse what was made by something else than what is at hand, and name the parts that differ, and their values.

    Args:
        kept: the stamp that was found, or whatever lies in its place.
        stamp: part, such as weights, settings, data -> plain values or a digest.
        instead: what to do.
    """
    if kept != stamp:
        found = kept if isinstance(kept, Mapping) else {}
        other = [name for name, value in stamp.items() if found.get(name) != value]
        lines = dict.fromkeys(
            line for name in other if name in found for line in _changes(name, found[name], stamp[name])
        )
        told = f" ({'; '.join([*lines][:SAID])}{'; ...' * (len(lines) > SAID)})" if lines else ""
        raise UserError(f"{place} was made with other {' and '.join(other) or 'parts'}{told}; {instead}")


def _changes(name: str, before: object, now: object) -> Iterator[str]:
    """Say which settings differ within a part, and their values; nothing of digests and of what is long."""
    if isinstance(before, str) and isinstance(now, str):
        old, new = _SETTING.findall(before), _SETTING.findall(now)
        if new and [key for key, _ in old] == [key for key, _ in new]:
            for (key, was), (_, value) in zip(old, new, strict=True):
                yield from _changes(key, was, value)
            return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in now:
            if key in before:
                yield from _changes(str(key), before[key], now[key])
        return
    said = ["null" if each is None else str(each) for each in (before, now)]
    if before != now and not any(_DIGEST.search(each) or len(each) > LONGEST for each in said):
        yield f"{name} is {said[1]}, was {said[0]}"


def cache_folder() -> Path:
    """Return the folder of what can be computed again: DINOKIT_CACHE, or dinokit in XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DINOKIT_CACHE") or Path(home) / "dinokit")


def digest(parts: Iterable[bytes | str | Shaped[numpy.ndarray, "..."]]) -> str:
    """Return a short digest of some parts, in their order."""
    found = blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        found.update(data if isinstance(data, bytes) else data.tobytes())
    return found.hexdigest()


def digest_of_weights(network: nn.Module) -> str:
    """Return a digest of a network's weights; what has none, such as raw pixels, gives that of nothing."""
    weights = sorted(network.state_dict().items())
    plain = ((name, value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()) for name, value in weights)
    return digest(part for pair in plain for part in pair)


def digest_of_model(network: nn.Module) -> str:
    """Return a digest of a backbone: of its weights and, after a dash, of its settings and of how it sees pixels."""
    told = [getattr(network, name, None) for name in ("config", "pixels")]
    plain: list[object] = [
        asdict(each, dict_factory=lambda pairs: {name: value for name, value in pairs if name not in _OTHER})
        for each in told
        if each is not None
    ]
    plain += [getattr(network, "name", "")] if told[0] is None else []  # a network of another library
    return f"{digest_of_weights(network)}-{blake2b(repr(plain).encode(), digest_size=8).hexdigest()}"


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return a digest of what files hold, in their order."""
    return digest(blake2b(path.read_bytes(), digest_size=16).digest() for path in paths)
