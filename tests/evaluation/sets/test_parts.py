"""What was found is kept in parts, made again where a part is damaged or was made of something else."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.annotations.boxes import Boxed
from dinokit.annotations.marks import plain
from dinokit.dense.detection import Detections
from dinokit.evaluation.sets import parts


def looked(test: Boxed, folder: Path) -> tuple[int, list[float]]:
    """Return how many images were looked at, and the scores of all."""
    seen = []

    def look(image: torch.Tensor) -> Detections:
        seen.append(image)
        return Detections(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), image.float().mean()[None])

    found = parts.found(look, test, range(len(test)), folder=folder, of=["weights"])
    return len(seen), torch.cat([one.scores for one in found]).tolist()


def test_a_part_is_read_unless_it_is_damaged_or_of_another_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART", 1)
    for name in "abc":
        Image.new("L", (4, 4), ord(name)).save(tmp_path / f"{name}.png")
    marks = tuple(plain(tmp_path / f"{name}.png", (4, 4), numpy.zeros((0, 4)), (), "") for name in "abc")
    test, folder = Boxed("", marks, marks, 1, None), tmp_path / "found"
    count, scores = looked(test, folder)
    assert (count, len(set(scores))) == (3, 3)
    first, second, _ = sorted(folder.rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"")
    assert looked(test, folder) == (2, scores)
    assert looked(test, folder) == (0, scores)
    assert looked(replace(test, white=510), folder)[0] == 3
