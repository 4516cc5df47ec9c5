"""The threshold of duplicates: what is altered, which threshold is chosen, and what it finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.core.files import read_json
from dinokit.core.messages import UserError
from dinokit.curation import threshold
from dinokit.curation.threshold import alterations, choose, proposed
from dinokit.images.decode import decode
from tests.curation.pools import make_pool, unit

CPU = torch.device("cpu")


def embed(images: object) -> np.ndarray:
    """A model that sees 8 x 8 gray pixels."""
    seen = []
    for image in images:  # type: ignore[attr-defined]
        gray = torch.as_tensor(image).float().mean(dim=0)[None, None]
        small = torch.nn.functional.interpolate(gray, (8, 8), mode="area").flatten()
        seen.append((small - small.mean()).numpy())
    return np.stack(seen)


def smooth(seed: int) -> Image.Image:
    """A picture of a few soft spots."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_alterations_are_drawn_from_the_seed_and_change_the_image(kind: torch.dtype) -> None:
    image = torch.from_numpy(np.array(smooth(0))).permute(2, 0, 1)
    image = image if kind == torch.uint8 else image / 255
    first, again = (alterations(image, draw=np.random.default_rng(5)) for _ in range(2))
    other = alterations(image, draw=np.random.default_rng(6))
    pixels = torch.from_numpy(np.array(smooth(0))).permute(2, 0, 1)
    for name, found in first.items():
        assert found.dtype == torch.uint8
        assert torch.equal(found, again[name])
        assert found.shape != image.shape or not torch.equal(found, pixels), name
        same = found.shape == other[name].shape and torch.equal(found, other[name])
        assert same == (name == "mirrored"), name
    assert torch.equal(first["mirrored"], pixels.flip(2))


def test_one_pixel_and_a_strip_can_be_altered() -> None:
    for size in ((1, 1), (200, 1), (1, 200)):
        image = torch.full((3, *size), 7, dtype=torch.uint8)
        assert all(min(found.shape) > 0 for found in alterations(image, draw=np.random.default_rng(0)).values())


def test_the_threshold_lies_between_copies_and_others() -> None:
    copies = {"a": np.linspace(0.8, 1, 100, dtype=np.float32), "b": np.linspace(0.85, 1, 100, dtype=np.float32)}
    found = choose(copies, np.linspace(0.2, 0.6, 100, dtype=np.float32), np.zeros(9, dtype=np.float32))
    assert 0.6 <= found.threshold <= 0.802
    crowded = choose(copies, np.linspace(0.7, 0.98, 100, dtype=np.float32), np.zeros(9, dtype=np.float32))
    assert crowded.threshold > found.threshold + 0.02
    # a model that puts everything into a narrow cone needs a finer grid
    narrow = {name: 1 - (1 - each) / 1000 for name, each in copies.items()}
    near = np.linspace(0.9992, 0.9996, 100, dtype=np.float32)
    assert 0.9996 <= choose(narrow, near, near).threshold <= 0.99981
    right = np.array([np.mean([(each > np.float32(t)).mean() for each in copies.values()]) for t in found.grid])
    np.testing.assert_allclose(np.mean(list(found.copies.values()), axis=0), right)
    by_chance = np.array([(np.linspace(0.2, 0.6, 100, dtype=np.float32) > np.float32(t)).mean() for t in found.grid])
    scores = 2 * right / (right + 1 - np.log(np.maximum(1 - by_chance, 0.005)))  # none of 100 is as half of one
    np.testing.assert_allclose(found.score, scores)
    assert found.threshold == max(found.grid[scores > scores.max() - 1e-12])  # of equal ones the highest


def test_a_pool_of_one_image_has_no_other_that_is_nearer() -> None:
    none = np.empty(0, dtype=np.float32)
    found = choose({"a": np.array([0.8, 0.9], dtype=np.float32)}, none, none)
    assert not found.nearest.any()
    assert not found.random.any()
    assert 0.89 < found.threshold < 0.9  # half of the copies, as from 0.8 on; of equal ones the highest


def test_a_model_that_tells_nothing_apart_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for number in range(8):
        smooth(number).save(tmp_path / "data" / f"{number}.png")
    draw = np.random.default_rng(0)
    pool = make_pool(tmp_path / "pool", unit(1 + 0.01 * draw.normal(size=(8, 4))), data=str(tmp_path / "data"))
    proposed(
        pool, lambda images: 1 + 0.01 * draw.normal(size=(len(images), 4)), seed=0, path=tmp_path / "x.json", device=CPU
    )
    assert "tells copies from other images poorly" in capsys.readouterr().err


def test_a_pool_of_pictures_gets_a_threshold_and_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(40):
        smooth(3 if number == 39 else number).save(data / f"{number}.png")  # an image and its copy are nearest
    vectors = unit(embed([decode((data / f"{number}.png").read_bytes()) for number in range(40)]))
    pool = make_pool(tmp_path / "pool", vectors, data=str(data))
    (data / "5.png").write_bytes(b"")  # broken since
    path = tmp_path / "threshold.json"
    monkeypatch.setattr(threshold, "IMAGES", 20)
    found = proposed(pool, embed, seed=0, path=path, device=CPU)
    told = read_json(path)
    assert found == told["threshold"]
    assert 0.5 < found < 1
    best = told["grid"].index(found)
    assert told["copies found"]["encoded again"] == 1.0
    assert told["copies"]["encoded again"][best] == 1.0
    assert told["random pairs"][best] < 0.05
    assert told["F"][best] == max(told["F"])
    assert told["nearest other image"][-2] == pytest.approx(2 / 40)
    assert proposed(pool, None, seed=0, path=path, device=CPU) == found  # what is there is used
    assert "poorly" not in capsys.readouterr().err
    with pytest.raises(UserError, match="give a number instead"):
        proposed(pool, None, seed=0, path=tmp_path / "other.json", device=CPU)
