import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.checkpoints.classifier import load_classifier
from dinokit.core.messages import UserError
from dinokit.dense import grid as grids
from dinokit.dense import protocols, sweep
from dinokit.evaluation import base, linear
from dinokit.evaluation.linear import Config
from dinokit.features.extraction import extract
from dinokit.images.intensity import Pixels
from dinokit.models import convnets
from dinokit.models.convnets import ResNet
from dinokit.models.features import Backbone
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder, MakeVit
from tests.vits import ARCHITECTURE

COUNTS = {"train": 8, "val": 4, "test": 5}
SPLIT = tuple(f"{split}/{label}/{i}.png" for split, count in COUNTS.items() for label in "abc" for i in range(count))
TWO = tuple(file for file in SPLIT if not file.startswith("test"))
FEW = {"protocol": "dinov2", "crops": False, "lr": (0.03, 0.3), "blocks": (1, 2), "iterations": 20}


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("protocol", ["dino", "dinov2", "dinov3"])
def test_colours_are_told_apart_by_every_published_grid(
    make_vit: MakeVit, make_folder: MakeFolder, protocol: str, *, crops: bool
) -> None:
    config = Config(data=str(make_folder(*SPLIT)), protocol=protocol, crops=crops, iterations=12)  # type: ignore[arg-type]
    lr = (0.3,) if protocol == "dino" else None
    result = base.measure("linear", make_vit(), replace(config, lr=lr))
    assert result["top1"] == result["per-class"] == 100
    assert (result["train"], result["test"]) == (24, 15)
    assert ("val" in result) == (protocol != "dino")  # one head is no choice


def test_a_head_of_dino_reads_by_the_width(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data=str(make_folder(*SPLIT)), protocol="dino", crops=False, iterations=2)
    vit = VisionTransformer(replace(ARCHITECTURE, depth=4), seed=0).eval()
    vit.pixels = Pixels((0.5,), (0.25,), 16)
    resnet = ResNet(convnets.ResNetConfig(width=2, depths=(1, 1, 1, 1)), seed=1).eval()
    resnet.pixels = Pixels((0.5,), (0.5,), 32)

    def reads(backbone: Backbone) -> tuple[float, float]:
        result = base.measure("linear", backbone, config)
        return result["blocks"], result["mean_patch"]

    assert reads(vit) == (4, 0)
    monkeypatch.setattr(protocols, "NARROW", 15)
    assert reads(vit) == (1, 1)
    assert reads(resnet) == (1, 0)  # its stages have different widths


def test_quick_is_chosen_on_a_cpu_and_is_right(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    result = base.measure("linear", make_vit(), Config(data=str(make_folder(*SPLIT))))
    assert (result["top1"], result["heads"]) == (100, 12)
    assert "--protocol dinov3 is the published one" in capsys.readouterr().err


def test_noise_is_at_chance(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    files = [f"{split}/{label}/{i}.png" for split in ("train", "val", "test") for label in "abc" for i in range(40)]
    data = str(make_folder(*files, sizes=((8, 8),), tinted=False))
    result = base.measure("linear", make_vit(size=8), Config(data=data, iterations=50))
    assert result["top1"] == pytest.approx(100 / 3, abs=13)  # three standard deviations of 120 images


def test_the_best_on_val_counts_and_is_kept_as_it_was_measured(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path
) -> None:
    data, backbone = str(make_folder(*SPLIT, tinted=False)), make_vit()
    result = base.measure("linear", backbone, Config(data=data, **FEW), tmp_path)  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "linear.json").read_text())
    assert len(kept["tried"]) == result["heads"] == 8
    best = max(kept["tried"], key=lambda head: head["val"])
    assert result["val"] == best["val"]
    assert {name: float(best[name]) for name in ("lr", "blocks", "mean_patch", "weight_decay")} == {
        name: result[name] for name in ("lr", "blocks", "mean_patch", "weight_decay")
    }
    assert kept["intervals"]["top1"][0] <= result["top1"] <= kept["intervals"]["top1"][1]
    classifier = load_classifier(backbone, tmp_path / "head")
    right = 0
    source = open_source(data, split="test")
    assert source.labels is not None
    for index, label in enumerate(source.labels.tolist()):
        pixels = backbone.transform(Image.fromarray(source.read(index).permute(1, 2, 0).numpy()))
        right += int(classifier(pixels).argmax()) == label
    assert result["top1"] == pytest.approx(100 * right / len(source))
    with pytest.raises(UserError, match="weights are not those"):
        load_classifier(make_vit(seed=1), tmp_path / "head")


def test_it_is_torchs_own_training_of_the_same_head(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data, backbone = str(make_folder(*SPLIT, tinted=False)), make_vit()
    config = Config(data=data, protocol="dinov3", crops=False, lr=(0.5,), weight_decay=(0.01,), iterations=30)
    result = base.measure("linear", backbone, config)
    left, right = (extract(backbone, open_source(data, split=split)) for split in ("train", "test"))
    x, y = torch.from_numpy(left.vectors), torch.from_numpy(left.labels)
    head = torch.nn.Linear(16, 3)
    draw = torch.Generator().manual_seed(grids.derived(0, 1, 0))
    head.load_state_dict({"weight": torch.randn(3, 16, generator=draw) * 0.01, "bias": torch.zeros(3)})
    descent = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, 30)
    for _ in range(30):  # batches of all 24 images, whatever their order
        descent.zero_grad()
        torch.nn.functional.cross_entropy(head(x), y).backward()
        descent.step()
        slower.step()
    answers = head(torch.from_numpy(right.vectors)).argmax(dim=1).numpy()
    assert result["top1"] == pytest.approx(100 * (answers == right.labels).mean())


def test_val_is_chosen_on_and_measured_as_published_but_not_by_quick(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(make_folder(*TWO, tinted=False))
    result = base.measure("linear", make_vit(), Config(data=data, **FEW))  # type: ignore[arg-type]
    assert (result["train"], result["test"]) == (24, 12)
    assert result["val"] == result["top1"]
    assert "val chooses the head and is measured, as published" in capsys.readouterr().err
    result = base.measure("linear", make_vit(), Config(data=data, protocol="quick"))
    assert (result["train"], result["test"]) == (21, 12)  # one of eight of each class chooses


def test_a_killed_training_gives_the_same_json(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, backbone = str(make_folder(*SPLIT, tinted=False)), make_vit()
    monkeypatch.setattr(sweep, "SAVE_EVERY", 2)
    for crops in (False, True):
        config = Config(data=data, **FEW | {"crops": crops, "iterations": 8})  # type: ignore[arg-type]
        whole, parts = tmp_path / f"whole{crops}", tmp_path / f"parts{crops}"
        base.measure("linear", backbone, config, whole)

        step = grids.Grid.step

        def killed(self: grids.Grid, *args: object, step: int, original: object = step) -> None:
            if step == 5:
                raise KeyboardInterrupt
            original(self, *args, step=step)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(grids.Grid, "step", killed)
            with pytest.raises(KeyboardInterrupt):
                base.measure("linear", backbone, config, parts)
        base.measure("linear", backbone, config, parts)
        for name in ("linear.json", "head/head.safetensors", "head/head.json"):
            assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_of_equal_heads_the_first_counts(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    config = Config(data=str(make_folder(*SPLIT)), lr=(0.5, 0.3, 0.4), weight_decay=(1e-5, 0.0), blocks=(2, 1))
    result = base.measure("linear", make_vit(), replace(config, protocol="quick", iterations=100))
    first = {"val": 100, "lr": 0.3, "weight_decay": 0, "blocks": 1, "mean_patch": 0, "heads": 24}
    assert {name: result[name] for name in first} == first


def test_few_shots_are_means_over_draws(make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path) -> None:
    config = Config(data=str(make_folder(*SPLIT, tinted=False)), shots=2.0, draws=3, **FEW)  # type: ignore[arg-type]
    result = base.measure("linear", make_vit(), config, tmp_path)
    each = [draw["top1"] for draw in json.loads((tmp_path / "linear.json").read_text())["draws"]]
    assert len(set(each)) > 1
    assert (result["top1"], result["top1/std"]) == (pytest.approx(numpy.mean(each)), pytest.approx(numpy.std(each)))
    assert result["train"] == 6


def test_a_head_that_diverges_never_wins(make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = str(make_folder(*SPLIT))
    config = Config(data=data, **FEW | {"lr": (0.3, 1e38)})  # type: ignore[arg-type]
    result = base.measure("linear", make_vit(), config, tmp_path)
    assert (result["lr"], result["top1"]) == (0.3, 100)
    tried = json.loads((tmp_path / "linear.json").read_text())["tried"]
    assert {head["val"] for head in tried if head["lr"] == 1e38} == {None}
    with pytest.raises(UserError, match="all heads have diverged"):
        base.measure("linear", make_vit(), replace(config, lr=(1e38,)))


def test_pixels_are_measured_by_every_protocol(make_folder: MakeFolder) -> None:
    data = str(make_folder(*SPLIT))
    for protocol in ("dino", "dinov2"):
        config = Config(data=data, protocol=protocol, crops=False, lr=(0.1, 0.2), iterations=5)  # type: ignore[arg-type]
        assert base.measure("linear", RawPixels(size=16), config)["blocks"] == 1


@pytest.mark.parametrize("files", [("a/0.png", "b/0.png"), ("train/a/0.png", "train/b/0.png", "val/a/0.png")])
def test_one_image_of_each_class_is_too_few(files: tuple[str, ...], make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match=r"(two or more images of a class|expected labelled images)"):
        base.measure("linear", RawPixels(size=16), Config(data=str(make_folder(*files)), protocol="quick"))


def test_mistakes_are_one_line(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data = str(make_folder(*SPLIT))
    for wrong, said in (
        ({"crops": True, "protocol": "quick"}, "quick protocol learns from kept features"),
        ({"blocks": (3,), "protocol": "dinov2"}, "cannot read 3 blocks .* has 2 blocks"),
        ({"val": "train"}, "three different splits"),
        ({"tests": ("demo:fashion",)}, "no class of demo:fashion"),
    ):
        with pytest.raises(UserError, match=said):
            base.measure("linear", make_vit(), Config(data=data, **wrong | {"iterations": 2}))  # type: ignore[arg-type]
    for impossible in ({"lr": ()}, {"lr": (0.0,)}, {"draws": 2}, {"iterations": 0}):
        with pytest.raises(UserError):
            Config(data="x", **impossible)  # type: ignore[arg-type]


def test_a_leak_is_said_with_the_pair(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(*SPLIT)
    (root / "test" / "a" / "0.png").write_bytes((root / "train" / "a" / "3.png").read_bytes())
    other = make_folder("a/0.png", "b/0.png", name="other", tinted=False)
    (other / "b" / "0.png").write_bytes((root / "train" / "c" / "1.png").read_bytes())
    config = Config(data=str(root), iterations=2, tests=(str(other),))
    result = base.measure("linear", make_vit(), config, tmp_path)
    assert result["leaks"] == 1
    assert "leakage, images of this set that are in train again, 1: b/0.png = c/1.png" in capsys.readouterr().err
    kept = json.loads((tmp_path / "linear.json").read_text())
    assert kept["leakage"]["equal"] == [["a/0.png", "a/3.png"]]
    assert kept["tests"]["other"]["leakage"]["equal"] == [["b/0.png", "c/1.png"]]


def test_images_of_several_classes_are_judged_by_mean_precision(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*SPLIT)
    names = {"a": "red", "b": ["red", "round"], "c": ["flat", "round"]}
    rows = [{"path": path, "split": path.split("/")[0], "labels": names[path.split("/")[1]]} for path in SPLIT]
    (root / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for loss in (None, "ce"):
        config = Config(data=str(root / "table.jsonl"), loss=loss)  # type: ignore[arg-type]
        result, details = linear.run(make_vit(), replace(config, protocol="quick"), None)
        assert result["mAP"] == pytest.approx(100)
        assert details["intervals"] == {"mAP": pytest.approx([100, 100])}
        assert "top1" not in result
    with pytest.raises(UserError, match="several classes, .* which top1 does not judge"):
        base.measure("linear", make_vit(), replace(config, metric="top1"))


def test_a_saved_head_is_measured_as_it_was(make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path) -> None:
    backbone, data = make_vit(), str(make_folder(*TWO, tinted=False))  # noise: some answers are wrong
    result = base.measure("linear", backbone, Config(data=data, protocol="quick", iterations=20), tmp_path / "out")
    head = str(tmp_path / "out" / "head")
    again = base.measure("linear", backbone, Config(data=data, head=head))
    assert again == {name: result[name] for name in again}
    assert 0 < again["top1"] < 100
    other = make_folder("val/a/0.png", "val/d/0.png", "train/a/1.png", "train/d/1.png", name="other")
    with pytest.raises(UserError, match=r"the head tells 3 classes apart .* has 2 \(a, ...\)"):
        base.measure("linear", backbone, Config(data=str(other), head=head))
    with pytest.raises(UserError, match="blocks cannot be set with head"):
        Config(data=data, head=head, blocks=(1,))
