"""Files that others saved: what they do not say is assumed aloud, averages are taken, plain objects are no danger."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinokit.checkpoints import hub
from dinokit.checkpoints.convert import convert
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.vit import VisionTransformer

State = dict[str, Tensor]
TABLE: dict[str, Any] = {"registers": 0, "position": "offset", "position_grid": 3, "qkv_bias": "qkv", "norm_eps": 1e-6}
DINO: dict[str, Any] = {"mask_token": False, "layer_scale": None, "init": "dino"}
DINOV2: dict[str, Any] = {"patch_size": 14, "init": "dinov2"}


def weights(*, dim: int = 384, heads: int = 6, seed: int = 0, **options: Any) -> State:
    config = vit.Config(dim=dim, heads=heads, depth=1, ffn_hidden=8, **TABLE | options)
    return dict(VisionTransformer(config, seed=seed).state_dict())


def loaded(path: Path, **options: Any) -> VisionTransformer:
    backbone = load(path, **options)
    assert isinstance(backbone, VisionTransformer)
    return backbone


def test_heads_that_nothing_says_are_assumed_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(weights(**DINO), tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").config.heads == 6
    said = capsys.readouterr().err
    assert "assumed: 6 heads of attention (heads=, --heads); images of mean (0.485, 0.456, 0.406)" in said
    assert loaded(tmp_path / "x.pth", heads=12).config.heads == 12  # as MoCo v3's ViT-S has
    assert "heads of attention" not in capsys.readouterr().err


@pytest.mark.parametrize(("dim", "heads"), [(320, 4), (1280, 16), (128, 2), (64, 1)])
def test_a_width_that_no_release_has_needs_its_heads(tmp_path: Path, dim: int, heads: int) -> None:
    torch.save(weights(dim=dim, heads=heads, **DINO), tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"no release has the width {dim}.*give them as heads= or --heads"):
        load(tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth", heads=heads).config.heads == heads
    with pytest.raises(UserError, match="3 heads do not divide the width"):
        load(tmp_path / "x.pth", heads=3)


def test_heads_that_are_known_are_not_overruled(tmp_path: Path, make_vit: Callable[..., VisionTransformer]) -> None:
    own = make_vit()
    torch.save(own.state_dict(), tmp_path / "rope.pth")
    with pytest.raises(UserError, match="periods are those of 2 heads, not of 4"):
        load(tmp_path / "rope.pth", heads=4)
    save_file(own.state_dict(), tmp_path / "own.safetensors", header(own.config, own.pixels, step=0))
    with pytest.raises(UserError, match="says how many heads it has"):
        load(tmp_path / "own.safetensors", heads=4)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 12}')
    torch.save(weights(**DINO), tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").config.heads == 12
    with pytest.raises(UserError, match="says 12 heads of attention, not 6"):
        load(tmp_path / "x.pth", heads=6)


def _prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("model_ema", lambda raw, average: {"model": raw, "model_ema": average}),
        ("state_dict_ema", lambda raw, average: {"epoch": 3, "state_dict": raw, "state_dict_ema": average}),
        ("ema", lambda raw, average: {"model": raw, "ema": {"decay": 0.99, "module": average}}),
        ("model_ema", lambda raw, average: {"model": {"state_dict": raw}, "model_ema": {"state_dict": average}}),
        ("target_encoder", lambda raw, average: {"target_encoder": average, "model": raw, "opt": {"state": {}}}),
        ("ema_model", lambda raw, average: {"state_dict": _prefixed("model", raw) | _prefixed("ema_model", average)}),
        (
            "teacher_backbone",
            lambda raw, average: {
                "state_dict": _prefixed("student_backbone", raw) | _prefixed("teacher_backbone", average)
            },
        ),
    ],
)
def test_of_a_network_and_its_average_the_average_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, wrap: Callable[[State, State], dict[str, Any]]
) -> None:
    average = weights(seed=1, **DINO)
    torch.save(wrap(weights(**DINO), average), tmp_path / "x.pth")
    found = loaded(tmp_path / "x.pth").state_dict()
    assert all(torch.equal(found[key], value) for key, value in average.items())
    assert f"its average, {name} is taken" in capsys.readouterr().err


def test_an_average_without_weights_is_none(tmp_path: Path) -> None:
    torch.save({"model": weights(**DINO), "ema": {"decay": 0.99, "steps": torch.tensor(3)}}, tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").dim == 384


def test_weights_under_another_name_are_found_where_they_are_the_only_ones(tmp_path: Path) -> None:
    torch.save({"encoder": weights(**DINO), "epoch": 3}, tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").dim == 384


def test_arguments_scalars_and_paths_do_no_harm(tmp_path: Path) -> None:
    arguments = argparse.Namespace(lr=1e-3, data=Path("photos"), scale=(numpy.float64(0.4), numpy.int64(3)), on=True)
    best = {"accuracy": numpy.float32(78.2), "steps": numpy.int32(4), "flag": numpy.bool_(True)}
    torch.save({"model": weights(**DINO), "args": arguments, "best": best}, tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").dim == 384


def test_what_runs_code_stays_refused_beside_them(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    torch.save({"model": weights(**DINO), "args": argparse.Namespace(it=Evil())}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"could run code\)") as caught:
        load(tmp_path / "x.pth")
    assert "issue" not in str(caught.value)


def test_images_are_those_of_whom_the_weights_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pixels(name: str, state: State) -> Pixels:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(state, tmp_path / name)
        return load(tmp_path / name).pixels

    tips = weights(**DINOV2 | {"registers": 1, "position": "antialias"})
    assert pixels("tips.pth", tips) == Pixels((0.0,) * 3, (1.0,) * 3, size=448)
    assert "mean" not in capsys.readouterr().err
    assert pixels("reg.pth", weights(**DINOV2 | {"registers": 4, "position": "antialias"})) == Pixels(size=224)
    timm = weights(**DINO, patch_size=16) | {"head.weight": torch.zeros(2, 384), "head.bias": torch.zeros(2)}
    capsys.readouterr()
    half = Pixels((0.5,) * 3, (0.5,) * 3, size=48)  # of its table
    assert pixels("vit_small_patch16_224.augreg_in21k.pth", timm) == half
    assert pixels("vit_small_patch16_224.augreg_in21k/pytorch_model.bin", timm) == half
    assert "mean" not in capsys.readouterr().err
    assert pixels("vit_small.pth", timm) == Pixels(size=224)
    assert "images of mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)" in capsys.readouterr().err


def test_a_file_with_an_official_name_is_that_release(tmp_path: Path) -> None:
    for name in ("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", "dinov3-vitl16-pretrain-sat493m/model.safetensors"):
        release = hub.of_file(tmp_path / name)
        assert release is not None
        assert release.pixels.mean == (0.430, 0.411, 0.296)
    assert hub.of_file(tmp_path / "dinov3_vitl16_pretrain_sat493m.pth.old") is None
    torch.save(weights(**DINO), tmp_path / "dino_deitsmall16_pretrain.pth")  # the name alone makes no release
    assert load(tmp_path / "dino_deitsmall16_pretrain.pth").licence is None


@pytest.mark.parametrize(
    ("file", "about", "message"),
    [
        ({"state": {"conv_proj.weight": torch.zeros(3)}, "birder_version": "0.1"}, {}, "a file of Birder"),
        ({"layers.0.weight": torch.zeros(3)}, {"architecture": "swin_tiny"}, "as timm/local-dir:FOLDER"),
        ({"layers.0.weight": torch.zeros(3)}, {"model_type": "swin"}, "as hf/FOLDER"),
    ],
)
def test_networks_of_others_are_told_where_they_run(
    tmp_path: Path, file: dict[str, Any], about: dict[str, Any], message: str
) -> None:
    torch.save(file, tmp_path / "x.pth")
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=re.escape(message)):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("to", ["official", "hf", "timm"])
def test_a_stem_is_named_where_a_layout_has_none(tmp_path: Path, to: str) -> None:
    backbone = VisionTransformer(vit.Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=8, stem=8))
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", header(backbone.config, backbone.pixels, step=0))
    with pytest.raises(UserError, match=r"begins with a stem, 8 channels.*--backbone\.stem null"):
        convert(tmp_path / "x.safetensors", tmp_path / "out.pth" if to == "official" else tmp_path / "out", to=to)
    convert(tmp_path / "x.safetensors", tmp_path / "out.safetensors", to="dinokit")
    assert load(tmp_path / "out.safetensors").dim == 16


@pytest.mark.parametrize("to", ["official", "hf", "timm", "dinokit"])
def test_written_files_are_as_open_as_any_other(
    tmp_path: Path, make_vit: Callable[..., VisionTransformer], to: str
) -> None:
    backbone = make_vit()
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", header(backbone.config, backbone.pixels, step=0))
    (tmp_path / "plain").touch()
    out = tmp_path / ("out" + {"official": ".pth", "dinokit": ".safetensors"}.get(to, ""))
    convert(tmp_path / "x.safetensors", out, to=to)
    for path in [out] if out.is_file() else out.iterdir():
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
