"""RGB weights for images of another number of channels: what is exact, for every kind of network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinokit
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, Network, build
from dinokit.models.channels import inflated

VIT = vit.Config(patch_size=16, dim=16, depth=1, heads=2, registers=1, ffn_hidden=32, layer_scale=0.5)
KINDS: dict[str, Architecture] = {
    "vit": VIT,
    "stem": replace(VIT, stem=4),
    "convnext": convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1), layer_scale=0.5),
    "resnet": convnets.ResNetConfig(width=4, depths=(1, 1, 1, 1)),
}
EVERY = pytest.mark.parametrize("kind", KINDS)
ALIKE, UNLIKE = Pixels((0.4,) * 3, (0.2,) * 3, 64), Pixels((0.1, 0.5, 0.8), (0.1, 0.2, 0.4), 64)
State = Mapping[str, Tensor]


def rgb(kind: str, pixels: Pixels) -> Network:
    backbone = build(KINDS[kind], seed=1).eval()
    backbone.pixels = pixels
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if value.ndim == 1 and name.endswith("bias"):
                value.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return backbone


def changed(backbone: Network, channels: int) -> Network:
    config, state, pixels = inflated(backbone.config, backbone.state_dict(), backbone.pixels, channels=channels)
    result = build(config, seed=5).eval()
    result.load_state_dict(state)
    result.pixels = pixels
    return result


def normalised(images: Tensor, pixels: Pixels) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (pixels.mean, pixels.std))
    return (images - mean) / std


def photos(channels: int, *, side: int = 64) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)  # float32 sums in another order


@pytest.mark.parametrize(("kind", "channels"), [("vit", 1), ("stem", 2), ("convnext", 4), ("resnet", 13), ("vit", 4)])
def test_a_file_is_loaded_for_other_channels(tmp_path: Path, kind: str, channels: int) -> None:
    backbone = rgb(kind, UNLIKE)
    save_file(backbone.state_dict(), tmp_path / "m.safetensors", header(backbone.config, backbone.pixels, step=0))
    loaded = dinokit.load(tmp_path / "m.safetensors", channels=channels)
    assert loaded.channels == channels
    loaded.pixels.check_channels(channels)
    assert loaded.pixels.size == 64
    features, before = loaded(normalised(photos(channels), loaded.pixels)), backbone(photos(3))
    assert features.patches.isfinite().all()
    assert (features.cls.shape, features.patches.shape) == (before.cls.shape, before.patches.shape)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@EVERY
def test_further_channels_at_their_mean_change_nothing(kind: str) -> None:
    backbone, channels = rgb(kind, UNLIKE), 13
    images = torch.cat([photos(3), torch.full((2, channels - 3, 64, 64), 1.4 / 3)], dim=1)
    result = changed(backbone, channels)
    assert result.pixels.mean[:3] == UNLIKE.mean
    assert result.pixels.std[:3] == UNLIKE.std
    close(result(normalised(images, result.pixels)).patches, backbone(normalised(photos(3), UNLIKE)).patches)


@EVERY
def test_a_fourth_channel_counts_as_a_third_of_each_of_the_three(kind: str) -> None:
    """Mean and not sum, and of the right axis."""
    backbone, extra = rgb(kind, ALIKE), photos(1)
    result = changed(backbone, 4)
    added = normalised(photos(3), ALIKE) + normalised(extra, Pixels((0.4,), (0.2,))) / 3
    images = normalised(torch.cat([photos(3), extra], dim=1), result.pixels)
    close(result(images).patches, backbone(added).patches)


@EVERY
@pytest.mark.parametrize("channels", [1, 2])
def test_equal_channels_give_what_their_rgb_copy_gave(kind: str, channels: int) -> None:
    backbone, gray = rgb(kind, ALIKE), photos(1)
    result = changed(backbone, channels)
    found = result(normalised(gray.expand(-1, channels, -1, -1), result.pixels))
    assert (result.channels, len(result.pixels.mean)) == (channels, channels)
    close(found.patches, backbone(normalised(gray.expand(-1, 3, -1, -1), ALIKE)).patches)


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("channels", [1, 2])
def test_so_they_do_for_statistics_that_differ_where_nothing_is_padded(kind: str, channels: int) -> None:
    backbone, gray = rgb(kind, UNLIKE), photos(1)
    result = changed(backbone, channels)
    found = result(normalised(gray.expand(-1, channels, -1, -1), result.pixels))
    close(found.patches, backbone(normalised(gray.expand(-1, 3, -1, -1), UNLIKE)).patches)


def test_and_within_the_border_where_windows_are_padded() -> None:
    backbone, gray = rgb("resnet", UNLIKE), photos(1, side=96)
    result = changed(backbone, 1)

    def first(network: Network, images: Tensor) -> Tensor:
        return network.bn1(network.conv1(images))

    found = first(result, normalised(gray, result.pixels))
    expected = first(backbone, normalised(gray.expand(-1, 3, -1, -1), UNLIKE))
    close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    assert (found[..., 0, :] - expected[..., 0, :]).abs().max() > 1e-2


def test_channels_are_alike_below_three_and_their_order_is_free() -> None:
    result, images = changed(rgb("vit", UNLIKE), 2), photos(2)
    close(result(images).cls, result(images.flip(1)).cls)


@EVERY
def test_the_same_number_changes_nothing(kind: str) -> None:
    backbone = rgb(kind, UNLIKE)
    config, state, pixels = inflated(backbone.config, backbone.state_dict(), UNLIKE, channels=3)
    assert (config, pixels) == (backbone.config, UNLIKE)
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())


def test_weights_are_changed_in_a_copy_and_one_statistic_for_all_stays_one() -> None:
    backbone = rgb("resnet", Pixels((0.5,), (0.25,)))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert changed(backbone, 1).pixels == changed(backbone, 13).pixels == Pixels((0.5,), (0.25,))
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_weights_that_are_not_rgb_and_numbers_that_are_none_are_refused() -> None:
    config = replace(VIT, channels=5)
    state: State = build(config).state_dict()
    assert inflated(config, state, Pixels((0.5,), (0.5,)), channels=5)[0] == config
    with pytest.raises(UserError, match="only RGB weights can be changed to 4 channels, these have 5; load them with"):
        inflated(config, state, Pixels((0.5,), (0.5,)), channels=4)
    with pytest.raises(UserError, match="expected a number of channels from 1 to 4096, got 0"):
        inflated(VIT, build(VIT).state_dict(), Pixels(), channels=0)
    with pytest.raises(UserError, match="from 1 to 4096, got 1099511627776"):
        inflated(VIT, build(VIT).state_dict(), Pixels(), channels=1 << 40)
