"""What every source of images is: something that can say how many it has and read one by its index.

A source is picklable, holds no open file, and is cheap to copy into loader processes.
"""

from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import final

import numpy as np
from jaxtyping import Int64, Shaped

from dinokit.core.order import evenly
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.sources.sampler import Mix
from dinokit.sources.table import Table


class Source(ABC):
    """Images by index.

    Attributes:
        name: how the user wrote it, for messages and file names.
        channels: of every image that `read` returns.
        classes: names of the labels; empty without labels.
        labels: position in `classes` of every image, -1 where unknown; None if no image has one.
        domains: name of the domain (style, camera, hospital) of every image, if known.
        splits: names of all splits, of which this source is one; empty where there are none.
        decoded: reading is a copy from memory; there is nothing for loader processes to win.
        mix: the shares of several sources in a batch; None = all images alike.
    """

    name: str
    channels: int
    classes: tuple[str, ...] = ()
    labels: Int64[np.ndarray, "sample"] | None = None
    domains: Shaped[np.ndarray, "sample"] | None = None
    splits: tuple[str, ...] = ()
    decoded: bool = False
    mix: Mix | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """Return what identifies the image to a person: a path inside the source or an id."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what changes when images are added, taken away, renamed or put in another order; not their pixels."""

    @abstractmethod
    def encoded(self, index: int) -> bytes | None:
        """Return the file of an image; None where there are only pixels.

        Raises:
            BadImage: if it cannot be had.
        """

    @abstractmethod
    def read(self, index: int, *, min_side: int | None = None) -> intensity.Image:
        """Read one image: uint8, or float32 with 1.0 as white from files that are deeper (core/depth.py).

        Args:
            min_side: the image may come back smaller, as long as its short side keeps this many pixels.

        Raises:
            BadImage: the reason why it cannot be used.
        """


class EncodedSource(Source):
    """Images as encoded files, wherever these lie, and one split of the table of what is known of them."""

    def __init__(self, spec: str, table: Table, *, split: str | None, channels: int) -> None:
        self.name = spec
        self.channels = channels
        self.splits = table.splits()
        self._keys = table.keys
        self._rows = table.rows(spec, split)  # of the table
        self.classes, self.labels = table.labels(self._rows)
        self.domains = table.domains(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return str(self._keys[int(self._rows[index])])

    def fingerprint(self) -> str:
        return digest(self._keys.joined, self._keys.ends, self._rows)

    def read(self, index: int, *, min_side: int | None = None) -> intensity.Image:
        return decode(self.encoded(index), channels=self.channels, min_side=min_side)

    def encoded(self, index: int) -> bytes:
        return self._fetch(int(self._rows[index]))

    @abstractmethod
    def _fetch(self, row: int) -> bytes:
        """Return the file in a row of the table.

        Raises:
            BadImage: if it cannot be had.
        """


@final
class Subset(Source):
    """Some images of another source."""

    def __init__(self, source: Source, rows: Int64[np.ndarray, "sample"]) -> None:
        self.source = source
        self.rows = rows
        self.name = source.name
        self.channels = source.channels
        self.decoded = source.decoded
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[self.rows]
        self.domains = None if source.domains is None else source.domains[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """Return the key of the image in the whole source."""
        return self.source.key(int(self.rows[index]))

    def fingerprint(self) -> str:
        return digest(self.source.fingerprint(), self.rows)

    def encoded(self, index: int) -> bytes | None:
        return self.source.encoded(int(self.rows[index]))

    def read(self, index: int, *, min_side: int | None = None) -> intensity.Image:
        return self.source.read(int(self.rows[index]), min_side=min_side)


def digest(*parts: bytes | str | Shaped[np.ndarray, "..."]) -> str:
    """Return a short digest of some parts, in their order."""
    found = blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        found.update(data if isinstance(data, bytes) else data.tobytes())
    return found.hexdigest()


def thinned(source: Source, count: int | None) -> Subset:
    """Return so many evenly spaced images, None all: in a sorted folder every class keeps its share."""
    return Subset(source, evenly(count, len(source)))


def labelled(source: Source) -> Source:
    """Leave out the images whose label is unknown; a source without any label stays as it is."""
    if source.labels is None or (source.labels >= 0).all():
        return source
    return Subset(source, np.flatnonzero(source.labels >= 0))
