"""Cosines of some images with all others, a few at a time, for what needs a whole ranking and not the nearest alone."""

from collections.abc import Iterator
from hashlib import blake2b

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dinokit.features.embedding import unit

CHUNK = 1 << 24  # numbers held at once: 128 MiB


def compared(
    queries: Float[Tensor, "query dim"], gallery: Float[Tensor, "image dim"], *, leave_one_out: bool = False
) -> Iterator[tuple[slice, Float64[Tensor, "part image"]]]:
    """Yield which queries, and their cosines with the gallery.

    Equal features have equal cosines, to the bit: a matrix product alone rounds by the place of a row.

    Args:
        leave_one_out: the gallery begins with the queries; the cosine of each with itself is -inf.
    """
    parts = torch.split(gallery, max(1, CHUNK // gallery.shape[1]))
    first: dict[bytes, int] = {}  # row -> its place
    digests = (blake2b(row.tobytes(), digest_size=16).digest() for part in parts for row in unit(part).numpy())
    twins = torch.tensor([first.setdefault(digest, place) for place, digest in enumerate(digests)])
    step = max(1, CHUNK // max(len(twins), 1))
    for start in range(0, len(queries), step):
        asking = slice(start, min(start + step, len(queries)))
        asks = unit(queries[asking])
        similarity = torch.cat([asks @ unit(part).T for part in parts], dim=1)  # [part, image]
        if len(first) < len(twins):
            similarity = similarity[:, twins]
        if leave_one_out:
            similarity[torch.arange(len(similarity)), torch.arange(asking.start, asking.stop)] = -torch.inf
        yield asking, similarity
