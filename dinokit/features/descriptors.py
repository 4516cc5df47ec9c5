"""One vector of an image for a search: shown in one way or at several sizes, read, averaged, whitened.

Vectors of several sizes are averaged as they are, as DINO does (arXiv:2104.14294, section 4.2.1), and brought to length
1 by whoever compares them.
"""

from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float32

from dinokit.features.cache import Cache
from dinokit.features.embedding import Read
from dinokit.features.extraction import Embeddings, extract
from dinokit.features.whitening import Whitening
from dinokit.images.transforms import Transform
from dinokit.models.features import Backbone
from dinokit.sources.source import Source


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """How the images of a source become vectors."""

    backbone: Backbone
    transforms: tuple[Transform, ...]  # over which the vectors are averaged
    reading: Read
    whitening: Whitening | None = None

    def __call__(self, source: Source) -> Embeddings:
        """Describe all images of a source that can be read."""
        found = [extract(self.backbone, source, reading=self.reading, transform=each) for each in self.transforms]
        if len(found) == 1 and self.whitening is None:
            return found[0]
        vectors = numpy.stack([each.vectors for each in found]).mean(axis=0)
        if self.whitening is not None:
            vectors = self.whitening(torch.from_numpy(vectors)).numpy()
        return _with(found[0], vectors)

    def whitened(self, source: Source, *, dims: int | None, centred: bool) -> "Descriptor":
        """Return the same with a whitening that is learnt on the images of a source."""
        vectors = torch.from_numpy(self(source).vectors)
        return replace(self, whitening=Whitening.learnt(vectors, dims=dims, centred=centred))


def _with(found: Embeddings, vectors: Float32[numpy.ndarray, "image dim"]) -> Embeddings:
    """Return the same images with other vectors, in memory."""
    rows = Cache(None)
    rows.add(found.digests, found.digests, dict(zip(found.digests, vectors)))
    return replace(found, rows=rows)
