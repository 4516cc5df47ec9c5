"""What is sent is bounded in bytes and in time, and who sends slowly holds nobody up."""

import asyncio
from collections.abc import Coroutine
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dinokit.studio import bodies, query
from dinokit.studio.bodies import Bodies
from dinokit.studio.networks import Busy
from tests.studio.conftest import Served

FOREVER = None  # in place of a piece: nothing more comes


def request(*pieces: bytes | None, declared: int = 0) -> Request:
    """A request whose body comes in pieces; the last one again and again if it is empty."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        piece = left[0] if left == [b""] else left.pop(0)
        if piece is FOREVER:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    return Request({"type": "http", "headers": [(b"content-length", str(declared).encode())]}, receive)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def sent(all: Bodies, what: Request, most: int = 1000) -> bytes:
    async with all.read(what, most) as data:
        return data


def test_a_body_is_its_pieces_in_their_order() -> None:
    async def work() -> None:
        assert await sent(Bodies(), request(b"ab", b"", b"c")) == b"abc"

    run(work())


@pytest.mark.parametrize("what", [request(b"", declared=11), request(b"123456", b"78901")])
def test_more_than_so_many_bytes_are_refused_declared_or_not(what: Request) -> None:
    async def work() -> None:
        with pytest.raises(HTTPException) as error:
            await sent(Bodies(), what, most=10)
        assert (error.value.status_code, error.value.detail[:24]) == (413, "expected at most 10 byte")

    run(work())


@pytest.mark.parametrize(
    ("pause", "whole", "what"),
    [(0.01, 60.0, request(b"abc", FOREVER)), (60.0, 0.01, request(b"abc", b""))],
    ids=["pauses", "trickles"],
)
def test_who_pauses_and_who_trickles_is_refused(
    monkeypatch: pytest.MonkeyPatch, pause: float, whole: float, what: Request
) -> None:
    monkeypatch.setattr(bodies, "PAUSE", pause)
    monkeypatch.setattr(bodies, "WHOLE", whole)

    async def work() -> None:
        with pytest.raises(HTTPException) as error:
            await sent(Bodies(), what)
        wanted = f"expected the body within {whole:g} s and no pause of {pause:g} s, got 3 bytes of it; send it again"
        assert (error.value.status_code, error.value.detail) == (408, wanted)

    run(work())


def test_what_is_held_counts_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HELD", 10)

    async def work() -> None:
        all = Bodies()
        async with all.read(request(b"1234", b"5678"), 1000):
            with pytest.raises(Busy, match="too much is being sent at once"):
                await sent(all, request(b"12", b"3"))
            assert await sent(all, request(b"12")) == b"12"  # of the refused one nothing is left
        assert await sent(all, request(b"1234567890")) == b"1234567890"

    run(work())


def test_many_may_send_and_more_are_refused_until_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SENDERS", 1)

    async def work() -> None:
        all = Bodies()
        slow = asyncio.create_task(sent(all, request(b"a", FOREVER)))
        while not all._held:
            await asyncio.sleep(0)
        with pytest.raises(Busy, match="1 images are being sent already"):
            await sent(all, request(b"b"))
        slow.cancel()
        await asyncio.wait([slow])
        async with all.read(request(b"b"), 10):
            assert await sent(all, request(b"c")) == b"c"  # who has sent and waits for an answer sends no more

    run(work())


def test_the_manual_says_what_is_refused() -> None:
    said = (Path(__file__).parents[2] / "docs/tasks/search.md").read_text()
    assert f"{bodies.SENDERS + 1}th image while {bodies.SENDERS} are being sent" in said
    assert f"more than {bodies.HELD >> 20} MB held" in said
    assert f"more than {bodies.WHOLE:g} s to arrive, or pauses for {bodies.PAUSE:g}" in said


def test_slow_senders_hold_up_no_other(shared: Served, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PAUSE", 60.0)
    monkeypatch.setattr(bodies, "WHOLE", 60.0)
    slow = [HTTPConnection("127.0.0.1", shared.port) for _ in range(query.TURNS + query.WAITING + 8)]
    for place, each in enumerate(slow):
        each.putrequest("POST", ("/api/query", "/api/images")[place % 2])
        each.putheader("Content-Length", "1000")
        each.endheaders(b"begun")
    try:
        data = (pictures / "3.png").read_bytes()
        assert shared.ask("POST", "/api/query?count=1", data).status == 200
        assert shared.ask("POST", "/api/images", data).status == 201
    finally:
        for each in slow:
            each.close()
