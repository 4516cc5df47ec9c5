"""`dinokit data`: look at a source before training: check, stats"""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from dinokit.commands.tables import print_check, print_stats
from dinokit.core import device as devices
from dinokit.core.errors import UserError
from dinokit.core.files import check_result, write_json
from dinokit.core.log import info, progress
from dinokit.sources.check import Check, Stats, check, stats
from dinokit.sources.source import open_source


def data(
    verb: Literal["check", "stats"],
    source: str,
    *,
    split: str | None = None,
    channels: int | None = None,
    white: float | None = None,
    limit: int | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> None:
    """Look at a source before training.

    check: how many images, which formats, sizes and channels, exact duplicates, what cannot be read and why, the time
    of a pass. stats: mean and standard deviation of every channel, as the settings of `dinokit pretrain`.

    Args:
        verb: check or stats.
        source: a folder of images or a demo: name.
        split: one split of the source; train, or everything, if not given.
        channels: of the model; if not given, check takes each image as it is, stats takes 3.
        white: the value that is white in files of more than 8 bits; if not given, the largest of integers, 1 of floats.
        limit: look at so many images, evenly spaced.
        workers: threads; one per core if not given.
        out: file that receives everything as JSON.
    """
    if min(number for number in (channels, limit, workers, 1) if number is not None) < 1:
        raise UserError("channels, limit and workers must be at least 1")
    if out is not None:
        check_result(Path(out))
    opened = open_source(source, split=split, channels=channels or 3, white=white)
    threads = workers or devices.cores()
    found: Check | Stats
    if verb == "check":
        found = check(opened, channels=channels, limit=limit, workers=threads, shown=progress)
        print_check(found)
    else:
        found = stats(opened, limit=limit, workers=threads, shown=progress)
        print_stats(found)
    info(f"next: dinokit pretrain demo --data {source} --out runs/NAME; recipes: dinokit models")
    if out is not None:
        write_json(Path(out), {"source": source, **asdict(found)})
