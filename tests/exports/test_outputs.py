"""What an exported network returns, and what its file says."""

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.exports.outputs import About, Outputs, about, exportable
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import Config, VisionTransformer
from tests.exports.conftest import SMALL, network


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (2, (0, 1)), (1, (0,)), (6, (0, 2, 3, 5))]
)
def test_layers_are_spaced_evenly_and_end_with_the_last(depth: int, layers: tuple[int, ...]) -> None:
    backbone = VisionTransformer(Config(**SMALL | {"depth": depth})).eval()
    told = about(backbone, ("layers",), model="", dynamic=True)
    assert told.outputs == tuple(f"layer_{layer}" for layer in layers)


@pytest.mark.parametrize("name", ["dinov3", "convnext"])
def test_outputs_are_the_backbones_own_in_the_order_asked_for(name: str) -> None:
    backbone = network(name)
    told = about(backbone, ("patches", "layers", "cls"), model=name, dynamic=True)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found, features = Outputs(backbone, told.outputs)(images), backbone(images)
    assert torch.equal(found[0], features.patches)
    assert torch.equal(found[-1], features.cls)
    assert torch.equal(found[-2], features.patches)  # the last layer


def test_what_is_kept_is_read_back() -> None:
    told = about(network("dinov2"), ("cls", "layers"), model="1", dynamic=False, precision="fp16")
    assert About.of(told.plain(), file="f") == told
    with pytest.raises(UserError, match="f was not written by dinokit export"):
        About.of({"model": "1"}, file="f")


@pytest.mark.parametrize("outputs", [("cls", "register"), ("cls", "cls"), ()])
def test_outputs_that_do_not_exist_are_one_line(outputs: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="output"):
        about(network("dinov2"), outputs, model="m", dynamic=True)


def test_half_precision_leaves_the_model_as_it_is() -> None:
    backbone = network("dinov3")
    Outputs(backbone, ("cls",), "fp16")
    assert {each.dtype for each in backbone.parameters()} == {torch.float32}


def test_a_network_of_another_library_is_one_line() -> None:
    with pytest.raises(UserError, match="runs in another library"):
        exportable(RawPixels(size=8))
