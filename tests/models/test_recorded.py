"""What torch.export and tracing write down is right for images of every size, not only for those it was shown."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, build
from dinokit.models.packed import packed
from dinokit.models.rope import RopeConfig

SMALL = {"patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "ffn_hidden": 32}
TABLE = {"registers": 0, "position": "offset", "position_grid": 4}
NETWORKS: dict[str, Architecture] = {
    "rope": vit.Config(**SMALL, registers=1),
    "longest side": vit.Config(**SMALL, rope=RopeConfig(coordinates="max")),
    "offset": vit.Config(**SMALL, **TABLE),
    "antialias": vit.Config(**SMALL, **TABLE | {"registers": 1, "position": "antialias"}),
    "stem": vit.Config(**SMALL, stem=8),
    "convnext": convnets.ConvNeXtConfig(dims=(4, 4, 8, 8), depths=(1, 1, 1, 1)),
}
WIDE = vit.Config(**SMALL | {"dim": 192, "heads": 3}, registers=3)
# of the table's own grid, height and width swapped, as many patches in another shape, smaller, larger than was shown,
# and with pixels beyond the last whole patch
SIZES = [(2, 16, 16), (3, 24, 16), (2, 16, 24), (1, 8, 32), (5, 20, 12), (1, 40, 36), (2, 19, 30)]


class Outputs(nn.Module):
    """What a runtime can return of Features."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = build(NETWORKS.get(name, WIDE)).eval()
        self.scale = 8 if name == "convnext" else 1
        with torch.no_grad():
            for parameter in self.backbone.parameters():  # every position and every branch must count
                parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return features.cls, features.maps

    def images(self, count: int, height: int, width: int) -> Tensor:
        draw = torch.Generator().manual_seed(height)
        return torch.randn(count, 3, height * self.scale, width * self.scale, generator=draw)


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without checks of shapes, in which sizes that are recorded are no plain numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_traced_network_sees_images_of_any_size(name: str, frozen: bool) -> None:
    network = Outputs(name).requires_grad_(not frozen)
    shown = network.images(2, 16, 24)
    with pytest.warns((FutureWarning, torch.jit.TracerWarning)):
        traced = torch.jit.trace(network, (shown,), check_trace=False)
    for size in SIZES:
        images = network.images(*size)
        for found, expected in zip(traced(images), network(images), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)  # another order of the same sums


# slow are those that differ from another in what tracing sees as well
SLOW = ("longest side", "offset", "stem", "convnext", "antialias")
EXPORTED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in NETWORKS]


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_network_sees_batches_and_images_of_any_size(name: str) -> None:
    network = Outputs(name)
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    if name == "convnext":  # whose sides torch bounds by itself
        free = dict.fromkeys(free, torch.export.Dim.AUTO)
    exported = torch.export.export(network, (network.images(2, 16, 24),), dynamic_shapes={"images": free}).module()
    for size in SIZES:
        images = network.images(*size)
        for found, expected in zip(exported(images), network(images), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_an_exported_network_that_could_be_packed_sees_fewer_tokens_too() -> None:
    network = Outputs("wide").requires_grad_(False)
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    shown, small = network.images(1, 48, 48), network.images(1, 16, 24)  # of 148 and 28 tokens
    with torch.no_grad(), packed(network):
        network(shown)
        exported = torch.export.export(network, (shown,), dynamic_shapes={"images": free}).module()
        for found, expected in zip(exported(small), network(small), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
