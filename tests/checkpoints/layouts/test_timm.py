"""Random models of timm, saved by timm itself, loaded here and compared; tolerance 1e-4, measured 5e-6."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dinokit.checkpoints.layouts.timm import DINOV2S, DINOV3S, VITS, recognise
from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import position, vit
from dinokit.models.features import Features

timm = pytest.importorskip("timm")
hub = pytest.importorskip("timm.models._hub")

SIZES = [(56, 56), (84, 56), (42, 98)]
LEARNED = {"img_size": 56, "patch_size": 14, "dynamic_img_size": True}
COMMON = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "patch_size": 14}
GIANT = {"mlp_ratio": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "dino": ("vit_small_patch16_224", LEARNED),
    "dinov2": ("vit_small_patch14_dinov2", LEARNED),
    "dinov2 giant": ("vit_giant_patch14_dinov2", LEARNED | GIANT),
    "registers": ("vit_small_patch14_reg4_dinov2", LEARNED),
    "registers giant": ("vit_giant_patch14_reg4_dinov2", LEARNED | GIANT),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3 no bias": ("vit_small_patch16_dinov3", {}),
    "dinov3 swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "dinov3 7b": ("vit_7b_patch16_dinov3", {}),
}
RESIZED_DIFFERENTLY = ("dino", "dinov2", "dinov2 giant")


def saved(folder: Path, name: str) -> nn.Module:
    architecture, settings = FAMILIES[name]
    model = timm.create_model(architecture, **COMMON | settings).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=draw) + ("norm" in key and "weight" in key))
    hub.save_for_hf(model, folder, model_args=COMMON | settings, safe_serialization=True)
    return model


@torch.no_grad()
def tokens(model: nn.Module, size: tuple[int, int]) -> Tensor:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    out = model(images)
    if isinstance(out, Features):
        return torch.cat([out.cls[:, None], out.registers, out.patches], dim=1)
    return model.forward_features(images)


def difference(theirs: nn.Module, ours: nn.Module, size: tuple[int, int]) -> float:
    return float((tokens(theirs, size) - tokens(ours, size)).abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_timm(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path, name)
    ours = load(tmp_path)
    for size in SIZES[:1] if name in RESIZED_DIFFERENTLY else SIZES:
        assert difference(model, ours, size) < 1e-4


@pytest.mark.parametrize("name", RESIZED_DIFFERENTLY)
def test_positions_are_resized_the_official_way_and_that_is_the_whole_difference(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official: by the factor (cells + 0.1) / side. timm: to the size, with antialiasing. Measured: 2e-2 to 6e-2."""
    model = saved(tmp_path, name)
    ours = load(tmp_path)
    for size in SIZES[1:]:
        assert 1e-3 < difference(model, ours, size) < 1e-1

    def official(table: Tensor, new_size: tuple[int, int], **_: Any) -> Tensor:
        return position.resized(table, tuple(new_size), how="offset")

    monkeypatch.setattr("timm.models.vision_transformer.resample_abs_pos_embed", official)
    for size in SIZES[1:]:
        assert difference(model, ours, size) < 1e-4


def test_the_file_alone_is_enough_where_a_release_is_as_wide(tmp_path: Path) -> None:
    model = timm.create_model("vit_small_patch16_dinov3_qkvb", depth=1).eval()
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    assert difference(model, load(tmp_path / "x.safetensors"), (64, 32)) < 1e-4


def test_a_classifier_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "dinov3")
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"head.weight": torch.zeros(5, 48), "head.bias": torch.zeros(5)}, tmp_path / "model.safetensors")
    assert difference(model, load(tmp_path), SIZES[0]) < 1e-4
    assert "head.bias, head.weight" in capsys.readouterr().err


def test_pixels_are_those_of_the_config(tmp_path: Path) -> None:
    saved(tmp_path, "dinov3")
    about = json.loads((tmp_path / "config.json").read_text())
    about["pretrained_cfg"] |= {"mean": [0.43, 0.411, 0.296], "std": [0.213, 0.156, 0.143], "input_size": [3, 64, 64]}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert load(tmp_path).pixels == Pixels((0.43, 0.411, 0.296), (0.213, 0.156, 0.143), 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act_layer": "relu"}, "unknown argument in model_args of config.json 'act_layer'"),
        ({"num_heads": 5}, "5 heads do not divide the width 48"),
        ({"num_heads": "x"}, "num_heads must be a positive whole number"),
        ([], "model_args must be a table"),
    ],
)
def test_arguments_that_change_the_network_are_refused(tmp_path: Path, arguments: object, message: str) -> None:
    saved(tmp_path, "dinov3")
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_args": arguments}))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "about", "message"),
    [
        ("dino", {"architecture": "vit_huge_patch14_224"}, "unknown architecture in config.json for these weights"),
        ("dinov2", {"architecture": "vit_so400m_patch14_reg1_tipsv2"}, "timm/local-dir:FOLDER"),
        ("dinov3", {"architecture": "vit_small_patch16_rope_224"}, "did you mean 'vit_small_patch16_dinov3"),
        ("dino", {"model_args": {"depth": 3, "num_heads": 3}}, "depth 3 is not supported"),
        ("dinov3", {"model_args": {"embed_dim": 64, "num_heads": 3}}, "embed_dim 64 is not supported"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(
    tmp_path: Path, name: str, about: dict[str, Any], message: str
) -> None:
    saved(tmp_path, name)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | about))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", sorted(VITS | DINOV2S | DINOV3S))
def test_networks_taken_for_the_same_are_those_of_timm(architecture: str) -> None:
    """One block, without memory: they exist, and heads and epsilons that no file says are as we read them."""
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=0, depth=1)
    config, _ = recognise(theirs.state_dict(), {"architecture": architecture}, file="weights")
    assert isinstance(config, vit.Config)
    assert config.heads == theirs.blocks[0].attn.num_heads
    assert {norm.eps for norm in theirs.modules() if isinstance(norm, nn.LayerNorm)} == {config.norm_eps}


@pytest.mark.parametrize("name", ["dinov3", "registers giant"])
def test_odd_tensors_are_refused_in_our_words(tmp_path: Path, name: str) -> None:
    saved(tmp_path, name)
    state = load_file(tmp_path / "model.safetensors")
    for key in [key for key in state if ".1." not in key]:
        save_file(state | {key: torch.tensor(1.0)}, tmp_path / "model.safetensors")
        with pytest.raises(UserError):
            load(tmp_path)


def test_keys_that_do_not_fit_are_listed_under_their_names(tmp_path: Path) -> None:
    saved(tmp_path, "dinov3")
    state = load_file(tmp_path / "model.safetensors")
    state["surprise"] = state.pop("blocks.1.gamma_1")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 missing: blocks\.1\.gamma_1; 1 unexpected: surprise; the nearest"):
        load(tmp_path)
