"""A table of names, written out and applied in both directions; what names and shapes say of a network."""

import pytest
import torch

from dinokit.checkpoints.layouts import names
from dinokit.core.messages import UserError
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
    theirs = names.to_theirs(state(), TABLE)
    assert set(theirs) == {f"layer.{i}.{k}" for i in (0, 11) for k in ("n.weight", "n.bias", "q", "v", "packed")}
    assert torch.equal(theirs["layer.11.v"], state()["block.11.qkv"][4:])
    assert torch.equal(theirs["layer.11.packed"][:3], state()["block.11.gate"])


def test_there_and_back_is_the_same_but_for_what_is_not_stored() -> None:
    table = TABLE
    back = names.to_ours(names.to_theirs(state(), table), table)
    assert back.keys() == state().keys()
    for key, value in state().items():
        expected = torch.cat([value[:2], torch.zeros(2, 2), value[4:]]) if key.endswith("qkv") else value
        assert torch.equal(back[key], expected)


@pytest.mark.parametrize("change", [{"layer.0.q": torch.zeros(2, 5)}, {"layer.0.packed": torch.zeros(5, 2)}])
def test_tensors_that_do_not_belong_together_are_left_out_not_stacked(change: dict[str, torch.Tensor]) -> None:
    table = TABLE
    back = names.to_ours(names.to_theirs(state(), table) | change, table)
    lost = {"block.0.qkv"} if "layer.0.q" in change else {"block.0.gate", "block.0.value"}
    assert not lost & back.keys()
    assert "block.0.norm.weight" in back


@pytest.mark.parametrize("rounded", [None, "bfloat16"])
def test_the_rounding_of_periods_is_recognised(rounded: str | None) -> None:
    config = Config(patch_size=4, dim=64, depth=1, heads=1, ffn_hidden=8)
    periods = names.periods(config, rounded)
    assert names.rounding(config, periods) == rounded
    with pytest.raises(UserError, match="RoPE periods"):
        names.rounding(config, {names.PERIODS: periods[names.PERIODS] * 1.02})


def test_keys_that_do_not_fit_are_all_listed() -> None:
    config = Config(patch_size=4, dim=32, depth=2, heads=2, registers=2, ffn_hidden=64)
    state = dict(VisionTransformer(config).state_dict())
    state["surprise"] = state.pop("blocks.1.norm2.weight")
    state["norm.weight"] = torch.zeros(31)
    model = VisionTransformer(config, seed=7)
    expected = (
        r"tiny\.pth.*1 missing: blocks\.1\.norm2\.weight; 1 unexpected: surprise; "
        r"1 of another shape: norm\.weight \(31,\) instead of \(32,\)"
    )
    with pytest.raises(UserError, match=expected):
        names.check_shapes(model.state_dict(), state, config=config, file="tiny.pth")
