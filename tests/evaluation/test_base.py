from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch

from dinokit.core.files import read_json
from dinokit.core.messages import UserError
from dinokit.evaluation import base
from dinokit.images.intensity import Pixels
from dinokit.models import convnets
from dinokit.models.convnets import ResNet
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]

FILES = tuple(f"{label}/{i}.png" for label in "abc" for i in range(4))


def test_evaluations_are_found_by_their_file_names() -> None:
    assert {"knn", "retrieval", "segmentation"} <= set(base.names())
    with pytest.raises(UserError, match="did you mean 'knn'"):
        base.find("knm")


@pytest.mark.parametrize("name", [name for name in base.names() if not getattr(base.find(name), "PATCHES", False)])
def test_every_evaluation_keeps_the_contract(
    name: str, make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path
) -> None:
    module = base.find(name)
    config = module.Config(data=str(make_folder(*FILES)))
    assert is_dataclass(config)
    with pytest.raises(AttributeError):
        config.data = "other"
    backbone = make_vit().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    result = base.measure(name, backbone, config, tmp_path / "out")
    assert (tmp_path / "out" / f"{name}.json").exists()
    shares = [value for number, value in result.items() if number.startswith(tuple(module.UNITS))]
    assert shares
    assert all(0 <= value <= 100 for value in shares)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.training


def test_a_class_that_nobody_can_read_is_no_class(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*FILES)
    for number in range(4):
        (root / "b" / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image of class 'b' .* the first bad image: b/0\.png: empty file"):
        base.measure("knn", make_vit(), base.find("knn").Config(data=str(root)))


def test_splits_without_a_class_in_common_are_refused(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    splits = [f"train/{name}/0.png" for name in ("cats", "dogs")] + [f"val/{name}/0.png" for name in ("Cat", "Dog")]
    with pytest.raises(UserError, match="no class of val is one of train .*'Cat' and 'cats'"):
        base.measure("knn", make_vit(), base.find("knn").Config(data=str(make_folder(*splits))))


def test_a_convolutional_network_is_measured_like_any_other(make_folder: MakeFolder, tmp_path: Path) -> None:
    backbone = ResNet(convnets.ResNetConfig(width=2, depths=(1, 1, 1, 1)), seed=1).eval()
    backbone.pixels = Pixels((0.5,), (0.5,), 32)
    fresh = base.baselines(backbone, seed=5)["random-init"]
    assert isinstance(fresh, ResNet)
    assert (fresh.config, fresh.pixels) == (backbone.config, backbone.pixels)
    assert not torch.equal(fresh.conv1.weight, backbone.conv1.weight)
    module = base.find("knn")
    result = base.measure("knn", fresh, module.Config(data=str(make_folder(*FILES)), k=(1,)), tmp_path / "out")
    assert all(0 <= value <= 100 for value in result.values())


def test_baselines_look_at_the_same_images(make_vit: MakeVit) -> None:
    backbone = make_vit(size=16, seed=1)
    found = base.baselines(backbone, seed=5)
    assert list(found) == ["random-init", "raw-pixels"]
    fresh = found["random-init"]
    assert isinstance(fresh, VisionTransformer)
    assert (fresh.config, fresh.pixels) == (backbone.config, backbone.pixels)
    assert not torch.equal(fresh.patch_embed.proj.weight, backbone.patch_embed.proj.weight)
    assert isinstance(found["raw-pixels"], RawPixels)
    assert found["raw-pixels"].pixels.size == 16
    assert base.raw_pixels(make_vit(size=224)).pixels.size == 32


def test_what_is_doubtful_is_said_once_for_a_model_and_its_baselines(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"{split}/{number}/{i}.png" for split in ("train", "val") for number in (1, 2) for i in range(3)]
    root = make_folder(*files, "val/3/0.png")
    (root / "val" / "1" / "0.png").write_bytes((root / "train" / "2" / "1.png").read_bytes())
    (root / "train" / "1" / "2.png").write_bytes(b"")
    config, backbone = base.find("knn").Config(data=str(root), k=(1,)), make_vit()
    result = base.measure("knn", backbone, config, tmp_path / "out")
    for rival in base.baselines(backbone).values():
        assert base.measure("knn", rival, config)["leaks"] == result["leaks"] == 1
    assert [line.removeprefix(f"warning: {root}: ") for line in capsys.readouterr().err.splitlines()] == [
        "the folders of classes are numbers, 1, 2, 3: each is a name, whatever its place in a list",
        "classes that are only asked, with no image to answer, 1: 3",
        "images that cannot be read and do not count, 1: 1/2.png: empty file (0 bytes)",
        "leakage, images of val that are in train again, 1: 1/0.png = 2/1.png",
    ]
    assert read_json(tmp_path / "out" / "knn.json")["leakage"]["equal"] == [["1/0.png", "2/1.png"]]


@pytest.mark.parametrize("name", ["logreg", "linear", "attentive"])
def test_a_picture_that_chooses_and_is_measured_is_said(
    name: str, make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(*(f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in range(10)))
    for i in range(10):  # whichever of them is set aside to choose
        (folder / f"val/a/{i}.png").write_bytes((folder / f"train/a/{i}.png").read_bytes())
    base.measure(name, make_vit(), base.find(name).Config(data=str(folder)), tmp_path / "out")
    assert len(read_json(tmp_path / "out" / f"{name}.json")["leakage"]["equal"]) == 10
