"""Small networks of every family, each exported once in a session."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jaxtyping
import pytest
import torch

from dinokit.commands.export import TARGETS
from dinokit.exports.outputs import Outputs, Precision, about
from dinokit.images.intensity import Pixels
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, Network, build

Exported = Callable[..., Path]
SMALL = {"patch_size": 4, "dim": 16, "depth": 1, "heads": 2, "ffn_hidden": 32}
TABLE = {"registers": 0, "position": "offset", "position_grid": 4}
NETWORKS: dict[str, Architecture] = {
    "dinov3": vit.Config(**SMALL, registers=1),
    "dinov2": vit.Config(**SMALL, **TABLE),
    "dinov2_reg": vit.Config(**SMALL, **TABLE | {"registers": 1, "position": "antialias"}),
    "convnext": convnets.ConvNeXtConfig(dims=(4, 4, 8, 8), depths=(1, 1, 1, 1)),
    "resnet": convnets.ResNetConfig(width=4, depths=(1, 1, 1, 1)),
}


def network(name: str) -> Network:
    """Build a network in which every position and every branch counts."""
    found = build(NETWORKS[name]).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    for each in found.parameters():
        each += 0.2 * torch.randn(each.shape, generator=draw)
    found.pixels = Pixels((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 4 * found.patch_size)
    return found


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without checks of shapes, in which sizes that are recorded are no plain numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What writes a network as a file, unless it is there."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def write(name: str, to: str, precision: Precision = "fp32", dynamic: bool = True) -> Path:
        backbone, target = network(name), TARGETS[to]
        told = about(backbone, ("cls", "patches", "layers"), model=name, dynamic=dynamic, precision=precision)
        out = folder / f"{name}.{precision}.{dynamic}{target.SUFFIX}"
        target.write(Outputs(backbone, told.outputs, precision).eval(), told, out)
        return out

    return write
