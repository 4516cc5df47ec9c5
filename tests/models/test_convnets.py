"""Properties of both convolutional backbones that hold for any weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dinokit.core.messages import UserError
from dinokit.models.convnets import ConvNet, ConvNeXt, ConvNeXtConfig, ResNet, ResNetConfig

# LayerScale 0.5: with 1e-6 every branch would be invisible to these tests
CONVNEXT = ConvNeXtConfig(dims=(8, 12, 16, 24), depths=(1, 2, 1, 1), layer_scale=0.5)
RESNET = ResNetConfig(width=4, depths=(1, 2, 1, 1))
Config = ConvNeXtConfig | ResNetConfig
CONFIGS = pytest.mark.parametrize("config", [CONVNEXT, RESNET], ids=["convnext", "resnet"])
WIDTHS = {ConvNeXtConfig: (8, 12, 16, 24), ResNetConfig: (16, 32, 64, 128)}


def build(config: Config, *, seed: int = 0) -> ConvNet:
    if isinstance(config, ConvNeXtConfig):
        return ConvNeXt(config, seed=seed).eval()
    return ResNet(config, seed=seed).eval()


def images(batch: int = 3, *, height: int = 64, width: int = 96, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@CONFIGS
def test_features_are_those_of_a_network_without_tokens(config: Config) -> None:
    model = build(config)
    features = model(images())
    assert model.dim == config.dim
    assert features.cls.shape == (3, model.dim)
    assert features.registers.shape == (3, 0, model.dim)
    assert features.maps.shape == (3, model.dim, 2, 3)
    assert features.grid == (64 // model.patch_size, 96 // model.patch_size)


@CONFIGS
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 95), (63, 64), (100, 40)])
def test_any_size_is_rounded_to_whole_cells_by_the_stated_rule(config: Config, height: int, width: int) -> None:
    up = 31 if isinstance(config, ResNetConfig) else 0
    assert build(config)(images(1, height=height, width=width)).grid == ((height + up) // 32, (width + up) // 32)


def test_small_images_are_refused_by_convnext_and_padded_by_resnet() -> None:
    with pytest.raises(UserError, match="31x96 pixels are smaller than one patch of 32x32"):
        build(CONVNEXT)(images(height=31))
    assert build(RESNET)(images(height=5, width=33)).grid == (1, 2)


@CONFIGS
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(config: Config, channels: int) -> None:
    model = build(replace(config, channels=channels))
    assert model(images(channels=channels)).cls.shape == (3, model.dim)
    assert len(model.pixels.mean) in (1, channels)
    with pytest.raises(UserError, match=f"takes {channels} channels, the images have 2"):
        model(images(channels=2))


@CONFIGS
def test_a_network_in_bfloat16_sees_the_same(config: Config) -> None:
    """Measured: 0.99995 and 0.99991."""
    model, batch = build(config), images()
    with torch.no_grad():
        exact = model(batch)
        rounded = model.bfloat16()(batch)
    assert rounded.patches.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact.patches, rounded.patches.float(), dim=-1).min() > 0.999


@CONFIGS
def test_masks_are_refused_and_not_ignored(config: Config) -> None:
    with pytest.raises(UserError, match="no mask token"):
        build(config)(images(), masks=torch.zeros(3, 6, dtype=torch.bool))


@CONFIGS
def test_an_image_does_not_see_the_others_of_its_batch(config: Config) -> None:
    model, batch = build(config), images()
    # float32 sums in another order
    torch.testing.assert_close(model(batch[[2, 0]]).patches, model(batch).patches[[2, 0]], atol=1e-5, rtol=1e-5)


@CONFIGS
def test_intermediate_stages_are_those_of_the_forward_pass(config: Config) -> None:
    model, batch = build(config), images()
    every = model.intermediate(batch, 4)
    widths = [features.cls.shape[1] for features in every]
    assert tuple(widths) == WIDTHS[type(config)]
    assert [features.grid for features in every] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert torch.equal(every[3].patches, model(batch).patches)
    chosen = model.intermediate(batch, [3, 1])
    assert torch.equal(chosen[0].cls, every[3].cls)
    assert torch.equal(chosen[1].patches, every[1].patches)
    with pytest.raises(UserError, match="4 stages, 0 to 3"):
        model.intermediate(batch, [4])


def test_the_final_norm_is_that_of_the_last_stage_alone() -> None:
    model, batch = build(CONVNEXT), images()
    raw, normed = model.intermediate(batch, 4, norm=False), model.intermediate(batch, 4)
    torch.testing.assert_close(model.norm(raw[3].cls), normed[3].cls)
    torch.testing.assert_close(raw[3].cls, raw[3].patches.mean(dim=1))
    assert (raw[3].cls - normed[3].cls).abs().max() > 1e-3
    assert torch.equal(raw[2].patches, normed[2].patches)


@CONFIGS
def test_a_stage_that_nobody_asks_for_does_not_run(config: Config) -> None:
    model, batch = build(config), images()
    model.downsample_layers = None if isinstance(config, ResNetConfig) else model.downsample_layers[:2]
    model.layer3 = model.layer4 = None
    assert model.intermediate(batch, [1])[0].grid == (8, 12)


@CONFIGS
def test_gradient_reaches_every_parameter(config: Config) -> None:
    model = build(config).train()
    features = model(images())
    probe = torch.randn(model.dim, generator=torch.Generator().manual_seed(2))  # a plain sum of normed rows is constant
    ((features.cls @ probe).sum() + (features.patches @ probe).square().sum()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@CONFIGS
def test_values_follow_from_the_seed_and_cover_every_tensor(config: Config) -> None:
    one, same, other = (build(config, seed=seed).state_dict() for seed in (1, 1, 2))
    with torch.device("meta"):
        late = build(config)
    assert all(tensor.is_meta for tensor in late.state_dict().values())
    late.to_empty(device="cpu").initialise(1)
    for name, value in one.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, same[name]), name
        assert torch.equal(value, late.state_dict()[name]), name
        assert torch.equal(value, other[name]) != (value.ndim > 1), name


def test_the_scale_of_each_tensor_is_that_of_the_table() -> None:
    convnext, resnet = build(replace(CONVNEXT, layer_scale=1e-6)), build(replace(RESNET, width=32))
    for module in convnext.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 500:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.2)
            assert not module.bias.any()
    assert all(p.eq(1e-6).all() for name, p in convnext.named_parameters() if name.endswith("gamma"))
    for module in resnet.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    states = {name.rsplit(".", 1)[1]: value for name, value in resnet.state_dict().items() if ".bn1." in name}
    assert states["running_var"].eq(1).all()
    assert states["weight"].eq(1).all()
    assert not any(states[name].any() for name in ("running_mean", "bias", "num_batches_tracked"))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CONVNEXT, {"dims": (8, 8, 8)}, "must be 4 numbers"),
        (CONVNEXT, {"depths": (1, 1, 0, 1)}, "depths must be at least 1"),
        (CONVNEXT, {"channels": 0}, "channels must be at least 1"),
        (RESNET, {"depths": (1, 1, 1, 1, 1)}, "depths must be 4 numbers"),
        (RESNET, {"width": 0}, "width must be at least 1"),
    ],
)
def test_impossible_settings_are_errors(config: Config, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(config, **change)
