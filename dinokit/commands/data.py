"""`dinokit data`: look at a source before training: check, stats, show"""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from PIL import Image
from rich.console import Console
from rich.table import Table

from dinokit.core import device as devices
from dinokit.core.files import check_result, write_json
from dinokit.core.messages import LISTED, UserError, info
from dinokit.images.picture import check_picture, write_picture
from dinokit.sources.check import Check, Stats, check, stats
from dinokit.sources.source import open_source, thinned
from dinokit.visuals.contact import SHOWN, contact_sheet


def data(
    verb: Literal["check", "stats", "show"],
    source: str,
    *,
    split: str | None = None,
    channels: int | None = None,
    white: float | None = None,
    limit: int | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> Check | Stats | Image.Image:
    """Look at a source before training.

    check: how many images, which formats, sizes and channels, exact duplicates, what cannot be read and why, the time
    of a pass. stats: mean and standard deviation of every channel, as the settings of `dinokit pretrain`. show: some of
    the images, small, with their classes or names. In Python what was found is returned, too.

    Args:
        verb: check, stats or show.
        source: a folder of images, a demo: name, a published set such as food101:FOLDER, or any other source.
        split: one split of the source; train, or everything, if not given.
        channels: of the model; if not given, check takes each image as it is, the others take 3.
        white: the value that is white in files of more than 8 bits; if not given, the largest of integers, 1 of floats.
        limit: look at so many images, evenly spaced; show: 48 if not given.
        workers: threads; one per core if not given.
        out: file that receives everything as JSON; show: the picture, .png, .jpg or .webp.
    """
    if min(number for number in (channels, limit, workers, 1) if number is not None) < 1:
        raise UserError("channels, limit and workers must be at least 1")
    source = str(source)
    if out is not None and verb == "show":
        check_picture(Path(out))
    elif out is not None:
        check_result(Path(out), json=True)
    opened = open_source(source, split=split, channels=channels or 3, white=white)
    threads = workers or devices.cores()
    if verb == "show":
        page = contact_sheet(
            thinned(opened, SHOWN if limit is None else limit), workers=0 if opened.decoded else threads
        )
        if out is not None:
            write_picture(page, Path(out))
        info(f"{opened.name}: {len(opened):,} images{'' if out is None else f' · {out}'}")
        return page
    found: Check | Stats
    if verb == "check":
        found = check(opened, channels=channels, limit=limit, workers=threads)
        print_check(found)
    else:
        found = stats(opened, limit=limit, workers=threads)
        _print_stats(found)
    info(f"next: dinokit pretrain demo --data {source} --out runs/NAME; recipes: dinokit models")
    if out is not None:
        write_json(Path(out), {"source": source, **asdict(found)})
    return found


def print_check(found: Check) -> None:
    """Print what is in a source and what is broken."""
    table = Table(show_header=False, title=f"{found.source}: {found.images:,} of {found.total:,} images", box=None)
    for name in ("width", "height"):
        spread = getattr(found, name)
        table.add_row(name, f"{spread.least} to {spread.largest} px, median {spread.median}" if spread else "-")
    for name in ("short_side", "formats", "modes", "channels", "depths"):
        counts = getattr(found, name)
        table.add_row(name.replace("_", " "), "   ".join(f"{key}: {count:,}" for key, count in counts.items()) or "-")
    if found.values is not None:
        low, high = found.values
        deep = "float32" in found.depths and high < 1 / 8
        hint = ": too dark? fewer bits than the files have? then --data.white 4095 or so" if deep else ""
        hint = ": if 1 is not white, --data.white says what is" if high > 2 else hint
        table.add_row("values", f"{low:.4g} to {high:.4g} of white{hint}")
    table.add_row("duplicates", f"{found.duplicates:,}")
    table.add_row("unreadable", f"{len(found.unreadable):,}")
    table.add_row("speed", f"{found.images_per_second:,.0f} images/s at full size")
    table.add_row("one pass", f"{found.seconds_per_pass:,.0f} s")
    Console().print(table)
    for remark in found.remarks:
        print(remark)
    for group in found.duplicate_groups[:LISTED]:
        print(f"the same: {', '.join(group[:LISTED])}{', ...' if len(group) > LISTED else ''}")
    if len(found.duplicate_groups) > LISTED:
        print(f"... and {len(found.duplicate_groups) - LISTED:,} more groups of the same; --out FILE.json lists them")
    for line in found.unreadable[:LISTED]:
        print(f"{line.key}: {line.reason}")
    if len(found.unreadable) > LISTED:
        print(f"... and {len(found.unreadable) - LISTED:,} more; --out FILE.json lists all")


def _print_stats(found: Stats) -> None:
    """Print the statistics of every channel."""
    values = {name: [float(f"{each:.6g}") for each in getattr(found, name)] for name in ("mean", "std", "low", "high")}
    Console().print(
        f"{found.images:,} images, {found.bad:,} bad ones left out; values {values['low']} to {values['high']}"
    )
    print(f"--data.pixels.mean '{values['mean']}' --data.pixels.std '{values['std']}'")
