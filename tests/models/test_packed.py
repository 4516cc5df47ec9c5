"""Tolerance 1e-5: what is linear is multiplied in another order; features are normalised, so about 1."""

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from dinokit.models import packed as its
from dinokit.models.block import Block, Mlp
from dinokit.models.features import Features
from dinokit.models.packed import packed
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


@pytest.fixture(autouse=True)
def plainly() -> Iterator[None]:
    """On one thread, of which packing makes use, without gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def network(config: Config = SMALL) -> VisionTransformer:
    """A network whose every number matters."""
    model = VisionTransformer(config, seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.blocks.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def images(count: int = 2, side: int = 24) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def check(found: Features, expected: Features) -> None:
    for name in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)


def within(model: VisionTransformer, given: Tensor) -> Features:
    with packed(model):
        return model(given)


def last(model: VisionTransformer) -> tuple[Block, Mlp]:
    block = model.blocks[-1]
    assert isinstance(block, Block)
    assert isinstance(block.mlp, Mlp)
    return block, block.mlp


TOKENS = torch.zeros(1, 149, 192)


def is_packed(model: VisionTransformer) -> bool:
    """Whether tokens would go through something else than the blocks."""
    return its.steps(model.blocks, TOKENS, turned="float32") is not model.blocks


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_blocks_and_outside_to_the_bit(kind: str) -> None:
    model, given = network(KINDS[kind]), images()
    expected = model(given)
    check(within(model, given), expected)
    assert torch.equal(model(given).patches, expected.patches)


def test_intermediate_layers_are_those_of_the_blocks() -> None:
    model, given = network(), images()
    for norm in (True, False):
        with packed(model):
            found = model.intermediate(given, 2, norm=norm)
        for one, expected in zip(found, model.intermediate(given, 2, norm=norm), strict=True):
            check(one, expected)


def test_features_do_not_depend_on_what_was_computed_before() -> None:
    model, given = network(), images()
    with packed(model):
        with torch.inference_mode():
            first = model(given).patches
        model(images(side=28))
        model(images(side=8))
        assert torch.equal(model(given).patches, first)
        assert torch.equal(model(given[1:]).patches, first[1:])


def test_a_network_is_packed_in_its_stretch_alone() -> None:
    model, other = network(), network()
    with packed(nn.Sequential(model)):
        assert is_packed(model) == its.is_supported()
        assert not is_packed(other)
        assert not is_packed(copy.deepcopy(model))
        with packed(other), packed(model):
            assert is_packed(model) == is_packed(other) == its.is_supported()
        assert is_packed(model) == its.is_supported()
        assert not is_packed(other)
    assert not is_packed(model)


def test_an_error_ends_a_stretch() -> None:
    model = network()
    with pytest.raises(ValueError, match="of the body"), packed(model):
        raise ValueError("of the body")
    assert not is_packed(model)


def _write(model: VisionTransformer) -> None:
    last(model)[1].fc1.weight.data.view(-1)[1] += 5  # one number, without a trace in the version


def _shorten(model: VisionTransformer) -> None:
    model.blocks = model.blocks[:1]


def _exchange(model: VisionTransformer) -> None:
    block, mlp = last(model)
    block.mlp = nn.Sequential(mlp, nn.Tanh())


def _without_bias(model: VisionTransformer) -> None:
    last(model)[0].attn.proj = nn.Linear(192, 192, bias=False)


@pytest.mark.parametrize("change", [_write, _shorten, _exchange, _without_bias])
def test_what_was_changed_between_two_stretches_counts(change: Any) -> None:
    model, given = network(), images()
    before = within(model, given)
    change(model)
    expected = model(given)
    check(within(model, given), expected)
    assert not torch.allclose(before.cls, expected.cls, atol=1e-4)


def test_blocks_exchanged_within_a_stretch_count() -> None:
    model, given = network(), images()
    with packed(model):
        model(given)
        _shorten(model)
        found = model(given)
    assert torch.equal(found.cls, model(given).cls)


def test_threads_see_images_of_their_own_sizes() -> None:
    model, sizes = network(), (24, 28)
    expected = {side: within(model, images(side=side)).cls for side in sizes}
    equal: list[bool] = []

    def look(side: int) -> None:
        torch.set_num_threads(1)
        with torch.no_grad(), packed(model):
            equal.extend(torch.equal(model(images(side=side)).cls, expected[side]) for _ in range(4))

    threads = [threading.Thread(target=look, args=(side,)) for side in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 8


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
def test_two_threads_share_the_images_and_make_of_each_what_one_makes(region: Any) -> None:
    model, given = network(), images(count=3)
    expected = within(model, given)
    torch.set_num_threads(2)
    with region(), packed(model):
        found = model(given)
        alone = model(given[:1])
    assert torch.equal(found.cls, expected.cls)
    assert torch.equal(found.patches, expected.patches)
    assert torch.equal(alone.cls, expected.cls[:1])


def test_who_looks_into_the_blocks_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    with packed(model), TorchDispatchMode():  # type: ignore[no-untyped-call]  # such as one that counts operations
        assert not is_packed(model)
    everywhere = register_module_forward_hook(lambda *_: None)
    with packed(model):
        assert not is_packed(model)
    everywhere.remove()
    handle = last(model)[0].attn.register_forward_hook(lambda *_: None)
    with packed(model):
        assert not is_packed(model)
    handle.remove()
    monkeypatch.setattr(Mlp, "forward", lambda self, tokens: tokens)
    with packed(model):
        assert not is_packed(model)


def test_gradients_training_and_more_threads_pass_through_the_blocks() -> None:
    model = network()
    with packed(model):
        with torch.enable_grad():
            assert not is_packed(model)
        assert not is_packed(model.train())
        model.eval()
        torch.set_num_threads(its.THREADS + 1)
        assert not is_packed(model)
        torch.set_num_threads(1)
        assert is_packed(model) == its.is_supported()


def test_precision_is_that_of_the_region() -> None:
    model, given = network(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(within(model, given).cls, model(given).cls)
    model.double()
    assert torch.equal(within(model, given.double()).cls, model(given.double()).cls)
