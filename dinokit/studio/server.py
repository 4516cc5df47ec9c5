"""The studio as a web application: addresses -> what `seeing`, `search` and `images` give, errors -> one line.

Pictures are decoded in a few threads, passes of the network wait for theirs (networks.py), searches have a few more, so
that the loop which answers is never blocked.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import unquote

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from dinokit.config import from_plain
from dinokit.core import device as devices
from dinokit.core.messages import BadImage, RunError, UserError, line_of
from dinokit.core.numbers import at_least
from dinokit.studio import images as limits
from dinokit.studio.bodies import Bodies
from dinokit.studio.guard import Guard, refused
from dinokit.studio.images import Unknown
from dinokit.studio.networks import Busy
from dinokit.studio.query import FOUND, Queries
from dinokit.studio.search import Searcher
from dinokit.studio.start import Opened

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
OCTETS = "application/octet-stream"
SEARCHES = 2  # at a time
QUESTION = 1 << 14  # bytes of a search


@dataclass(frozen=True)
class Question:
    """What a search is asked."""

    model: str
    image: str
    step: int | None = None  # of a run; None: the last
    patch: tuple[int, int] | None = None  # row, column; None: by image
    count: int = at_least(1, 24)


@final
class Studio:
    """Answers to every address."""

    def __init__(self, opened: Opened) -> None:
        """Begin to embed images in the background."""
        self._searcher = Searcher(opened.seeing, opened.index)
        self._bodies = Bodies()
        self._queries = Queries(opened.seeing, self._searcher, self._bodies)
        self.opened, self.seeing, self.images = opened, opened.seeing, opened.seeing.images
        self._readers = CapacityLimiter(devices.readers(self.seeing.networks.device))
        self._searches = CapacityLimiter(SEARCHES)
        self._alone = CapacityLimiter(1)  # uploads are decoded one at a time

    async def about(self, _: Request) -> Response:
        """Say what there is."""
        return JSONResponse(self.opened.about())

    async def several(self, request: Request) -> Response:
        """List some images."""
        first, count = _number(request, "from", 0), _number(request, "count", 60)
        return JSONResponse({"count": len(self.images), "images": self.images.listed(first or 0, count or 0)})

    async def thumb(self, request: Request) -> Response:
        """Return a small picture of an image."""
        return Response(await self._read(self.images.thumb, request.path_params["image"]), media_type="image/jpeg")

    async def picture(self, request: Request) -> Response:
        """Return what a model sees of an image."""
        model, _ = self.seeing.networks.at(_word(request, "model"), None)
        image, size, patch = request.path_params["image"], self.seeing.size, self.seeing.networks.models[model].patch
        drawn = await self._read(lambda: self.images.picture(image, patch_size=patch, size=size))
        return Response(drawn, media_type="image/webp")

    async def features(self, request: Request) -> Response:
        """Return the features of the patches of an image."""
        step = _number(request, "step", None)
        asked = self.seeing.features(_word(request, "model"), step, _word(request, "image"))
        return Response(await _answer(asked), media_type=OCTETS)

    async def attention(self, request: Request) -> Response:
        """Return where the class token of an image looks."""
        model, step, block = _word(request, "model"), _number(request, "step", None), _number(request, "block", None)
        self.seeing.networks.at(model, step)
        known = self.seeing.networks.models[model]
        if known.blocks is None or (block is not None and block >= known.blocks):
            has = "no attention to show" if known.blocks is None else f"the blocks 0 to {known.blocks - 1}"
            raise Unknown(f"model {model} has {has}, got block {'the last' if block is None else block}")
        asked = self.seeing.attention(model, step, _word(request, "image"), block)
        return Response(await _answer(asked), media_type=OCTETS)

    async def add(self, request: Request) -> Response:
        """Take an image in; its bytes are counted as they come, its pixels by its header."""
        name = unquote(request.headers.get("x-name", ""), errors="replace")
        async with self._bodies.read(request, limits.BYTES) as data:
            return JSONResponse(await to_thread.run_sync(self.seeing.add, data, name, limiter=self._alone), 201)

    async def search(self, request: Request) -> Response:
        """Find images."""
        async with self._bodies.read(request, QUESTION) as data:
            asked = _question(data)
        found = await to_thread.run_sync(
            lambda: self._searcher.search(asked.model, asked.step, asked.image, asked.patch, count=asked.count),
            limiter=self._searches,
        )
        hits = [self.images.about(str(hit.place)) | {each: asdict(hit)[each] for each in FOUND} for hit in found.hits]
        return JSONResponse({"found": hits, "searched": found.searched, "of": len(self.images)})

    async def query(self, request: Request) -> Response:
        """Find images in one request."""
        if request.method == "POST":
            return await self._queries.by_image(request)
        return await self._queries.by_name(request)

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await to_thread.run_sync(work, *arguments, limiter=self._readers)


def application(opened: Opened, *, host: str, token: str | None = None, page: Path = PAGE) -> ASGIApp:
    """Return the application, behind its guard."""

    studio = Studio(opened)

    async def index(_: Request) -> Response:
        return FileResponse(page / "index.html")

    routes = [
        Route("/", index),
        Mount("/page", StaticFiles(directory=page)),
        Route("/api/about", studio.about),
        Route("/api/images", studio.several, methods=["GET"]),
        Route("/api/images", studio.add, methods=["POST"]),
        Route("/api/images/{image}/thumb", studio.thumb),
        Route("/api/images/{image}/picture", studio.picture),
        Route("/api/features", studio.features),
        Route("/api/attention", studio.attention),
        Route("/api/search", studio.search, methods=["POST"]),
        Route("/api/query", studio.query, methods=["GET", "POST"]),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: _said,
        Unknown: _says(404),
        BadImage: _says(422),
        UserError: _says(422),
        Busy: _says(503),
        RunError: _says(500),
        ClientDisconnect: _says(400),
        Exception: _failed,
    }
    inner = Starlette(routes=routes, exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return Guard(inner, host=host, token=token)


def listening(host: str, port: int) -> socket.socket:
    """Open the socket to serve on; port 0: any that is free.

    Raises:
        UserError: if it is taken, or there is no such host on this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot serve on {host} port {port}: {said}; give another --port, or 0 for any") from error


def server(app: ASGIApp) -> uvicorn.Server:
    """Return what serves an application, with a log of what has failed alone."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,  # addresses may hold a token
            server_header=False,
            proxy_headers=False,
            http="h11",  # what comes with uvicorn, so that it is the same everywhere
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )


def _word(request: Request, name: str) -> str:
    found = request.query_params.getlist(name)
    if len(found) != 1:
        raise HTTPException(400, f"expected one {name}, got {len(found)}")
    return found[0]


def _number(request: Request, name: str, default: int | None) -> int | None:
    found = request.query_params.getlist(name)
    if found in ([], [""]):
        return default
    if len(found) != 1 or not (found[0].isascii() and found[0].isdigit() and len(found[0]) < 13):
        raise HTTPException(400, f"expected {name} to be a whole number, got '{found[0][:40]}'")
    return int(found[0])


def _question(data: bytes) -> Question:
    try:
        return from_plain(Question, json.loads(data))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"expected a search as JSON, got something else: {line_of(error)}") from error


async def _answer(asked: "Future[bytes]") -> bytes:
    return await asyncio.shield(asyncio.wrap_future(asked))  # others may wait for it too


async def _said(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    lines = {404: "nothing is at this address; the page is at /", 405: "the address takes other methods"}
    own = error.detail not in ("Not Found", "Method Not Allowed")
    answer = refused(error.status_code, error.detail if own else lines[error.status_code])
    answer.headers.update(error.headers or {})
    return answer


def _says(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return refused(status, line_of(error))

    return answer


async def _failed(_: Request, error: Exception) -> Response:
    return refused(500, f"the studio failed ({type(error).__name__}); its terminal says more")
