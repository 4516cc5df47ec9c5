"""Further sets: small copies of the published ones, whose images are of one colour per class."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.dense.grid import Layout
from dinokit.dense.linear import Config as HeadConfig
from dinokit.dense.linear import LinearHead
from dinokit.evaluation import base
from dinokit.evaluation.linear import Config
from dinokit.evaluation.sets.further import Result, further, named, opened_for, scores_of
from dinokit.metrics.robustness import ALEXNET
from dinokit.models.features import Backbone
from dinokit.models.pixels import RawPixels
from dinokit.sources.imagenet import wnids
from tests.conftest import MakeFolder, MakeVit
from tests.sources.sets import build

SETS = ("imagenet-r", "imagenet-a", "imagenet-c", "imagenet-sketch", "imagenet-v2", "imagenet-real")


def biased(classes: tuple[str, ...], *likely: str) -> LinearHead:
    """A head that names classes in one order, whatever the image."""
    head = LinearHead(HeadConfig(width=48, outputs=len(classes), blocks=1, mean_patch=False, loss="ce"))
    head.requires_grad_(False)
    for value in head.parameters():
        torch.nn.init.zeros_(value)
    for rank, name in enumerate(likely):
        head.linear.bias[classes.index(name)] = 100 - 10 * rank
    return head


def test_one_head_is_measured_on_all_sets_of_imagenet(make_vit: MakeVit, tmp_path: Path) -> None:
    root, backbone = tmp_path / "data", make_vit()
    specs = tuple(f"{name}:{build(name, root)}" for name in SETS)
    train = build("imagenet", root)
    config = Config(data=f"imagenet:{train}", tests=specs, iterations=150)
    result = base.measure("linear", backbone, config, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "linear.json").read_text())
    assert result["top1"] == 100
    for name in ("imagenet-r", "imagenet-a", "imagenet-sketch", "imagenet-c"):
        assert result[f"top1/{name}"] == 100
        assert kept["intervals"][f"top1/{name}"] == [100, 100]
    assert result["mCE/imagenet-c"] == 0
    assert set(kept["tests"]["imagenet-c"]["CE"]) == {"gaussian_noise", "fog"}
    assert result["top1/imagenet-real"] == 100


def test_only_the_classes_of_a_set_compete_and_of_several_all(tmp_path: Path) -> None:
    other = wnids()[7]
    pixels = RawPixels(size=4)
    first, second = wnids()[:2]
    heads = [biased(wnids(), other, first, second)]
    restricted = on(pixels, heads, f"imagenet-r:{build('imagenet-r', tmp_path)}", wnids())
    assert restricted[0].numbers == {"top1": 50}  # the seventh class does not compete
    whole = on(pixels, heads, f"imagenet-v2:{build('imagenet-v2', tmp_path)}", wnids())
    assert whole[0].numbers["top1"] == 0
    assert whole[0].numbers["top5"] == 75  # 0, 1 and one of 10, 2 with equal logits: the lower number
    real = f"imagenet-real:{build('imagenet-real', tmp_path)}"
    assert on(pixels, heads, real, wnids())[0].numbers["top1"] == 0
    five = [biased(wnids(), wnids()[5]), biased(wnids(), first)]
    found = on(pixels, five, real, wnids())
    # the image without any class is left out; of two classes each is right
    assert [result.numbers["top1"] for result in found] == pytest.approx([100 / 3, 100 / 3])
    assert [result.details["images"] for result in found] == [3, 3]


def on(pixels: Backbone, heads: list[LinearHead], spec: str, classes: Sequence[str]) -> list[Result]:
    return further(pixels, heads, opened_for(pixels, spec, classes))


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_scores_order_what_probabilities_round_away(loss: Literal["ce", "bce"]) -> None:
    head = LinearHead(HeadConfig(width=1, outputs=4, blocks=1, mean_patch=False, loss=loss))
    bias = torch.tensor([25.0, -100, -90, 0])
    head.load_state_dict({"linear.weight": torch.tensor([[1.0], [0], [0], [0]]), "linear.bias": bias})
    rows = numpy.array([[0.0], [1.0], [2.0]], dtype=numpy.float32)
    assert (head.probabilities(torch.from_numpy(rows))[:, 0] == 1).all()
    scores = scores_of(head, rows, Layout(1, 1, 0))
    assert (scores[:, 2] > scores[:, 1]).all()  # beside the first both are 0
    assert (numpy.diff(scores[:, 0]) > 0).all()  # all are 1


def test_any_class_of_an_object_is_right(tmp_path: Path) -> None:
    spec, known = f"objectnet:{build('objectnet', tmp_path)}", wnids()
    heads = [biased(known, known[530], known[0]), biased(known, known[409]), biased(known, known[0], known[530])]
    found = on(RawPixels(size=4), heads, spec, known)
    # by its builder two pictures of an alarm clock, 409 or 530, and two of a band aid, 419; all classes compete
    assert [result.numbers["top1"] for result in found] == [50, 50, 0]


def test_errors_of_corruptions_are_compared_with_alexnet(tmp_path: Path) -> None:
    spec = f"imagenet-c:{build('imagenet-c', tmp_path)}"
    (result,) = on(RawPixels(size=4), [biased(wnids(), wnids()[0])], spec, wnids())
    each = {name: 100 * 1.0 / (ALEXNET[name][0] + ALEXNET[name][4]) for name in ("gaussian_noise", "fog")}
    assert result.details["CE"] == pytest.approx(each)  # half of the images are wrong at the severities 1 and 5
    assert result.numbers["mCE"] == pytest.approx(sum(each.values()) / 2)
    assert result.numbers["top1"] == 50
    assert next(iter(result.numbers)) == "mCE"


def test_domains_that_are_no_corruptions_are_told_one_by_one(make_folder: MakeFolder) -> None:
    files = [f"{label}/{i}.png" for label in "ab" for i in range(2)]
    root = make_folder(*files)
    rows = [{"path": path, "label": path[0], "domain": "photo" if path.endswith("0.png") else "art"} for path in files]
    (root / "table.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"path": files[0], "label": "zebra"}])))
    (result,) = on(RawPixels(size=4), [biased(("a", "b"), "a")], str(root / "table.jsonl"), ("a", "b"))
    assert result.details["domains"] == {"art": 50, "photo": 50}
    assert result.details["images"] == 4
    assert "mCE" not in result.numbers


def test_a_set_without_a_class_of_the_head_is_refused(make_folder: MakeFolder) -> None:
    data = str(make_folder("cat/0.png", "dog/0.png"))
    with pytest.raises(UserError, match=r"no class of .* \(such as 'cat'\) is one .* \(such as 'a'\)"):
        on(RawPixels(size=4), [biased(("a", "b"), "a")], data, ("a", "b"))


def test_sets_are_called_by_their_layout_or_folder() -> None:
    specs = ("imagenet-a:/data/x", "/data/sketch", "demo:fashion", "s3://bucket/art", "/one/val", "/two/val")
    assert list(named(specs)) == ["imagenet-a", "sketch", "demo:fashion", "art", "/one/val", "/two/val"]


def test_rows_hold_what_all_heads_read(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data, backbone = str(make_folder("a/0.png", "b/0.png")), make_vit()
    wide = LinearHead(HeadConfig(width=32, outputs=2, blocks=2, mean_patch=False, loss="ce"))
    mean = LinearHead(HeadConfig(width=32, outputs=2, blocks=1, mean_patch=True, loss="ce"))
    together = on(backbone, [wide, mean], data, ("a", "b"))
    apart = [on(backbone, [head], data, ("a", "b"))[0] for head in (wide, mean)]
    assert [result.numbers for result in together] == [result.numbers for result in apart]
    assert Layout(2, 16, 16).columns(mean.reading) == slice(16, 48)


@pytest.mark.parametrize("wrong", ["nowhere", "others"])
def test_a_further_set_that_cannot_be_is_refused_before_the_training(
    wrong: str, make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path
) -> None:
    data = make_folder(*(f"{kind}/{number}.png" for kind in "ab" for number in range(10)))
    make_folder("cat/0.png", "dog/0.png", name="others")
    with pytest.raises(UserError, match="no folder|no class of"):
        base.measure("linear", make_vit(), Config(data=str(data), tests=(str(tmp_path / wrong),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
