"""Every family of models goes through every evaluation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from timm.models import _hub as hub

from dinokit.checkpoints.load import load
from dinokit.dense.tracking import Rule
from dinokit.evaluation import base
from dinokit.images.intensity import Pixels
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeFolder
from tests.evaluation.dense_data import squares
from tests.evaluation.detectors import make_small
from tests.evaluation.test_depth import bright_is_far
from tests.evaluation.test_detection import scenes
from tests.evaluation.test_matching import moved
from tests.evaluation.test_tracking import clips
from tests.vits import ARCHITECTURE

SIDE = 32  # two patches of sixteen


def ours(_: Path) -> Backbone:
    backbone = VisionTransformer(replace(ARCHITECTURE, depth=4), seed=0).eval()
    backbone.pixels = Pixels(size=SIDE)
    return backbone


def of_timm(folder: Path) -> Backbone:
    sizes: dict[str, Any] = {"img_size": SIDE, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 0}
    hub.save_for_hf(timm.create_model("vit_tiny_patch16_224", **sizes), folder, model_args=sizes)
    return load(f"timm/local-dir:{folder}")


def of_transformers(folder: Path) -> Backbone:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": SIDE, "width": SIDE}}))
    return load(f"hf/{folder}")


def of_open_clip(folder: Path) -> Backbone:
    tower = {"image_size": SIDE, "layers": 4, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": 8, "vision_cfg": tower, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    fresh = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({key: value.contiguous() for key, value in fresh.state_dict().items()}, folder / "model.safetensors")
    return load(f"open_clip/local-dir:{folder}")


def halves(root: Path) -> Path:
    """Write three pictures whose left half is the foreground."""
    mask = numpy.zeros((2 * SIDE, 2 * SIDE), dtype=numpy.uint8)
    mask[:, :SIDE] = 1
    for name, scale in (("images", 200), ("masks", 1)):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(mask * (scale + number * (scale > 1))).save(root / name / f"{number}.png")
    return root


FAMILIES = {"ours": ours, "timm": of_timm, "hf": of_transformers, "open_clip": of_open_clip}


@pytest.fixture
def prepared(tmp_path: Path, make_folder: MakeFolder) -> dict[str, Callable[[], dict[str, Any]]]:
    """By evaluation, what writes its tiny data and returns its settings."""

    def classes() -> str:
        counts = {"train": 4, "val": 3, "test": 3}
        return str(
            make_folder(*(f"{s}/{kind}/{n}.png" for s, count in counts.items() for kind in "ab" for n in range(count)))
        )

    head = {"protocol": "quick", "iterations": 2, "warmup": 1, "batch_size": 2, "lr": (0.01,)}
    return {
        "knn": lambda: {"data": classes(), "k": (3,)},
        "logreg": lambda: {"data": classes(), "c": (0.1,)},
        "linear": lambda: {"data": classes(), "iterations": 2},
        "attentive": lambda: {"data": classes(), "passes": 2},
        "retrieval": lambda: {"data": classes()},
        "segmentation": lambda: {"data": str(squares(tmp_path / "data", side=SIDE)), "size": SIDE, **head},
        "depth": lambda: {"data": str(bright_is_far(tmp_path / "data")), "high": 8.0, **head, "short": SIDE},
        "foreground": lambda: {"data": str(halves(tmp_path / "data")), "size": 2 * SIDE, "c": (0.1,)},
        "detection": lambda: {
            "data": str(scenes(tmp_path / "data", counts={"train": 2, "val": 1})),
            "size": SIDE,
            "iterations": 2,
            "batch_size": 2,
            "queries": 5,
        },
        "discovery": lambda: {"data": str(halves(tmp_path / "data")), "tau": (0.2,)},
        "tracking": lambda: {"data": str(clips(tmp_path / "data", frames=2)), "short": SIDE, "rule": Rule(radius=1)},
        "matching": lambda: {"data": moved(tmp_path / "data"), "size": SIDE},
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", base.names())
def test_every_family_is_measured_by_every_evaluation(
    task: str,
    family: str,
    prepared: dict[str, Callable[[], dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_small(monkeypatch)
    (tmp_path / "model").mkdir()
    torch.manual_seed(0)
    backbone = FAMILIES[family](tmp_path / "model")
    config = base.find(task).Config(**prepared[task]())
    numbers = base.measure(task, backbone, config, tmp_path / "out")
    assert all(torch.isfinite(torch.tensor(value)) for value in numbers.values()), numbers
    assert json.loads((tmp_path / "out" / f"{task}.json").read_text()).items() >= numbers.items()
