"""Foreign pages, foreign names and hostile input get a clear refusal, and the studio goes on."""

import io
import resource
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.studio import guard, images
from dinokit.studio.start import opened
from tests.studio.conftest import Served, served

TOKEN = "a-token-of-letters_0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]", "[::1]:9000"])
def test_names_of_this_machine_are_served_from_any_forwarded_port(shared: Served, host: str) -> None:
    assert shared.get("/api/about", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "a@127.0.0.1", "", "192.168.0.1", "localhost."],
)
def test_a_foreign_host_is_refused(shared: Served, host: str) -> None:
    answer = shared.get("/api/about", Host=host)
    assert answer.status == 421
    assert answer.json["error"].startswith("expected one of the hosts 127.0.0.1, ::1, localhost, got")


def test_a_request_without_a_host_is_refused(shared: Served) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as raw:
        raw.sendall(b"GET /api/about HTTP/1.0\r\n\r\n")
        assert b" 421 " in raw.makefile("rb").readline()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"]
)
def test_an_origin_of_another_page_is_refused(shared: Served, origin: str) -> None:
    answer = shared.ask("POST", "/api/images", b"x", Origin=origin)
    assert (answer.status, answer.json["error"][:44]) == (403, "expected a request of the studio's own page,")
    assert "access-control-allow-origin" not in answer.headers


def test_elements_of_other_pages_are_refused_and_links_followed(shared: Served) -> None:
    assert shared.get("/api/images/0/thumb", Sec_Fetch_Site="cross-site").status == 403
    assert shared.get("/api/images/0/thumb", Sec_Fetch_Site="same-site").status == 403
    assert shared.get("/api/images/0/thumb", Sec_Fetch_Site="same-origin").status == 200
    assert shared.get("/?x", Sec_Fetch_Site="cross-site").status != 403
    own = f"http://127.0.0.1:{shared.port}"
    body = {"model": "a", "image": "0"}
    assert shared.ask("POST", "/api/search", body, Origin=own, Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize("path", ["/api/about", "/api/nothing", "/api/features", "/api/images/5/thumb"])
def test_every_answer_says_what_a_browser_must_not_do(shared: Served, path: str) -> None:
    headers = shared.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


@pytest.fixture
def locked(models: dict[str, str], pictures: Path) -> Iterator[Served]:
    """A studio with a token."""
    model = dict(list(models.items())[1:])
    with served(opened(model, str(pictures), size=16, device=torch.device("cpu")), token=TOKEN) as found:
        yield found


def test_with_a_token_nothing_is_shown_without(locked: Served) -> None:
    for path in ("/", "/?token=wrong", "/api/about", f"/api/about?token={TOKEN}", "/page/studio.js", "/?token=%FF"):
        answer = locked.get(path)
        assert (answer.status, list(answer.json)) == (401, ["error"]), path
    assert locked.get("/api/about", Authorization=f"Bearer {TOKEN}").status == 200
    assert locked.get("/api/about", Authorization="Bearer wrong").status == 401
    entered = locked.get(f"/?token={TOKEN}")
    cookie = entered.headers["set-cookie"]
    assert (entered.status, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert locked.get("/api/about", Cookie=cookie.partition(";")[0]).status == 200
    assert locked.get("/api/about", Cookie=cookie.partition("=")[0] + "=wrong").status == 401


def test_other_machines_need_a_token_that_cannot_be_guessed() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        guard.check_host(host, None)
    guard.check_host("0.0.0.0", TOKEN)
    with pytest.raises(UserError, match="--host 0.0.0.0 shows the images to other machines; give a token too, such as"):
        guard.check_host("0.0.0.0", None)
    with pytest.raises(UserError, match="expected a --token of 16 or more of"):
        guard.check_host("0.0.0.0", "short")


def test_on_all_addresses_those_of_digits_are_served() -> None:
    door = guard.Guard(lambda *_: None, host="0.0.0.0", token=TOKEN)  # type: ignore[arg-type]
    assert [door._serves(name) for name in ("10.1.2.3", "fe80::1", "localhost", "evil.example")] == [
        True,
        True,
        True,
        False,
    ]


def chunked(studio: Served, path: str, total: int) -> tuple[bytes, int]:
    """Send a body without saying its size until an answer comes; return its first line and how much was sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", studio.port), timeout=20) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        raw.settimeout(0.01)
        piece, answer = bytes(1 << 16), b""
        while sent < total and not answer:
            try:
                raw.settimeout(20)
                raw.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                sent += len(piece)
                raw.settimeout(0.001)
                answer = raw.recv(1 << 12)
            except TimeoutError:
                continue
        return answer.partition(b"\r\n")[0], sent


def test_a_huge_upload_is_cut_at_the_limit(shared: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BYTES", 1 << 20)
    line, sent = chunked(shared, "/api/images", 64 << 20)
    assert b" 413 " in line
    assert sent < 8 << 20
    told = shared.ask("POST", "/api/images", None, Content_Length=str(1 << 40))
    assert (told.status, told.json) == (413, {"error": "expected at most 1,048,576 bytes, got more; make it smaller"})
    line, _ = chunked(shared, "/api/search", 1 << 20)
    assert b" 413 " in line
    assert shared.get("/api/about").status == 200


def png(width: int, height: int) -> bytes:
    """A PNG that states a size and holds one short row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    stated = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", stated) + chunk(b"IDAT", zlib.compress(bytes(16))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (7_000, 7_000), (40_000_001, 1)])
def test_a_header_that_states_a_huge_picture_is_refused_before_decoding(shared: Served, size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = shared.ask("POST", "/api/images", png(*size))
    assert (answer.status, list(answer.json)) == (422, ["error"])
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    )  # KiB; decoded they take 147 MB and more
    assert "pixels" in answer.json["error"]


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", png(2, 2)[:40], bytes(1000), b"\x93NUMPY\x01\x00\xff\xff", b"II*\x00"]
)
def test_what_is_no_picture_is_refused_with_its_reason(shared: Served, data: bytes) -> None:
    answer = shared.ask("POST", "/api/images", data)
    assert (answer.status, list(answer.json)) == (422, ["error"])
    assert "\n" not in answer.json["error"]
    assert "Traceback" not in answer.json["error"]


def test_an_array_is_a_picture_too(shared: Served) -> None:
    file = io.BytesIO()
    numpy.save(file, numpy.zeros((8, 8, 3), numpy.uint8))
    assert shared.ask("POST", "/api/images", file.getvalue(), X_Name="%00%0Ax.npy").json["name"] == "x.npy"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"model": "a"}', b'{"model": 1, "image": "0"}', b"[" * 10_000, b"\xff", b"null"]
)
def test_a_search_that_is_none_is_refused(shared: Served, body: bytes) -> None:
    answer = shared.ask("POST", "/api/search", body)
    assert answer.status == 400
    assert answer.json["error"].startswith("expected a search as JSON, got something else")


def test_a_hundred_requests_at_once_are_answered_or_refused_and_the_studio_goes_on(shared: Served) -> None:
    paths = ["/api/images/0/thumb", "/api/features?model=a&image=2", "/api/attention?model=a&image=3", "/api/images"]
    begin = threading.Barrier(100)

    def ask(number: int) -> int:
        begin.wait(20)
        return shared.get(paths[number % len(paths)]).status

    with ThreadPoolExecutor(100) as pool:
        statuses = Counter(pool.map(ask, range(100)))
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 25
    assert shared.get("/api/about").status == 200
