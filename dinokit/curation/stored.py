"""The files of a pool of embedded images.

    embed.json           of which weights, feature, precision and images; must be the same for the work to go on
    part-00000.npy       vectors of length 1, float16 [row dim]
    part-00000.parquet   one line per row: where the image is, its size, a digest of its bytes
    bad_images.jsonl     the images that could not be read, if there are any

A part is whole or absent: its table is written last and makes it count. It holds also what could not be read of the
part, so that no image is tried twice. The tables are plain Parquet, and DuckDB, Spark and Ray read them as they are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Int64

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.files import ODD_BYTES, check_same, digest, read_json, utf8, write_atomic, write_json, write_jsonl
from dinokit.core.messages import UserError, library
from dinokit.curation.table import write_array
from dinokit.sources.base import Unusable
from dinokit.sources.rows import parquet

STAMP, BAD = "embed.json", "bad_images.jsonl"
SAME = ("weights", "feature", "dim", "precision", "pixels", "data", "split")  # of the stamp, to go on
EXTRA = "curate"  # what pip installs for it
_ABOUT = b"dinokit.part"  # of a table's metadata


@dataclass(frozen=True)
class About:
    """What a table says of its part."""

    number: int
    lines: int
    fingerprint: str  # of the source, when its rows were counted
    vectors: str  # digest of the array
    unread: tuple[Unusable, ...]


def settled(folder: Path, precision: Precision, device: torch.device, *, dim: int, name: str = STAMP) -> Precision:
    """Return what "auto" is: the precision that a folder was begun with, else what is faster here."""
    path = folder / name
    kept = read_json(path) if precision == "auto" and path.is_file() else {}
    found: Precision = kept["precision"] if isinstance(kept, dict) and "precision" in kept else precision
    return devices.settled(device, found, dim=dim)


def begin(folder: Path, stamp: Mapping[str, Any], *, name: str = STAMP, same: Sequence[str] = SAME) -> None:
    """Write the stamp, or check that what lies there was made with the same; call as the owner of the folder.

    Args:
        name: of the file, by which folders of different kinds know each other.
        same: what of the stamp must be the same.

    Raises:
        UserError: if another stamp lies there, or files that are none of ours.
    """
    plain = json.loads(json.dumps(stamp))
    path = folder / name
    if path.exists():
        kept = read_json(path)
        kept = kept if isinstance(kept, dict) else {}
        check_same({each: kept.get(each) for each in same}, {each: plain[each] for each in same}, place=folder)
        plain = kept
    else:
        foreign = [each.name for each in sorted(folder.glob("[!.]*"))] if folder.is_dir() else []
        if foreign:
            raise UserError(f"{folder} holds other files such as {foreign[0]}; give --out a new folder")
    write_json(path, {each: value for each, value in plain.items() if each not in ("images", "unreadable")})


def finish(folder: Path) -> None:
    """Say in the stamp that nothing is missing, and list what could not be read."""
    found = abouts(folder)
    unread = [each for about in found for each in about.unread]
    if unread:
        write_jsonl(folder / BAD, map(asdict, unread))
    else:
        (folder / BAD).unlink(missing_ok=True)
    counts = {"images": sum(about.lines for about in found), "unreadable": len(unread)}
    write_json(folder / STAMP, {**read_json(folder / STAMP), **counts})


def write_part(
    folder: Path,
    number: int,
    vectors: Float16[np.ndarray, "row dim"],
    lines: Mapping[str, Sequence[Any]],
    *,
    fingerprint: str,
    unread: Sequence[Unusable] = (),
) -> None:
    """Write a part: the array, then the table that makes it count.

    Args:
        lines: of each column (`schema`) one value per row.
        fingerprint: of the source.
    """
    arrow, tables = library("pyarrow", extra=EXTRA), library("pyarrow.parquet", extra=EXTRA)
    assert len(vectors) == len(lines["row"])
    vectors = np.ascontiguousarray(vectors)
    about = About(number, len(vectors), fingerprint, digest([vectors]), tuple(unread))
    told = {_ABOUT: json.dumps(asdict(about)).encode(errors=ODD_BYTES)}
    write_array(folder / f"{stem(number)}.npy", vectors)
    table = arrow.table({**lines, "key": list(map(utf8, lines["key"]))}, schema=schema().with_metadata(told))
    with write_atomic(folder / f"{stem(number)}.parquet") as temporary:
        tables.write_table(table, temporary, compression="zstd")


def schema() -> Any:
    """Return the columns of a table of images; where nothing is known there is null."""
    arrow = library("pyarrow", extra=EXTRA)
    text = arrow.string()
    return arrow.schema(
        {
            "row": arrow.int64(),  # index of the image in the source
            "key": text,
            "source": text,  # means the same from any folder
            "split": text,
            "width": arrow.int32(),  # pixels, upright
            "height": arrow.int32(),
            "bytes_digest": text,  # BLAKE2b of 128 bits of the file, or of the pixels where there is none
            "flags": arrow.list_(text),
            "class": text,
            "domain": text,
        }
    )


def abouts(folder: Path) -> list[About]:
    """Read what the tables of a folder say of their parts, in the parts' order.

    Raises:
        UserError: if a table cannot be read.
    """
    found = []
    for path in sorted(folder.glob("part-*.parquet")):
        with opened(path) as file:
            told, lines = (file.schema_arrow.metadata or {}).get(_ABOUT), file.metadata.num_rows
            fits = file.schema_arrow.equals(schema())
        if told is None:
            raise UserError(f"{path} is no table of dinokit embed; take it out of the folder")
        if not fits:
            raise UserError(f"{path} has other columns than dinokit embed wrote; delete it and embed again")
        about = json.loads(told)
        found.append(About(**{**about, "unread": tuple(Unusable(**each) for each in about["unread"])}))
        if path.stem != stem(found[-1].number):
            raise UserError(f"{path} is a copy of {stem(found[-1].number)}.parquet; take it out of the folder")
        if lines != found[-1].lines:
            raise UserError(f"{path} has {lines:,} lines, {found[-1].lines:,} were embedded; delete it and embed again")
    return sorted(found, key=lambda about: about.number)


def rows_of(folder: Path, about: About) -> Int64[np.ndarray, " image"]:
    """Return the rows of all images that a part has seen, also of those that could not be read."""
    with opened(folder / f"{stem(about.number)}.parquet") as file:
        rows = file.read(columns=["row"])["row"].to_numpy()
    return np.concatenate([rows, np.array([each.index for each in about.unread], dtype=np.int64)])


def keys_of(folder: Path, about: About) -> list[str]:
    """Return the keys of the same images."""
    with opened(folder / f"{stem(about.number)}.parquet") as file:
        return [*file.read(columns=["key"])["key"].to_pylist(), *(utf8(each.key) for each in about.unread)]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a table of a part."""
    try:
        with parquet(str(path)) as file:
            yield file
    except UserError as error:
        raise UserError(f"{error}; delete it and embed again") from error


def stem(number: int) -> str:
    """Return the name of a part without an ending."""
    return f"part-{number:05d}"
