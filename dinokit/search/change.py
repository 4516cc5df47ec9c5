"""How an index comes to be and changes: pools are taken in, images removed and taken back; call as its owner.

A pool is taken in by links to its files, which nobody writes to (`core/files` renames whole ones into place), or as a
copy where the disk cannot link. What a change leaves unnamed is deleted by the change after it: who has the index open,
such as a server, reads on meanwhile.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy
from jaxtyping import Int64

from dinokit.core.files import read_json, write_atomic
from dinokit.core.messages import UserError, listed
from dinokit.curation.pool import Pool
from dinokit.curation.stored import STAMP
from dinokit.search import choice, nearest, there
from dinokit.search.choice import Score
from dinokit.search.descriptors import WITH_GEM, By
from dinokit.search.index import NAME, About, Index, Piece, called, opened, read, write
from dinokit.search.nearest import Kind

POOL, ENDINGS = "pool-", (".npy", ".parquet", ".jsonl")


def begin(folder: Path, piece: str, *, by: By | Literal["auto"], kind: Kind) -> Index:
    """Make the first pool of a folder an index.

    Args:
        by: what is compared; auto: what finds images of the same class best, or CLS where there are no classes.
    """
    pool = Pool(folder / piece)
    scores = measured(pool) if by == "auto" else None
    chosen: By = by if by != "auto" else choice.best(scores) if scores else "cls"
    stamp = pool.stamp
    about = About(stamp["model"], stamp["weights"], stamp["feature"], chosen, (Piece(piece),), kind, scores=scores)
    return commit(folder, about)


def measured(pool: Pool) -> dict[By, Score] | None:
    """Measure the descriptors on the classes of a pool; None where there are none, or it knows CLS alone."""
    if pool.stamp["feature"] != WITH_GEM:
        return None
    words = pool.table(["class"])["class"].to_pylist()
    names = {word: number for number, word in enumerate(sorted({word for word in words if word is not None}))}
    labels = numpy.array([-1 if word is None else names[word] for word in words])
    some = choice.sample(labels)
    return choice.scores(pool.vectors.take(some), labels[some]) if len(some) else None


def added(index: Index, piece: str) -> Index:
    """Take a pool in; one of a source that is known takes the place of the pool that had fewer of its images."""
    pool, about = opened(index.folder / piece, index.about), index.about
    known = known_piece(index, pool.source, pool.split)
    pieces = [*about.pieces] if known is not None else [*about.pieces, Piece(piece)]
    if known is not None:
        pieces[known] = replace(pieces[known], folder=piece)
    return commit(index.folder, replace(about, pieces=tuple(pieces)))


def removed(index: Index, patterns: Sequence[str]) -> tuple[Index, int]:
    """Leave images of some names out from now on; their vectors stay in the pool, so that they can be taken back.

    Raises:
        UserError: if nothing has such a name, or no image would be left.
    """
    some = [index.named(each) for each in patterns]
    nothing = [each for each, found in zip(patterns, some, strict=True) if not len(found)]
    if nothing:
        raise UserError(f"no image of {index.folder} is called {nothing[0]}; expected a name or a pattern as 'a/*'")
    return without(index, numpy.unique(numpy.concatenate(some)))


def gone(index: Index) -> Int64[numpy.ndarray, " gone"]:
    """Return the rows that are searched though their images are gone: not in their sources, or in a list alone.

    The sources are listed for it, and every file that they name is looked for.

    Raises:
        UserError: if a source is gone as a whole, or all of its images.
    """
    _, known = index.images(channels=3)
    lost = there.gone(index, known)
    of = index.rows.pool_of(known)
    for number in numpy.unique(of).tolist():
        if lost[of == number].all():
            source = index.pools[number].source
            raise UserError(f"none of the images of {source} is where it was; put them back, or build the index anew")
    return numpy.union1d(numpy.setdiff1d(index.rows.numbers, known), known[lost])


def without(index: Index, rows: Int64[numpy.ndarray, " row"]) -> tuple[Index, int]:
    """Leave some rows out from now on, and say how many; of none nothing is written.

    Raises:
        UserError: if no image would be left.
    """
    if not len(rows):
        return index, 0
    if len(rows) >= len(index):
        raise UserError(f"all {len(index):,} images of {index.folder} would be removed; delete the folder instead")
    more: list[list[str]] = [[] for _ in index.pools]
    for number, own in map(index.rows.place, rows.tolist()):
        more[number].append(index.keys(number)[own])
    pieces = [replace(piece, removed=(*piece.removed, *each)) for piece, each in zip(index.about.pieces, more)]
    return commit(index.folder, replace(index.about, pieces=tuple(pieces)), engine=False), len(rows)


def restored(index: Index, patterns: Sequence[str]) -> tuple[Index, int]:
    """Take back what was removed under some names; return how many.

    Raises:
        UserError: if nothing was.
    """
    gone = [key for piece in index.about.pieces for key in piece.removed]
    back = {gone[place] for each in patterns for place in called(gone, each)}
    count = sum(key in back for key in gone)
    pieces = [
        replace(piece, removed=tuple(key for key in piece.removed if key not in back)) for piece in index.about.pieces
    ]
    if not count:
        raise UserError(f"nothing that was removed from {index.folder} is called {listed(patterns)}")
    return commit(index.folder, replace(index.about, pieces=tuple(pieces)), engine=False), count


def commit(folder: Path, about: About, *, engine: bool = True) -> Index:
    """Write search.json, and delete what neither it names nor the one before, which others may still read.

    Args:
        engine: the pools are others than before, and so is how rows are found.
    """
    if engine:
        pools = [opened(folder / piece.folder, about) for piece in about.pieces]
        about = replace(about, engine=nearest.built(folder, pools, about.by, kind=about.kind))
    named = _named(about) | (_named(read(folder)) if (folder / NAME).is_file() else set())
    write(folder, about)
    for path in folder.glob("*"):
        if path.name in named:
            continue
        if number_of(path) is not None and (path / STAMP).is_file():
            shutil.rmtree(path)
        elif path.name.startswith(nearest.PREFIX) and path.suffix == nearest.SUFFIX:
            path.unlink()
    return Index(folder)


def _named(about: About) -> set[str | None]:
    return {NAME, about.engine.file, *(piece.folder for piece in about.pieces)}


def number_of(path: Path) -> int | None:
    """Return the number of a folder that is called as those of pools are; None of any other."""
    digits = path.name.removeprefix(POOL)
    return int(digits) if digits.isdecimal() and path.name == f"{POOL}{int(digits)}" else None


def known_piece(index: Index, source: str, split: str | None) -> int | None:
    """Return which piece is of a source."""
    same = [(pool.source, pool.split) == (source, split) for pool in index.pools]
    return same.index(True) if True in same else None


def place_for(folder: Path, source: str, split: str | None) -> str:
    """Return the folder for a pool that is to be taken in: what a kill has left of the same source, or a new one."""
    about = read(folder) if (folder / NAME).is_file() else None
    named = [number_of(folder / piece.folder) for piece in about.pieces] if about else []
    last = max((number for number in named if number is not None), default=-1)
    free = 0
    for path in folder.glob(f"{POOL}*"):
        number = number_of(path)
        if number is None:
            continue
        free = max(free, number + 1)
        stamp = read_json(path / STAMP) if (path / STAMP).is_file() else {}
        # a lower number was part of the index, and may be read still
        if number > last and (stamp.get("data"), stamp.get("split")) == (source, split):
            return path.name
    return f"{POOL}{free}"


def linked(pool: Path, to: Path) -> None:
    """Make a folder that shares the files of a pool, as far as it does not yet."""
    to.mkdir(parents=True, exist_ok=True)
    if not (to / STAMP).is_file():
        _copy(pool / STAMP, to / STAMP)
    for path in sorted(pool.glob("[!.]*")):
        own = to / path.name
        if path.suffix not in ENDINGS or own.exists():
            continue
        try:
            os.link(path, own)
        except OSError:  # another disk, or one without links
            _copy(path, own)


def _copy(path: Path, to: Path) -> None:
    with write_atomic(to) as temporary:
        shutil.copyfile(path, temporary)


def twins(pools: Sequence[Pool]) -> int:
    """Count the images whose file is, byte by byte, that of an earlier one."""
    found = [each for pool in pools for each in pool.table(["bytes_digest"])["bytes_digest"].to_pylist()]
    return len(found) - len(set(found))
