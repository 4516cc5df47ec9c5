import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core import dist
from dinokit.core.messages import RunError
from dinokit.dense import sweep
from dinokit.dense.batches import cropped, kept
from dinokit.dense.grid import Grid, Layout, Member, Training
from dinokit.dense.sweep import Batches, train
from dinokit.images import intensity
from dinokit.images.intensity import Pixels
from dinokit.models.classifier import Reading
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from dinokit.views.resized import resized_crop
from tests.conftest import MakeFolder, MakeVit
from tests.ranks import on_ranks
from tests.vits import ARCHITECTURE

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


def test_a_broken_model_ends_it_in_one_line(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    backbone = make_vit()
    torch.nn.init.constant_(backbone.norm.weight, torch.nan)
    source = open_source(str(make_folder("a/0.png", "b/0.png")))
    with pytest.raises(RunError, match="not finite; its weights are broken"):
        next(cropped(backbone, source, torch.arange(2), Reading(), batch=2, seed=0)(0))


def heads(backbone: VisionTransformer) -> Grid:
    members = [Member(reading=Reading(), lr=lr, weight_decay=0.0) for lr in (0.1, 1.0)]
    training = Training(iterations=6, optimizer="sgd", loss="ce", seed=0)
    return Grid(members, Layout(1, backbone.dim, 0), classes=2, training=training, device=CPU)


def shown(backbone: VisionTransformer, data: str) -> Batches:
    """Batches of five images: one rank sees three, the other two."""
    source = open_source(data)
    return cropped(backbone, source, torch.from_numpy(source.labels), Reading(), batch=5, seed=0)


def until(batches: Batches, last: int) -> Batches:
    def found(first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from islice(batches(first), last)
        raise RuntimeError

    return found


def share(rank: int, data: str, state: str, out: str, port: int) -> None:
    torch.set_num_threads(1)
    dist.join(backend="gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    backbone = VisionTransformer(ARCHITECTURE, seed=0).eval()
    backbone.pixels = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16)
    grid = heads(backbone)
    train(grid, shown(backbone, data), folder=Path(state) if rank == 0 else None)
    torch.save(grid.state(), Path(out) / f"{rank}.pt")
    dist.leave()


def test_ranks_see_the_crops_of_a_step_together_and_begin_where_one_was(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SAVE_EVERY", 1)
    data = str(make_folder(*(f"{label}/{i}.png" for label in "ab" for i in range(3)), tinted=False))
    whole = heads(make_vit())
    train(whole, shown(make_vit(), data))
    with pytest.raises(RuntimeError):
        train(heads(make_vit()), until(shown(make_vit(), data), 3), folder=tmp_path / "state")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ranks(share, data, str(tmp_path / "state"), str(tmp_path), port)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, other in zip(found, whole.state(), strict=True):
            # the network sees other numbers of images at a time
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))
