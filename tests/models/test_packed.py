"""Tolerance 1e-5: what is linear is multiplied in another order; features are normalised, so about 1."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dinokit.models import packed
from dinokit.models.block import Block, Mlp
from dinokit.models.features import Features
from dinokit.models.vit import Config, VisionTransformer

SMALL = Config(dim=192, heads=3, depth=2, ffn_hidden=256, patch_size=2, layer_scale=0.5)
KINDS = {
    "dinov3": SMALL,
    "key bias": replace(SMALL, qkv_bias="qkv"),
    "no bias": replace(SMALL, qkv_bias="none", ffn="swiglu", registers=0),
    "dinov2": replace(SMALL, position="antialias", position_grid=4, qkv_bias="qkv", ffn="swiglu"),
    "dino": replace(SMALL, position="offset", position_grid=4, qkv_bias="qkv", layer_scale=None, registers=0),
    "heads of 24": replace(SMALL, heads=8),
}


def network(config: Config = SMALL) -> VisionTransformer:
    """A network whose every number matters."""
    model = VisionTransformer(config, seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.blocks.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.frozen = True
    return model


def images(count: int = 2, side: int = 24) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def ordinary(model: VisionTransformer, given: Tensor) -> Features:
    model.frozen = False
    found = model(given)
    model.frozen = True
    return found


def check(found: Features, expected: Features) -> None:
    for name in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)


def last(model: VisionTransformer) -> tuple[Block, Mlp]:
    block = model.blocks[-1]
    assert isinstance(block, Block)
    assert isinstance(block.mlp, Mlp)
    return block, block.mlp


def is_packed(model: VisionTransformer) -> bool:
    """Whether what the network last computed would be computed by packed blocks again, where torch has them."""
    return bool(model._packed._steps) or not packed.is_supported()


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_blocks(kind: str) -> None:
    model, given = network(KINDS[kind]), images()
    check(model(given), ordinary(model, given))
    assert is_packed(model)


def test_intermediate_layers_are_those_of_the_blocks() -> None:
    model, given = network(), images()
    found = [model.intermediate(given, 2, norm=norm) for norm in (True, False)]
    model.frozen = False
    for norm, layers in zip((True, False), found):
        for one, expected in zip(layers, model.intermediate(given, 2, norm=norm)):
            check(one, expected)


def test_features_do_not_depend_on_what_was_computed_before() -> None:
    model, given = network(), images()
    first = model(given).patches
    model(images(side=28))
    model(images(side=8))
    assert torch.equal(model(given).patches, first)
    with torch.inference_mode():
        assert torch.equal(model(given).patches, first)


@pytest.mark.parametrize("hidden", [False, True], ids=["in place", "through .data"])
def test_weights_that_were_written_are_seen(hidden: bool) -> None:
    model, given = network(), images()
    model(given)
    for parameter in model.blocks.parameters():
        (parameter.data if hidden else parameter).mul_(1.1)
    check(model(given), ordinary(model, given))


def test_parts_that_were_exchanged_are_seen() -> None:
    model, given = network(), images()
    model(given)
    block, mlp = last(model)
    block.mlp = nn.Sequential(mlp, nn.Tanh())
    check(model(given), ordinary(model, given))
    block.attn.proj = nn.Linear(192, 192).requires_grad_(False)
    block.mlp = mlp
    check(model(given), ordinary(model, given))


def test_who_looks_into_the_blocks_sees_them() -> None:
    model, given = network(), images()
    seen: list[int] = []
    model(given)
    handle = last(model)[0].attn.register_forward_hook(lambda *_: seen.append(1))
    model(given)
    handle.remove()
    model(given)
    assert seen == [1]
    assert is_packed(model)
    tokens = torch.zeros(1, 128, 192)
    with TorchDispatchMode():  # type: ignore[no-untyped-call]  # such as one that counts operations
        assert model._packed.steps(model.blocks, tokens, turned="float32") is model.blocks


def test_gradients_and_training_pass_through_the_blocks() -> None:
    model, given = network(), images()
    model(given)
    assert model(given.requires_grad_()).cls.requires_grad
    last(model)[1].fc1.weight.requires_grad_(True)
    assert model(given.detach()).cls.requires_grad


def test_precision_is_that_of_the_region() -> None:
    model, given = network(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found.cls, ordinary(model, given).cls)
    check(model.double()(given.double()), ordinary(model, given.double()))


def test_copies_pack_their_own_weights() -> None:
    model, given = network(), images()
    model(given)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not twin._packed._steps
        last(twin)[1].fc1.weight.mul_(1.2)
        check(twin(given), ordinary(twin, given))
