"""Peers behind the front door: dispatch, a missing library, a closed network, an evaluation beside baselines."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import dinokit
from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.models.vit import VisionTransformer
from dinokit.peers.peer import assembled

transformers = pytest.importorskip("transformers")

Scramble = Callable[[nn.Module], nn.Module]
MakeFolder = Callable[..., Path]
FILES = tuple(f"{label}/{index}.png" for label in "abc" for index in range(4))


def saved(folder: Path, scramble: Scramble) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    scramble(transformers.Dinov2Model(transformers.Dinov2Config(**sizes))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "missing", "extra"),
    [
        ("timm/resnet18", "timm", "timm"),
        ("hf/facebook/dinov2-base", "transformers", "hf"),
        ("open_clip/ViT-B-32/openai", "open_clip", "open_clip"),
    ],
)
def test_a_missing_library_names_its_extra(
    model: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError) as caught:
        load(model)
    assert str(caught.value) == f"{missing} is not installed; run: pip install 'dinokit[{extra}]'"


def test_a_path_that_exists_comes_first(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make_run(str(make_folder(*FILES))) / "checkpoints" / "0"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    step.rename(tmp_path / "timm" / "x")
    for name in ("timm/x", "./timm/x", Path("timm/x"), tmp_path / "timm" / "x"):
        assert isinstance(load(name), VisionTransformer)
    with pytest.raises(UserError, match=r"no model at timm/y; expected a run folder.*, timm/NAME"):
        load("./timm/y")


@torch.no_grad()
def test_peers_are_frozen_and_cannot_hide_patches(tmp_path: Path, scramble: Scramble) -> None:
    ours = load(f"hf/{saved(tmp_path, scramble)}")
    assert not ours.training
    assert not any(weight.requires_grad for weight in ours.parameters())
    with pytest.raises(UserError, match="cannot hide patches"):
        ours(torch.zeros(1, 3, 16, 16), masks=torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(UserError, match="the model has 1 layers, 0 to 0"):
        ours.intermediate(torch.zeros(1, 3, 16, 16), [1])
    with pytest.raises(UserError, match="takes 3 channels, the images have 4"):
        ours(torch.zeros(1, 4, 16, 16))


def test_an_evaluation_stands_beside_its_baselines(tmp_path: Path, scramble: Scramble, make_folder: MakeFolder) -> None:
    model = f"hf/{saved(tmp_path / 'model', scramble)}"
    rows = dinokit.evaluate("knn", model=model, data=str(make_folder(*FILES)), device="cpu", settings={"k": (1,)})
    assert list(rows) == [model, "random-init", "raw-pixels"]
    assert all(0 <= row["top1@1"] <= 100 for row in rows.values())


def test_embed_writes_the_features_of_a_peer(tmp_path: Path, scramble: Scramble, make_folder: MakeFolder) -> None:
    model = f"hf/{saved(tmp_path / 'model', scramble)}"
    dinokit.embed(model=model, data=str(make_folder(*FILES)), out=tmp_path / "out", device="cpu")
    assert numpy.load(tmp_path / "out" / "part-00000.npy").shape == (12, 16)


def test_a_peer_is_not_converted(tmp_path: Path, scramble: Scramble, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model", scramble)
    monkeypatch.chdir(tmp_path)
    for layout, out in {"dinokit": "x.safetensors", "hf": "x"}.items():
        with pytest.raises(UserError, match="hf/model runs in another library; convert its weights file"):
            dinokit.convert(Path("hf/model"), tmp_path / out, to=layout)


def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no folder at {tmp_path}/nowhere, and an id of the hub is OWNER/NAME"):
        load(f"hf/{tmp_path}/nowhere")


def test_tokens_that_are_no_grid_are_refused() -> None:
    tokens: Tensor = torch.arange(8.0).view(1, 8, 1)
    found = assembled(tokens, grid=(2, 3), prefix=2, name="x")
    assert (found.cls.item(), found.registers.flatten().tolist()) == (0, [1])
    assert found.patches.flatten().tolist() == [2, 3, 4, 5, 6, 7]
    with pytest.raises(UserError, match="x gives 7 patches where a grid of 2x3 has 6"):
        assembled(tokens, grid=(2, 3), prefix=1, name="x")
