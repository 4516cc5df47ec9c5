"""What several tests need: a transformer that costs nothing, folders of images, and a run's folder.

torch and dinokit are imported where they are used: xdist's first process reads this file, and its workers wait for it.
"""

from tests import disk, shapes  # noqa: F401 - before anything of dinokit, which is to be imported with its checks

# isort: split

import gc
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pytest
import yaml
from PIL import Image

if TYPE_CHECKING:
    from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., "VisionTransformer"]
MakeFolder = Callable[..., Path]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests of a GPU out where there is none."""
    import torch

    there = torch.cuda.is_available()
    left_out = [item for item in items if not there and item.get_closest_marker("gpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Look for no garbage while modules are imported, nor later in what they hold: half a million objects and more."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def first_calls() -> None:
    """Count the calls that are checked anew in each test."""
    shapes.calls.clear()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the indexes of shards out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def make_vit() -> MakeVit:
    """What builds a random transformer of 4 px patches, for images of `size` px and with weights of a `seed`."""
    from tests.vits import vit

    return vit


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A folder of noise images at the paths `files`; if tinted, each folder has its own colour, else all are alike."""

    def make(
        *files: str, name: str = "images", sizes: tuple[tuple[int, int], ...] = ((16, 16),), tinted: bool = True
    ) -> Path:
        return noise(tmp_path / name, *files, sizes=sizes, tinted=tinted)

    return make


def noise(root: Path, *files: str, sizes: tuple[tuple[int, int], ...] = ((16, 16),), tinted: bool = True) -> Path:
    """Write what `make_folder` makes."""
    for index, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = sum(map(ord, path.parent.name)) if tinted else 0
        tint = numpy.random.default_rng(folder).integers(0, 200, 3)
        width, height = sizes[index % len(sizes)]
        pixels = numpy.random.default_rng([folder, index]).integers(0, 55, (height, width, 3))
        Image.fromarray((tint + pixels).astype(numpy.uint8)).save(path)
    return root


def few_photos(folder: Path) -> Path:
    """Write twelve small pictures."""
    draw = numpy.random.default_rng(0)
    for index in range(12):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve small pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return few_photos(folder)


@pytest.fixture
def make_run(tmp_path: Path, make_vit: MakeVit) -> MakeFolder:
    """A run's folder as the engine leaves it, with another random teacher in each checkpoint."""
    from safetensors.torch import save_file

    from dinokit.checkpoints.store import header
    from tests.vits import ARCHITECTURE

    def make(data: str, *, steps: tuple[int, ...] = (0, 10, 100), lines: tuple[dict[str, object], ...] = ()) -> Path:
        run = tmp_path / "run"
        run.mkdir()
        experiment = {
            "recipe": "demo",
            "steps": 100,
            "data": {"source": data, "batch_size": 8},
            "objectives": {"dino": {}},
        }
        (run / "config.yaml").write_text(yaml.safe_dump({"experiment": experiment, "runtime": {"workers": 0}}))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for step in steps:
            backbone = make_vit(seed=step)
            (run / "checkpoints" / str(step)).mkdir(parents=True)
            about = header(ARCHITECTURE, backbone.pixels, step=step)
            save_file(backbone.state_dict(), run / "checkpoints" / str(step) / "model.safetensors", about)
        return run

    return make
