"""What `dinokit search query` does: images -> vectors -> the nearest of an index, by patch if one is marked; drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy
import torch
from jaxtyping import Float, Int64

from dinokit.commands.tables import print_rows
from dinokit.core.messages import BadImage, UserError, info, progress, unknown_name, warn
from dinokit.curation.neighbours import Edges
from dinokit.features.embed import embedded, ready
from dinokit.images.intensity import AnyImage
from dinokit.images.picture import check_picture, write_picture
from dinokit.looks import located, neighbours
from dinokit.looks.field import Field, TooLong, field
from dinokit.looks.located import Located
from dinokit.looks.sheet import Row, sheet
from dinokit.models.features import Backbone, decoded
from dinokit.search import weights
from dinokit.search.index import Index
from dinokit.search.nearest import Found
from dinokit.search.there import Near, nearest
from dinokit.sources.base import Source
from dinokit.studio.start import PATCHES

FORGET = "`dinokit search remove {} --gone` leaves out all that are"  # of an index


@dataclass(frozen=True)
class Query:
    """An image whose like is looked for."""

    name: str
    image: AnyImage | None  # None: not needed
    row: int | None  # of the index, where it is one of its images
    vector: Float[numpy.ndarray, "1 number"]


@final
@dataclass(frozen=True)
class Asked:
    """An index and what is wanted of it."""

    index: Index
    k: int
    among: int
    size: int | None
    model: str | None
    device: torch.device

    def found(self, words: Sequence[str], *, at: str | None, out: Path | None) -> list[dict[str, Any]]:
        """Return what is found for each image, and draw it."""
        if out is not None:
            check_picture(out)
        mark = None if at is None else _mark(at)
        queries = [self._query(word, pixels=mark is not None or out is not None) for word in words]
        answers, drawn = list[dict[str, Any]](), list[Row]()
        for query in queries:
            wanted = self.k if mark is None else max(self.k, self.among)
            near = nearest(self.index, query.vector, k=wanted, but=query.row)
            if mark is None:
                answers.append(self._answer(query, near, near.found.rows, near.found.cosines.tolist()))
                drawn += self._agreed(query, near.found) if out is not None else []
                continue
            here = self._look(query.image, query.name)
            patch = here.at(*mark)
            hits = self._located(here, patch, near.found)[: self.k]
            rows = numpy.array([hit.image for hit, _ in hits], dtype=numpy.int64)
            answers.append(self._answer(query, near, rows, [hit.cosine for hit, _ in hits], [hit for hit, _ in hits]))
            drawn += located.rows(here, patch, hits) if out is not None else []
        if out is not None:
            page = sheet(drawn)
            write_picture(page, out)
            info(f"{len(drawn)} rows · {page.width} x {page.height} pixels · {out}")
        return answers

    @cached_property
    def _model(self) -> Backbone:
        return ready(self.index.pools[0], weights.loaded(self.index, self.model), device=self.device)

    @cached_property
    def _images(self) -> tuple[Source, dict[int, int]]:
        """The images of the index, and where each row is among them."""
        source, rows = self.index.images(channels=self._model.channels)
        return source, {row: place for place, row in enumerate(rows.tolist())}

    def _query(self, word: str, *, pixels: bool) -> Query:
        """Open a file, or an image of the index by its name."""
        if Path(word).expanduser().is_file():
            model = self._model
            image = decoded(word, channels=model.channels, white=model.pixels.white)
            return Query(Path(word).name, image, None, embedded(self.index.pools[0], model, [image]))
        rows = self.index.named(word)
        if not len(rows):
            raise unknown_name("image, neither a file nor of the index:", word, self.index.names())
        if len(rows) > 1:
            raise UserError(f"{len(rows):,} images of {self.index.folder} are called {word}; give a name of one")
        row = int(rows[0])
        return Query(word, self._pixels(row) if pixels else None, row, self.index.vector(row))

    def _pixels(self, row: int) -> AnyImage:
        source, places = self._images
        if row not in places:
            raise UserError(f"{self.index.entries(numpy.array([row]))[0].name} is no longer where it was")
        try:
            return source.read(places[row])
        except BadImage as error:
            raise UserError(f"{source.key(places[row])} cannot be read: {error}") from error

    def _look(self, image: AnyImage | None, name: str) -> Field:
        assert image is not None
        return field(self._model, image, name=name, size=self.size or PATCHES * self._model.patch_size)

    def _located(self, here: Field, patch: tuple[int, int], near: Found) -> list[tuple[Located, Field]]:
        """Look into images, and return them in the order of their best patch."""
        found = dict[int, tuple[Located, Field]]()
        source, places = self._images
        for row in progress(near.rows.tolist(), len(near.rows)):
            if row not in places:
                continue
            try:
                there = self._look(source.read(places[row]), source.key(places[row]).rpartition("/")[2])
            except (BadImage, TooLong) as error:
                warn(f"{source.key(places[row])} is passed over: {error}")
                continue
            found[row] = located.located(here, patch, row, there), there
        return [found[hit.image] for hit in located.ordered([hit for hit, _ in found.values()])]

    def _agreed(self, query: Query, near: Found) -> list[Row]:
        """Draw what was found with the patches that agree."""
        source, places = self._images
        there = [place for place, row in enumerate(near.rows.tolist()) if row in places]
        others = numpy.array([places[int(near.rows[place])] for place in there], dtype=numpy.int64)
        edges = Edges(numpy.zeros(len(there), dtype=numpy.int64), others, near.cosines[there])
        return neighbours.rows(source, [self._look(query.image, query.name)], edges, self._look)

    def _answer(
        self,
        query: Query,
        near: Near,
        rows: Int64[numpy.ndarray, " found"],
        cosines: list[float],
        hits: Sequence[Located] = (),
    ) -> dict[str, Any]:
        """Return what is found as plain values."""
        lines = []
        for number, (entry, cosine) in enumerate(zip(self.index.entries(rows), cosines, strict=True)):
            line: dict[str, Any] = {"cosine": cosine, "name": entry.name, "class": entry.label, "source": entry.source}
            if hits:
                line |= {"at": [round(each, 1) for each in hits[number].at], "patch": list(hits[number].patch)}
            lines.append(line)
        return {"query": query.name, "searched": len(self.index), "found": lines, "gone": list(near.gone)}


def show(answer: dict[str, Any], *, of: Path) -> None:
    """Print what was found in an index."""
    lines = answer["found"]
    classes, marks = any(line["class"] for line in lines), any("at" in line for line in lines)
    several = len({line["source"] for line in lines}) > 1
    head = ["cosine", *["at"] * marks, "image", *["class"] * classes, *["source"] * several]
    rows = [
        [
            f"{line['cosine']:.4f}",
            *[",".join(f"{each:.0f}" for each in line.get("at", ()))] * marks,
            line["name"],
            *[line["class"] or ""] * classes,
            *[line["source"]] * several,
        ]
        for line in lines
    ]
    print_rows(f"{answer['query']} in {answer['searched']:,} images", head, rows)
    gone = answer["gone"]
    if lines and all(line["name"] in gone for line in lines):
        info(f"none of these is where it was, such as {gone[0]}: put the images of {of} back, or build it anew")
    elif gone:
        info(f"{len(gone):,} images that are as near are gone, such as {gone[0]}; {FORGET.format(of)}")


def _mark(at: Any) -> tuple[float, float]:
    """Read X,Y."""
    try:
        x, y = map(float, at.split(",") if isinstance(at, str) else at)
    except (ValueError, TypeError) as error:
        raise UserError(f"--at: expected X,Y in pixels such as 120,80, got '{at}'") from error
    return x, y
