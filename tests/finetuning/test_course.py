from pathlib import Path

import pytest
import torch

from dinokit.dense.batches import cropped
from dinokit.evaluation import segmentation
from dinokit.finetuning.course import of_images
from dinokit.models.classifier import Reading
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder, MakeVit
from tests.evaluation.dense_data import squares


def test_crops_are_those_that_heads_alone_learn_from(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    backbone, source = make_vit(), open_source(str(make_folder("a/0.png", "a/1.png", "b/2.png")))
    targets = torch.tensor([0, 0, 1])
    course = of_images(backbone, source, targets, loss="ce", batch=2, seed=5)
    alone = cropped(backbone, source, targets, Reading(), batch=2, seed=5)
    for first in (0, 2):  # wherever a training goes on
        (images, wanted), (rows, labels) = next(course.shown(first)), next(alone(first))
        assert torch.equal(wanted, labels)
        torch.testing.assert_close(Reading()(backbone, images), rows, rtol=1e-5, atol=1e-6)


def test_a_class_that_is_left_open_counts_neither_way(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder("a/0.png", "b/1.png")))
    course = of_images(make_vit(), source, torch.eye(2), loss="bce", batch=1, seed=0)
    scores = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = course.loss(scores, torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), 0)
    loss.backward()
    by_hand = (torch.log1p(torch.exp(torch.tensor([-2.0, 0.5, -3.0])))).sum() / 4
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert (scores.grad != 0).sum() == 3


def test_gradients_reach_the_whole_network_through_the_pixels(make_vit: MakeVit, tmp_path: Path) -> None:
    backbone = make_vit().requires_grad_(True)
    config = segmentation.Config(data=str(squares(tmp_path)), protocol="linear", size=24)
    course = segmentation.course(backbone, config, batch_size=2)
    images, masks = next(course.shown(0))
    assert images.shape == (2, 3, 24, 24)
    head = segmentation.LinearHead(segmentation.HeadConfig(width=16, outputs=3, dropout=0.0)).eval()
    loss = course.loss(course.answer(backbone, head, images), masks, 0)
    loss.backward()  # type: ignore[union-attr]
    without = [name for name, value in backbone.named_parameters() if value.grad is None and name != "mask_token"]
    assert not without
