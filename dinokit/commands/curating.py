"""From images to a training set in one go: the steps of DINOv2 and DINOv3 one after the other, each in a folder of OUT.

    embeddings/  against/  seeds-N/   the images, the sets to stay clear of, the sets whose like is wanted, embedded
    duplicates/                       what resembles other images or those to stay clear of is dropped
    retrieved-N/                      of what stays the nearest images of each seed
    clusters/  balanced.parquet       hierarchical k-means of what stays, and a balanced choice of it
    selection.parquet                 all of it: balanced, retrieved, and the seeds themselves
    curate.json                       the settings, and how many images each step left
    report.html                       what each step did, in pictures (visuals/curation.py)

An image is of one component: what was retrieved is not counted again as balanced, so that SIZE images of the source are
chosen. Seeds come on top, as batches of their own: as DINOv3 mixes ImageNet-1k into every tenth batch. They are taken
whole: whoever curated them answers for those that resemble the sets to stay clear of.
"""

from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Integer

from dinokit.core import dist
from dinokit.core.files import utf8
from dinokit.core.messages import UserError, info, is_main, warn
from dinokit.core.numbers import at_least, between
from dinokit.core.seed import generator
from dinokit.curation import cluster, dedup, retrieve, sample
from dinokit.curation.account import AUTO, SEEDS
from dinokit.curation.pool import Pool
from dinokit.curation.step import SELECTION, Step
from dinokit.curation.table import read_table
from dinokit.curation.threshold import Embed
from dinokit.features.embed import check_outside, embed, embedder
from dinokit.sources.selection import write_selection
from dinokit.sources.source import absolute, open_source
from dinokit.visuals import curation


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a training set is made of."""

    size: int = at_least(1)  # images of the source
    seeds: tuple[str, ...] = ()  # curated sets whose like is wanted, each a source
    against: str | None = None  # a source that the result must not resemble, such as the images of an evaluation
    neighbours: int = at_least(1, 4)  # images that a seed image retrieves; 32 makes a set the core
    retrieved: float = between(0, 1, 0.5)  # of size, at most; the rest is balanced
    homogeneous: float = between(0, 1, 0.1)  # share of the batches that hold seeds alone; 0: mixed by their number
    threshold: float | Literal["auto"] = (
        "auto"  # cosine above which images are duplicates; auto: that which finds altered copies best
    )
    levels: tuple[int, ...] | None = at_least(1, None)  # clusters of each, fine to coarse; null: by the pool's size
    resample: int = at_least(0, 9)  # rounds of resampling within a level
    seed: int = at_least(0, 0)  # of all that is drawn by lot

    def __post_init__(self) -> None:
        self.duplicates()  # knows what a threshold can be

    def duplicates(self) -> dedup.Config:
        """Return the settings of that step."""
        return dedup.Config(threshold=self.threshold, seed=self.seed)


@dataclass(frozen=True)
class Component:
    """Rows of a pool that were chosen for one reason."""

    name: str
    pool: Pool
    rows: Int64[np.ndarray, " row"]
    reason: str
    weight: float
    homogeneous: float = 0.0

    def places(self, lines: slice) -> dict[str, Int64[np.ndarray, " line"]]:
        """Return what more is known of some of the rows: which they are."""
        return {"place": self.rows[lines]}


def auto(
    data: str,
    config: Config,
    out: Path,
    *,
    model: str,
    heads: int | None,
    memory: int | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Make a training set; call as the owner of `out`, on all ranks together.

    Returns what OUT/curate.json says: the number of images after every step.

    Raises:
        UserError: if a setting or a source cannot be used, or fewer images stay than are asked for.
    """

    seeds_are, clear_of = [*map(absolute, config.seeds)], None if config.against is None else absolute(config.against)
    sources = {"source": absolute(data), "seeds": seeds_are, "against": clear_of}
    step = Step(out, AUTO.removesuffix(".json"), asdict(config) | sources, (SELECTION,))
    step.done(beside=("embeddings", "against", "seeds-*"))  # what it says is computed anew: images may have been added
    _check_sources(data, config, out)
    step.begin()

    def embedded(source: str, name: str) -> Pool:
        info(f"embedding {source}")
        embed(model, source, out / name, heads=heads, device=device)
        return Pool(out / name)

    pool = embedded(data, "embeddings")
    against = None if config.against is None else embedded(config.against, "against")
    seeds = [embedded(source, f"{SEEDS}{number}") for number, source in enumerate(config.seeds, start=1)]
    if seeds and against is not None:
        info(f"seeds are taken whole, also what of them resembles {config.against}")
    ask, folder = model_of(pool, device=device), out / "duplicates"
    found = dedup.run(pool, config.duplicates(), folder, against=against, embed=ask, device=device)
    stay = dedup.kept(folder, pool)
    if config.size > len(stay):
        raise UserError(f"size: expected at most the {len(stay):,} images that are no duplicates, got {config.size:,}")
    near = _retrieved(pool, seeds, stay, config, out, device)
    chosen = np.concatenate([np.empty(0, dtype=np.int64), *(part.rows for part in near)])
    parts = [*_balanced(pool, stay, chosen, config, out, memory, device), *near, *_seeds(seeds, config)]
    total = _write(parts, out) if is_main() else 0
    counts = {part.name: len(part.rows) for part in parts}
    told = {"images": len(pool), "unreadable": pool.stamp["unreadable"], "duplicates": found, "chosen": counts}
    done = step.end(told | {"total": total})
    if is_main():
        try:
            info(f"report {curation.write_page(out, curation.Config(seed=config.seed))}")
        except UserError as error:
            warn(f"no report: {error}")  # what was chosen stands
        info(f"next: dinokit pretrain RECIPE --data {out / SELECTION} --out runs/NAME")
    dist.barrier()
    return done


def model_of(pool: Pool, *, device: torch.device) -> Embed:
    """Return the model that a pool was embedded with, loaded when it is first asked: most often it need not be."""
    loaded = cache(lambda: embedder(pool, device=device))
    return lambda images: loaded()(images)


def nearest_first(
    places: Int64[np.ndarray, " found"], ranks: Integer[np.ndarray, " found"], room: int, *, draw: np.random.Generator
) -> Int64[np.ndarray, " chosen"]:
    """Choose `room` rows, in ascending order: the nearest of every query before the second of any, by lot within.

    Args:
        places: rows that queries found; one that several found comes several times, and its best rank counts.
        ranks: how near each is among those of its query; 1 is the nearest.
    """
    places = places[np.lexsort((draw.random(len(places)), ranks))]
    _, first = np.unique(places, return_index=True)
    chosen: Int64[np.ndarray, " chosen"] = np.sort(places[np.sort(first)[:room]])
    return chosen


def _retrieved(
    pool: Pool, seeds: list[Pool], stay: Int64[np.ndarray, " row"], config: Config, out: Path, device: torch.device
) -> list[Component]:
    """Retrieve for each set of seeds; each has an equal share of the room, and what the ones before left."""
    parts, taken = list[Component](), np.empty(0, dtype=np.int64)
    nearest = retrieve.Config(neighbours=config.neighbours, unique=False, seed=config.seed)
    most = int(config.retrieved * config.size)
    for number, queries in enumerate(seeds, start=1):
        name = f"retrieved-{number}"
        retrieve.run(pool, nearest, out / name, queries=queries, rows=stay, device=device)
        found = read_table(out / name / SELECTION)
        new, room = ~np.isin(found["place"], taken), most * number // len(seeds) - len(taken)
        rows = nearest_first(found["place"][new], found["rank"][new], room, draw=generator(config.seed, number))
        taken = np.concatenate([taken, rows])
        parts.append(Component(name, pool, rows, f"resembles {utf8(queries.source)}", len(rows)))
    return parts


def _balanced(
    pool: Pool,
    stay: Int64[np.ndarray, " row"],
    taken: Int64[np.ndarray, " row"],
    config: Config,
    out: Path,
    memory: int | None,
    device: torch.device,
) -> list[Component]:
    """Choose the images that are still wanted, if any, from clusters of what is not taken."""
    wanted = config.size - len(taken)
    if not wanted:
        return []
    levels = cluster.Config(levels=config.levels, resample=config.resample, seed=config.seed)
    rows = np.setdiff1d(stay, taken)
    cluster.run(pool, levels, out / "clusters", rows=rows, memory=memory, device=device)
    if is_main():
        sample.run(out / "clusters", sample.Config(size=wanted, seed=config.seed), out / "balanced.parquet")
    dist.barrier()
    rows = read_table(out / "balanced.parquet")["place"]
    return [Component("balanced", pool, rows, "balanced", len(rows))]


def _seeds(seeds: list[Pool], config: Config) -> list[Component]:
    """Return the seeds themselves, which are in batches of their own or else in the mixed ones, not in both."""
    share = config.homogeneous / max(len(seeds), 1)
    return [
        Component(f"{SEEDS}{number}", queries, np.arange(len(queries)), "a seed", 0 if share else len(queries), share)
        for number, queries in enumerate(seeds, start=1)
    ]


def _check_sources(data: str, config: Config, out: Path) -> None:
    """Refuse before any work what can be known to fail.

    Raises:
        UserError: if a source cannot be opened, or there are fewer images than are asked for.
    """
    check_outside(out, data)
    images = len(open_source(data))
    for source in (*config.seeds, *([] if config.against is None else [config.against])):
        open_source(source)
    if config.size > images:
        raise UserError(f"size: expected at most the {images:,} images of {data}, got {config.size:,}")
    cluster.shape(cluster.Config(levels=config.levels), images)


def _write(parts: list[Component], out: Path) -> int:
    """Write the selection and return the number of its lines."""
    prints = {key: value for part in parts for key, value in part.pool.fingerprints.items()}
    lines = (
        part.pool.selection(
            part.rows,
            component=part.name,
            reason=part.reason,
            weight=part.weight,
            homogeneous=part.homogeneous,
            columns=part.places,
        )
        for part in parts
    )
    total = write_selection(out / SELECTION, chain.from_iterable(lines), fingerprints=prints)
    info(f"{total:,} images: {' · '.join(f'{part.name} {len(part.rows):,}' for part in parts)}")
    return total
