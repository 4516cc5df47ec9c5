"""What tests of several verbs begin with."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from tests.conftest import MakeVit
from tests.vits import ARCHITECTURE


@pytest.fixture
def model(tmp_path: Path, make_vit: MakeVit) -> Path:
    """Save a small network of ours as a file of weights."""
    backbone, path = make_vit(), tmp_path / "model.safetensors"
    save_file(backbone.state_dict(), path, header(ARCHITECTURE, backbone.pixels, step=0))
    return path
