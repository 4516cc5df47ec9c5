"""An index of images: a folder that is opened, asked and changed.

    search.json        which weights, what is compared, the pools, what was removed of each; written last of a change
    pool-0/            images of one source as `embed` writes them (curation/stored.py), one folder per source
    rows-DIGEST.faiss  what faiss looks into, of an index that is not searched exactly

What search.json does not name is no part of the index, so a change that is killed leaves what was there before. Nothing
that it names is ever written to: images that are added to a source make a new folder, which shares the old one's files.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import final

import numpy
from jaxtyping import Bool, Float, Int64

from dinokit.config import from_plain
from dinokit.core.files import odd_bytes, read_json, utf8, write_json
from dinokit.core.messages import UserError, library, line_of
from dinokit.curation.pool import Pool
from dinokit.curation.stored import STAMP
from dinokit.features.embed import Feature
from dinokit.search.choice import Score
from dinokit.search.descriptors import By, described
from dinokit.search.nearest import EXTRA, Engine, Exact, Faiss, Found, Kind
from dinokit.search.nearest import opened as looking
from dinokit.search.rows import Rows
from dinokit.sources import location
from dinokit.sources.base import Source
from dinokit.sources.mixture import Part, mixed
from dinokit.sources.source import folder_of

NAME = "search.json"
EXACTLY = Engine()


@dataclass(frozen=True)
class Piece:
    """The images of one source."""

    folder: str  # seen from that of the index
    removed: tuple[str, ...] = ()  # keys


@dataclass(frozen=True)
class About:
    """What search.json says."""

    model: str
    weights: str
    feature: Feature
    by: By
    pieces: tuple[Piece, ...]
    kind: Kind = "auto"  # how rows are to be found
    engine: Engine = EXACTLY  # how they are
    scores: dict[By, Score] | None = None  # by which the descriptor was chosen


@dataclass(frozen=True)
class Entry:
    """An image of the index, for people."""

    name: str
    source: str
    label: str | None
    file: str | None = None  # on this machine; None: it is no file of its own, or the whole source is not there

    @property
    def gone(self) -> bool:
        """Whether the file is no longer there: one look."""
        if self.file is None:
            return False
        try:
            os.stat(self.file)
        except OSError as error:  # of others nobody knows
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        return False


@final
class Index:
    """An index that is asked; what changes it is in `change.py`."""

    def __init__(self, folder: str | Path) -> None:
        """Look at everything but the rows; a pool is an index by CLS, which nothing is added to or removed from.

        Raises:
            UserError: if the folder holds no index, or what search.json names is damaged or of something else.
        """
        library("pyarrow.parquet", extra=EXTRA)
        self.folder = Path(folder)
        self.about = read(self.folder)
        self.pools = [self._pool(piece) for piece in self.about.pieces]
        self._keys: dict[int, list[str]] = {}

    def _pool(self, piece: Piece) -> Pool:
        folder = self.folder / piece.folder
        try:
            return opened(folder, self.about)
        except UserError as error:
            if not (self.folder / NAME).is_file():
                raise
            told = str(error).rpartition("; ")[0] or str(error)  # the rest is of `embed`, which does not write here
            anew = f"dinokit search build --model {self.about.model} --data IMAGES --out FOLDER"
            raise UserError(f"{told}; build the index anew in another folder: {anew}") from error

    def __len__(self) -> int:
        """Return how many images are searched."""
        return len(self.rows)

    @cached_property
    def rows(self) -> Rows:
        """What is searched."""
        alive = []
        for number, piece in enumerate(self.about.pieces):
            gone = set(piece.removed)
            there = numpy.ones(len(self.pools[number]), dtype=bool)
            if gone:
                there[:] = [key not in gone for key in self.keys(number)]
            alive.append(there)
        return Rows(self.pools, self.about.by, numpy.concatenate(alive))

    def leave_out(self, rows: Bool[numpy.ndarray, " row"]) -> None:
        """Search without some rows from now on, such as those whose images are gone; nothing is written."""
        self.rows = replace(self.rows, alive=self.rows.alive & ~rows)
        self.__dict__.pop("_engine", None)

    def ready(self) -> None:
        """Open what rows are found by, before several threads ask."""
        assert self._engine

    def keys(self, piece: int) -> list[str]:
        """Return the keys of the images of a piece, also of those that were removed."""
        if piece not in self._keys:
            self._keys[piece] = self.pools[piece].table(["key"])["key"].to_pylist()
        return self._keys[piece]

    def nearest(self, vectors: Float[numpy.ndarray, "query number"], *, k: int) -> list[Found]:
        """Return the nearest rows of each query, the most similar first; fewer than k where there are no more.

        Args:
            vectors: as the pools have them (features/embed.embedded).
        """
        asked = described(vectors, self.about.by, feature=self.about.feature)
        return self._engine.nearest(asked, k=min(k, len(self)))

    def entries(self, numbers: Int64[numpy.ndarray, " some"]) -> list[Entry]:
        """Say which images some rows are."""
        found: list[Entry | None] = [None] * len(numbers)
        of = self.rows.pool_of(numbers)
        for pool in numpy.unique(of).tolist():
            mine = numpy.flatnonzero(of == pool)
            rows = numbers[mine] - self.rows.starts[pool]
            lines = self.pools[pool].table(["key", "source", "class"], rows=rows).to_pylist()
            for place, line in zip(mine.tolist(), lines, strict=True):
                file = self._file(pool, line["key"])
                found[place] = Entry(line["key"], line["source"], line["class"], file)
        return [each for each in found if each is not None]

    @cached_property
    def folders(self) -> list[str | None]:
        """Where the images of each pool lie, if they are files on this machine and the folder is still there."""
        found = list[str | None]()
        for pool in self.pools:
            try:
                found.append(folder_of(pool.source, split=pool.split))
            except UserError:  # nothing is where it was, which is no matter of single images
                found.append(None)
        return found

    def _file(self, pool: int, key: str) -> str | None:
        folder = self.folders[pool]
        path = None if folder is None else location.join(folder, odd_bytes(key))
        return None if path is None or location.is_remote(path) else path

    def named(self, pattern: str) -> Int64[numpy.ndarray, " some"]:
        """Return the rows that are searched whose name is this, else those that fit a pattern such as 'trash/*'."""
        return self.rows.numbers[called(self.names(), pattern)]

    def names(self) -> list[str]:
        """Return the names of all that is searched, in the order of the rows."""
        keys = [key for number in range(len(self.pools)) for key in self.keys(number)]
        return [keys[row] for row in self.rows.numbers.tolist()]

    def vector(self, number: int) -> Float[numpy.ndarray, "1 number"]:
        """Return a row as its pool has it, to be asked for its like."""
        pool, row = self.rows.place(number)
        kept = self.pools[pool].vectors.take(numpy.array([row]))
        found: Float[numpy.ndarray, "1 number"] = kept.astype(numpy.float64)
        return found

    def images(self, *, channels: int) -> tuple[Source, Int64[numpy.ndarray, " image"]]:
        """Open the images that are searched and still there, and return with them the row of each.

        Raises:
            UserError: if none is there, or a source is gone.
        """
        sources, rows = list[Source](), list[Int64[numpy.ndarray, " some"]]()
        for pool, start in zip(self.pools, self.rows.starts.tolist(), strict=True):
            own = numpy.flatnonzero(self.rows.alive[start : start + len(pool)])
            source, find = pool.today(channels=channels)
            places = find(own)
            if (places >= 0).any():
                sources.append(source.subset(places[places >= 0]))
                rows.append(start + own[places >= 0])
        if not sources:
            raise UserError(f"none of the images of {self.folder} is where it was; build the index anew")
        if len(sources) == 1:
            return sources[0], rows[0]
        together = mixed(str(self.folder), sources, [Part(each.name, 1.0, 0.0) for each in sources])
        return together, numpy.concatenate(rows)

    @cached_property
    def _engine(self) -> Exact | Faiss:
        return looking(self.about.engine, self.rows, self.folder)


def called(keys: Sequence[str], pattern: str) -> list[int]:
    """Return which names are this word, or where none is, as `a[1].png` may be, which fit it as a pattern."""
    word = utf8(pattern)
    same = [place for place, key in enumerate(keys) if key == word]
    return same or [place for place, key in enumerate(keys) if fnmatchcase(key, word)]


def read(folder: Path) -> About:
    """Read search.json, or raise UserError."""
    path = folder / NAME
    if not path.is_file() and (folder / STAMP).is_file():
        stamp = Pool(folder).stamp
        return About(stamp["model"], stamp["weights"], stamp["feature"], "cls", (Piece("."),))
    if not path.is_file():
        raise UserError(f"{folder} holds no index (no {NAME}); make one with dinokit search build --out {folder}")
    try:
        return from_plain(About, read_json(path))
    except ValueError as error:
        raise UserError(f"{path} was not written by this dinokit search: {line_of(error)}; build it anew") from error


def write(folder: Path, about: About) -> None:
    """Write search.json, which makes a change count."""
    write_json(folder / NAME, asdict(about))


def opened(folder: Path, about: About) -> Pool:
    """Open a pool, or raise UserError if it is not of the weights of the index."""
    pool = Pool(folder)
    if (pool.stamp["weights"], pool.stamp["feature"]) != (about.weights, about.feature):
        raise UserError(
            f"{folder} was embedded by {pool.stamp['model']} ({pool.stamp['feature']}), the index by {about.model} "
            f"({about.feature}); take images in by the same weights"
        )
    return pool
