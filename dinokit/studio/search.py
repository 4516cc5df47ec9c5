"""Search by image and by patch: in a pool that was embedded before, or in what has been looked at so far.

By image the nearest are those of the nearest class tokens, or of what an index compares. By patch the nearest images
are candidates, of each of which the best patch is found, and these are put in order. The features of a candidate that
are not kept are computed for some seconds; the answer says how many images were searched.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import final

import numpy
from jaxtyping import Float, Float32, Int64

from dinokit.core.files import digest_of_model
from dinokit.core.messages import BadImage, UserError
from dinokit.core.order import evenly
from dinokit.curation.vectors import Vectors
from dinokit.features.embed import READINGS
from dinokit.features.embedding import Read
from dinokit.looks.neighbours import nearest
from dinokit.models.classifier import Reading
from dinokit.search.index import Index as Kept
from dinokit.search.weights import instead
from dinokit.sources.base import Source
from dinokit.sources.selection import finder
from dinokit.studio.networks import Busy, Networks
from dinokit.studio.seeing import Seeing
from dinokit.studio.store import Patches, patches

MOST = 96  # images of an answer, and, by patch, those that are looked into
SECONDS = 6.0  # in which candidates are computed that are not kept
NUMBERS = 1 << 26  # of class tokens that are held of a model, 128 MiB
GALLERIES = 2  # models or checkpoints whose class tokens are held
TOGETHER = 4  # images embedded in the background before the next look at what is asked for


@dataclass(frozen=True)
class Found:
    """What a search gives: places in the source, most similar first."""

    places: Int64[numpy.ndarray, " found"]
    scores: Float[numpy.ndarray, " found"]
    searched: int  # images


@final
class Index:
    """An index of the source by one of the models: of `dinokit search`, or a pool of `dinokit embed`."""

    def __init__(
        self, kept: Kept, source: Source, networks: Networks, rows: Int64[numpy.ndarray, " image"] | None = None
    ) -> None:
        """Find the images of an index in the source.

        Args:
            rows: of the index, for every image of the source; None: they are found by their keys.

        Raises:
            UserError: if it was made with other weights than those of the models, or of other images.
        """
        self._kept, about = kept, kept.about
        digests = {id: digest_of_model(networks.open(*networks.at(id, None))) for id in networks.models}
        self.models = {id for id, digest in digests.items() if digest == about.weights}
        if not self.models:
            names = " and ".join(model.name for model in networks.models.values())
            alone = "embed the images by one of these, or leave --index out" if rows is None else instead(about)
            told = f"{kept.folder} was embedded by {about.model}, whose weights are not those of {names}"
            raise UserError(f"{told}; {alone}")
        self.reading = READINGS[about.feature]
        self._places = _places(kept, source) if rows is None else numpy.full(len(kept.rows.alive), -1)
        if rows is not None:
            self._places[rows] = numpy.arange(len(rows))
        if not (self._places >= 0).any():
            of = " and ".join(pool.source for pool in kept.pools)
            raise UserError(f"{kept.folder} is of {of}, none of its images is in {source.name}")
        kept.leave_out(self._places < 0)
        kept.ready()

    def named(self, name: str) -> list[int]:
        """Return the images of the source that have a name in the index."""
        found: list[int] = self._places[self._kept.named(name)].tolist()
        return found

    def token(self, place: int) -> Float32[numpy.ndarray, " number"] | None:
        """Return what `reading` reads of an image of the source, if the index has it."""
        rows = self._kept.rows.numbers
        found = numpy.flatnonzero(self._places[rows] == place) if place >= 0 else rows[:0]
        if not len(found):
            return None
        known: Float32[numpy.ndarray, " number"] = self._kept.vector(int(rows[found[0]]))[0].astype(numpy.float32)
        return known

    def nearest(self, token: Float32[numpy.ndarray, " number"], *, count: int, but: int) -> Found:
        """Return the nearest images of the source, without one.

        Args:
            token: what `reading` reads of an image.
        """
        found = self._kept.nearest(token[None], k=count + 1)[0]
        return _found(self._places[found.rows], found.cosines, but=but, count=count, searched=len(self._kept))


def _places(kept: Kept, source: Source) -> Int64[numpy.ndarray, " row"]:
    """Find the image of every row of an index in a source; -1: it is not there."""
    find, found = finder(source), list[Int64[numpy.ndarray, " some"]]()
    for number, pool in enumerate(kept.pools):
        same = pool.fingerprint == source.fingerprint
        found.append(pool.table(["row"])["row"].to_numpy() if same else find(kept.keys(number)))
    return numpy.concatenate(found)


@final
class Gallery:
    """Class tokens of the images of a source that were looked at so far, of one network; for any thread."""

    def __init__(self, images: int, dim: int) -> None:
        """Hold none yet, and at most so many as fit into the memory for it."""
        most = min(images, max(NUMBERS // dim, 1))
        # in a random order, so that any part of it is a fair sample
        self._todo = numpy.random.default_rng(0).permutation(evenly(most, images)).tolist()
        self._vectors = numpy.empty((most, dim), dtype=numpy.float16)
        self._places = numpy.empty(most, dtype=numpy.int64)
        self._known = set[int]()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def next(self) -> int | None:
        """Return an image that is still to be embedded, and each only once."""
        while self._todo:
            place = self._todo.pop()
            if place not in self._known:
                return int(place)
        return None

    def add(self, place: int, token: Float32[numpy.ndarray, " dim"]) -> None:
        """Take an image in, as long as there is room."""
        with self._lock:
            count = len(self._known)
            if place not in self._known and count < len(self._places):
                self._vectors[count], self._places[count] = token, place
                self._known.add(place)

    def nearest(self, token: Float32[numpy.ndarray, " dim"], *, count: int, but: int) -> Found:
        """Return the nearest images of the source, without one."""
        known = len(self._known)
        if not known:
            return Found(numpy.empty(0, numpy.int64), numpy.empty(0, numpy.float32), 0)
        found = nearest(Vectors([self._vectors[:known]]), token[None], k=count + 1)
        return _found(self._places[found.others], found.similarity, but=but, count=count, searched=known)


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    place: int  # in the source
    score: float
    patch: tuple[int, int] | None = None  # the best one, by patch
    grid: tuple[int, int] | None = None  # rows and columns of its patches


@dataclass(frozen=True)
class Answer:
    """What was found, most similar first, and how many images were looked into."""

    hits: list[Hit]
    searched: int


@final
class Searcher:
    """What a page may ask; it blocks, so it is asked from threads of its own."""

    def __init__(self, seeing: Seeing, index: Index | None) -> None:
        """Begin to embed for the first model, unless it has an index."""
        self._seeing, self._index = seeing, index
        self._galleries: OrderedDict[tuple[str, int | None], Gallery] = OrderedDict()
        self._lock = Lock()
        first = next(iter(seeing.networks.models))
        if not self.has_index(first, None):
            self._gallery(first, None)
        seeing.passes.meanwhile(self.between)

    def named(self, name: str) -> list[int]:
        """Return the images of the source that the index calls so, or by a pattern; none without an index."""
        return [] if self._index is None else self._index.named(name)

    def has_index(self, model: str, step: int | None) -> bool:
        """Tell whether a pool answers for a model."""
        at, last = (self._seeing.networks.at(model, each)[1] for each in (step, None))
        return self._index is not None and model in self._index.models and at == last

    def search(self, model: str, step: int | None, image: str, patch: tuple[int, int] | None, *, count: int) -> Answer:
        """Find the images of the source that are nearest to one, or have the patches nearest to one of its patches.

        Raises:
            UserError: if the image has no such patch, or cannot be looked at.
            Busy: if too much waits for the network.
        """
        count = min(count, MOST)
        if patch is None:
            found = self._nearest(model, step, image, count=count)
            hits = [Hit(int(place), float(score)) for place, score in zip(found.places, found.scores, strict=True)]
            return Answer(hits, found.searched)
        seen = patches(self._seeing.features(model, step, image).result())
        row, column = patch
        if not (0 <= row < seen.rows and 0 <= column < seen.columns):
            raise UserError(f"expected a patch of {seen.rows} rows and {seen.columns} columns, got {row}, {column}")
        candidates = self._nearest(model, step, image, count=MOST).places.tolist()
        hits = self._best(model, step, seen.at(row, column), candidates)
        return Answer(sorted(hits, key=lambda hit: (-hit.score, hit.place))[:count], len(hits))

    def between(self) -> bool:
        """Embed the next few images for the model that was searched last; false if none is left."""
        with self._lock:
            if not self._galleries:
                return False
            (model, step), gallery = next(reversed(self._galleries.items()))
        for _ in range(TOGETHER):
            place = gallery.next()
            if place is None:
                return False
            try:
                gallery.add(place, self._seeing.token_now(self._seeing.networks.open(model, step), str(place)))
            except BadImage:
                continue  # whoever looks at it is told why
        return True

    def _nearest(self, model: str, step: int | None, image: str, *, count: int) -> Found:
        place = self._seeing.images.index(image)
        but = -1 if place is None else place
        if self._index is not None and self.has_index(model, step):
            known = self._index.token(but)  # which takes no pass of the network
            vector = self._read(model, step, image, self._index.reading) if known is None else known
            return self._index.nearest(vector, count=count, but=but)
        vector = self._read(model, step, image, Reading())
        gallery = self._gallery(model, step)
        if place is not None:
            gallery.add(place, vector)
        return gallery.nearest(vector, count=count, but=but)

    def _read(self, model: str, step: int | None, image: str, what: Read) -> Float32[numpy.ndarray, " number"]:
        token = self._seeing.token(model, step, image, what).result()
        return numpy.frombuffer(token, dtype=numpy.float32).copy()

    def _gallery(self, model: str, step: int | None) -> Gallery:
        """Return the class tokens of a network, for which it is then that images are embedded."""
        networks = self._seeing.networks
        key = networks.at(model, step)
        with self._lock:
            if key not in self._galleries:
                self._galleries[key] = Gallery(len(self._seeing.images), networks.models[model].token)
            self._galleries.move_to_end(key)
            while len(self._galleries) > GALLERIES:
                self._galleries.popitem(last=False)
            return self._galleries[key]

    def _best(
        self, model: str, step: int | None, feature: Float32[numpy.ndarray, " dim"], candidates: Sequence[int]
    ) -> list[Hit]:
        """Find the best patch of each candidate: of all that are kept, then for some seconds of others."""
        kept = {place: self._seeing.patches_if_kept(model, step, str(place)) for place in candidates}
        hits = [_hit(place, seen, feature) for place, seen in kept.items() if seen is not None]
        until = time.monotonic() + SECONDS
        for place in (place for place, seen in kept.items() if seen is None):
            try:
                asked = self._seeing.features(model, step, str(place))
                hits.append(_hit(place, patches(asked.result(until - time.monotonic())), feature))
            except (TimeoutError, Busy):
                break
            except (BadImage, UserError):  # it cannot be looked at, so it is not among those that were
                continue
        return hits


def _hit(place: int, seen: Patches, feature: Float32[numpy.ndarray, " dim"]) -> Hit:
    cosines = seen.cosines(feature)
    best = int(cosines.argmax())
    return Hit(place, float(cosines[best]), divmod(best, seen.columns), (seen.rows, seen.columns))


def _found(
    places: Int64[numpy.ndarray, " row"],
    scores: Float[numpy.ndarray, " row"],
    *,
    but: int,
    count: int,
    searched: int,
) -> Found:
    """Leave out one image, and those that are gone from the source."""
    there = numpy.flatnonzero((places >= 0) & (places != but))[:count]
    return Found(places[there], scores[there], searched)
