"""A few broken files never end a run; too many do, on all ranks, saved, and with the way on."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image

from dinokit.checkpoints.store import RunFolder
from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError, is_main
from dinokit.run import engine
from dinokit.run.feed import BadImages
from dinokit.sources.source import Unusable
from dinokit.training.config import Tolerance, TrainConfig
from tests.ranks import train_on_ranks
from tests.run.test_engine import assert_same, config


def _mixed(folder: Path, *, good: int, bad: int) -> Path:
    folder.mkdir()
    draw = numpy.random.default_rng(0)
    for index in range(good):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    for index in range(bad):
        (folder / f"broken{index}.jpg").write_bytes(b"")
    return folder


def _records(count: int) -> list[Unusable]:
    return [Unusable(index, f"{index}.png", "empty") for index in range(count)]


@pytest.mark.parametrize(
    ("images", "consumed", "bad", "stops"),
    [
        (100_000, 999, 500, False),  # too early to tell
        (100_000, 1000, 50, False),  # exactly the limit
        (100_000, 1000, 51, True),
        (100_000, 2000, 51, False),
        (200, 200, 11, True),  # all of a small source
        (200, 199, 150, False),
        (200, 100_000, 10, False),  # repetitions are not seen twice
        (200, 100_000, 11, True),
        (20, 20, 9, False),  # a few broken files
    ],
)
def test_the_limit_is_a_share_of_the_distinct_images_seen(
    tmp_path: Path, images: int, consumed: int, bad: int, stops: bool
) -> None:
    found = BadImages(tmp_path / "bad.jsonl", images=images, max_ratio=0.05)
    found.add(_records(bad), step=1)
    found.add(_records(bad), step=2)  # met again: still the same images
    assert bool(found.too_many(consumed)) is stops
    assert len(read_jsonl(tmp_path / "bad.jsonl")) == bad
    again = BadImages(tmp_path / "bad.jsonl", images=images, max_ratio=0.05)
    assert again.too_many(consumed) == found.too_many(consumed)
    assert not BadImages(tmp_path / "bad.jsonl", images=images, max_ratio=1.0).too_many(consumed)


SAID = "12 of the 32 images seen (37.5 %) could not be used, more than data.max_bad_ratio 0.05 allows"


def test_too_many_bad_images_stop_a_run_that_can_go_on(tmp_path: Path) -> None:
    photos, run = _mixed(tmp_path / "photos", good=20, bad=12), tmp_path / "run"
    tolerant = Tolerance(max_bad_ratio=0.5)
    engine.pretrain(config(photos, steps=10, data=tolerant), tmp_path / "whole")
    with pytest.raises(RunError) as caught:
        engine.pretrain(config(photos, steps=10, checkpoint_every=5), run)  # it saves, due or not
    assert SAID in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "saved is step 8" in str(caught.value)  # 32 images, 4 per step: the first time that all have been seen
    assert RunFolder(run).steps(with_state=True)[-1] == 8
    engine.pretrain(config(photos, steps=10, data=tolerant), run)
    assert_same(tmp_path / "whole", run)
    assert read_jsonl(run / "bad_images.jsonl") == read_jsonl(tmp_path / "whole" / "bad_images.jsonl")


def _stopped(settings: TrainConfig, run: Path) -> None:
    with pytest.raises(RunError) as caught:
        engine.pretrain(settings, run)
    assert SAID in str(caught.value)
    assert not is_main() or "saved is step 8" in str(caught.value)  # others do not wait until it is


@pytest.mark.slow  # what one rank says, all hear: core/test_dist; that a run stops: the test above
def test_all_ranks_stop_together(tmp_path: Path) -> None:
    photos = _mixed(tmp_path / "photos", good=20, bad=12)
    train_on_ranks(config(photos, steps=10), tmp_path / "run", train=_stopped)


def test_an_image_that_is_too_small_is_replaced_and_says_so(tmp_path: Path) -> None:
    photos = _mixed(tmp_path / "photos", good=5, bad=0)
    Image.new("RGB", (7, 90)).save(photos / "spacer.gif")
    engine.pretrain(config(photos, steps=6), tmp_path / "run")
    (line,) = read_jsonl(tmp_path / "run" / "bad_images.jsonl")
    assert line["reason"] == "too small: 7 x 90 pixels, data.min_side is 8"
    settings = config(photos, steps=6)
    lenient = replace(settings.experiment, data=replace(settings.experiment.data, min_side=7))
    engine.pretrain(replace(settings, experiment=lenient), tmp_path / "other")
    assert not (tmp_path / "other" / "bad_images.jsonl").exists()
