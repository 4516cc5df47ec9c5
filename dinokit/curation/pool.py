"""A pool of embedded images on disk: what `dinokit embed` writes and every step of curation reads.

    embed.json           of which weights, feature, precision and images; must be the same for the work to go on
    part-00000.npy       vectors of length 1, float16 [row dim]
    part-00000.parquet   one line per row: where the image is, its size, a digest of its bytes
    bad_images.jsonl     the images that could not be read, if there are any

A part is whole or absent: its table is written last and makes it count. It holds also what could not be read of the
part, so that no image is tried twice. The tables are plain Parquet, and DuckDB, Spark and Ray read them as they are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float16, Int64

from dinokit.core.files import ODD_BYTES, check_same, digest, read_json, utf8, write_atomic, write_json, write_jsonl
from dinokit.core.messages import UserError, library
from dinokit.curation.table import write_array
from dinokit.curation.vectors import BLOCK, Vectors, check_finite
from dinokit.sources.base import Source
from dinokit.sources.rows import parquet
from dinokit.sources.selection import finder, located, texts
from dinokit.sources.source import Unusable, open_source
from dinokit.sources.table import Texts

STAMP, BAD = "embed.json", "bad_images.jsonl"
SAME = ("weights", "feature", "dim", "precision", "pixels", "data", "split")  # of the stamp, to go on
EXTRA = "curate"  # what pip installs for it
LINES = 1 << 17  # of a selection that are made at a time
_ABOUT = b"dinokit.part"  # of a table's metadata


@dataclass(frozen=True)
class About:
    """What a table says of its part."""

    number: int
    lines: int
    fingerprint: str  # of the source, when its rows were counted
    vectors: str  # digest of the array
    unread: tuple[Unusable, ...]


@final
class Pool:
    """The embedded images of a folder; row i of the vectors and line i of the table are the same image."""

    def __init__(self, folder: str | Path) -> None:
        """Look at everything but the vectors themselves.

        Raises:
            UserError: if the folder holds no embeddings, the work is not finished, a part is damaged, or a table does
                not fit its array; says which, and what to do.
        """
        self.folder = Path(folder)
        if not (self.folder / STAMP).is_file():
            raise UserError(f"{folder} holds no embeddings (no {STAMP}); make them with dinokit embed --out {folder}")
        self.stamp: dict[str, Any] = read_json(self.folder / STAMP)
        if not isinstance(self.stamp, dict) or any(name not in self.stamp for name in SAME):
            raise UserError(f"{folder} was not written by this dinokit embed; embed into another folder")
        if "images" not in self.stamp:
            raise UserError(f"{folder} is not finished; the same dinokit embed again goes on with it")
        self.parts = [about for about in abouts(self.folder) if about.lines]
        counted, told = sum(about.lines for about in self.parts), self.stamp["images"]
        if counted != told:
            raise UserError(f"{folder} has lines for {counted:,} of {told} images; the same dinokit embed goes on")
        self.vectors = Vectors([self._path(about, ".npy") for about in self.parts])
        rows = np.diff(self.vectors.ends, prepend=0).tolist()
        for about, count in zip(self.parts, rows, strict=True):
            if count != about.lines:
                path = self._path(about, ".parquet")
                raise UserError(f"{path} has {about.lines:,} lines for {count:,} vectors; delete it and embed again")
        if self.vectors.dim != self.stamp["dim"]:
            raise UserError(
                f"{folder} holds vectors of {self.vectors.dim} numbers, {STAMP} says {self.stamp['dim']}; embed anew"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def check(self, *, block: int = BLOCK) -> None:
        """Read all vectors and refuse those that no distance can be computed of, or that were written by others.

        Args:
            block: numbers that are read at a time.

        Raises:
            UserError: if a vector holds NaN or infinity, or has length zero, or a part is not what its table tells of.
        """
        first = 0
        for about in self.parts:
            path = self._path(about, ".npy")
            part = Vectors([path])
            part.block = block
            if check_finite(part, first=first) != about.vectors:
                raise UserError(f"{path} holds other vectors than those that were embedded; delete it and embed again")
            first += about.lines

    @property
    def source(self) -> str:
        """The images, as `open_source` takes them from any folder."""
        return str(self.stamp["data"])

    @property
    def place(self) -> str:
        """The folder, as it is found from any other."""
        return str(self.folder.resolve())

    @property
    def split(self) -> str | None:
        """The split of the source; None is its default."""
        return None if self.stamp["split"] is None else str(self.stamp["split"])

    @property
    def fingerprint(self) -> str:
        """That of the source for which the rows were counted; empty if parts were added later, for another one."""
        found = {about.fingerprint for about in self.parts}
        return found.pop() if len(found) == 1 else ""

    @property
    def digest(self) -> str:
        """What tells this pool from any other: changes with a vector, an image, or the weights."""
        told = json.dumps({name: self.stamp[name] for name in SAME}, sort_keys=True)
        return digest([told, *(f"{about.vectors} {about.fingerprint}" for about in self.parts)])

    def table(self, columns: Sequence[str] | None = None, *, rows: Int64[np.ndarray, " wanted"] | None = None) -> Any:
        """Return some columns, None all, of the lines of all images or of some rows, as a table of pyarrow."""
        arrow = library("pyarrow", extra=EXTRA)
        wanted = None if columns is None else list(columns)
        if rows is None:
            return arrow.concat_tables([self._read(about, wanted) for about in self.parts])
        parts = np.searchsorted(self.vectors.ends, rows, side="right")
        numbers, found = np.unique(parts), []
        for number in numbers.tolist():
            first = int(self.vectors.ends[number]) - self.parts[number].lines
            found.append(self._read(self.parts[number], wanted).take(rows[parts == number] - first))
        if not found:
            return self._read(self.parts[0], wanted).slice(0, 0)
        order = np.argsort(np.argsort(parts, kind="stable"), kind="stable")  # where each row's line has come to lie
        return arrow.concat_tables(found).take(order)

    @property
    def keys(self) -> Texts:
        """The key of every row."""
        return texts(self.table(["key"])["key"])

    def images(self, *, channels: int = 3) -> Source:
        """Open the images; image i belongs to row i.

        Raises:
            UserError: if the source shrank since it was embedded; names an image that is gone, and how many are.
        """
        source, known = self._open(channels), self.table(["row", "key"])
        places = located(
            source, known["row"].to_numpy(), lambda: texts(known["key"]), fingerprint=self.fingerprint, of=self.folder
        )
        return source.subset(places)

    def today(self) -> tuple[Source, Callable[[Int64[np.ndarray, " wanted"]], Int64[np.ndarray, " wanted"]]]:
        """Open the source as it is now, and return with it what finds the images of rows there; -1: it is gone."""
        source = self._open(3)
        if source.fingerprint == self.fingerprint:
            return source, lambda rows: np.asarray(self.table(["row"], rows=rows)["row"].to_numpy())
        find = finder(source)
        return source, lambda rows: find(texts(self.table(["key"], rows=rows)["key"]))

    def selection(
        self,
        rows: Int64[np.ndarray, " wanted"],
        *,
        component: str,
        reason: str,
        weight: float = 1.0,
        homogeneous: float = 0.0,
        columns: Callable[[slice], Mapping[str, Any]] = lambda _: {},
    ) -> Iterator[Any]:
        """Yield the lines of a selection (sources/selection.py), tables of pyarrow, so many at a time.

        Args:
            rows: of which some may come twice.
            component: what `weight` and `homogeneous`, its share of the positions and of the batches, are those of.
            reason: why they are in.
            columns: returns, for a slice of the rows, what more is known of each.
        """
        arrow = library("pyarrow", extra=EXTRA)
        same = {"component": component, "weight": weight, "homogeneous": homogeneous, "reason": reason}
        for first in range(0, len(rows), LINES):
            part = slice(first, first + LINES)
            lines = self.table(["source", "split", "key", "row"], rows=rows[part])
            own = {name: arrow.repeat(value, len(lines)) for name, value in same.items()}
            for name, value in {**own, **columns(part)}.items():
                lines = lines.append_column(name, arrow.array(value))
            yield lines

    def check_same_model(self, other: "Pool") -> None:
        """Refuse vectors that cannot be compared with these.

        Raises:
            UserError: if they have another width, or are those of another model.
        """
        if self.vectors.dim != other.vectors.dim:
            widths = f"{other.vectors.dim} numbers, those of {self.folder} {self.vectors.dim}"
            raise UserError(f"the vectors of {other.folder} have {widths}; embed both with one model")
        own, others = ({name: pool.stamp[name] for name in ("weights", "feature")} for pool in (self, other))
        check_same(others, own, place=other.folder)

    @property
    def fingerprints(self) -> dict[tuple[str, str | None], str]:
        """What `write_selection` wants to know of the source."""
        return {(self.source, self.split): self.fingerprint}

    def _open(self, channels: int) -> Source:
        white = self.stamp["pixels"]["white"]
        return open_source(self.source, split=self.split, channels=channels, white=white)

    def _read(self, about: About, columns: list[str] | None) -> Any:
        with opened(self._path(about, ".parquet")) as file:
            return file.read(columns=columns).replace_schema_metadata(None)

    def _path(self, about: About, ending: str) -> Path:
        return self.folder / f"{stem(about.number)}{ending}"


def begin(folder: Path, stamp: Mapping[str, Any]) -> None:
    """Write the stamp, or check that what lies there was made with the same; call as the owner of the folder.

    Raises:
        UserError: if another stamp lies there, or files that are none of ours.
    """
    plain = json.loads(json.dumps(stamp))
    path = folder / STAMP
    if path.exists():
        kept = read_json(path)
        kept = kept if isinstance(kept, dict) else {}
        check_same({name: kept.get(name) for name in SAME}, {name: plain[name] for name in SAME}, place=folder)
        plain = kept
    else:
        foreign = [each.name for each in sorted(folder.glob("[!.]*"))] if folder.is_dir() else []
        if foreign:
            raise UserError(f"{folder} holds other files such as {foreign[0]}; give --out a new folder")
    write_json(path, {name: value for name, value in plain.items() if name not in ("images", "unreadable")})


def finish(folder: Path) -> Pool:
    """Say in the stamp that nothing is missing, list what could not be read, and return the pool."""
    found = abouts(folder)
    unread = [each for about in found for each in about.unread]
    if unread:
        write_jsonl(folder / BAD, map(asdict, unread))
    else:
        (folder / BAD).unlink(missing_ok=True)
    counts = {"images": sum(about.lines for about in found), "unreadable": len(unread)}
    write_json(folder / STAMP, {**read_json(folder / STAMP), **counts})
    return Pool(folder)


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
