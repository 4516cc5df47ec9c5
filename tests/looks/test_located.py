"""The best patch of an image is the one of the largest cosine, and it is said where that is."""

import torch

from dinokit.looks.field import Field
from dinokit.looks.located import located, ordered, rows


def made(name: str, patches: torch.Tensor, size: tuple[int, int]) -> Field:
    high, wide = patches.shape[:2]
    return Field(name, torch.zeros(3, 4 * high, 4 * wide, dtype=torch.uint8), patches, size)


def test_the_best_patch_is_that_of_a_naive_loop_and_lies_in_pixels_of_the_image() -> None:
    draw = torch.Generator().manual_seed(0)
    query = made("query", torch.randn(3, 4, 5, generator=draw), (40, 30))
    others = [made(f"{n}", torch.randn(2 + n, 3, 5, generator=draw), (300, 100 * (2 + n))) for n in range(3)]
    others[1].patches[2, 1] = 3 * query.patches[1, 2]  # of the same direction
    found = ordered([located(query, (1, 2), number, other) for number, other in enumerate(others)])
    assert (found[0].image, found[0].patch, found[0].at, found[0].size) == (1, (2, 1), (150, 250), (300, 300))
    assert found[0].cosine > 1 - 1e-6
    for hit in found[1:]:
        there = others[hit.image].patches
        cosines = {
            (row, column): float(torch.cosine_similarity(there[row, column], query.patches[1, 2], dim=0))
            for row in range(there.shape[0])
            for column in range(there.shape[1])
        }
        assert hit.patch == max(cosines, key=lambda place: cosines[place])
        assert abs(hit.cosine - max(cosines.values())) < 1e-6
    assert found[1].cosine >= found[2].cosine


def test_the_sheet_marks_the_query_and_what_was_found() -> None:
    draw = torch.Generator().manual_seed(0)
    query, other = (made(name, torch.randn(3, 4, 5, generator=draw), (16, 12)) for name in "ab")
    hit = located(query, (0, 3), 7, other)
    ((left, middle, right),) = rows(query, (0, 3), [(hit, other)])
    row, column = hit.patch
    assert left.colours[0:4, 12:16].any()
    assert not left.colours[4:].any()  # the picture is black, and so is its inside
    assert middle.colours[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].any()
    assert right.colours.shape == (3, 4, 3)
