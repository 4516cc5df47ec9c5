"""Data and models of which a suite costs seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from tests.conftest import MakeFolder, MakeVit
from tests.evaluation.dense_data import squares
from tests.vits import ARCHITECTURE

SaveModel = Callable[[str, int], str]


@pytest.fixture
def save_model(tmp_path: Path, make_vit: MakeVit) -> SaveModel:
    """Write a small network under a name; the name of its file is that of its column."""

    def save(name: str, seed: int) -> str:
        path = tmp_path / "models" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        backbone = make_vit(seed=seed)
        save_file(backbone.state_dict(), path, header(ARCHITECTURE, backbone.pixels, step=0))
        return str(path)

    return save


@pytest.fixture
def root(tmp_path: Path, make_folder: MakeFolder) -> Path:
    """A folder with a set of classes, one of things, one with masks, and a folder that is no set."""
    classes = (f"{split}/{kind}/{index}.png" for split in ("train", "val") for kind in "abc" for index in range(6))
    make_folder(*classes, name="data/colours")
    make_folder(*(f"{thing}/{index}.png" for thing in "uvw" for index in range(2)), name="data/twins", tinted=False)
    make_folder(*(f"{index}.png" for index in range(3)), name="data/unlabelled")
    squares(tmp_path / "data" / "squares")
    return tmp_path / "data"
