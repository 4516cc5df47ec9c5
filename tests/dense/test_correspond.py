"""Nearest places: interpolation keeps pixel centres, and cutting the work changes nothing."""

import pytest
import torch
from torch.nn import functional as F

from dinokit.dense import correspond
from dinokit.dense.correspond import Mode, lattice, nearest, sampled


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_samples_on_a_lattice_are_those_of_a_resized_map(mode: Mode) -> None:
    maps = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(maps[None], size=(12, 12), mode=mode, align_corners=False)[0]  # [dim, 12, 12]
    expected = F.normalize(resized.flatten(1).T, dim=-1)
    torch.testing.assert_close(sampled(maps, lattice(12), mode=mode), expected, atol=1e-5, rtol=0)


def test_x_comes_before_y() -> None:
    maps = torch.eye(6).unflatten(1, (2, 3))  # every patch a direction of its own
    found = sampled(maps, torch.tensor([[2.5 / 3, 0.5 / 2]]))
    assert found.argmax().item() == 2  # the first row, the last column
    assert lattice(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_parts_find_what_the_whole_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, 4, 4, generator=generator)
    queries = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    similarity = queries @ sampled(maps, lattice(8)).T
    monkeypatch.setattr(correspond, "CHUNK", 56)  # 7 of 64 places at a time
    index, cosine = nearest(queries, maps, lattice(8))
    assert index.tolist() == similarity.argmax(dim=1).tolist()
    torch.testing.assert_close(cosine, similarity.max(dim=1).values)


def test_length_says_nothing() -> None:
    maps = torch.tensor([[1.0, 100.0], [0.0, 100.0]])[:, None]  # [2, 1, 2]
    index, cosine = nearest(torch.tensor([[1.0, 0.0]]), maps, torch.tensor([[0.75, 0.5], [0.25, 0.5]]))
    assert (index.item(), round(cosine.item(), 5)) == (1, 1)
