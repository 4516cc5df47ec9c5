"""The plan of a detector against the real thing: its numbers, a step that is taken, what is written."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import dinokit
from dinokit.annotations.boxes import open_boxes
from dinokit.core.messages import UserError
from dinokit.dense.detr.kept import Kept, octets
from dinokit.dense.detr.learning import judged
from dinokit.dense.detr.network import Detector, Maps
from dinokit.dense.detr.recipe import RECIPES, Recipe
from dinokit.dense.detr.views import View, features, width_of
from dinokit.models.architecture import ARCHITECTURES, build
from dinokit.models.convnets import ConvNeXtConfig
from dinokit.models.features import Backbone
from dinokit.planning.detection import plan_detector
from dinokit.planning.traced import traced
from tests.conftest import MakeVit
from tests.evaluation.test_detection import scenes


def tiny(**changed: object) -> Recipe:
    usual = RECIPES["small"].at(64)
    training = replace(usual.training, iterations=5)
    few = {"dim": 32, "hidden": 32, "encoder": 1, "decoder": 2, "queries": 6, "many": 6, "batch_size": 2}
    return replace(usual, training=training, **(few | changed))  # type: ignore[arg-type]


def outlined(name: str) -> Backbone:
    with torch.device("meta"):
        return build(ARCHITECTURES[name])


def test_a_plan_is_what_is_taken(tmp_path: Path, make_vit: MakeVit) -> None:
    data = open_boxes(str(scenes(tmp_path / "data", counts={"train": 3})), split="train")
    backbone, recipe = make_vit(size=None), tiny(view=View(size=32, windows=2))
    sizes = [one.size for one in data.marks]
    found = plan_detector(backbone, recipe, sizes=sizes, classes=2, rate=1e9, objects=1)  # on each of the two below
    kept = Kept(backbone, data, ["blue", "red"], recipe.view, tmp_path / "features")
    arrays = [numpy.load(file) for file in (tmp_path / "features").glob("*.npy")]
    assert found.disk == sum(array.nbytes for array in arrays)
    assert 0 < found.asked_disk <= found.disk
    with traced() as looking:
        features(backbone, data.read(0), recipe.view)
    assert found.view == looking.operations
    network = Detector(recipe.sizes(width=width_of(backbone, recipe.view), stride=backbone.patch_size, classes=2))
    assert sum(found.parameters.values()) == sum(each.numel() for each in network.parameters())
    views = [kept.seen(index, mirror=False) for index in (0, 2)]
    batch = Maps([each.map for each in views], torch.tensor([each.size for each in views], dtype=torch.float32))
    with traced() as taken:
        torch.autograd.backward(judged(recipe)(network.train()(batch), [each.objects for each in views], 0).total)
    assert taken.operations == sum(found.work.values())
    assert found.memory["features of a batch"] == sum(each.nbytes for each in batch.maps)
    assert taken.peak == pytest.approx(found.memory["activations and gradients"], rel=0.05)  # but for the assignment


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_vitb16", "dinov3_vitl16", "dinov3_vit7b16"])
def test_coco_of_every_size_is_known_without_weights(name: str) -> None:
    config, view = ARCHITECTURES[name], RECIPES["small"].view
    each = octets(view, (640, 480), patch=16, width=width_of(outlined(name), view))
    assert each == 2 * 4 * config.dim * 32 * 43  # four layers of 512 x 683 pixels, float16


@pytest.mark.slow
def test_the_largest_is_planned_without_its_weights() -> None:
    found = plan_detector(outlined("dinov3_vit7b16"), tiny(), sizes=[(64, 64)] * 4, classes=2, rate=1e14)
    assert found.memory["backbone"] == 4 * 6_716_043_264
    assert found.parameters["neck"] == 16_384 * 32 + 3 * 32  # 1 x 1 convolution and group norm


@pytest.mark.slow
def test_views_that_are_drawn_are_computed_at_every_step(make_vit: MakeVit) -> None:
    found = plan_detector(make_vit(size=None), tiny(shortest=40), sizes=[(64, 64)] * 3, classes=2, rate=1e9)
    assert (found.asked, found.passes) == (0, 5 * 2)


@pytest.mark.slow
def test_a_convolutional_network_is_counted_as_it_runs() -> None:
    backbone = build(ConvNeXtConfig(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1))).eval()
    found = plan_detector(backbone, tiny(), sizes=[(64, 64)] * 2, classes=2, rate=1e9)
    with traced() as taken, torch.no_grad():
        backbone(torch.zeros(1, 3, 64, 64))
    assert found.view == taken.operations > 0


def test_only_what_is_asked_for_is_traced() -> None:
    weight = torch.ones(100, 100)
    with traced() as taken:
        made = weight.T @ weight
        kept, made = made.T, torch.ones(3)
    assert taken.operations == 2 * 100**3
    assert (taken.largest, taken.alive) == (40_000, kept.untyped_storage().nbytes() + made.nbytes)


def test_of_a_few_images_the_pictures_made_of_them_are_planned() -> None:
    for images in (None, 8):
        found = dinokit.plan_detection(model="vits16", recipe="few", images=images, tflops=1.0)
        assert found.views == 2 * RECIPES["few"].pictures


def test_images_beside_data_are_a_mistake() -> None:
    with pytest.raises(UserError, match="leave --images out"):
        dinokit.plan_detection(model="vits16", data="coco", images=3)


def test_only_architectures_are_planned_by_name() -> None:
    with pytest.raises(UserError, match="unknown architecture 'vitz16'"):
        dinokit.plan_detection(model="vitz16", tflops=1.0)
