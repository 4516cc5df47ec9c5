"""Mirrored pictures: what a detector does with them is the mirror of what it does with the picture, where it can be.

A network whose weights are arbitrary is no mirror of itself: its features and positions tell left from right. What
holds for any weights: boxes bend attention by where they lie, so that a layer on a mirrored map answers the same once
its two distances are exchanged; what is learnt from a mirrored picture is as dear; what is found on a picture and its
mirror, merged, is the mirror of what is found on the mirrored picture.
"""

from typing import Literal

import pytest
import torch
from torch import Tensor

from dinokit.dense.detection import detect
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.attention import BoxAttention
from dinokit.dense.detr.losses import Weights, terms
from dinokit.dense.detr.matching import Answers, Objects
from dinokit.dense.detr.network import Config, Detector
from dinokit.dense.detr.views import View, width_of
from tests.conftest import MakeVit


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_to_a_mirrored_map_is_that_with_the_distances_exchanged(fresh: BoxAttention) -> None:
    queries, tokens, places = drawn(1, 5, 16), drawn(1, 4, 6, 16, seed=4), drawn(1, 4, 6, 16, seed=5)
    first = 24 * drawn(1, 5, 2, seed=6)
    boxes = torch.cat([first, first + 12 * drawn(1, 5, 2, seed=7)], dim=-1)  # of a picture of 24 x 16 pixels
    usual = fresh(queries, boxes, tokens, places, 4, None)
    weight = fresh.along[0].weight
    with torch.no_grad():  # left - x of the mirror is x - right of the picture
        weight.copy_(-weight.flip(1))
    mirrored = fresh(queries, box.mirrored(boxes, 24), tokens.flip(2), places.flip(2), 4, None)
    torch.testing.assert_close(mirrored, usual, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        weight.copy_(-weight.flip(1))
    other = fresh(queries, box.mirrored(boxes, 24), tokens.flip(2), places.flip(2), 4, None)
    assert (other - usual).abs().max() > 1e-3  # it is the distances that do it


@pytest.fixture
def fresh() -> BoxAttention:
    torch.manual_seed(0)
    attention = BoxAttention(16, heads=2, hidden=8)
    for each in attention.parameters():
        torch.nn.init.normal_(each, std=0.3)
    return attention


@pytest.mark.parametrize("kind", ["focal", "ia-bce"])
def test_a_mirrored_picture_is_learnt_as_dearly(kind: Literal["focal", "ia-bce"]) -> None:
    references, there = boxes_of(2, 1, 6, seed=8), boxes_of(3, seed=9)
    deltas, logits = drawn(2, 1, 6, 4, seed=10) - 0.5, drawn(2, 1, 6, 3, seed=11)
    said = Answers(logits, references, deltas, box.moved(references, deltas))
    other = deltas * torch.tensor([-1.0, 1, 1, 1])  # what goes to the right goes to the left
    mirror = Answers(logits, box.mirrored(references, 64), other, box.mirrored(said.boxes, 64))
    torch.testing.assert_close(box.moved(mirror.references, other), mirror.boxes)
    objects = [Objects(there, torch.tensor([0, 2, 2]))]
    mirrored = [Objects(box.mirrored(there, 64), objects[0].classes)]
    usual, found, exchanged = (
        terms(*each, Weights(kind=kind)).total for each in ((said, objects), (mirror, mirrored), (mirror, objects))
    )
    torch.testing.assert_close(found, usual)
    assert (exchanged - usual).abs() > 1e-2


def boxes_of(*shape: int, seed: int) -> Tensor:
    first = 40 * drawn(*shape, 2, seed=seed)
    return torch.cat([first, first + 4 + 20 * drawn(*shape, 2, seed=seed + 100)], dim=-1)


def test_what_is_found_on_a_picture_and_its_mirror_is_found_mirrored_on_the_mirror(make_vit: MakeVit) -> None:
    backbone, view, image = make_vit(size=None), View(size=24), drawn(3, 24, 36)
    few = {"dim": 32, "hidden": 32, "box_hidden": 64, "encoder": 1, "decoder": 2, "queries": 5, "many": 0}
    sizes = Config(width=width_of(backbone, view), classes=2, stride=4, finer=True, **few)
    head = Detector(sizes, seed=0).eval()
    for heads in head.heads:
        torch.nn.init.normal_(heads.deltas[-1].weight, std=0.3)
    found = detect(backbone, head, image, view, tested=(24,))
    mirror = detect(backbone, head, image.flip(-1).contiguous(), view, tested=(24,))
    torch.testing.assert_close(mirror.scores, found.scores)
    assert torch.equal(mirror.classes, found.classes)
    torch.testing.assert_close(mirror.boxes, box.mirrored(found.boxes, 36), atol=1e-3, rtol=1e-4)
    once = detect(backbone, head, image.flip(-1).contiguous(), view)
    assert (once.boxes - box.mirrored(detect(backbone, head, image, view).boxes, 36)).abs().max() > 1
