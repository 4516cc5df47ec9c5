"""The parts of a pool while they are computed: images are read, brought into batches, and their vectors written."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, final

import numpy
import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.files import utf8
from dinokit.core.messages import RunError
from dinokit.curation.stored import write_part
from dinokit.dense.embedding import batches, digest_of, encode, enough, seen, unit
from dinokit.images import intensity
from dinokit.images.decode import upright_size
from dinokit.models.features import Backbone, Features
from dinokit.sources.source import Source, Unusable, absolute

Feature = Literal["cls", "cls+patches"]
GRAY, TWIN = "gray", "twin"  # flags: all channels are equal; the network sees what it saw in an earlier row of the part


@dataclass(frozen=True)
class Part:
    """A run of images of the source."""

    number: int
    indices: Int64[numpy.ndarray, " image"]


@dataclass(frozen=True)
class Look:
    """An image as the network sees it, and what is known of it as it lies there."""

    image: intensity.Image | None  # None: it has been seen
    width: int
    height: int
    bytes_digest: str
    pixels: bytes  # digest of what the network sees
    gray: bool


Looks = Iterator[tuple[int, Look | Unusable]]


@dataclass(frozen=True)
class Batch:
    """Images of one part that are computed together; None: that was all of the part."""

    part: "Kept"
    places: list[int]  # in the part
    images: intensity.Images | None


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """What all parts have in common."""

    backbone: Backbone
    source: Source
    split: str | None
    out: Path
    feature: Feature
    precision: Precision
    batch_size: int

    def look(self, index: int) -> Look:
        """Read an image, or raise BadImage."""
        found = self.source.fetch(int(self.source.rows[index]))
        if isinstance(found, bytes):
            image, data = self.source.pixels_of(index, found, min_side=enough(self.backbone)), found
            width, height = upright_size(found, image)
        else:
            image, data = found, found.contiguous().numpy().tobytes()
            height, width = found.shape[1:]
        ready = seen(image, self.backbone)
        gray = len(ready) > 1 and bool((ready == ready[:1]).all())
        return Look(ready, width, height, blake2b(data, digest_size=16).hexdigest(), digest_of(ready), gray)

    def batches(self, parts: list[Part], looks: Looks) -> Generator[Batch, None, None]:
        """Bring the images of each part into batches of equal sizes, and those to where the network is."""
        warned = False
        for part in parts:
            kept = Kept(self, part)
            for batch in batches(kept.readable(looks), self.batch_size):
                images = [image for _, image in batch]
                if not warned:
                    intensity.warn_of_values(images, self.backbone.pixels)
                    warned = True
                yield Batch(kept, [place for place, _ in batch], devices.sent(images, self.backbone.device))
            yield Batch(kept, [], None)

    def vectors(self, images: intensity.Images, *, precision: Precision | None = None) -> Float[Tensor, "image dim"]:
        """Compute the feature of a batch, not yet of length 1."""
        return pooled(encode(self.backbone, images, precision=precision or self.precision), self.feature)


def pooled(features: Features, feature: Feature) -> Float[Tensor, "image dim"]:
    """Return the vector of each image, not yet of length 1."""
    cls = features.cls.float()
    return cls if feature == "cls" else torch.cat([cls, features.patches.float().mean(dim=1)], dim=1)


@final
class Kept:
    """What is known of a part until it is written; one thread fills it, another stores the vectors and writes it."""

    def __init__(self, work: Work, part: Part) -> None:
        self.work, self.part = work, part
        self.looks = list[Look | Unusable]()
        self.twins = dict[int, int]()  # place -> an earlier one of which the network sees the same
        self.rows: dict[int, Float16[numpy.ndarray, " dim"]] = {}  # by place

    def readable(self, looks: Looks) -> Iterator[tuple[int, intensity.Image]]:
        """Take this part's looks; yield place and image of those to be computed, of equal ones the first."""
        firsts: dict[bytes, int] = {}
        for place in range(len(self.part.indices)):
            _, look = next(looks)
            if isinstance(look, Unusable):
                self.looks.append(look)
                continue
            self.looks.append(replace(look, image=None))
            assert look.image is not None
            first = firsts.setdefault(look.pixels, place)
            if first == place:
                yield place, look.image
            else:
                self.twins[place] = first

    def store(self, places: list[int], vectors: Float[Tensor, "image dim"]) -> float:
        """Keep the vectors of a batch once they are there; return when that was."""
        values = unit(vectors.cpu()).numpy()
        now = time.monotonic()
        broken = numpy.flatnonzero(~numpy.isfinite(values).all(axis=1))
        if len(broken):
            key = self.work.source.key(int(self.part.indices[places[int(broken[0])]]))
            raise RunError(f"the model gives features that are not finite, first for {key}; its weights are broken")
        self.rows |= zip(places, values.astype(numpy.float16))
        return now

    def write(self) -> float:
        """Write the part; return when that was done."""
        work, source, indices = self.work, self.work.source, self.part.indices.tolist()
        self.rows |= {twin: self.rows[first] for twin, first in self.twins.items()}
        bad = [look for look in self.looks if isinstance(look, Unusable)]
        found = [(place, look) for place, look in enumerate(self.looks) if isinstance(look, Look)]
        rows = [indices[place] for place, _ in found]
        labels = [-1] * len(rows) if source.labels is None else source.labels[rows].tolist()
        lines = {
            "row": rows,
            "key": [source.key(row) for row in rows],
            "source": [utf8(absolute(source.name))] * len(rows),
            "split": [work.split] * len(rows),
            "width": [look.width for _, look in found],
            "height": [look.height for _, look in found],
            "bytes_digest": [look.bytes_digest for _, look in found],
            "flags": [[GRAY] * look.gray + [TWIN] * (place in self.twins) for place, look in found],
            "class": [source.classes[label] if label >= 0 else None for label in labels],
            "domain": [None] * len(rows) if source.domains is None else [str(each) for each in source.domains[rows]],
        }
        write_part(
            work.out,
            self.part.number,
            numpy.stack([self.rows[place] for place, _ in found]) if found else numpy.empty((0, 1), numpy.float16),
            lines,
            fingerprint=source.fingerprint,
            unread=bad,
        )
        return time.monotonic()
