"""Leakage: pictures that are in both parts of a set, so that what is learnt by heart counts as understood.

Two pictures are one here if a backbone sees the same pixels: a copy of a file, or the same picture in another lossless
format. A changed copy counts only where someone says above which similarity of features two pictures are one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dinokit.curation.neighbours import Edges, Ordered, Search
from dinokit.curation.vectors import Vectors
from dinokit.features.extraction import Embeddings

SHOWN, KEPT = 3, 1000  # pairs in a line, and in a JSON file; all are counted


@dataclass(frozen=True)
class Leaks:
    """Pairs of one picture: the image that asks, and the first one that answers."""

    equal: tuple[tuple[str, str], ...]
    similar: tuple[tuple[str, str, float], ...]  # with the cosine; without the equal ones
    above: float | None

    def __len__(self) -> int:
        return len(self.equal) + len(self.similar)

    def line(self, asking: str, answering: str) -> str:
        """Say it in one line, of two splits; of one set twice the same."""
        what = f"leakage, images of {asking} that are in {answering} again"
        if asking == answering:
            what = "images that are copies of others"
        near = "" if self.above is None else f" ({len(self.similar):,} by a cosine above {self.above:g})"
        pairs = [f"{one} = {other}" for one, other, *_ in (*self.equal, *self.similar)]
        more = ", ...; --save FOLDER lists them" if len(pairs) > SHOWN else ""
        return f"{what}, {len(self):,}{near}: {', '.join(pairs[:SHOWN])}{more}"

    def details(self) -> dict[str, object]:
        """Return what NAME.json says of it; nothing if there is nothing."""
        found = {"equal": self.equal[:KEPT], "similar": self.similar[:KEPT]}
        return {"leakage": {kind: [list(pair) for pair in pairs] for kind, pairs in found.items()}} if len(self) else {}


def leaks(asks: Embeddings, *answers: Embeddings, above: float | None = None) -> Leaks:
    """Find the images that ask whose picture is also among those that answer, in one part of the data or several.

    Args:
        asks: the same object as the one of `answers` where images are asked among each other; then the first of equal
            ones is no copy.
        above: the cosine of features above which two pictures are one; None: equal ones alone.
    """
    equal, similar = dict[int, str](), dict[int, tuple[str, float]]()  # by the row that asks
    for part in answers:
        equal = {row: part.keys[other] for row, other in _equal(asks, part).items()} | equal
        for row, other, cosine in [] if above is None else _similar(asks, part, above):
            similar.setdefault(row, (part.keys[other], cosine))
    return Leaks(
        tuple((asks.keys[row], key) for row, key in sorted(equal.items())),
        tuple((asks.keys[row], *similar[row]) for row in sorted(similar.keys() - equal.keys())),
        above,
    )


def _equal(asks: Embeddings, answers: Embeddings) -> dict[int, int]:
    """Return, by the row that asks, the first row of the same picture."""
    same = asks is answers
    firsts: dict[bytes, int] = {}
    for row, digest in enumerate(answers.digests):
        firsts.setdefault(digest, row)
    equal = {row: firsts.get(digest, row if same else -1) for row, digest in enumerate(asks.digests)}
    return {row: other for row, other in equal.items() if other >= 0 and not (same and other == row)}


def _similar(asks: Embeddings, answers: Embeddings, above: float) -> Iterator[tuple[int, int, float]]:
    """Yield the rows that ask, the nearest row of each, and their cosine."""
    queries, gallery = (Ordered.single(Vectors([each.vectors])) for each in (asks, answers))
    search = Search(queries, None if asks is answers else gallery, k=1, above=above)
    edges = Edges.concatenate([search.block(number) for number in range(len(search))])
    for row, other, cosine in zip(edges.rows.tolist(), edges.others.tolist(), edges.similarity.tolist(), strict=True):
        if not (asks is answers and row < other):
            yield row, other, cosine
