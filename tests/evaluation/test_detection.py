"""Detection: goes on to the bit, a saved head gives the numbers of its training, predict what was measured."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import coco, cocoeval

from dinokit.annotations.boxes import open_boxes
from dinokit.core.messages import RunError, UserError
from dinokit.core.seed import generator
from dinokit.dense import fit
from dinokit.dense.detection import SHOWN, Detections, drawn, least_of
from dinokit.dense.detr.kept import Kept
from dinokit.dense.detr.learning import piece
from dinokit.dense.detr.recipe import RECIPES
from dinokit.dense.detr.views import View
from dinokit.dense.heads import apply, load_head
from dinokit.evaluation import base, detection
from dinokit.evaluation.detection import Config, learn
from dinokit.evaluation.sets import parts
from dinokit.evaluation.sets.domains import COCO_O, over_domains
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import build
from dinokit.models.convnets import ConvNeXtConfig
from dinokit.models.vit import Config as Architecture
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeVit
from tests.evaluation.detectors import make_small
from tests.vits import vit

COLOURS = {"red": (220, 30, 30), "blue": (40, 40, 220)}
FEW = {"iterations": 4, "batch_size": 2, "size": 32, "queries": 6}


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    """Networks that a test can afford."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield


@dataclass(frozen=True)
class Trained:
    data: Path
    out: Path
    numbers: dict[str, float]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training that several tests read, and none writes to; what it says of its test images is there."""
    root = tmp_path_factory.mktemp("known")
    data = scenes(root / "data", counts={"train": 3, "val": 2})
    config = Config(data=str(data), **FEW)
    base.measure("detection", vit(size=None), config, root / "before")
    draw_what_was_found(data / "val" / "boxes.csv", root / "before" / "detections.json")
    numbers = base.measure("detection", vit(size=None), config, root / "out")
    assert numbers["AP"] > 10  # those of a head that finds nothing are all alike
    return Trained(data, root / "out", numbers)


def draw_what_was_found(table: Path, detections: Path) -> None:
    """Add the likeliest box of every image to a table, as what it was said to be."""
    names, best = sorted(COLOURS), dict[int, dict[str, Any]]()
    for line in json.loads(detections.read_text()):
        best.setdefault(line["image_id"], line)
    rows = [
        f"{image - 1}.png,{left},{top},{left + width},{top + height},{names[line['category_id'] - 1]}"
        for image, line in best.items()
        for left, top, width, height in [line["bbox"]]
    ]
    table.write_text(table.read_text() + "\n".join(rows) + "\n")


def scenes(root: Path, *, counts: dict[str, int], size: tuple[int, int] = (64, 48)) -> Path:
    """Write images of gray noise with one or two coloured rectangles each, and a table of their boxes."""
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        rows = ["path,x0,y0,x1,y1,label"]
        for number in range(count):
            draw = generator(sum(map(ord, split)), number)
            values = draw.integers(90, 140, (size[1], size[0], 3)).astype(np.uint8)
            for name in draw.permutation(list(COLOURS))[: 1 + number % 2]:
                width, height = draw.integers(12, 28, 2)
                left, top = draw.integers(0, size[0] - width), draw.integers(0, size[1] - height)
                values[top : top + height, left : left + width] = COLOURS[name]
                rows.append(f"{number}.png,{left},{top},{left + width},{top + height},{name}")
            Image.fromarray(values).save(root / split / f"{number}.png")
        (root / split / "boxes.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_saved_head_gives_the_numbers_of_its_training(tmp_path: Path, known: Trained) -> None:
    out, saved = known.out, Config(data=str(known.data), head=str(known.out / "head"))
    measured = base.measure("detection", vit(size=None), saved, tmp_path / "again")
    assert known.numbers == measured | {"lr": known.numbers["lr"]}
    written = json.loads((out / "detections.json").read_text())
    assert {line["image_id"] for line in written} == {1, 2}
    assert written == json.loads((tmp_path / "again" / "detections.json").read_text())
    assert len(list((out / "pictures").glob("*.png"))) == 2
    told = json.loads((out / "mistakes.json").read_text())
    assert told == json.loads((tmp_path / "again" / "mistakes.json").read_text()) | {"numbers": told["numbers"]}
    assert {Path(one["file"]).name for one in told["shown"]} <= {"0.png", "1.png"}
    assert told["intervals"].keys() == {"AP", "AP50", "AP75"}
    assert told["intervals"] == json.loads((out / "detection.json").read_text())["intervals"]


def test_predict_writes_what_the_evaluation_found(tmp_path: Path, known: Trained) -> None:
    data, out = known.data, known.out
    head, about = load_head(out / "head")
    written = apply(vit(size=None), head, about, str(data / "val"), tmp_path / "predicted")
    assert written.images == 2
    coco = json.loads((tmp_path / "predicted" / "detections.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png"]
    assert [one["name"] for one in coco["categories"]] == ["blue", "red"]
    wanted = json.loads((out / "detections.json").read_text())
    found = [
        {name: mark[name] for name in ("image_id", "category_id", "bbox", "score")} for mark in coco["annotations"]
    ]
    assert found == wanted
    again = apply(vit(size=None), head, about, str(data / "val"), tmp_path / "predicted")
    assert (again.images, again.there) == (0, 2)
    assert json.loads((tmp_path / "predicted" / "detections.json").read_text()) == coco


def test_pictures_show_the_boxes_by_which_most_was_right_on_images_that_were_not_learnt(
    tmp_path: Path, known: Trained
) -> None:
    head, about = load_head(known.out / "head")
    least = json.loads((known.out / "mistakes.json").read_text())["least"]
    assert about.details["measured"]["least"] == least != SHOWN
    assert (least_of(least, held_out=True), least_of(least, held_out=False)) == (least, SHOWN)
    assert least_of(None, held_out=True) == SHOWN  # a head of before
    apply(vit(size=None), head, about, str(known.data / "val"), tmp_path)
    measured, predicted = (sorted((out / "pictures").rglob("*.png")) for out in (known.out, tmp_path))
    assert [_pixels(path) for path in measured] == [_pixels(path) for path in predicted]
    boxes = torch.tensor([[2.0, 2, 10, 10], [20, 20, 30, 30]])
    found = Detections(boxes, torch.tensor([0, 0]), torch.tensor([0.8, 0.5]))
    page, both = (
        np.asarray(drawn(torch.zeros(3, 40, 40, dtype=torch.uint8), found, ["a"], least=score)) for score in (0.6, 0.5)
    )
    assert page[:18].any()
    assert not page[18:].any()
    assert both[18:].any()


def _pixels(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


def test_what_was_predicted_is_read_back_beside_its_images(tmp_path: Path, known: Trained) -> None:
    head, about = load_head(known.out / "head")
    shutil.copytree(known.data / "val", tmp_path / "val", ignore=shutil.ignore_patterns("*.csv"))
    apply(vit(size=None), head, about, str(tmp_path), tmp_path / "out")
    file = shutil.copy(tmp_path / "out" / "detections.json", tmp_path)
    found = json.loads(Path(file).read_text())
    read = open_boxes(str(file))
    assert [one.size for one in read.marks] == [(64, 48)] * 2
    assert sum(len(one.boxes) for one in read.written) == len(found["annotations"])
    np.testing.assert_allclose(
        np.concatenate([one.areas for one in read.written]),
        [mark["bbox"][2] * mark["bbox"][3] for mark in found["annotations"]],
    )
    assert not any(one.crowd.any() for one in read.written)


def test_a_measurement_that_ends_leaves_the_head(tmp_path: Path, known: Trained) -> None:
    def ended(*_: Any, **__: Any) -> Any:
        raise RunError("ended here")

    config, out = Config(data=str(known.data), **FEW), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "detect", ended)
        with pytest.raises(RunError, match="ended here"):
            base.measure("detection", vit(size=None), config, out)
    assert "measured" not in load_head(out / "head")[1].details
    saved = Config(data=str(known.data), head=str(out / "head"))
    assert base.measure("detection", vit(size=None), saved) | {"lr": known.numbers["lr"]} == known.numbers
    assert base.measure("detection", vit(size=None), config, out) == known.numbers
    own = load_head(out / "head")[1].details["measured"]
    assert (own["AP"], own["held_out"], own["images"], own["limit"]) == (known.numbers["AP"], True, 2, None)


def test_a_measuring_that_is_stopped_goes_on_after_the_parts_that_are_kept(
    tmp_path: Path, known: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two images, a part each."""
    saved, out, usual, seen = Config(data=str(known.data), head=str(known.out / "head")), tmp_path, detection.detect, []

    def ended(*arguments: Any, **named: Any) -> Any:
        seen.append(arguments[2])
        if len(seen) == 2:
            raise RunError("ended here")
        return usual(*arguments, **named)

    monkeypatch.setattr(parts, "PART", 1)
    monkeypatch.setattr(detection, "detect", ended)
    with pytest.raises(RunError, match="ended here"):
        base.measure("detection", vit(size=None), saved, out)
    assert base.measure("detection", vit(size=None), saved, out) | {"lr": known.numbers["lr"]} == known.numbers
    assert len(seen) == 3
    assert torch.equal(seen[1], seen[2])
    assert not (out / "found").exists()
    assert (out / "detections.json").read_bytes() == (known.out / "detections.json").read_bytes()


def interrupted(data: Path, out: Path, **settings: Any) -> dict[str, float]:
    """End a training in its third step, and take it up again."""
    stepped, config = fit._stepped, Config(data=str(data), **FEW | settings)

    def ended(*arguments: Any, step: int, **named: Any) -> Any:
        if step == 2:
            raise RunError("ended here")
        return stepped(*arguments, step=step, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_stepped", ended)
        with pytest.raises(RunError, match="ended here"):
            base.measure("detection", vit(size=None), config, out)
    return base.measure("detection", vit(size=None), config, out)


def test_an_interrupted_training_goes_on_to_the_bit(tmp_path: Path, known: Trained) -> None:
    assert interrupted(known.data, tmp_path / "parts") == known.numbers
    parts, whole = ((folder / "head" / "head.safetensors").read_bytes() for folder in (tmp_path / "parts", known.out))
    assert parts == whole


@pytest.mark.slow
def test_the_published_recipe_goes_all_the_way(tmp_path: Path, known: Trained) -> None:
    """Windows, views and pieces that are drawn, IA-BCE, eight sizes and mirrors; on after a kill, saved, applied."""
    published = {"recipe": "dinov3", "size": 48}
    config = Config(data=str(known.data), **FEW | published)
    whole = base.measure("detection", vit(size=None), config, tmp_path / "whole")
    assert interrupted(known.data, tmp_path / "parts", **published) == whole
    parts, head = ((tmp_path / name / "head" / "head.safetensors").read_bytes() for name in ("parts", "whole"))
    assert parts == head
    assert not (tmp_path / "whole" / "features").exists()
    saved = Config(data=str(known.data), head=str(tmp_path / "whole" / "head"))
    assert base.measure("detection", vit(size=None), saved) | {"lr": whole["lr"]} == whole
    network, about = load_head(tmp_path / "whole" / "head")
    assert about.details["tested"] == [36, 40, 45, 50, 54, 58, 63, 68]
    apply(vit(size=None), network, about, str(known.data / "val"), tmp_path / "predicted")
    predicted, found = (
        [mark["bbox"] for mark in json.loads((tmp_path / name / "detections.json").read_text())[key]]
        for name, key in (("predicted", "annotations"), ("whole", slice(None)))
    )
    assert predicted == found


@pytest.mark.slow
def test_a_convolutional_network_detects_with_its_last_grid(tmp_path: Path, known: Trained) -> None:
    backbone = build(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1)), seed=0).eval()
    config = Config(data=str(known.data), **FEW | {"size": 64})
    numbers = base.measure("detection", backbone, config, tmp_path / "out")
    head, _ = load_head(tmp_path / "out" / "head")
    assert (head.config.stride, head.config.width) == (32, 10)
    saved = Config(data=str(known.data), head=str(tmp_path / "out" / "head"))
    assert base.measure("detection", backbone, saved) | {"lr": numbers["lr"]} == numbers


@pytest.mark.slow
def test_eight_pictures_are_learnt_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the patches of a network of random weights."""
    data = scenes(tmp_path / "data", counts={"train": 8}, size=(64, 64))
    usual = RECIPES["small"]
    training = replace(usual.training, warmup=20, save_every=1000)
    monkeypatch.setitem(RECIPES, "small", replace(usual, hidden=128, box_hidden=32, encoder=0, training=training))
    sizes = Architecture(patch_size=8, dim=64, depth=4, heads=4, ffn_hidden=128, registers=0, layer_scale=None)
    config = Config(data=str(data), size=64, queries=16, iterations=600, batch_size=8, lr=3e-3)
    backbone = VisionTransformer(sizes, seed=0).eval()
    backbone.pixels = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), None)
    assert learn(backbone, config, None, alone=True)[2][0]["AP"] > 95


def test_kept_features_of_a_mirror_are_of_the_mirrored_picture(tmp_path: Path, make_vit: MakeVit) -> None:
    data = open_boxes(str(scenes(tmp_path / "data", counts={"train": 2})), split="train")
    kept = Kept(make_vit(size=None), data, ["blue", "red"], View(size=48), tmp_path / "features")
    plain, mirror = kept.seen(0, mirror=False), kept.seen(0, mirror=True)
    assert plain.size == (64, 48)
    np.testing.assert_allclose(mirror.objects.boxes[:, 0], 64 - plain.objects.boxes[:, 2])
    assert not torch.equal(plain.map, mirror.map)


def test_a_piece_keeps_what_lies_in_it(tmp_path: Path) -> None:
    data = open_boxes(str(scenes(tmp_path / "data", counts={"train": 2})), split="train")
    image, marks = data.read(1), data.marks[1]
    part, inside = piece(image, marks, share=0.7, draw=generator(0))
    for box, name in zip(inside.boxes.round().astype(int).tolist(), inside.names, strict=True):
        left, top, right, bottom = box
        colours = part[:, top:bottom, left:right].flatten(1).unique(dim=1)
        assert tuple(colours[:, 0].tolist()) in COLOURS.values()
        assert COLOURS[name] in {tuple(each) for each in colours.T.tolist()}
    assert len(inside.boxes) <= len(marks.boxes)


def test_features_of_other_weights_are_refused(known: Trained) -> None:
    with pytest.raises(UserError, match="other weights.*; delete it and training.pt beside it"):
        base.measure("detection", vit(size=None, seed=1), Config(data=str(known.data), **FEW), known.out)


def test_what_is_kept_changes_no_number(known: Trained) -> None:
    assert base.measure("detection", vit(size=None), Config(data=str(known.data), **FEW)) == known.numbers


def test_a_training_goes_on_however_the_path_to_its_data_is_written(
    tmp_path: Path, known: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(known.out, out)
    monkeypatch.chdir(known.data.parent)
    monkeypatch.setattr(fit, "_stepped", lambda *_, **__: pytest.fail("trained anew"))
    assert base.measure("detection", vit(size=None), Config(data="data", **FEW), out) == known.numbers
    shutil.copytree(known.data, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert base.measure("detection", vit(size=None), Config(data="elsewhere", **FEW), out) == known.numbers


def test_boxes_that_were_drawn_anew_are_learnt_anew_elsewhere(known: Trained) -> None:
    table = known.data / "train" / "boxes.csv"
    before = table.read_text()
    table.write_text(before.replace("blue", "green"))
    try:
        with pytest.raises(UserError, match=r"training\.pt"):
            base.measure("detection", vit(size=None), Config(data=str(known.data), **FEW), known.out)
    finally:
        table.write_text(before)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, RunError])
def test_features_that_nobody_keeps_are_gone_however_it_ends(
    stop: Any, known: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stopped(*_: Any, **__: Any) -> Any:
        assert list(tmp_path.rglob("*.npy"))
        if stop is RunError:
            raise RunError
        os.kill(os.getpid(), stop)
        return [{"loss": 0.0}]  # the signal may be answered a little later

    monkeypatch.setattr(fit, "_stepped", stopped)
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    previous = {each: signal.signal(each, handler) for each, handler in usual.items()}  # nohup lets some be ignored
    try:
        with pytest.raises(RunError if stop is RunError else KeyboardInterrupt):
            base.measure("detection", vit(size=None), Config(data=str(known.data), **FEW))
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
    assert not list(tmp_path.iterdir())


def test_a_head_says_by_heart_of_what_it_has_learnt_from(
    tmp_path: Path, known: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, by_heart in (("val", False), ("train", True)):
        saved = Config(data=str(known.data), head=str(known.out / "head"), test=split)
        base.measure("detection", vit(size=None), saved, tmp_path / split)
        assert ("the head has learnt from the images of train:" in capsys.readouterr().err) is by_heart
        assert json.loads((tmp_path / split / "mistakes.json").read_text())["held_out"] is not by_heart


def test_two_splits_of_the_same_files_are_not_held_out(
    tmp_path: Path, known: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the data.yaml of a small set has them; the saved head knows it, too."""
    (tmp_path / "val").symlink_to(known.data / "val")
    (tmp_path / "train").mkdir()
    for file in known.data.glob("train/*.png"):
        (tmp_path / "train" / file.name).symlink_to(file)
    (tmp_path / "train" / "1.png").unlink()
    (tmp_path / "train" / "1.png").symlink_to(known.data / "val" / "1.png")
    shutil.copy(known.data / "train" / "boxes.csv", tmp_path / "train")
    for out, settings in (("out", FEW), ("again", {"head": str(tmp_path / "out" / "head")})):
        base.measure("detection", vit(size=None), Config(data=str(tmp_path), **settings), tmp_path / out)
        assert json.loads((tmp_path / out / "mistakes.json").read_text())["held_out"] is False
        said = "1 of the 2 images of val are in train, too:" if out == "out" else "has learnt from the images of val:"
        assert said in capsys.readouterr().err


def test_crowds_alone_cannot_be_measured(tmp_path: Path, make_vit: MakeVit) -> None:
    root = scenes(tmp_path / "data", counts={"train2017": 2, "val2017": 1})
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (root / split / "boxes.csv").unlink()
        mark = {"image_id": 7, "category_id": 90, "bbox": [1, 2, 20, 20], "iscrowd": int(split == "val2017")}
        coco = {
            "images": [{"id": 7, "file_name": "0.png", "width": 64, "height": 48}],
            "annotations": [mark],
            "categories": [{"id": 90, "name": "last"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match="expected boxes to measure on"):
        base.measure("detection", make_vit(size=None), Config(data=str(root), **FEW), tmp_path / "out")


def test_what_is_measured_is_what_the_file_says(tmp_path: Path, known: Trained) -> None:
    """Boxes beyond the border of their image, outside it, and of no area, which learning cuts or leaves out."""
    root = as_coco(tmp_path / "coco", known.data, "val", kinds={"red": 91, "zebra": 5, "blue": 13})
    file = root / "annotations" / "instances_val2017.json"
    plain = json.loads(file.read_text())
    for number, box in enumerate([[40, 8, 24.5, 20], [70, 8, 5, 20], [5, 8, 0, 20]]):
        plain["annotations"].append(plain["annotations"][-1] | {"id": 60 + number, "category_id": 5, "bbox": box})
    file.write_text(json.dumps(plain))
    base.measure("detection", vit(size=None), Config(data=str(root), head=str(known.out / "head")), tmp_path / "out")
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())["annotations"]
    assert [mark["bbox"] for mark in truth] == [mark["bbox"] for mark in plain["annotations"]]


def test_settings_of_learning_are_refused_beside_a_head() -> None:
    with pytest.raises(UserError, match="queries cannot be set with head"):
        Config(data="data", head="head", queries=10)


def as_coco(root: Path, data: Path, split: str, *, kinds: dict[str, int], first: int = 100) -> Path:
    """Write a split of scenes as COCO has it, with ids of images and classes as they come."""
    marks = open_boxes(str(data), split=split).marks
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    shutil.copytree(data / split, root / f"{split}2017", ignore=shutil.ignore_patterns("*.csv"))
    images = [
        {"id": first - 3 * place, "file_name": one.image.name, "width": 64, "height": 48}
        for place, one in enumerate(marks)
    ]
    boxes = [(first - 3 * place, *pair) for place, one in enumerate(marks) for pair in zip(one.boxes, one.names)]
    drawn = [
        {
            "id": 50 + number,
            "image_id": image,
            "category_id": kinds[name],
            "bbox": [*box[:2], *(box[2:] - box[:2])],
            "area": 100.0,
            "iscrowd": 0,
        }
        for number, (image, box, name) in enumerate(boxes)
    ]
    categories = [{"id": kind, "name": name} for name, kind in kinds.items()]
    plain = {"images": images, "annotations": drawn, "categories": categories}
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(plain))
    return root


def by_the_original(truth: coco.COCO, detections: str) -> float:
    """Return the average precision in percent as pycocotools says it."""
    with redirect_stdout(StringIO()):
        judge = cocoeval.COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(100 * judge.stats[0])


def renamed(detections: Path, kinds: dict[str, dict[int, int]]) -> list[dict[str, Any]]:
    """Read detections and put other ids for theirs."""
    lines = json.loads(detections.read_text())
    return [line | {kind: ids[line[kind]] for kind, ids in kinds.items()} for line in lines]


def test_what_was_found_has_the_ids_of_the_data_and_a_head_knows_its_classes_by_name(
    tmp_path: Path, known: Trained, make_vit: MakeVit, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, out = known.data, tmp_path / "out"
    root = as_coco(tmp_path / "coco", scene, "train", kinds={"red": 91, "zebra": 5, "blue": 13})
    as_coco(root, scene, "val", kinds={"red": 91, "zebra": 5, "blue": 13})
    trained = base.measure("detection", make_vit(size=None), Config(data=str(root), **FEW), out)
    assert trained["AP"] == pytest.approx(known.numbers["AP"])
    told = ("image_id", "category_id", "bbox")
    truth = json.loads((out / "truth.json").read_text())
    with redirect_stdout(StringIO()):
        original = coco.COCO(str(root / "annotations" / "instances_val2017.json"))
    drawn = [[mark[name] for name in told] for mark in truth["annotations"]]
    assert drawn == [[mark[name] for name in told] for mark in original.dataset["annotations"]]
    assert {kind["name"]: kind["id"] for kind in truth["categories"]} == {"red": 91, "blue": 13}
    assert by_the_original(original, str(out / "detections.json")) == pytest.approx(trained["AP"])
    images, said = {100: 1, 97: 2}, json.loads((known.out / "detections.json").read_text())
    assert renamed(out / "detections.json", {"image_id": images, "category_id": {13: 1, 91: 2}}) == said
    places = tmp_path / "coco-o"
    for number, domain in enumerate(sorted(COCO_O)):
        as_coco(places / domain, scene, "val", kinds={"blue": 7 + number, "red": 3})
    head = Config(data=str(places), head=str(out / "head"))
    numbers, details = base.measured("detection", make_vit(size=None), head, tmp_path / "again")
    assert numbers["AP"] == numbers["AP/sketch"] == pytest.approx(trained["AP"])
    assert numbers["ER"] == pytest.approx(0.55 * trained["AP"])
    assert numbers["images"] == 12
    assert set(details) == set(COCO_O)
    found = tmp_path / "again" / "cartoon" / "detections.json"
    assert renamed(found, {"image_id": images, "category_id": {7: 1, 3: 2}}) == said
    assert "effective robustness against AP" in capsys.readouterr().err
    lvis = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    for image in lvis["images"]:
        image |= {"coco_url": f"http://at/val2017/{image.pop('file_name')}", "neg_category_ids": [5]}
        image["not_exhaustive_category_ids"] = [13]
    for kind in lvis["categories"]:
        kind["frequency"] = "r" if kind["name"] == "red" else "f"
    (root / "lvis_v1_val.json").write_text(json.dumps(lvis))
    of_lvis = Config(data=str(root), head=str(out / "head"), test="lvis_v1_val")
    assert {"AP", "APr", "APf"} <= set(base.measure("detection", make_vit(size=None), of_lvis))
    with pytest.raises(UserError, match="holds the sets cartoon, handmake, .* --head to measure a saved head on all"):
        base.measure("detection", make_vit(size=None), Config(data=str(places), **FEW), tmp_path / "none")


def test_a_head_has_an_effective_robustness_if_all_images_of_all_domains_and_its_own_were_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    six = {domain: {"AP": 10.0 * place, "images": 1.0} for place, domain in enumerate(sorted(COCO_O))}
    own = {"AP": 40.0, "split": "val2017", "data": "COCO", "held_out": True, "images": 5, "limit": None}
    assert over_domains(six, own)["ER"] == pytest.approx(25 - 0.45 * 40)
    capsys.readouterr()
    five = {domain: each for domain, each in six.items() if domain != "tattoo"}
    for numbers, of, limit, line in (
        (six, None, None, "the head does not say its AP on COCO; train it with evaluate detection --save"),
        (six, own | {"held_out": False}, None, "on images that it has learnt from"),
        (six, {name: value for name, value in own.items() if name != "limit"}, None, "whether its own AP is of all"),
        (six, own | {"limit": 5}, None, "--limit left images out, of the head's own AP, 5 of val2017"),
        (six, own, 1, "--limit left images out, of each set"),
        (five, own, None, "of COCO-O tattoo differ"),
    ):
        assert "ER" not in over_domains(numbers, of, limit=limit)
        said = capsys.readouterr().err
        assert said.startswith("no effective robustness: ")
        assert line in said
