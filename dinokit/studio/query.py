"""A search in one request, for programs: an image as the body, or the name of one of the source, -> JSON.

    curl --data-binary @cat.jpg 'localhost:8000/api/query?count=5&at=120,80'
    curl 'localhost:8000/api/query?name=animals/cat.jpg'

So many wait for their turn, and no more: then the answer is 503 at once. An image that is sent is read before it has a
place among them (bodies.py), so who sends slowly takes none. What was sent is forgotten with the answer and takes the
place of nothing that was dragged into the page.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from threading import Lock
from typing import Any, final

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dinokit.looks.field import bare
from dinokit.sources.selection import finder
from dinokit.studio import images as limits
from dinokit.studio.bodies import Bodies
from dinokit.studio.networks import Busy
from dinokit.studio.search import Searcher
from dinokit.studio.seeing import Seeing

TURNS, WAITING = 4, 28  # queries that are worked on; that wait, as many by name and as many by image
COUNT = 10
Image = Callable[[], str]  # finds out, in a thread, which image is meant
FOUND = ("score", "patch", "grid")  # what is told of a hit besides the image


@final
class Queries:
    """Answers searches of programs by the first model."""

    def __init__(self, seeing: Seeing, searcher: Searcher, bodies: Bodies) -> None:
        self._seeing, self._searcher, self._bodies = seeing, searcher, bodies
        self._turns, self._here = CapacityLimiter(TURNS), Counter[str]()
        self._decoding = Lock()  # one at a time: an image may take half a gigabyte
        self._find: Callable[[Iterable[str]], Any] | None = None
        self._model = next(iter(seeing.networks.models))

    async def by_name(self, request: Request) -> Response:
        """Answer for an image of the source."""
        names = request.query_params.getlist("name")
        if len(names) != 1:
            raise HTTPException(400, f"expected one name, got {len(names)}; or send an image by POST")
        return await self._answered(request, partial(self._place, names[0]))

    async def by_image(self, request: Request) -> Response:
        """Answer for an image that is sent."""
        self._check(request)  # before it is read
        async with self._bodies.read(request, limits.BYTES) as data:
            return await self._answered(request, partial(self._kept, data))

    async def _answered(self, request: Request, image: Image) -> Response:
        """Search when it is the request's turn."""
        self._check(request)
        work = partial(self._search, image, _at(request), _count(request))
        self._here[request.method] += 1
        try:
            return JSONResponse(await to_thread.run_sync(work, limiter=self._turns))
        finally:
            self._here[request.method] -= 1

    def _check(self, request: Request) -> None:
        """Refuse what is asked wrongly, and what would have to wait among too many."""
        _count(request)
        _at(request)
        waiting = self._here[request.method]
        if waiting >= TURNS + WAITING:
            raise Busy(f"{waiting} searches wait already; ask again in a moment")

    def _search(self, which: Image, at: tuple[float, float] | None, count: int) -> dict[str, Any]:
        """Search, in a thread."""
        image = which()
        try:
            patch = None if at is None else self._patch(image, *at)
            found = self._searcher.search(self._model, None, image, patch, count=count)
        finally:
            self._seeing.drop(image)
        about = self._seeing.images.about
        hits = [about(str(hit.place)) | {each: asdict(hit)[each] for each in FOUND} for hit in found.hits]
        return {"found": hits, "searched": found.searched, "of": len(self._seeing.images)}

    def _kept(self, data: bytes) -> str:
        with self._decoding:
            return self._seeing.add(data, "query", passing=True)["id"]

    def _patch(self, image: str, x: float, y: float) -> tuple[int, int]:
        """Return row and column of the patch at a pixel."""
        network = self._seeing.networks.models[self._model]
        with self._decoding:
            seen = bare(
                self._seeing.images.read(image), patch_size=network.patch, name="the image", size=self._seeing.size
            )
        return seen.at(x, y)

    def _place(self, name: str) -> str:
        if self._find is None:
            self._find = finder(self._seeing.images.source)
        place = int(self._find([name])[0])
        places = [place] if place >= 0 else self._searcher.named(name)
        if len(places) > 1:
            several = f"{len(places):,} images are called '{name[: limits.NAME]}'"
            raise HTTPException(400, f"{several}; give the name of one as /api/images lists it")
        if not places:
            raise HTTPException(404, f"no image is called '{name[: limits.NAME]}'; /api/images lists them")
        return str(places[0])


def _count(request: Request) -> int:
    text = request.query_params.get("count", str(COUNT))
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
        raise HTTPException(400, f"expected count to be a whole number from 1 on, got '{text[:40]}'")
    return int(text)


def _at(request: Request) -> tuple[float, float] | None:
    text = request.query_params.get("at")
    if text is None:
        return None
    try:
        x, y = (float(each) for each in text.split(","))
    except ValueError as error:
        raise HTTPException(400, f"expected at to be X,Y in pixels such as 120,80, got '{text[:40]}'") from error
    if not (abs(x) < 1e6 and abs(y) < 1e6):  # nor NaN
        raise HTTPException(400, f"expected at to be X,Y in pixels such as 120,80, got '{text[:40]}'")
    return x, y
