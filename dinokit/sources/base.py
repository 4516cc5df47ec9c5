"""What a source of images is: something that can say how many it has and read one by its index.

There is one kind of source. Kinds of storage differ in what fetches an image - from a file, from a part of an archive,
from a row of a data set, from memory - and in nothing else, so that order, splits, labels and subsets are the same for
all. A source is picklable, holds no open file, and is cheap to copy into loader processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from operator import getitem
from typing import Any, Literal, TypeVar, cast, final

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core.files import digest
from dinokit.core.messages import BadImage
from dinokit.core.order import evenly
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.sources.sampler import Mix, Order, order
from dinokit.sources.table import Table, Texts

T = TypeVar("T")
Metric = Literal["top1", "per-class", "mAP"]  # right of all images, as a mean over classes, 11-point average precision
Fetch = Callable[[int], bytes | intensity.Image]  # what lies in a row: a file, or else pixels; raises BadImage
_AHEAD = 32  # images read ahead, per thread


@dataclass(frozen=True)
class Unusable:
    """An image that cannot be used, and why."""

    index: int  # in the source
    key: str
    reason: str


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Images by index."""

    name: str  # how the user wrote it, for messages and file names
    channels: int  # of every image that `read` returns
    rows: Int64[np.ndarray, "sample"]  # those of all that is stored there that belong to this source, in its order
    key_of: Callable[[int], str]  # row -> what identifies the image to a person
    fetch: Fetch
    fingerprint: str  # changes when images are added, taken away, renamed or put in another order; not with pixels
    classes: tuple[str, ...] = ()  # names of the labels; empty without labels
    labels: Int64[np.ndarray, "sample"] | None = None  # places in `classes`, -1 = unknown; None if all are
    domains: Shaped[np.ndarray, "sample"] | None = None  # style, camera or hospital of every image, if known
    splits: tuple[str, ...] = ()  # names of all, of which this source is one; empty where there are none
    decoded: bool = False  # reading is a copy from memory; there is nothing for loader processes to win
    white: float | None = None  # what is 1.0 in files of more than 8 bits, where the user says so
    whites: Float64[np.ndarray, "sample"] | None = None  # the same of every image, NaN = unknown
    mix: Mix | None = None  # the shares of several sources in a batch; None = all images alike
    metric: Metric | None = None  # what a published set is measured by
    remarks: tuple[str, ...] = ()  # what a person should know of how this was read, such as what was passed over

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """Return what identifies an image to a person: a path inside the source or an id."""
        return str(self.key_of(int(self.rows[index])))

    def encoded(self, index: int) -> bytes | None:
        """Return the file of an image, or raise BadImage; None where there are only pixels."""
        found = self.fetch(int(self.rows[index]))
        return found if isinstance(found, bytes) else None

    def white_of(self, index: int) -> float | None:
        """Return what the user says is white in a file of more than 8 bits."""
        own = np.nan if self.whites is None else float(self.whites[index])
        return self.white if np.isnan(own) else own

    def read(self, index: int, *, min_side: int | None = None, holes: bool = False) -> intensity.Image:
        """Read one image, uint8, or float32 with 1.0 as white from deeper files, or raise BadImage.

        Args:
            min_side: the image may come back smaller, as long as its short side keeps this many pixels.
            holes: NaN where a file has no data, instead of the mean.
        """
        found = self.fetch(int(self.rows[index]))
        return self.pixels_of(index, found, min_side=min_side, holes=holes) if isinstance(found, bytes) else found

    def pixels_of(
        self, index: int, data: bytes, *, min_side: int | None = None, holes: bool = False
    ) -> intensity.Image:
        """Decode the file of an image as `read` does."""
        return decode(data, channels=self.channels, min_side=min_side, white=self.white_of(index), holes=holes)

    def each(
        self, work: Callable[[int], T], indices: Iterable[int], *, workers: int
    ) -> Iterator[tuple[int, T | Unusable]]:
        """Yield each index with what some work on its image gives, or with why the image cannot be used, in this order.

        Args:
            workers: threads, which work a bounded number of images ahead: decoders and numpy leave the interpreter free
                for each other. 0: the caller's own.
        """

        def tried(index: int) -> tuple[int, T | Unusable]:
            try:
                return index, work(index)
            except BadImage as error:
                return index, Unusable(index, self.key(index), str(error))

        if workers == 0:
            yield from map(tried, indices)
            return
        pending: deque[Future[tuple[int, T | Unusable]]] = deque()
        with devices.threads(workers) as pool:
            for index in indices:
                pending.append(pool.submit(tried, index))
                if len(pending) == _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def order(self, *, seed: int, batch: int) -> Order:
        """Return the endless sequence in which a run sees the images.

        Args:
            batch: images per step, over all ranks; matters only where whole batches come from one source.
        """
        return order(len(self), self.mix, seed=seed, batch=batch)

    def alike(self, index: int) -> tuple[int, int]:
        """Return the range of images of which one may stand in for an image: of several sources those of its own."""
        if self.mix is None:
            return 0, len(self)
        ends = np.cumsum(self.mix.lengths)
        part = int(np.searchsorted(ends, index, side="right"))
        return int(ends[part]) - self.mix.lengths[part], int(ends[part])

    def subset(self, rows: Int64[np.ndarray, "sample"] | Sequence[int]) -> "Source":
        """Return some of the images, by their indices; the keys stay those of the whole."""
        rows = rows if isinstance(rows, np.ndarray) else np.array(rows, dtype=np.int64)
        return replace(
            self,
            rows=self.rows[rows],
            labels=None if self.labels is None else self.labels[rows],
            domains=None if self.domains is None else self.domains[rows],
            whites=None if self.whites is None else self.whites[rows],
            fingerprint=digest([self.fingerprint, rows]),
            mix=None,
        )


def thinned(source: Source, count: int | None) -> Source:
    """Return so many evenly spaced images, None all: in a sorted folder every class keeps its share."""
    return source.subset(evenly(count, len(source)))


def labelled(source: Source) -> Source:
    """Leave out the images whose label is unknown; a source without any label stays as it is."""
    if source.labels is None or (source.labels >= 0).all():
        return source
    return source.subset(np.flatnonzero(source.labels >= 0))


def from_table(spec: str, table: Table, fetch: Fetch, *, split: str | None, channels: int) -> Source:
    """Make a source of one split of a table of what is stored; None is the default split."""
    rows = table.rows(spec, split)
    classes, labels = table.labels(rows)
    domain = table.domain
    return Source(
        name=spec,
        channels=channels,
        rows=rows,
        key_of=table.keys.__getitem__,
        fetch=fetch,
        fingerprint=digest([table.keys.joined, table.keys.ends, rows]),
        classes=classes,
        labels=labels,
        domains=None if domain is None else np.array([*domain.words, ""])[domain.codes[rows]],  # -1 is ''
        whites=table.whites(spec, rows),
        splits=table.splits,
        remarks=table.remarks,
    )


def in_memory(
    images: Shaped[Tensor, "sample channel height width"],
    *,
    name: str = "array",
    keys: Sequence[str] | None = None,
    labels: Int64[np.ndarray, "sample"] | None = None,
    classes: tuple[str, ...] = (),
    domains: Shaped[np.ndarray, "sample"] | None = None,
) -> Source:
    """Make a source of images of one size that are decoded already."""
    texts = Texts(keys if keys is not None else map(str, range(len(images))))
    return Source(
        name=name,
        channels=images.shape[1],
        rows=np.arange(len(images)),
        key_of=texts.__getitem__,
        fetch=partial(cast(Any, getitem), images),
        fingerprint=digest([texts.joined, texts.ends]),
        classes=classes,
        labels=labels,
        domains=domains,
        decoded=True,
    )
