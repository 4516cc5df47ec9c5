"""How `dinokit search build` and `add` take images in: what is refused before any work, the work, what is said."""

import os
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

from dinokit.commands.tables import print_rows
from dinokit.core.messages import UserError, info
from dinokit.curation.pool import Pool
from dinokit.curation.stored import STAMP
from dinokit.features.embed import embed
from dinokit.search import change
from dinokit.search.choice import Score
from dinokit.search.descriptors import By, fits, of
from dinokit.search.index import NAME, Index


def piece_of(
    out: Path, data: str, model: str | None, *, split: str | None, before: Index | None = None, **options: Any
) -> str:
    """Return the folder in an index that holds the embedded images of a source, which it makes; of a pool, shares."""
    if (Path(data) / STAMP).is_file():
        pool = Pool(data)
        piece = change.place_for(out, pool.source, pool.split)
        if (out / piece).exists():  # of a kill, and perhaps of what the pool was before
            rmtree(out / piece)
        change.linked(pool.folder, out / piece)
        return piece
    if model is None:
        raise UserError("--model must be given: by whose features images are compared")
    piece = change.place_for(out, data, split)
    known = None if before is None else change.known_piece(before, data, split)
    if before is not None and known is not None:
        change.linked(before.pools[known].folder, out / piece)
    embed(model, data, out / piece, split=split, **options)
    return piece


def check_pool(data: str, given: Mapping[str, object], *, by: By) -> None:
    """Refuse options that do nothing where images are embedded already, and what these cannot be compared by."""
    stamp = Pool(data).stamp
    idle = [f"--{name}" for name, value in given.items() if value is not None]
    if idle:
        raise UserError(f"{data} is embedded already, by {stamp['model']}; leave out {' and '.join(idle)}")
    if not fits(by, stamp["feature"]):
        raise UserError(
            f"{data} holds {stamp['feature']}, --by {by} needs {of(by)}; give --by cls, or --model and the images"
        )


def changeable(index: Path) -> Path:
    """Refuse what is only searched."""
    index = Path(index)
    if not (index / NAME).is_file() and (index / STAMP).is_file():
        raise UserError(
            f"{index} holds embedded images; make an index of them: dinokit search build --data {index} --out INDEX"
        )
    Index(index)  # or it is none, before a lock would make the folder
    return index


def say(index: Index, *, twins: int, before: int | None = None) -> None:
    """Say what there is, and what is there twice."""
    more = "" if before is None else f", {len(index) - before:,} of them new"
    unread = sum(pool.stamp.get("unreadable", 0) for pool in index.pools)
    more += f" · {unread:,} unreadable" if unread else ""
    info(f"{len(index):,} images{more} · {index.about.by} of {os.path.basename(index.about.model)} · {index.folder}")
    if twins:
        same = f"{twins:,} of them are, byte by byte, the same file as another image"
        info(f"{same}: `dinokit search near {index.folder}` lists them")


def print_scores(scores: dict[By, Score], chosen: By) -> None:
    rows = [
        (by, f"{each.precision:.2f} %", f"{each.nearest:.2f} %", "chosen" if by == chosen else "")
        for by, each in scores.items()
    ]
    asked = next(iter(scores.values())).images
    print_rows(f"same class, {asked:,} images", ("by", "mAP", "nearest", ""), rows)
