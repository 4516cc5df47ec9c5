"""A curation as one HTML page: how many images each step left, what is alike, how even it is, what was dropped and why.

Reads what the steps left on disk (curation/account.py) and, for the pictures, the few images that it shows; the same
folder gives the same page.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinokit.core.files import read_json, write_text
from dinokit.core.messages import UserError, reason
from dinokit.core.numbers import at_least
from dinokit.curation import account as accounts
from dinokit.curation import dedup
from dinokit.curation.account import Account, Fate, read_account
from dinokit.metrics.balance import entropy, gini
from dinokit.visuals import exhibits
from dinokit.visuals.chart import Series, line_chart
from dinokit.visuals.exhibits import Hierarchy
from dinokit.visuals.histogram import Sizes, histogram
from dinokit.visuals.page import Section, details, document, paragraph, table, text
from dinokit.visuals.plot import PERCENT, number
from dinokit.visuals.tiles import Album

FILE = "report.html"
LISTED = 12  # unreadable images
FLAT = 0.995  # share of copies above which a threshold finds nearly all: curves begin where they move
MEANINGS = {
    accounts.KEPT: "They stay; nothing is chosen of them yet.",
    accounts.OVER: "Their clusters hold more images than their share of the size that was asked for.",
    accounts.CLUSTERED: "They are in clusters; nothing is chosen of them yet.",
    accounts.NOT_RETRIEVED: "No seed has them among its nearest.",
    accounts.NOT_CLUSTERED: "They are in no cluster: only what a step before let through was clustered.",
    dedup.DUPLICATE: "Each beside the image that stays instead of it, which has a frame, with their cosine.",
    dedup.REFERENCE: "Each beside the image that it must not resemble, which has a frame, with their cosine; "
    "what resembles such a one may take along what resembles it.",
    "unreadable": "They could not be read when the images were embedded.",
}
NAMES = {dedup.DUPLICATE: "duplicates", dedup.REFERENCE: "resembling a reference"}
BALANCE = (
    "A Gini coefficient of 0 and an entropy, as a share of the largest possible, of 1 mean that all clusters are "
    "of one size, empty ones among them. Mean is that of their images; before is all that was clustered, "
    "after what the balanced choice took of it."
)
MOSAIC = (
    "Clusters by lot, of the coarser levels after the two largest. Of a cluster of clusters one sees the images "
    "nearest to the centres of its parts. What is in the result has a frame."
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pictures the page shows."""

    seed: int = at_least(0, 0)  # of what is drawn by lot


def write_page(folder: Path, config: Config, out: Path | None = None) -> Path:
    """Write the page of what the steps of a folder left, and return its path.

    Args:
        out: where; None: into the folder.

    Raises:
        UserError: if there is no step, steps do not belong together, or the page cannot be written.
    """
    account, path = read_account(folder), folder / FILE if out is None else out
    album, seed = Album(account.pool), config.seed
    tree = None if account.levels is None else Hierarchy(account)
    page = document(
        title=f"{folder.resolve().name} · dinokit",
        header=_header(account),
        sections=(
            Section("Duplicates", "Which images are alike?", _duplicates(account, album, seed)),
            Section("Balance", "How even are the clusters?", "" if tree is None else _balance(tree)),
            Section("Mosaic", "What do the clusters hold?", "" if tree is None else _mosaic(tree, album, seed)),
            Section(
                "Concepts", "What is frequent, what is rare?", "" if tree is None else _concepts(tree, album, seed)
            ),
            Section("Retrieved", "What did the seeds bring?", _retrieved(account, album, seed)),
            Section("Fates", "What became of every image?", _fates(account, album, seed)),
            Section("Settings", "All settings", _settings(account)),
        ),
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; give --out another place") from error
    return path


def counts(account: Account) -> list[tuple[str, int]]:
    """Return how many images there were after each step."""
    found = [("embedded", len(account.pool))]
    if account.unreadable:
        found.insert(0, ("found", len(account.pool) + len(account.unreadable)))
    if account.dedup is not None:
        found.append(("unique", int(account.dedup.told["kept"])))
    found += [(step.folder.name, int(step.told["different"])) for step in account.retrieve]
    if account.levels is not None:
        found.append(("clustered", len(account.levels.rows)))
    if account.sampled is not None:
        found.append(("balanced", len(np.unique(account.sampled["place"]))))
    if any(one.chosen for one in account.fates):
        found.append(("chosen", len(account.chosen)))
    return found + ([] if account.total is None else [("with seeds", account.total)])


def _header(account: Account) -> str:
    """Say in the first screen what came of how many images."""
    parts = [paragraph("dinokit · curation report", kind="eyebrow"), f"<h1>{text(account.folder.resolve().name)}</h1>"]
    parts.append(paragraph(f"of {account.pool.source}", kind="lead"))
    all_, told = len(account.pool) + len(account.unreadable), []
    if any(one.chosen for one in account.fates):
        chosen = len(account.chosen)
        told.append(
            f"{number(chosen)} of {number(all_)} images were chosen ({100 * chosen / all_:.1f}\N{NO-BREAK SPACE}%)"
        )
    if account.dedup is not None:
        kept = int(account.dedup.told["kept"])
        share = 100 * kept / len(account.pool)
        told.append(f"{number(kept)} are no duplicates ({share:.1f}\N{NO-BREAK SPACE}%)")
    headline = "; ".join(told) or f"{number(all_)} images"
    rows, bars = counts(account), ""
    most = max(count for _, count in rows)
    for name, count in rows:
        bar = f'<i class="s0"><u style="width:{100 * count / most:.2f}%"></u></i>'
        bars += f"<li><span>{text(name)}</span>{bar}<b>{number(count)}</b></li>"
    bars = f'<ul class="bars counts" aria-label="Images after each step">{bars}</ul>'
    return "".join([*parts, f'<div class="result">{paragraph(f"{headline}.", kind="headline")}{bars}</div>'])


def _duplicates(account: Account, album: Album, seed: int) -> str:
    """Show the threshold and the groups."""
    if account.dedup is None:
        return ""
    told, path = account.dedup.told, account.dedup.folder / dedup.THRESHOLD
    note = f"Images whose cosine is above {told['threshold']:.4f} are joined, and of each group one stays: "
    note += f"{number(told['groups'])} groups of two or more, {number(told['duplicates'])} duplicates."
    parts = [paragraph(note)]
    if told["settings"]["threshold"] == "auto" and path.is_file():
        parts.append(_threshold(read_json(path)))
    groups = exhibits.groups_of(account)
    if groups is not None:
        largest, lot = exhibits.duplicates(groups, album, seed=seed)
        parts += ["<h3>The largest groups</h3>", paragraph("Most similar first; the frame marks what stays."), largest]
        parts += ["<h3>Some others, by lot</h3>", lot] if lot else []
    return "".join(parts)


def _threshold(found: Mapping[str, Any]) -> str:
    """Draw the curves by which a threshold was found, where they move, and tell which copies it finds."""
    copies = np.mean(list(found["copies"].values()), axis=0)
    begin = max(int((copies < FLAT).argmax()) - 1, 0)
    curves = {"altered copies found": copies, "images with another one nearer": found["nearest other image"]}
    curves |= {"F, to be large": found["F"]}
    series = [
        Series(name, found["grid"][begin:], np.round(curve[begin:], 3).tolist(), colour)
        for (name, curve), colour in zip(curves.items(), (0, 1, 4), strict=True)
    ]
    chart = line_chart(series, title="The threshold, from altered copies", along="cosine", at=found["threshold"])
    rows = [(name, f"{100 * share:.0f}{PERCENT}") for name, share in found["copies found"].items()]
    return f'<div class="split">{chart}<div>{table(["Copies that were", "Found"], rows, kind="numbers")}</div></div>'


def _balance(tree: Hierarchy) -> str:
    """Tabulate and draw the sizes of clusters, before and after a balanced choice."""
    rows, charts = list[tuple[str, str, str, str, str]](), ""
    for level, before in enumerate(tree.sizes):
        kinds = [Sizes("before", before, 2)]
        kinds += [] if tree.taken is None else [Sizes("after", tree.taken[level], 0)]
        for one in kinds:
            used, mean = number(int((one.sizes > 0).sum())), number(float(one.sizes.mean()))
            scores = f"{gini(one.sizes):.3f}", f"{entropy(one.sizes):.3f}"
            rows.append((f"Level {level + 1}, {one.name}", used, mean, *scores))
        charts += histogram(kinds, title=f"Clusters of level {level + 1} by their size", what="clusters")
    head = ["", "Clusters", "Mean", "Gini", "Entropy"]
    return paragraph(BALANCE) + f'<div class="charts">{charts}</div>' + table(head, rows, kind="numbers")


def _mosaic(tree: Hierarchy, album: Album, seed: int) -> str:
    body = ""
    for level in reversed(range(len(tree.sizes))):
        kind = " (the coarsest)" if level == len(tree.sizes) - 1 > 0 else " (the finest)" if level == 0 else ""
        title = f"Level {level + 1}{kind}: {number(len(tree.sizes[level]))} clusters"
        body += f"<h3>{title}</h3>{tree.mosaic(album, level, seed=seed)}"
    return paragraph(MOSAIC) + body


def _concepts(tree: Hierarchy, album: Album, seed: int) -> str:
    most, least = tree.concepts(album, seed=seed)
    rare = "Rare is not worth more: look whether these are subjects that the set should have, or noise."
    parts = [paragraph("The largest and the smallest clusters of level 1.")]
    parts += ["<h3>The most frequent</h3>", most]
    return "".join(parts + (["<h3>The least frequent</h3>", paragraph(rare), least] if least else []))


def _retrieved(account: Account, album: Album, seed: int) -> str:
    """Show what some seeds brought, retrieval by retrieval."""
    body = ""
    for turn, step in enumerate(account.retrieve):
        told = step.told
        note = f"{number(told['queries'])} seeds brought {number(told['nominal'])} images, "
        note += f"{number(told['different'])} of them different."
        shown = exhibits.retrieved(account, turn, album, seed=seed)
        body += f"<h3>{text(step.folder.name)}</h3>{paragraph(note)}{shown}"
    return body


def _fates(account: Account, album: Album, seed: int) -> str:
    """Count what became of every image, and show some of each fate."""
    total = len(account.pool) + len(account.unreadable)
    fates = [(turn, one, _named(one)) for turn, one in enumerate(account.fates) if len(one.rows)]
    lines = [(name, len(one.rows)) for _, one, name in fates]
    lines += [("unreadable", len(account.unreadable))] if account.unreadable else []
    lines += [("all images", total)]
    rows = [(name, number(count), f"{100 * count / total:.1f}{PERCENT}") for name, count in lines]
    body = table(["Fate", "Images", "Share"], rows, kind="numbers")
    for turn, one, name in fates:
        body += f"<h3>{text(name[0].upper() + name[1:])}, {number(len(one.rows))}</h3>"
        body += "" if one.chosen else paragraph(MEANINGS[one.name])
        body += exhibits.fate(account, one, album, seed=seed, turn=turn)
    if account.unreadable:
        listing = table(["File", "Why"], [(each.key, each.reason) for each in account.unreadable[:LISTED]])
        body += f"<h3>Unreadable, {number(len(account.unreadable))}</h3>{paragraph(MEANINGS['unreadable'])}{listing}"
    return body


def _named(one: Fate) -> str:
    return f"chosen: {one.name}" if one.chosen else NAMES.get(one.name, one.name)


def _settings(account: Account) -> str:
    """Fold away what each step was told."""
    told = json.dumps({step.folder.name: step.told["settings"] for step in account.steps}, indent=2)
    return details("of every step", f"<pre><code>{text(told)}</code></pre>")
