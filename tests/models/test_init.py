"""Initial values: complete, reproducible, by the table."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dinokit.models import head
from dinokit.models.init import initialise
from dinokit.models.rope import RopeConfig
from dinokit.models.vit import Config, VisionTransformer

CONFIG = Config(patch_size=4, dim=64, depth=2, heads=2, registers=2, ffn_hidden=128)
TABLE = replace(CONFIG, position="offset", position_grid=6, qkv_bias="qkv")
STYLES = pytest.mark.parametrize("style", ["dino", "dinov2", "dinov3"])


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@STYLES
@pytest.mark.parametrize("config", [CONFIG, TABLE, replace(CONFIG, ffn="swiglu", untie_cls_norm=True)])
def test_nothing_is_left_undefined(config: Config, style: str) -> None:
    model = VisionTransformer(replace(config, init=style))
    assert not [name for name, value in tensors(model).items() if not value.isfinite().all()]


def test_a_forgotten_parameter_or_buffer_is_named() -> None:
    model = VisionTransformer(CONFIG)
    model.blocks[1].register_parameter("extra", nn.Parameter(torch.zeros(3)))
    model.register_buffer("offsets", torch.zeros(2))
    with pytest.raises(AssertionError, match=r"no rule for offsets, blocks\.1\.extra"):
        model.initialise(0)


def test_values_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (VisionTransformer(TABLE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(same)[name]), name
        random = (value.ndim > 1 or name == "patch_embed.proj.bias") and name != "mask_token"
        assert torch.equal(value, tensors(other)[name]) != random, name


def test_equal_shapes_get_different_values() -> None:
    weights = [block.attn.proj.weight for block in VisionTransformer(CONFIG).blocks]
    assert not torch.equal(weights[0], weights[1])


def test_the_meta_device_gives_the_same_values_later() -> None:
    with torch.device("meta"):
        model = VisionTransformer(CONFIG)
    assert all(value.is_meta for value in tensors(model).values())
    model.to_empty(device="cpu").initialise(5)
    expected = tensors(VisionTransformer(CONFIG, seed=5))
    assert all(torch.equal(value, expected[name]) for name, value in tensors(model).items())


@STYLES
def test_the_scale_of_each_tensor_is_that_of_the_table(style: str) -> None:
    model = VisionTransformer(replace(TABLE, init=style, registers=40, depth=1))
    tokens = 1e-6 if style == "dinov2" else 0.02
    # 64 to 8192 draws: the sample deviation is within a third of the true one
    expected = {"cls_token": tokens, "register_tokens": tokens, "pos_embed": 0.02, "blocks.0.mlp.fc1.weight": 0.02}
    for name, std in expected.items():
        assert tensors(model)[name].std().item() == pytest.approx(std, rel=1 / 3), name
    bound = (3 * 4 * 4) ** -0.5
    for patch in (model.patch_embed.proj.weight, model.patch_embed.proj.bias):
        assert 0.9 * bound < patch.abs().max() <= bound
    assert not model.mask_token.any()
    assert model.norm.weight.eq(1).all()
    assert not model.blocks[0].attn.qkv.bias.any()
    assert model.blocks[0].ls1.gamma.eq(1e-5).all()


def test_head_values_follow_the_table() -> None:
    config = head.Config(hidden=32, bottleneck=16, prototypes=128, weight_norm="trainable")
    module = head.Head(24, config, seed=0)
    assert not [name for name, value in tensors(module).items() if not value.isfinite().all()]
    assert module.last_layer.weight_g.eq(1).all()
    assert 0.9 / 4 < module.last_layer.weight_v.abs().max() <= 1 / 4
    plain = head.Head(24, replace(config, weight_norm="none"), seed=0)
    assert plain.last_layer.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_initialising_again_changes_nothing() -> None:
    model = VisionTransformer(CONFIG, seed=3)
    before = copy.deepcopy(tensors(model))
    initialise(model, CONFIG.init, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())


def test_restored_weights_are_those_of_the_state_and_nothing_is_left_on_the_meta_device() -> None:
    config = Config(patch_size=4, dim=32, depth=2, heads=2, ffn_hidden=64, rope=RopeConfig(rescale=2.0))
    trained = VisionTransformer(config, seed=5).eval()
    state = {name: value.half() for name, value in trained.state_dict().items()}
    trained.load_state_dict(state)
    with torch.device("meta"):
        network = VisionTransformer(config).eval()
    before = torch.get_rng_state()
    network.restore(state)
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(1, 3, 8, 12)
    assert torch.equal(network(images).patches, trained(images).patches)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
