"""A pool of embedded images: what `dinokit embed` writes (stored.py) and every step of curation reads."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from dinokit.core.files import check_same, digest, read_json
from dinokit.core.messages import UserError, library
from dinokit.curation.stored import EXTRA, SAME, STAMP, About, abouts, opened, stem
from dinokit.curation.vectors import BLOCK, Vectors, check_finite
from dinokit.sources.base import Source
from dinokit.sources.selection import finder, located, texts
from dinokit.sources.source import open_source
from dinokit.sources.table import Texts

LINES = 1 << 17  # of a selection that are made at a time


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

    def today(
        self, *, channels: int = 3
    ) -> tuple[Source, Callable[[Int64[np.ndarray, " wanted"]], Int64[np.ndarray, " wanted"]]]:
        """Open the source as it is now, and return with it what finds the images of rows there; -1: it is gone."""
        source = self._open(channels)
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
