"""A table of names, written out and applied in both directions."""

import pytest
import torch

from dinokit.checkpoints.layouts import keymap
from dinokit.core.messages import UserError
from dinokit.models.architecture import VARIANTS, nearest
from dinokit.models.vit import Config, VisionTransformer

TABLE = {
    "block.#.norm.*": "layer.#.n.*",
    "block.#.qkv": "layer.#.q + + layer.#.v",
    "block.#.gate + block.#.value": "layer.#.packed",
}


def state() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"norm.weight": 2, "norm.bias": 2, "qkv": (6, 2), "gate": (3, 2), "value": (3, 2)}
    return {f"block.{i}.{k}": torch.randn(shape, generator=draw) for i in (0, 11) for k, shape in shapes.items()}


def test_names_are_split_packed_and_left_out_in_order() -> None:
    theirs = keymap.to_theirs(state(), TABLE)
    assert set(theirs) == {f"layer.{i}.{k}" for i in (0, 11) for k in ("n.weight", "n.bias", "q", "v", "packed")}
    assert torch.equal(theirs["layer.11.v"], state()["block.11.qkv"][4:])
    assert torch.equal(theirs["layer.11.packed"][:3], state()["block.11.gate"])


def test_there_and_back_is_the_same_but_for_what_is_not_stored() -> None:
    table = TABLE
    back = keymap.to_ours(keymap.to_theirs(state(), table), table)
    assert back.keys() == state().keys()
    for key, value in state().items():
        expected = torch.cat([value[:2], torch.zeros(2, 2), value[4:]]) if key.endswith("qkv") else value
        assert torch.equal(back[key], expected)


@pytest.mark.parametrize("change", [{"layer.0.q": torch.zeros(2, 5)}, {"layer.0.packed": torch.zeros(5, 2)}])
def test_tensors_that_do_not_belong_together_are_left_out_not_stacked(change: dict[str, torch.Tensor]) -> None:
    table = TABLE
    back = keymap.to_ours(keymap.to_theirs(state(), table) | change, table)
    lost = {"block.0.qkv"} if "layer.0.q" in change else {"block.0.gate", "block.0.value"}
    assert not lost & back.keys()
    assert "block.0.norm.weight" in back


@pytest.mark.parametrize("rounded", [None, "bfloat16"])
def test_the_rounding_of_periods_is_recognised(rounded: str | None) -> None:
    config = Config(patch_size=4, dim=64, depth=1, heads=1, ffn_hidden=8)
    periods = keymap.periods(config, rounded)
    assert keymap.rounding(config, periods) == rounded
    with pytest.raises(UserError, match="RoPE periods"):
        keymap.rounding(config, {keymap.PERIODS: periods[keymap.PERIODS] * 1.02})


@pytest.mark.parametrize("name", VARIANTS)
def test_the_nearest_architecture_of_a_published_one_is_itself(name: str) -> None:
    assert nearest(VARIANTS[name]) == name


def test_the_outline_asks_for_no_memory() -> None:
    outline = keymap.outline(VARIANTS["dinov3_vit7b16"])
    assert all(value.is_meta for value in outline.values())
    small = Config(patch_size=4, dim=16, depth=1, heads=1, ffn_hidden=8)
    found = {key: value.shape for key, value in VisionTransformer(small).state_dict().items()}
    assert {key: value.shape for key, value in keymap.outline(small).items()} == found
