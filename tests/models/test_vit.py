"""Properties of the vision transformer that hold for any weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dinokit.core.messages import UserError
from dinokit.models.architecture import VARIANTS
from dinokit.models.rope import RopeConfig
from dinokit.models.vit import Config, PatchEmbed, VisionTransformer

ROPE = Config(patch_size=4, dim=32, depth=3, heads=2, registers=2, ffn_hidden=64, layer_scale=0.5)
TABLE = replace(ROPE, position="offset", position_grid=4, qkv_bias="qkv")
ANTIALIAS = replace(TABLE, position="antialias")
CONFIGS = pytest.mark.parametrize("config", [ROPE, TABLE, ANTIALIAS], ids=["rope", "offset", "antialias"])


def images(batch: int = 3, *, height: int = 12, width: int = 20, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@CONFIGS
@pytest.mark.parametrize(("height", "width"), [(12, 20), (16, 16), (4, 4), (13, 23), (36, 4)])
def test_any_size_gives_row_major_patches_of_whole_cells(config: Config, height: int, width: int) -> None:
    features = VisionTransformer(config).eval()(images(2, height=height, width=width))
    assert features.grid == (height // 4, width // 4)
    assert features.cls.shape == (2, 32)
    assert features.registers.shape == (2, 2, 32)
    assert features.maps.shape == (2, 32, height // 4, width // 4)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels: int) -> None:
    model = VisionTransformer(replace(ROPE, channels=channels)).eval()
    assert model(images(channels=channels)).cls.shape == (3, 32)
    assert len(model.pixels.mean) in (1, channels)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 24, 24), (3, 19, 42), (2, 8, 9)])
def test_a_stem_is_two_convolutions(channels: int, height: int, width: int) -> None:
    embed = PatchEmbed(patch_size=8, channels=channels, dim=6, stem=48).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, height, width, generator=generator).double().requires_grad_()
    patches, grid = embed(images)
    assert embed.stem is not None
    wanted = embed.proj(F.gelu(embed.stem(images)))  # [batch, dim, rows, columns]
    assert grid == tuple(wanted.shape[2:])
    torch.testing.assert_close(patches, wanted.flatten(2).transpose(1, 2), rtol=1e-10, atol=1e-12)
    seen = [images, *embed.parameters()]
    gradients = [torch.autograd.grad(each.square().sum(), seen, retain_graph=True) for each in (patches, wanted)]
    for own, by_convolutions in zip(*gradients, strict=True):
        torch.testing.assert_close(own, by_convolutions, rtol=1e-9, atol=1e-10)


def test_one_channel_sees_the_luminance_of_rgb() -> None:
    model = VisionTransformer(replace(ROPE, channels=1)).eval()
    rgb = images(channels=3)
    gray = 0.299 * rgb[:, :1] + 0.587 * rgb[:, 1:2] + 0.114 * rgb[:, 2:]
    torch.testing.assert_close(model(rgb).cls, model(gray).cls)
    with pytest.raises(UserError, match="takes 1 channels, the images have 2"):
        model(images(channels=2))


@CONFIGS
def test_trailing_pixels_are_ignored(config: Config) -> None:
    model = VisionTransformer(config).eval()
    ragged = images(height=14, width=23)
    torch.testing.assert_close(model(ragged).patches, model(ragged[:, :, :12, :20]).patches)


def test_images_that_do_not_fit_are_one_clear_error() -> None:
    model = VisionTransformer(ROPE)
    with pytest.raises(UserError, match="3x20 pixels are smaller than one patch of 4x4"):
        model(images(height=3))
    with pytest.raises(UserError, match="takes 3 channels, the images have 1"):
        model(images(channels=1))


@CONFIGS
def test_the_batch_may_be_permuted(config: Config) -> None:
    model, batch, order = VisionTransformer(config).eval(), images(4), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(batch[order]).patches, model(batch).patches[order])


@CONFIGS
def test_patches_know_where_they_are(config: Config) -> None:
    """Without positions, two patches that exchange their content would exchange their features."""
    model, batch = VisionTransformer(config, seed=1).eval(), images(1)
    patches, exchanged = model(batch).patches, model(_swap_cells(batch)).patches
    assert (patches[:, 0] - exchanged[:, -1]).abs().max() > 1e-4


def _swap_cells(batch: torch.Tensor) -> torch.Tensor:
    swapped = batch.clone()
    swapped[..., :4, :4], swapped[..., -4:, -4:] = batch[..., -4:, -4:], batch[..., :4, :4]
    return swapped


@CONFIGS
def test_hidden_patches_are_replaced_and_only_those(config: Config) -> None:
    model, batch = VisionTransformer(config).eval(), images(2)
    torch.nn.init.normal_(model.mask_token, generator=torch.Generator().manual_seed(3))
    masks = torch.zeros(2, 15, dtype=torch.bool)
    masks[0, 7] = True
    changed = batch.clone()
    changed[0, :, 4:8, 8:12] = 9.0  # the pixels of patch 7 in a grid of 3 x 5
    plain, masked = model(batch), model(batch, masks=masks)
    torch.testing.assert_close(model(changed, masks=masks).patches, masked.patches)
    torch.testing.assert_close(masked.patches[1], plain.patches[1])
    assert (masked.patches[0] - plain.patches[0]).abs().max() > 1e-3
    torch.testing.assert_close(model(batch, masks=torch.zeros_like(masks)).cls, plain.cls)


def test_masks_that_cannot_be_used_are_errors() -> None:
    with pytest.raises(UserError, match="mask_token=True"):
        VisionTransformer(replace(ROPE, mask_token=False))(images(), masks=torch.zeros(3, 15, dtype=torch.bool))
    with pytest.raises(UserError, match=r"shape \(3, 15\), got \(3, 14\)"):
        VisionTransformer(ROPE)(images(), masks=torch.zeros(3, 14, dtype=torch.bool))


@CONFIGS
def test_gradient_reaches_every_parameter(config: Config) -> None:
    model = VisionTransformer(config).train()
    masks = torch.zeros(3, 15, dtype=torch.bool)
    masks[:, 0] = True
    features = model(images(), masks=masks)
    probe = torch.randn(32, generator=torch.Generator().manual_seed(2))  # a plain sum of normalised rows is constant
    ((features.cls @ probe).sum() + (features.patches @ probe).sum() + (features.registers @ probe).sum()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_the_key_bias_is_masked_and_the_others_are_not() -> None:
    model, batch = VisionTransformer(ROPE).eval(), images()
    bias = model.blocks[0].attn.qkv.bias
    before = model(batch).cls
    with torch.no_grad():
        bias[32:64] = 5.0
    torch.testing.assert_close(model(batch).cls, before, atol=0, rtol=0)
    for part in (slice(0, 32), slice(64, 96)):
        with torch.no_grad():
            bias[part] += 1.0
        assert (model(batch).cls - before).abs().max() > 1e-4
    assert not any("bias_mask" in key for key in model.state_dict())


def test_intermediate_layers_are_those_of_the_forward_pass() -> None:
    model, batch = VisionTransformer(ROPE).eval(), images()
    last_two = model.intermediate(batch, 2)
    chosen = model.intermediate(batch, [2, 1])
    torch.testing.assert_close(last_two[1].patches, model(batch).patches)
    torch.testing.assert_close(chosen[0].patches, last_two[1].patches)
    torch.testing.assert_close(chosen[1].cls, last_two[0].cls)
    raw = model.intermediate(batch, 1, norm=False)[0]
    torch.testing.assert_close(model.norm(raw.cls), last_two[1].cls)
    assert (raw.cls - last_two[1].cls).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [0, 4, [3], [-1], []])
def test_layers_that_do_not_exist_are_errors(layers: int | list[int]) -> None:
    with pytest.raises(UserError, match="3 blocks, 0 to 2"):
        VisionTransformer(ROPE).intermediate(images(), layers)


@CONFIGS
def test_attention_explains_the_output_of_its_block(config: Config) -> None:
    """Maps times values, projected, must be what fused attention computes inside the block."""
    model, batch = VisionTransformer(config).eval(), images()
    seen = {}
    attn = model.blocks[1].attn
    attn.register_forward_hook(lambda _, args, output: seen.update(tokens=args[0], output=output))
    model(batch)
    maps = model.attention(batch, 1)
    assert maps.shape == (3, 2, 18, 18)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 18))
    values = torch.nn.functional.linear(seen["tokens"], attn.qkv.weight[64:], attn.qkv.bias[64:])
    mixed = maps @ values.unflatten(-1, (2, 16)).transpose(1, 2)
    torch.testing.assert_close(attn.proj(mixed.transpose(1, 2).flatten(2)), seen["output"], atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="3 blocks"):
        model.attention(batch, 3)


def test_untied_norms_go_where_they_belong() -> None:
    model = VisionTransformer(replace(ROPE, untie_cls_norm=True, untie_local_cls_norm=True))
    for value, norm in ((1.0, model.norm), (2.0, model.cls_norm), (3.0, model.local_cls_norm)):
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.constant_(norm.bias, value)

    def levels(*, local: bool) -> tuple[float, float, float]:
        features = model(images(), local=local)
        return features.cls.mean().item(), features.registers.mean().item(), features.patches.mean().item()

    model.train()
    assert levels(local=True) == (3.0, 3.0, 1.0)
    assert levels(local=False) == (2.0, 2.0, 1.0)
    model.eval()
    assert levels(local=True) == (2.0, 2.0, 1.0)


def test_position_augmentation_only_in_training_and_anew_for_every_block() -> None:
    config = replace(ROPE, rope=RopeConfig(rescale=2.0))
    model, plain, batch = VisionTransformer(config).eval(), VisionTransformer(ROPE).eval(), images()
    torch.testing.assert_close(model(batch).patches, plain(batch).patches, atol=0, rtol=0)
    model.train()
    torch.manual_seed(0)
    first, second = model(batch).patches, model(batch).patches
    assert (first - second).abs().max() > 1e-5
    torch.manual_seed(0)
    torch.testing.assert_close(model(batch).patches, first, atol=0, rtol=0)
    tables = list(model.rope_embed.rotations((3, 5), prefix=3, blocks=3))
    assert (tables[0].cos - tables[1].cos).abs().max() > 1e-3
    model.eval()
    assert len({id(table) for table in model.rope_embed.rotations((3, 5), prefix=3, blocks=3)}) == 1


def test_drop_path_drops_in_training_only() -> None:
    model, plain, batch = VisionTransformer(replace(ROPE, drop_path=0.5)), VisionTransformer(ROPE).eval(), images(4)
    torch.manual_seed(0)
    assert (model.train()(batch).cls - plain(batch).cls).abs().max() > 1e-4
    torch.testing.assert_close(model.eval()(batch).cls, plain(batch).cls, atol=0, rtol=0)


def test_drop_path_rates_are_uniform_or_grow_from_zero() -> None:
    uniform = VisionTransformer(replace(ROPE, drop_path=0.3))
    linear = VisionTransformer(replace(ROPE, drop_path=0.3, drop_path_shape="linear"))
    assert [block.drop_path for block in uniform.blocks] == [0.3, 0.3, 0.3]
    assert [block.drop_path for block in linear.blocks] == pytest.approx([0.0, 0.15, 0.3])


def test_half_precision_is_near_float32() -> None:
    model, batch = VisionTransformer(ROPE).eval(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch).cls
    torch.testing.assert_close(low.float(), model(batch).cls, atol=0.1, rtol=0)  # bfloat16 keeps 2 to 3 digits


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov3_vits16"])
def test_a_network_in_bfloat16_sees_the_same(name: str) -> None:
    """Twelve blocks whose branches are as strong as the stream; measured: 0.9998."""
    config = VARIANTS[name]
    config = replace(config, layer_scale=None if config.layer_scale is None else 0.3)
    model, batch = VisionTransformer(config).eval(), images(1, height=64, width=48)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
            elif parameter.ndim == 2:
                fan_in = parameter.shape[1]
                parameter.copy_(1.5 * fan_in**-0.5 * torch.randn(parameter.shape, generator=draw))
            else:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
        exact = model(batch)
        rounded = model.bfloat16()(batch)
    assert rounded.cls.dtype == rounded.patches.dtype == torch.bfloat16
    for tokens in ("cls", "patches"):
        near = torch.cosine_similarity(getattr(exact, tokens), getattr(rounded, tokens).float(), dim=-1)
        assert near.min() > 0.999


def test_images_are_taken_in_the_precision_of_the_weights() -> None:
    model, batch = VisionTransformer(ROPE).eval(), images()
    assert torch.equal(model(batch.double()).cls, model(batch).cls)
    low = VisionTransformer(ROPE).eval().bfloat16()
    assert torch.equal(low(batch).cls, low(batch.bfloat16()).cls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "not divisible by 5 heads"),
        ({"heads": 16}, "multiple of 4"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"registers": -1}, "registers"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"position_grid": 4}, "position_grid 4 has no use"),
        ({"position": "offset"}, "needs position_grid"),
        (
            {"position": "offset", "position_grid": 4, "rope": RopeConfig(rescale=2.0)},
            "rope options have no use",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_errors(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(ROPE, **change)
