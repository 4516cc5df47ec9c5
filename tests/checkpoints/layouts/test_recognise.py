"""Official checkpoints and others: names, wrappers, the configuration they imply, and errors that list keys."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinokit.checkpoints.layouts import recognise
from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import head
from dinokit.models.architecture import VARIANTS
from dinokit.models.vit import Config, VisionTransformer

TINY = Config(patch_size=4, dim=32, depth=2, heads=2, registers=2, ffn_hidden=64)
PUBLISHED = [name for name in VARIANTS if name.startswith("dino")]


def dinov3_names(model: VisionTransformer) -> dict[str, Tensor]:
    state = {key.replace("register_tokens", "storage_tokens"): value for key, value in model.state_dict().items()}
    if model.config.qkv_bias == "qv":
        masks = {f"blocks.{i}.attn.qkv.bias_mask": torch.zeros(1) for i in range(model.config.depth)}
        state |= masks  # zeros, as in the released files
    return state


def dinov2_names(model: VisionTransformer) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    for key in [key for key in state if ".w1." in key]:
        state[key.replace("w1", "w12")] = torch.cat([state.pop(key), state.pop(key.replace("w1", "w2"))])
    return state


def tiny() -> dict[str, Tensor]:
    return dinov3_names(VisionTransformer(TINY, seed=1))


def recognised(checkpoint: object, *, heads: int | None = None) -> tuple[Config, dict[str, Tensor]]:
    config, state, *_ = recognise.recognise(checkpoint, {}, file="weights.pth", heads=heads)
    return config, state


def same(state: dict[str, Tensor], seed: int = 1) -> bool:
    expected = VisionTransformer(TINY, seed=seed).state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_of_every_release_is_read_off_its_file(name: str) -> None:
    with torch.device("meta"):
        model = VisionTransformer(VARIANTS[name])
        state = dinov3_names(model) if "dinov3" in name else dinov2_names(model)
    config, ours = recognised(state)
    assert config == VARIANTS[name]
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"teacher": state, "student": {}, "epoch": 3},
        lambda state: {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
        lambda state: {"model": {"teacher": {f"module.backbone.{key}": value for key, value in state.items()}}},
        lambda state: {"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {f"teacher.backbone.{key}": value for key, value in state.items()},
        lambda state: {re.sub(r"^(blocks\.\d+)", r"\1._checkpoint_wrapped_module", k): v for k, v in state.items()},
        lambda state: {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", key): value for key, value in state.items()},
    ],
    ids=["flat", "teacher", "backbone", "nested", "compiled", "prefixed", "checkpointed", "chunked"],
)
def test_wrappers_are_taken_off(wrap: object) -> None:
    config, state = recognised(wrap(tiny()))
    assert same(state)
    assert config.depth == 2


def test_teacher_and_student_are_kept_apart() -> None:
    other = dinov3_names(VisionTransformer(TINY, seed=2))
    both = {"teacher": tiny(), "student": other}
    assert same(recognised(both)[1])
    flat = {f"{network}.{key}": value for network, state in both.items() for key, value in state.items()}
    assert same(recognised(flat)[1])
    with pytest.raises(UserError, match="no teacher, only a student"):
        recognised({"student": other})


def test_packed_gate_and_value_are_split_gate_first() -> None:
    config = replace(TINY, ffn="swiglu", position="offset", position_grid=3, qkv_bias="qkv", init="dinov2")
    model = VisionTransformer(config, seed=1)
    _, state = recognised(dinov2_names(model), heads=2)
    assert torch.equal(state["blocks.1.mlp.w1.weight"], model.blocks[1].mlp.w1.weight)
    assert torch.equal(state["blocks.1.mlp.w2.bias"], model.blocks[1].mlp.w2.bias)


def test_the_stored_key_bias_mask_is_not_used() -> None:
    """Released files hold zeros, which would switch off all biases for good."""
    config, state = recognised(tiny())
    model = VisionTransformer(config)
    model.load_state_dict(state)
    assert model.blocks[0].attn.bias_mask.sum() == 2 * 32


def test_heads_are_separated() -> None:
    config = head.Config(hidden=12, bottleneck=6, prototypes=10, weight_norm="trainable", layers=2)
    module = head.Head(32, config, seed=0)
    checkpoint = {"teacher": {f"backbone.{key}": value for key, value in tiny().items()}}
    checkpoint["teacher"] |= {f"ibot_head.{key}": value for key, value in module.state_dict().items()}
    assert same(recognised(checkpoint)[1])
    head.Head(32, config, seed=1).load_state_dict(recognise.parts(checkpoint)["ibot_head"])
    with pytest.raises(UserError, match="no backbone, only: ibot_head"):
        recognised({name: value for name, value in checkpoint["teacher"].items() if "head" in name})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no backbone"),
        ({"net.0.conv.weight": torch.zeros(1)}, "expected the key 'patch_embed.proj.weight', found net"),
        ({"epoch": 3}, "'epoch' is a int"),
    ],
)
def test_other_files_are_refused_with_what_was_found(state: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recognised(state)


def test_heads_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    config = replace(TINY, position="offset", position_grid=3, qkv_bias="qkv")
    state = dict(VisionTransformer(config).state_dict())
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="put a config.json with num_attention_heads beside it"):
        load(tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}', encoding="utf-8")
    backbone = load(tmp_path / "weights.pth")
    assert isinstance(backbone, VisionTransformer)
    assert backbone.config.heads == 2


def test_an_averaged_model_of_torch_is_the_average(capsys: pytest.CaptureFixture[str]) -> None:
    mean = {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in tiny().items()}
    raw = {name: value + 1 for name, value in tiny().items()}
    assert same(recognise.parts(mean)["backbone"])
    for first, second in (("model", "model_ema"), ("net", "swa_model"), ("model", "avg_model")):
        assert same(recognise.parts({first: raw, second: mean})["backbone"])
        assert f"of {first} and {second}, its average, {second} is taken" in capsys.readouterr().err


def test_each_release_wants_its_own_image_size() -> None:
    assert recognise.pixels_of(VARIANTS["dinov3_vits16"]) == Pixels(size=256)
    assert recognise.pixels_of(VARIANTS["dinov2_vits14"]) == Pixels(size=224)
