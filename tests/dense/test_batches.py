from itertools import islice

import numpy
import pytest
import torch

from dinokit.core.messages import RunError
from dinokit.dense.batches import cropped, kept
from dinokit.images import intensity
from dinokit.models.classifier import Reading
from dinokit.sources.source import open_source
from dinokit.views.resized import resized_crop
from tests.conftest import MakeFolder, MakeVit

CPU = torch.device("cpu")


def test_every_row_comes_once_per_pass_whatever_the_step_that_is_begun_with() -> None:
    rows, targets = numpy.arange(12, dtype=numpy.float32)[:, None], torch.arange(12)
    batches = kept(rows, targets, batch=4, seed=3, device=CPU)
    found = list(islice(batches(0), 6))
    assert all(seen[:, 0].tolist() == labels.tolist() for seen, labels in found)
    for turn in (found[:3], found[3:]):
        assert sorted(torch.cat([labels for _, labels in turn]).tolist()) == list(range(12))
    assert found[0][1].tolist() != found[3][1].tolist()
    later = next(batches(4))
    assert torch.equal(later[0], found[4][0])


def test_crops_are_shown_to_the_backbone_and_begin_at_any_step(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    files = [f"{label}/{i}.png" for label in "ab" for i in range(3)]
    source = open_source(str(make_folder(*files, sizes=((20, 30), (80, 70)))))
    backbone, reading = make_vit().train(), Reading(blocks=2, mean_patch=True)
    batches = cropped(backbone, source, torch.arange(6), reading, batch=4, seed=1)
    found = list(islice(batches(0), 4))
    assert torch.equal(next(batches(3))[0], found[3][0])
    assert backbone.training
    seen, labels = found[2]
    backbone.eval()
    for place, index in enumerate(labels.tolist()):  # the same by hand; batches round differently
        crop = resized_crop(source.read(index), size=16, key=(1, 1, 8 + place))
        images = intensity.normalised(intensity.to_unit(crop[None]), backbone.pixels)
        assert torch.allclose(reading(backbone, images)[0], seen[place], atol=1e-5)


def test_an_image_that_is_gone_ends_it_in_one_line(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder("a/0.png", "b/0.png")
    source = open_source(str(root))
    (root / "b" / "0.png").write_bytes(b"")
    with pytest.raises(RunError, match=r"b/0.png can no longer be read: empty file"):
        next(cropped(make_vit(), source, torch.arange(2), Reading(), batch=2, seed=0)(0))
