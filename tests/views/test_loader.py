"""Batches are a function of (seed, step): not of workers, ranks, micro batches or interruptions."""

import os
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinokit.core.messages import RunError, UserError
from dinokit.images.intensity import Pixels
from dinokit.sources.source import Source, in_memory, open_source
from dinokit.views import masking, multicrop
from dinokit.views.loader import Batch, Loader

CONFIG = multicrop.Config(global_size=16, local_size=8, local_count=2)


def _source(count: int = 10) -> in_memory:
    images = torch.randint(0, 256, (count, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return in_memory(images)


def _loader(source: Source | None = None, **options: int) -> Loader:
    settings = {"patch_size": 8, "batch": 4, "seed": 7} | options
    return Loader(source or _source(), CONFIG, masking.Config(), Pixels(), **settings)  # type: ignore[arg-type]


def _assert_equal(ours: Batch, theirs: Batch) -> None:
    assert (ours.step, ours.micro, ours.bad) == (theirs.step, theirs.micro, theirs.bad)
    assert np.array_equal(ours.indices, theirs.indices)
    assert torch.equal(ours.views.global_crops, theirs.views.global_crops)
    assert torch.equal(ours.views.local_crops, theirs.views.local_crops)
    assert ours.views.masks is not None
    assert theirs.views.masks is not None
    assert torch.equal(ours.views.masks, theirs.views.masks)


def _broken_folder(root: Path, good: int, bad: int) -> Source:
    for number in range(good):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(root / f"good{number}.png")
    for number in range(bad):
        (root / f"bad{number}.png").write_bytes(b"x")
    return open_source(str(root))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    alone = list(_loader(accumulate=2).batches(0, 3))
    shared = list(_loader(accumulate=2, workers=workers).batches(0, 3))
    assert [(batch.step, batch.micro) for batch in alone] == [(s, m) for s in range(3) for m in range(2)]
    for ours, theirs in zip(shared, alone, strict=True):
        _assert_equal(ours, theirs)


def test_resuming_equals_going_on() -> None:
    whole = list(_loader().batches(0, 6))
    for ours, theirs in zip(_loader().batches(4, 6), whole[4:], strict=True):
        _assert_equal(ours, theirs)


def test_the_sequence_has_no_end() -> None:
    endless = _loader().batches(1_000_000)
    assert [next(endless).step, next(endless).step] == [1_000_000, 1_000_001]


def test_ranks_share_every_micro_batch() -> None:
    """What one rank sees in a forward pass, two see together: image by image, crop by crop, mask by mask."""
    for whole in _loader(batch=8, accumulate=2).batches(0, 2):
        parts = [_loader(accumulate=2, world=2, rank=rank).build(whole.step, whole.micro).views for rank in (0, 1)]
        crops = torch.cat([part.global_crops for part in parts], dim=1)
        torch.testing.assert_close(whole.views.global_crops, crops, atol=1e-5, rtol=0)
        masks = [part.masks for part in parts if part.masks is not None]
        assert whole.views.masks is not None
        assert torch.equal(whole.views.masks, torch.cat(masks, dim=1))


def test_the_size_of_a_micro_batch_changes_no_image_and_no_crop() -> None:
    whole, parts = _loader(batch=8).build(3), [_loader(batch=4, accumulate=2).build(3, micro) for micro in (0, 1)]
    assert np.array_equal(whole.indices, np.concatenate([part.indices for part in parts]))
    crops = torch.cat([part.views.global_crops for part in parts], dim=1)
    torch.testing.assert_close(whole.views.global_crops, crops, atol=1e-5, rtol=0)


def test_fewer_images_than_a_batch_are_enough() -> None:
    batch = _loader(_source(3), batch=8).build(0)
    assert np.bincount(batch.indices).min() >= 2


def test_torchs_global_randomness_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(_loader().batches(0, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_bad_image_is_replaced_and_reported(tmp_path: Path) -> None:
    source = _broken_folder(tmp_path, good=6, bad=2)
    batches = list(_loader(source).batches(0, 4))  # two passes
    for ours, theirs in zip(_loader(source, workers=1).batches(0, 4), batches, strict=True):
        _assert_equal(ours, theirs)
    bad = [record for batch in batches for record in batch.bad]
    assert {record.key for record in bad} == {"bad0.png", "bad1.png"}
    assert len(bad) >= 4
    assert all(record.reason == "not an image of a known format" for record in bad)
    assert all(source.key(int(index)).startswith("good") for batch in batches for index in batch.indices)


def test_a_large_jpeg_is_not_decoded_below_the_smallest_side_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400)).save(tmp_path / "large.jpg")
    batch = _loader(open_source(str(tmp_path)), min_side=400, batch=1).build(0)
    assert not batch.bad
    with pytest.raises(UserError, match="too small: 800 x 400 pixels, data.min_side is 401"):
        _loader(open_source(str(tmp_path)), min_side=401, batch=1).build(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_any_readable_image_is_one_clear_line(tmp_path: Path, workers: int) -> None:
    source = _broken_folder(tmp_path, good=0, bad=3)
    with pytest.raises(UserError, match=r"could not be read, e\.g\. bad\d\.png: not an image") as caught:
        next(_loader(source, workers=workers).batches())
    assert "\n" not in str(caught.value)


def _narrow(row: int) -> Tensor:
    """Read an image on a machine where no file may be longer than a page, and shared memory is files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return torch.zeros(3, 20, 20, dtype=torch.uint8)


def _closed(row: int) -> Tensor:
    """Read an image where no other file may be opened."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return torch.zeros(3, 20, 20, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("fetch", "message"),
    [
        (_narrow, r"shared memory, which has no room .*; make /dev/shm larger"),
        (_closed, r"takes an open file a tensor .*Too many open files.*; allow more open files"),
    ],
)
def test_a_batch_that_shared_memory_does_not_take_is_not_waited_for(
    fetch: Callable[[int], Tensor], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        next(_loader(replace(_source(), fetch=fetch), workers=1).batches())


def test_what_is_no_lack_of_shared_memory_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("this tensor is of another kind")

    monkeypatch.setattr(Tensor, "share_memory_", broken)
    with pytest.raises(RuntimeError, match="of another kind"):
        next(_loader(_source(), workers=1).batches())


def test_loader_processes_that_cannot_be_started_are_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_open_files() + 4, limits[1]))
    try:
        with pytest.raises(RunError, match="allow more open files"):
            next(_loader(workers=1).batches())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert capsys.readouterr().err == ""  # nothing half made complains


def _open_files() -> int:
    """Return the lowest number that no file has."""
    one, other = os.pipe()
    os.close(one)
    os.close(other)
    return one


def _stuck(row: int) -> Tensor:
    threading.Event().wait()
    raise AssertionError


def test_a_stop_is_heard_while_a_batch_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinokit.views.loader._PATIENCE", 0.1)
    asked = iter([False, True])
    with pytest.raises(RunError, match="asked to stop"):
        next(_loader(replace(_source(), fetch=_stuck), workers=1).batches(unwanted=lambda: next(asked)))


def test_a_loader_process_that_is_killed_before_its_batch_is_fetched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: bytes) -> Batch:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("dinokit.views.loader.pickle.loads", refused)
    with pytest.raises(RunError, match="a loader process was killed"):
        next(_loader(workers=1).batches())


def test_crops_must_fit_the_patches() -> None:
    with pytest.raises(UserError, match="not a multiple of the patch size 7"):
        _loader(patch_size=7)


def test_masks_are_optional() -> None:
    assert Loader(_source(), CONFIG, None, Pixels(), patch_size=8, batch=2, seed=0).build(0).views.masks is None


def test_anchors_are_those_of_the_batchs_own_images_and_draws() -> None:
    config = replace(CONFIG, anchor_size=2 * CONFIG.global_size)
    loader = Loader(_source(), config, None, Pixels(), patch_size=8, batch=4, seed=7, rank=1, world=2)
    batch = loader.build(3)
    images = [_source().read(int(index)) for index in batch.indices]
    expected = multicrop.cut(images, config, Pixels(), seed=7, step=3, first=4).on(torch.device("cpu")).anchor_crops
    assert batch.views.anchor_crops is not None
    assert expected is not None
    assert torch.equal(batch.views.anchor_crops, expected)


def test_crops_may_be_left_to_the_device_to_distort() -> None:
    config = replace(CONFIG, anchor_size=2 * CONFIG.global_size)
    arguments = {"patch_size": 8, "batch": 4, "seed": 7}
    whole, cut = (
        Loader(_source(), config, masking.Config(), Pixels(), **arguments, distort=distort).build(3).views
        for distort in (True, False)
    )
    assert cut.global_crops.dtype == torch.uint8  # a quarter of the bytes to move
    there = cut.on(torch.device("cpu"))
    for name in ("global_crops", "local_crops", "anchor_crops", "masks"):
        assert torch.equal(getattr(there, name), getattr(whole, name)), name


def test_masks_follow_the_size_of_the_step() -> None:
    sizes = (multicrop.Sizes(global_size=16, local_size=8), multicrop.Sizes(global_size=32, local_size=8))
    mixed = replace(CONFIG, sizes=sizes)
    loader = Loader(_source(), mixed, masking.Config(), Pixels(), patch_size=8, batch=2, seed=0)
    seen = set()
    for step in range(12):
        made = loader.build(step).views
        side = made.global_crops.shape[-1]
        assert made.masks is not None
        assert made.masks.shape[-1] == (side // 8) ** 2
        seen.add(side)
    assert seen == {16, 32}
