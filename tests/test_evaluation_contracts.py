"""What every evaluation found on disk must keep, whatever it measures."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.evaluation import base
from tests.conftest import MakeFolder, MakeVit

COUNTS = {"train": 4, "val": 3, "test": 3}
FILES = tuple(f"{split}/{kind}/{index}.png" for split, n in COUNTS.items() for kind in "abc" for index in range(n))
# (evaluation, field) -> a value that changes what is computed on the folder above, which is DATA
OTHER_VALUES: dict[tuple[str, str], dict[str, Any]] = {
    ("knn", "gallery"): {"gallery": "val", "query": "train"},
    ("knn", "query"): {"gallery": "train", "query": "train"},
    ("knn", "k"): {"k": (1,)},
    ("knn", "temperature"): {"temperature": 1e-5},
    ("knn", "limit"): {"limit": 5},
    ("knn", "shots"): {"shots": 0.25},
    ("knn", "draws"): {"draws": 2},
    ("knn", "near"): {"near": -1.0},
    ("knn", "metric"): {"metric": "per-class"},
    ("retrieval", "split"): {"split": "val"},
    ("retrieval", "distractors"): {"distractors": "DATA"},
    ("retrieval", "fit"): {"fit": "inner"},
    ("retrieval", "size"): {"size": 8},
    ("retrieval", "scales"): {"scales": (1.0, 0.5)},
    ("retrieval", "gem"): {"gem": 4.0},
    ("retrieval", "whiten"): {"whiten": None},
    ("retrieval", "dims"): {"dims": 2},
    ("logreg", "train"): {"train": "test", "test": "train"},
    ("logreg", "val"): {"val": "train", "train": "val"},
    ("logreg", "test"): {"test": "val", "val": "test"},
    ("logreg", "c"): {"c": (1e-6,)},
    ("logreg", "metric"): {"metric": "per-class"},
    ("logreg", "limit"): {"limit": 6},
    ("logreg", "near"): {"near": -1.0},
    ("logreg", "shots"): {"shots": 1.0},
    ("logreg", "draws"): {"draws": 1},
    ("attentive", "train"): {"train": "test", "test": "train"},
    ("attentive", "val"): {"val": "test", "test": "val"},
    ("attentive", "test"): {"test": "val", "val": "test"},
    ("attentive", "lr"): {"lr": (1e-4,)},
    ("attentive", "weight_decay"): {"weight_decay": (300.0,)},
    ("attentive", "passes"): {"passes": 1},
    ("attentive", "batch_size"): {"batch_size": 2},
    ("attentive", "metric"): {"metric": "per-class"},
    ("attentive", "limit"): {"limit": 6},
    ("attentive", "seed"): {"seed": 1},
    ("attentive", "shots"): {"shots": 1.0},
    ("attentive", "draws"): {"draws": 2},
    ("linear", "protocol"): {"protocol": "dino"},
    ("linear", "train"): {"train": "test", "test": "train"},
    ("linear", "val"): {"val": "test"},
    ("linear", "test"): {"test": "val", "val": "test"},
    ("linear", "crops"): {"crops": True},
    ("linear", "lr"): {"lr": (1e-4,)},
    ("linear", "weight_decay"): {"weight_decay": (0.5,)},
    ("linear", "blocks"): {"blocks": (2,)},
    ("linear", "mean_patch"): {"mean_patch": (True,)},
    ("linear", "optimizer"): {"optimizer": "adamw"},
    ("linear", "loss"): {"loss": "bce"},
    ("linear", "iterations"): {"iterations": 1},
    ("linear", "batch_size"): {"batch_size": 2},
    ("linear", "metric"): {"metric": "per-class"},
    ("linear", "limit"): {"limit": 6},
    ("linear", "near"): {"near": -1.0},
    ("linear", "seed"): {"seed": 1},
    ("linear", "shots"): {"shots": 1.0},
    ("linear", "draws"): {"draws": 2},
}


# settings under which every other one counts
SETTINGS: dict[str, dict[str, Any]] = {
    "retrieval": {"whiten": "DATA"},
    "knn": {"k": (12,), "shots": 2.0},
    "logreg": {"shots": 2.0, "c": (0.1, 1.0)},
    "attentive": {"shots": 2.0, "passes": 5},
    "linear": {"protocol": "dinov2", "crops": False, "shots": 2.0, "lr": (0.1, 0.3), "blocks": (1,), "iterations": 5},
}
SOURCES = {"data", "tests"}  # fields that name images
# what is measured on patches takes masks, not classes of images, and is tested beside its own file
NAMES = [name for name in base.names() if not getattr(base.find(name), "PATCHES", False)]


@pytest.fixture
def labelled(make_folder: MakeFolder) -> str:
    """Three classes of noise that even an untrained network tells apart only in part."""
    return str(make_folder(*FILES, tinted=False))


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_gives_finite_numbers_and_leaves_the_backbone_alone(
    name: str, labelled: str, make_vit: MakeVit
) -> None:
    module = base.find(name)
    backbone = make_vit().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    result = base.measure(name, backbone, module.Config(data=labelled))
    assert result
    assert all(torch.isfinite(torch.tensor(value)) for value in result.values())
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert base.measure(name, backbone, module.Config(data=labelled)) == result


@pytest.mark.parametrize("name", NAMES)
def test_data_without_labels_is_a_clear_mistake(name: str, make_folder: MakeFolder, make_vit: MakeVit) -> None:
    flat = make_folder("1.png", "2.png", "3.png", name="flat")
    with pytest.raises(UserError, match="expected labelled images"):
        base.measure(name, make_vit(), base.find(name).Config(data=str(flat)))


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, f.name) for n in NAMES for f in fields(base.find(n).Config) if f.name not in ("data", "tests", "head")],
)
def test_every_setting_changes_the_result(name: str, field: str, labelled: str, make_vit: MakeVit) -> None:
    module = base.find(name)
    assert (name, field) in OTHER_VALUES, f"give {name}.{field} a value in OTHER_VALUES"
    usual, other = (
        {key: labelled if value == "DATA" else value for key, value in values.items()}
        for values in (SETTINGS.get(name, {}), OTHER_VALUES[name, field])
    )
    config = module.Config(data=labelled, **usual)
    changed = replace(config, **other)
    assert base.measure(name, make_vit(seed=1), changed) != base.measure(name, make_vit(seed=1), config)
