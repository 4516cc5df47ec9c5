"""Images on servers: S3 and HTTP, with servers of this machine that the tests start and stop."""

import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from dinokit.core.messages import BadImage, UserError
from dinokit.images.intensity import Pixels
from dinokit.sources import remote
from dinokit.sources.source import Source, open_source, splits
from dinokit.views import multicrop
from dinokit.views.loader import Loader


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def _files() -> dict[str, bytes]:
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for number in range(3):
            for name, data in ((f"{number}.cls", b"cat"), (f"{number}.jpg", _png(number))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return {
        "images/train/a/0.png": _png(0),
        "images/train/b/1.png": _png(1),
        "images/val/a/2.png": _png(2),
        "lists/list.txt": b"../images/train/b/1.png\n",
        "lists/table.csv": b"path,label\n0.png,x\n1.png,y\n",
        "lists/0.png": _png(0),
        "lists/1.png": _png(1),
        "shards/s-00.tar": shard.getvalue(),
        "shards/s-01.tar": shard.getvalue(),
    }


class _Server(ThreadingHTTPServer):
    """Files of a folder; fails on request, and with or without parts of files."""

    daemon_threads = True
    parts = True
    failures: dict[str, int]  # how often a path fails before it is served
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.failures.get(self.path, 0) > 0:
            self.server.failures[self.path] -= 1
            self.send_error(503)
            return
        wanted = self.headers.get("Range", "")
        file = Path(self.translate_path(self.path))
        if not (self.server.parts and wanted and file.is_file()):
            super().do_GET()
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        data = file.read_bytes()
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[_Server]:
    for name, data in _files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))) as server:
        server.failures, server.asked = {}, []
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        for name, data in _files().items():
            files.pipe_file(f"bucket/{name}", data)
        yield "s3://bucket"
    server.stop()


def _keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def _values(source: Source) -> list[int]:
    return [int(source.read(index)[0, 0, 0]) for index in range(len(source))]


def _check_all(root: str) -> None:
    assert splits(f"{root}/images/") == ("train", "val")
    train = pickle.loads(pickle.dumps(open_source(f"{root}/images/")))
    assert (_keys(train), _values(train)) == (["train/a/0.png", "train/b/1.png"], [0, 1])
    assert (train.classes, train.labels.tolist()) == (("a", "b"), [0, 1])
    assert _values(open_source(f"{root}/images/", split="val")) == [2]
    table = open_source(f"{root}/lists/table.csv")
    assert (_values(table), table.classes) == ([0, 1], ("x", "y"))
    for spec in ("shards/s-{00..01}.tar", "shards/"):
        shards = open_source(f"{root}/{spec}")
        assert _keys(shards) == [f"s-0{shard}.tar/{number}.jpg" for shard in (0, 1) for number in range(3)]
        assert _values(shards) == [0, 1, 2, 0, 1, 2]


@pytest.mark.slow  # a server of its own; what is asked of one is seen over http
def test_s3(bucket: str) -> None:
    _check_all(bucket)
    assert _values(open_source(f"{bucket}/images/**/?.png", split="val")) == [2]


@pytest.mark.slow  # as above
def test_s3_in_loader_processes(bucket: str) -> None:
    """The connections of the parent do not survive a fork; every process makes its own."""
    loader = partial(
        Loader, open_source(f"{bucket}/shards/s-00.tar"), multicrop.Config(global_size=16, local_count=0), None
    )
    here, there = (
        list(loader(Pixels(), patch_size=8, batch=4, seed=0, workers=workers).batches(0, 2)) for workers in (0, 2)
    )
    for one, two in zip(here, there, strict=True):
        assert not one.bad
        assert not two.bad
        assert one.views.global_crops.equal(two.views.global_crops)


def test_http(web: _Server) -> None:
    _check_all(web.url)


def test_a_list_of_urls_and_paths(web: _Server, tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(_png(9))
    (tmp_path / "mixed.txt").write_text(f"{web.url}/lists/1.png?size=large\nhere.png\n{web.url}/lists/missing.png\n")
    source = open_source(str(tmp_path / "mixed.txt"))
    assert [int(source.read(index)[0, 0, 0]) for index in (0, 1)] == [1, 9]
    web.asked.clear()
    with pytest.raises(BadImage, match="cannot open: no such file on the server"):
        source.read(2)
    assert len(web.asked) == 1  # asking again would not help


def test_only_the_index_and_the_image_are_fetched_of_a_shard(web: _Server) -> None:
    open_source(f"{web.url}/shards/s-00.tar")
    web.asked.clear()
    again = open_source(f"{web.url}/shards/s-00.tar")
    assert web.asked == []  # HEAD alone
    assert int(again.read(1)[0, 0, 0]) == 1
    assert web.asked == ["/shards/s-00.tar"]


def test_a_failing_server_is_asked_a_few_times(web: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    (tmp_path / "list.txt").write_text(f"{web.url}/lists/1.png\n")
    source = open_source(str(tmp_path / "list.txt"))
    web.failures["/lists/1.png"] = remote.ATTEMPTS - 1
    assert int(source.read(0)[0, 0, 0]) == 1
    web.failures["/lists/1.png"] = 100
    with pytest.raises(BadImage, match=f"503.*after {remote.ATTEMPTS} attempts") as caught:
        source.read(0)
    assert "\n" not in str(caught.value)


def test_a_server_without_parts_is_one_line(web: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    known = open_source(f"{web.url}/shards/s-00.tar")
    web.parts = False
    with pytest.raises(BadImage, match="whole files only .* download the shard"):
        known.read(0)


@pytest.mark.parametrize("spec", ["http://127.0.0.1:9/x/", "http://127.0.0.1:9/x.tar", "http://127.0.0.1:9/x.csv"])
def test_a_server_that_is_not_there_is_one_line(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    with pytest.raises(UserError, match=r"cannot (list|open) http://127.0.0.1:9/x.*after 3 attempts") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_nothing_on_the_server_is_one_line(bucket: str, web: _Server) -> None:
    for spec, message in {
        f"{bucket}/nothing/": "cannot list s3://bucket/nothing/: no such file",
        f"{bucket}/nothing.tar": "cannot open s3://bucket/nothing.tar: no such file on the server",
        "s3://nobucket/x/": "cannot list s3://nobucket/x/: no such file",
        f"{web.url}/nothing.csv": "cannot open .*nothing.csv: no such file on the server",
        f"{bucket}/images/*.gif": "no images in the pattern",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)
