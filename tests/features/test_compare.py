"""Cosines of all with all: the same whatever is held at once, and equal of equal images."""

import pytest
import torch

from dinokit.features import compare
from dinokit.features.compare import compared

DRAW = torch.Generator().manual_seed(0)
GALLERY, QUERIES = torch.randn(23, 5, generator=DRAW), torch.randn(7, 5, generator=DRAW)


@pytest.mark.parametrize("chunk", [1 << 24, 50, 1])
def test_cosines_are_those_of_torch_whatever_is_held_at_once(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CHUNK", chunk)
    parts = list(compared(QUERIES, GALLERY))
    assert [row for part, _ in parts for row in range(part.start, part.stop)] == list(range(7))
    wanted = torch.cosine_similarity(QUERIES[:, None].double(), GALLERY[None].double(), dim=-1)
    torch.testing.assert_close(torch.cat([found for _, found in parts]), wanted)


@pytest.mark.parametrize("chunk", [1 << 24, 50])
def test_a_query_never_meets_itself_but_its_copies(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CHUNK", chunk)
    gallery = torch.cat([QUERIES, GALLERY, QUERIES * 1])
    for part, found in compared(QUERIES, gallery, leave_one_out=True):
        for row in range(part.start, part.stop):
            assert (found[row - part.start] == -torch.inf).nonzero().flatten().tolist() == [row]
            assert found[row - part.start].argmax() == 30 + row


def test_equal_images_are_equally_similar_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CHUNK", 47 * 3)
    gallery = torch.randn(1, 47, generator=DRAW).expand(9, -1)
    for _, found in compared(torch.randn(4, 47, generator=DRAW), gallery):
        assert (found == found[:, :1]).all()
