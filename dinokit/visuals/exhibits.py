"""The pictures of a curation's page: groups of duplicates, clusters, concepts, what seeds brought, what each fate took.

What is drawn by lot follows from a seed alone. Of a cluster of clusters one sees the image nearest to the centre of
each of its parts, nearest part first, and then seconds: the whole span of a cluster, not one corner of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from dinokit.core.order import evenly
from dinokit.core.seed import generator
from dinokit.curation import dedup
from dinokit.curation.account import Account, Fate
from dinokit.curation.sample import below
from dinokit.curation.step import SELECTION
from dinokit.curation.table import read_table
from dinokit.visuals.page import text
from dinokit.visuals.plot import number
from dinokit.visuals.tiles import Album

GROUPS = 6  # of duplicates, the largest ones; and twice as many by lot
CLUSTERS = 6  # of each level, and concepts of each kind
LARGEST = 2  # clusters of a level that are always shown, but of level 1, whose largest are the frequent concepts
NARROW = 3  # pictures that fit into a narrow tray
SEEDS = 8  # whose like is shown
SHOWN = 12  # pictures of a group, a cluster or a fate; a row of the page holds 6, on a phone 4
DRAWS = ("groups", "clusters", "seeds", "fates")  # what is drawn by lot; a draw's key says which


def tiled(figures: Sequence[str]) -> str:
    """Return pictures side by side."""
    return f'<div class="tiles">{"".join(figures)}</div>'


def tray(heading: str, figures: Sequence[str]) -> str:
    """Return pictures that belong together under a line of text."""
    kind = "tray wide-tray" if len(figures) > NARROW else "tray"
    return f'<li class="{kind}"><h3>{text(heading)}</h3>{tiled(figures)}</li>'


def trays(items: Sequence[str]) -> str:
    """Return several of them side by side."""
    return f'<ul class="trays">{"".join(items)}</ul>' if items else ""


@dataclass(frozen=True)
class Groups:
    """Groups of duplicates: what stays of each, and its copies."""

    kept: Int64[np.ndarray, " group"]
    counts: Int64[np.ndarray, " group"]  # of copies
    lines: dict[str, Shaped[np.ndarray, " copy"]]  # row, other, similarity

    def shown(self, album: Album, group: int) -> str:
        """Return the tray of a group: what stays, and copies from the most to the least similar."""
        kept, count = int(self.kept[group]), int(self.counts[group])
        mine = np.flatnonzero(self.lines["other"] == kept)
        mine = mine[np.argsort(-self.lines["similarity"][mine], kind="stable")]
        mine = mine[evenly(SHOWN - 1, len(mine))]
        rows = [kept, *self.lines["row"][mine].tolist()]
        captions = ["stays", *cosines(self.lines["similarity"][mine])]
        more = "" if count < SHOWN else f", {len(rows)} of them here"
        return tray(f"{number(count + 1)} images{more}", album.tiles(rows, captions, marked=(kept,)))


def groups_of(account: Account) -> Groups | None:
    """Find the groups of duplicates; None without any."""
    if account.dedup is None:
        return None
    lines = read_table(account.dedup.folder / dedup.DROPPED)
    copies = lines.pop("reason") == dedup.DUPLICATE
    lines = {name: each[copies] for name, each in lines.items()}
    kept, counts = np.unique(lines["other"], return_counts=True)
    return Groups(kept, counts.astype(np.int64), lines) if len(kept) else None


def duplicates(groups: Groups, album: Album, *, seed: int) -> tuple[str, str]:
    """Return the largest groups, and some others by lot."""
    order = np.lexsort((groups.kept, -groups.counts))
    lot = generator(seed, DRAWS.index("groups")).permutation(order[GROUPS:])[: 2 * GROUPS]
    largest = [groups.shown(album, group) for group in order[:GROUPS].tolist()]
    return trays(largest), trays([groups.shown(album, group) for group in lot.tolist()])


@final
class Hierarchy:
    """The clusters of all levels, with how many images lie in each and how many of these were sampled."""

    def __init__(self, account: Account) -> None:
        assert account.levels is not None
        assert account.cluster is not None
        levels, folder = account.levels, account.cluster.folder
        self.rows = levels.rows
        self.sizes = below(levels.parents, len(levels.rows))
        self.taken: list[Int64[np.ndarray, " cluster"]] | None = None
        if (lines := account.sampled) is not None:
            counted = [lines[f"cluster{number}"] for number in range(1, len(self.sizes) + 1)]
            self.taken = [
                np.bincount(each, minlength=len(size)) for each, size in zip(counted, self.sizes, strict=True)
            ]
        self._chosen: Bool[np.ndarray, " row"] = np.isin(levels.rows, account.chosen)
        self._entries, self._firsts = [], []
        for level, parent in enumerate(levels.parents):
            far = levels.distance
            far = read_table(folder / f"level{level + 1}.parquet", ["distance"])["distance"] if level else far
            self._entries.append(np.lexsort((far, parent)))  # of each cluster the nearest first
            self._firsts.append(np.append(0, np.cumsum(np.bincount(parent))))

    def shown(self, album: Album, level: int, cluster: int) -> str:
        """Return the tray of a cluster."""
        near = self._nearest(level, cluster, SHOWN)
        size, total = int(self.sizes[level][cluster]), len(self.rows)
        told = f"{number(size)} image{'s' * (size > 1)} ({100 * size / total:.2g}\N{NO-BREAK SPACE}%)"
        told += "" if self.taken is None else f", {number(int(self.taken[level][cluster]))} chosen"
        rows = self.rows[near].tolist()
        marked = [row for row, chosen in zip(rows, self._chosen[near].tolist(), strict=True) if chosen]
        return tray(told, album.tiles(rows, ["chosen" if row in marked else "" for row in rows], marked=marked))

    def mosaic(self, album: Album, level: int, *, seed: int) -> str:
        """Return clusters of a level by lot, of coarser ones also the largest, in the order of their sizes."""
        order = np.argsort(-self.sizes[level], kind="stable")
        first = min(LARGEST, len(order)) if level else 0
        lot = generator(seed, DRAWS.index("clusters"), level).permutation(len(order) - first)[: CLUSTERS - first]
        places = np.sort(np.append(np.arange(first), lot + first))
        return trays([self.shown(album, level, cluster) for cluster in order[places].tolist()])

    def concepts(self, album: Album, *, seed: int) -> tuple[str, str]:
        """Return the largest and the smallest clusters of the finest level."""
        sizes = self.sizes[0]
        order = np.lexsort((generator(seed, DRAWS.index("clusters"), 0, 0).random(len(sizes)), sizes))
        most, least = order[::-1][:CLUSTERS], order[:CLUSTERS]
        least = least[~np.isin(least, most)]
        return (
            trays([self.shown(album, 0, cluster) for cluster in most.tolist()]),
            trays([self.shown(album, 0, cluster) for cluster in least.tolist()]),
        )

    def _nearest(self, level: int, cluster: int, count: int) -> list[int]:
        """Return so many entries of level 1 below a cluster, at most, its parts by turns."""
        first, last = self._firsts[level][cluster : cluster + 2].tolist()
        parts: list[int] = self._entries[level][first:last][:count].tolist()
        if level == 0:
            return parts
        found = list[int]()
        for turn, part in enumerate(parts):
            share = -(-(count - len(found)) // (len(parts) - turn))
            found += self._nearest(level - 1, part, share)
        return found


def fate(account: Account, one: Fate, album: Album, *, seed: int, turn: int) -> str:
    """Return pictures of a fate; of what was dropped because of another image, that one beside each."""
    rows = np.sort(generator(seed, DRAWS.index("fates"), turn).permutation(one.rows)[:SHOWN]).tolist()
    if account.dedup is None or one.name not in (dedup.DUPLICATE, dedup.REFERENCE):
        return tiled(album.tiles(rows, [""] * len(rows)))
    lines = read_table(account.dedup.folder / dedup.DROPPED, ["row", "other", "similarity"])
    place = np.searchsorted(lines["row"], rows)
    others, same = lines["other"][place].tolist(), one.name == dedup.DUPLICATE
    theirs = album if same else Album(account.neighbour(account.dedup.told.get("references"), "against"))
    dropped = album.tiles(rows, cosines(lines["similarity"][place]))
    beside = theirs.tiles(others, ["stays" if same else "reference"] * len(others), marked=others)
    return tiled([figure for pair in zip(dropped, beside, strict=True) for figure in pair])


def retrieved(account: Account, turn: int, album: Album, *, seed: int) -> str:
    """Return some seeds of a retrieval with what they brought, or some of the clusters that were hit the most."""
    step, lot = account.retrieve[turn], generator(seed, DRAWS.index("seeds"), turn)
    if step.told["settings"]["by"] == "cluster":
        lines = read_table(step.folder / SELECTION, ["place", "cluster", "hits"])
        hits = np.unique(np.stack([-lines["hits"].astype(np.int64), lines["cluster"].astype(np.int64)]), axis=1)
        return trays([_hit(lines, -count, cluster, album, lot) for count, cluster in hits.T[:SEEDS].tolist()])
    lines = read_table(step.folder / SELECTION, ["place", "query", "rank", "similarity"])
    seeds = account.neighbour(step.told.get("seeds"), step.folder.name.replace("retrieved-", "seeds-"))
    if seeds is None:
        some = lines["query"][lot.permutation(len(lines["query"]))[: 4 * SEEDS]]
        keys = list(dict.fromkeys(str(key) for key in some))[:SEEDS]
        drawn = np.zeros(len(keys), dtype=np.int64)
    else:
        drawn = lot.permutation(len(seeds))[: 16 * SEEDS]
        keys = seeds.table(["key"], rows=drawn)["key"].to_pylist()
    found = [(key, row, np.flatnonzero(lines["query"] == key)) for key, row in zip(keys, drawn.tolist(), strict=True)]
    found = [each for each in found if len(each[2])][:SEEDS]  # others may have come first to all that a seed found
    marked = [row for _, row, _ in found]
    items = []
    for (key, _, mine), figure in zip(
        found, Album(seeds).tiles(marked, ["seed"] * len(found), marked=marked), strict=True
    ):
        near = mine[np.argsort(lines["rank"][mine], kind="stable")][: SHOWN - 1]
        figures = album.tiles(lines["place"][near].tolist(), cosines(lines["similarity"][near]))
        items.append(tray(key, [figure, *figures]))
    return trays(items)


def cosines(values: Float32[np.ndarray, " pair"]) -> list[str]:
    """Write similarities for captions."""
    return [f"{value:.4f}" for value in values.tolist()]  # of some models all lie above 0.9


def _hit(
    lines: dict[str, Shaped[np.ndarray, " line"]], hits: int, cluster: int, album: Album, lot: np.random.Generator
) -> str:
    mine = np.flatnonzero(lines["cluster"] == cluster)
    rows = np.sort(lot.permutation(lines["place"][mine])[:SHOWN]).tolist()
    told = f"cluster {cluster}: hit by {number(hits)} seeds, gives {number(len(mine))} images"
    return tray(told, album.tiles(rows, [""] * len(rows)))
