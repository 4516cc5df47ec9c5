"""Random image towers of OpenCLIP, saved in its folders and read back."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.peers.open_clip import OpenClip
from dinokit.peers.timm import Timm

open_clip = pytest.importorskip("open_clip")

Scramble = Callable[[nn.Module], nn.Module]
Images = Callable[..., Tensor]

VIT = {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "averaged": VIT | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "timm": {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "avg", "image_size": 64},
    "coca": VIT | {"attentional_pool": True, "attn_pooler_heads": 2},
}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


def saved(folder: Path, name: str, scramble: Scramble) -> Any:
    """Write an OpenCLIP folder and return the model as open_clip itself loads it."""
    model = {"embed_dim": 8, "vision_cfg": TOWERS[name], "text_cfg": TEXT, "custom_text": name == "timm"}
    about = {"model_cfg": model, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    fresh = scramble(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    save_file({key: value.contiguous() for key, value in fresh.state_dict().items()}, folder / "model.safetensors")
    return open_clip.create_model(f"local-dir:{folder}").eval()


@pytest.mark.parametrize("name", ["vit", "averaged"])
@torch.no_grad()
def test_features_projected_are_those_of_open_clip(
    name: str, tmp_path: Path, scramble: Scramble, images: Images
) -> None:
    visual = saved(tmp_path, name, scramble).visual
    ours = load(f"open_clip/local-dir:{tmp_path}")
    assert isinstance(ours, OpenClip)
    found = ours(images(48, 48))
    torch.testing.assert_close(found.cls @ visual.proj, visual(images(48, 48)), atol=1e-5, rtol=1e-5)
    assert found.grid == (3, 3)
    visual.output_tokens = True
    tokens = visual(images(48, 48))[1]  # [batch, patch, dim]
    patches = tokens if name == "vit" else visual.ln_post(tokens)
    torch.testing.assert_close(found.patches, patches, atol=1e-5, rtol=1e-5)
    assert found.registers.shape == (2, 0, 32)
    last, first = ours.intermediate(images(48, 48), [1, 0])
    assert torch.equal(last.cls, found.cls)
    raw = ours.intermediate(images(48, 48), [1, 0], norm=False)
    torch.testing.assert_close(visual.ln_post(raw[0].patches), found.patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(visual.ln_post(raw[1].patches), first.patches, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(raw[0].patches, raw[1].patches)


@torch.no_grad()
def test_a_tower_of_timm_is_a_model_of_timm(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    visual = saved(tmp_path, "timm", scramble).visual
    ours = load(f"open_clip/local-dir:{tmp_path}")
    assert isinstance(ours, Timm)
    for size in ((64, 64), (64, 96)):
        found = ours(images(*size))
        torch.testing.assert_close(found.maps, visual.trunk.forward_features(images(*size)))
        torch.testing.assert_close(visual.head(found.cls), visual(images(*size)))
        assert found.grid == (size[0] // 32, size[1] // 32)
    twin = ours.untrained(seed=1)
    assert isinstance(twin, Timm)
    assert twin(images(64, 64)).cls.shape == found.cls.shape


def test_pixels_are_those_of_the_folder(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "vit", scramble)
    assert load(f"open_clip/local-dir:{tmp_path}").pixels == Pixels((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 48)


@torch.no_grad()
def test_positions_are_fitted_to_other_sizes_as_open_clip_does(
    tmp_path: Path, scramble: Scramble, images: Images
) -> None:
    saved(tmp_path, "vit", scramble)
    ours = load(f"open_clip/local-dir:{tmp_path}")
    theirs = open_clip.create_model(f"local-dir:{tmp_path}", force_image_size=(64, 96)).visual.eval()
    theirs.proj = None
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    torch.testing.assert_close(ours(images(64, 96)).cls, theirs(images(64, 96)), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    assert ours(images(50, 48)).grid == (3, 3)  # what fills no patch is not seen


def test_the_untrained_twin_has_other_weights(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "vit", scramble)
    ours = load(f"open_clip/local-dir:{tmp_path}")
    first, same = (ours.untrained(seed=3).network for _ in range(2))
    assert torch.equal(first.conv1.weight, same.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(first.conv1.weight, ours.network.conv1.weight)  # type: ignore[attr-defined, arg-type, union-attr]


def test_a_folder_without_weights_is_not_a_random_model(
    tmp_path: Path, scramble: Scramble, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, "vit", scramble)
    (tmp_path / "model.safetensors").unlink()
    caplog.clear()
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="Required pretrained weights"):
        load(f"open_clip/local-dir:{tmp_path}")
    assert not caplog.records  # the error says it all


def test_a_tower_that_pools_into_text_is_refused(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "coca", scramble)
    with pytest.raises(UserError, match="pools by attention into the space of text"):
        load(f"open_clip/local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-33/openai", "unknown architecture of open_clip 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("ViT-B-32/laion2b", "unknown weights of ViT-B-32 'laion2b'; did you mean 'laion2b_e16'"),
        ("ViT-B-32", "which weights of ViT-B-32"),
        ("ViT-M-32", "open_clip has no weights for ViT-M-32"),
        ("local-dir:/nowhere", "cannot be loaded: .*nowhere"),
    ],
)
def test_names_that_do_not_exist_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"open_clip/{name}")
