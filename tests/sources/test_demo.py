"""The demo sets are complete, labelled, and the same every time."""

import hashlib

import numpy as np
import pytest
import torch

from dinokit.sources.demo import CANVAS
from dinokit.sources.source import Source, open_source, splits


def _images(source: Source) -> np.ndarray:
    return torch.stack([source.read(index) for index in range(len(source))]).numpy()


@pytest.mark.parametrize(("split", "count"), [("train", 10_000), ("test", 2_000)])
def test_fashion(split: str, count: int) -> None:
    source = open_source("demo:fashion", split=split)
    assert _images(source).shape == (count, 3, 28, 28)
    assert source.labels is not None
    assert np.bincount(source.labels).tolist() == [count // 10] * 10
    assert len(source.classes) == 10
    assert len({source.key(index) for index in range(count)}) == count


def test_splits_and_default() -> None:
    assert splits("demo:fashion") == splits("demo:fashion-placed") == ("train", "test")
    assert splits("demo:emoji") == ()
    assert len(open_source("demo:fashion")) == 10_000


def test_placed_is_the_same_picture_somewhere_on_black() -> None:
    plain = _images(open_source("demo:fashion", split="test", channels=1))
    placed = _images(open_source("demo:fashion-placed", split="test", channels=1))
    assert placed.shape == (2_000, 1, CANVAS, CANVAS)
    assert np.array_equal(placed, _images(open_source("demo:fashion-placed", split="test", channels=1)))
    assert np.array_equal(placed.sum(axis=(1, 2, 3)), plain.sum(axis=(1, 2, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(placed[:5, 0], (28, 28), axis=(1, 2))
    assert (windows == plain[:5, 0, None, None]).all(axis=(3, 4)).any(axis=(1, 2)).all()
    # positions spread over all 13 offsets; the first row with anything in it shows them well enough
    tops = (placed[:, 0].max(axis=2) > 0).argmax(axis=1)
    assert tops.min() <= 1
    assert tops.max() >= 12


def test_placed_is_the_set_that_published_numbers_are_about() -> None:
    digests = {"train": "bcd519a7e551bf4c", "test": "eb46be36ae0bd908"}
    for split, digest in digests.items():
        images = _images(open_source("demo:fashion-placed", split=split, channels=1))
        assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == digest


def test_the_splits_are_placed_differently() -> None:
    train = _images(open_source("demo:fashion-placed", split="train", channels=1))[:50, 0]
    test = _images(open_source("demo:fashion-placed", split="test", channels=1))[:50, 0]
    assert ((train.max(axis=2) > 0).argmax(axis=1) != (test.max(axis=2) > 0).argmax(axis=1)).any()


@pytest.mark.slow
def test_emoji_pairs_two_styles() -> None:
    source = open_source("demo:emoji", channels=1)
    assert len(source) == 3_822
    assert source.labels is not None
    assert source.domains is not None
    assert source.key(0).removeprefix("noto") == source.key(1_911).removeprefix("twemoji")
    assert np.array_equal(source.labels[:1_911], source.labels[1_911:])
    assert set(source.domains[:1_911]) == {"noto"}
    assert set(source.domains[1_911:]) == {"twemoji"}
    assert len(source.classes) == 1_911
    assert np.median(_images(source)[:, 0, 0, 0]) == 255  # corners: white, not black
