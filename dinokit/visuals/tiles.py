"""Images of a pool as tiles with captions: small, read only when they are shown, grey where they cannot be read.

A page of a pool of a million images reads the few hundred that it shows. What is gone from the source, or can no longer
be decoded, is a grey tile with its key, for the page is about what was, not about what is left.
"""

from collections.abc import Collection, Sequence
from typing import final

import numpy as np
from jaxtyping import Int64

from dinokit.core.messages import UserError, warn
from dinokit.curation.pool import Pool
from dinokit.images import intensity
from dinokit.sources.base import Unusable
from dinokit.visuals.page import data_uri, picture, text

SIDE = 96  # pixels of a tile's long side
THREADS = 4  # that read images


@final
class Album:
    """The images of a pool, by row; of a pool that is gone all are grey."""

    def __init__(self, pool: Pool | None) -> None:
        self._pool = pool
        self._now = None
        if pool is not None:
            try:
                self._now = pool.today()
            except UserError as error:
                warn(f"no pictures of {pool.source}: {error}")

    def tiles(self, rows: Sequence[int], captions: Sequence[str], *, marked: Collection[int] = ()) -> list[str]:
        """Return a figure of each row; marked rows have a frame.

        Args:
            captions: one per row; numbers, most often.
        """
        wanted = np.array(rows, dtype=np.int64)
        found = []
        for row, key, inner, caption in zip(rows, self._keys(wanted), self._pictures(wanted), captions, strict=True):
            grey = f'<div class="gone" title="{text(key)}">{text(key)}</div>'
            shown = grey if inner is None else picture(inner, alt=key)
            kind = ' class="marked"' if row in marked else ""
            found.append(f"<figure{kind}>{shown}<figcaption>{text(caption)}</figcaption></figure>")
        return found

    def _keys(self, rows: Int64[np.ndarray, " row"]) -> list[str]:
        if self._pool is None:
            return ["gone"] * len(rows)
        return list(self._pool.table(["key"], rows=rows)["key"].to_pylist())

    def _pictures(self, rows: Int64[np.ndarray, " row"]) -> list[str | None]:
        """Return the data of each picture, None where there is none."""
        if self._now is None or not len(rows):
            return [None] * len(rows)
        source, find = self._now

        def drawn(index: int) -> str:
            pixels = intensity.for_display(source.read(index, min_side=SIDE)[None])[0]
            return data_uri(pixels.permute(1, 2, 0), side=SIDE)

        places = find(rows)
        here = np.flatnonzero(places >= 0)
        found: list[str | None] = [None] * len(rows)
        read = source.each(drawn, places[here].tolist(), workers=0 if source.decoded else THREADS)
        for at, (_, made) in zip(here.tolist(), read, strict=True):
            found[at] = None if isinstance(made, Unusable) else made
        return found
