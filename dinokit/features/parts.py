"""Images on their way through a network, part by part: read, put into batches, their vectors kept until a part ends.

A part is computed by one rank, whichever, and its batches stay inside it, so that neither ranks nor kills change a bit.
Of equal images one is computed, so that their rows are equal, too.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, final

import numpy
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.messages import RunError
from dinokit.features.embedding import Read, batches, digest_of, read
from dinokit.images import intensity
from dinokit.images.decode import upright_size
from dinokit.images.transforms import Transform
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, Unusable


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
    file: bytes  # digest of all that decides what the network sees
    pixels: bytes  # digest of what the network sees
    gray: bool


Looks = Iterator[tuple[int, Look | Unusable]]


@dataclass(frozen=True)
class Known:
    """What need not be computed."""

    files: Mapping[bytes, bytes]  # digest of a file -> of its pixels; when the work began
    pixels: set[bytes]  # grows while it goes on


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
    read: Read
    transform: Transform
    precision: Precision
    batch_size: int
    finished: Callable[[Float[Tensor, "image *row"]], Shaped[numpy.ndarray, "image *row"]]  # as it is kept
    save: Callable[["Kept"], Any]  # a part that is whole
    known: Known | None = None  # None: every part begins anew

    def look(self, index: int) -> Look:
        """Read an image, or raise BadImage; not one whose features are known."""
        source, enough = self.source, self.transform.enough
        found = source.fetch(int(source.rows[index]))
        if isinstance(found, bytes):
            told, white = blake2b(found, digest_size=16), source.white_of(index)
            bytes_digest = told.hexdigest()
            told.update(b"" if white is None else repr(white).encode())
            file = told.digest()
        else:
            bytes_digest = blake2b(found.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
            file = digest_of(found)
        if self.known is not None and file in self.known.files:
            return Look(None, 0, 0, bytes_digest, file, self.known.files[file], gray=False)
        image = source.pixels_of(index, found, min_side=enough) if isinstance(found, bytes) else found
        width, height = upright_size(found, image) if isinstance(found, bytes) else (image.shape[2], image.shape[1])
        ready = self.transform(image)
        gray = len(ready) > 1 and bool((ready == ready[:1]).all())
        return Look(ready, width, height, bytes_digest, file, digest_of(ready), gray)

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

    def vectors(self, images: intensity.Images, *, precision: Precision | None = None) -> Float[Tensor, "image *row"]:
        """Compute what is read of a batch, as the network gives it."""
        return read(self.backbone, images, self.read, precision=precision or self.precision)


@final
class Kept:
    """What is known of a part until it is written; one thread fills it, another stores the vectors and writes it."""

    def __init__(self, work: Work, part: Part) -> None:
        self.work, self.part = work, part
        self.looks = list[Look | Unusable]()
        self.rows: dict[bytes, Shaped[numpy.ndarray, "*row"]] = {}  # by the pixels that were seen
        self.broken = False

    def readable(self, looks: Looks) -> Iterator[tuple[int, intensity.Image]]:
        """Take this part's looks; yield place and image of those to be computed, of equal ones the first."""
        seen = set[bytes]() if self.work.known is None else self.work.known.pixels
        for place in range(len(self.part.indices)):
            _, look = next(looks)
            if isinstance(look, Unusable):
                self.looks.append(look)
                continue
            self.looks.append(replace(look, image=None))
            if look.pixels not in seen:
                assert look.image is not None
                seen.add(look.pixels)
                yield place, look.image

    def store(self, places: list[int], vectors: Float[Tensor, "image *row"]) -> float:
        """Keep the vectors of a batch once they are there; return when that was."""
        values = vectors.cpu()
        now = time.monotonic()
        broken = torch.nonzero(~torch.isfinite(values).flatten(1).all(dim=1)).flatten().tolist()
        if broken:
            self.broken = True
            key = self.work.source.key(int(self.part.indices[places[broken[0]]]))
            raise RunError(f"the model gives features that are not finite, first for {key}; its weights are broken")
        looks = (self.looks[place] for place in places)
        self.rows |= zip((look.pixels for look in looks if isinstance(look, Look)), self.work.finished(values))
        return now

    def write(self) -> float:
        """Write the part, unless some of it is broken; return when that was done."""
        if not self.broken:
            self.work.save(self)
        return time.monotonic()
