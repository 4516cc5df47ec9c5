"""A studio served by uvicorn, as a person would start it: two tiny models, one of them a run, and some images."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from dinokit.images.intensity import Pixels
from dinokit.models.vit import VisionTransformer
from dinokit.studio import server
from dinokit.studio.start import Opened, opened
from tests.vits import ARCHITECTURE

BROKEN = "5.png"
COUNT = 8  # images, of which one is broken


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        """What it says."""
        return json.loads(self.data)


@dataclass(frozen=True)
class Served:
    """A studio and where it listens."""

    opened: Opened
    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask as a program does: with nothing but what is said here; None leaves a header out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            named = {"Host": f"127.0.0.1:{self.port}"} | {key.replace("_", "-"): each for key, each in headers.items()}
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            if isinstance(data, bytes):
                named["Content-Length"] = str(len(data))
            for key, each in named.items():
                connection.putheader(key, each)
            connection.endheaders(data if isinstance(data, bytes) else None)
            found = connection.getresponse()
            return Answer(found.status, {key.lower(): each for key, each in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for something."""
        return self.ask("GET", path, **headers)


Serve = Callable[..., Any]


@contextmanager
def served(found: Opened, **options: Any) -> Iterator[Served]:
    """Serve a studio from a thread."""
    with server.listening("127.0.0.1", 0) as socket:
        running = server.server(server.application(found, host="127.0.0.1", **options))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.005)
            yield Served(found, socket.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join()
            found.close()


def backbone(seed: int) -> VisionTransformer:
    """Make a tiny transformer that looks at 16 pixels, of which each seed is another."""
    made = VisionTransformer(ARCHITECTURE, seed=seed).eval().requires_grad_(False)
    made.pixels = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16)
    return made


def saved(folder: Path, seed: int) -> Path:
    """Write such a model as a weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = backbone(seed)
    about = header(ARCHITECTURE, made.pixels, step=seed)
    save_file(made.state_dict(), folder / "model.safetensors", about)
    return folder / "model.safetensors"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise, each image in its own colour and one of them no image."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(COUNT):
        draw = numpy.random.default_rng(index)
        pixels = draw.integers(0, 200, 3) + draw.integers(0, 56, (20, 30, 3))
        Image.fromarray(pixels.astype(numpy.uint8)).save(folder / f"{index}.png")
    (folder / BROKEN).write_bytes(b"no picture at all")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run of two checkpoints, and a weights file."""
    folder = tmp_path_factory.mktemp("models")
    for step in (0, 100):
        saved(folder / "run" / "checkpoints" / str(step), step)
    saved(folder / "run", 100)
    return {str(folder / "run"): "run", str(saved(folder / "other", 7)): "other"}


@pytest.fixture(scope="session")
def shared(pictures: Path, models: dict[str, str]) -> Iterator[Served]:
    """One studio for all tests that leave it as it is."""
    with served(opened(models, str(pictures), size=16, device=torch.device("cpu"))) as found:
        yield found
