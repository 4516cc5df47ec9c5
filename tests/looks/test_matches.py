"""Patches that belong together find each other, and what is drawn is few and theirs."""

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.looks import matches
from dinokit.looks.matches import Config, Matches, few, mutual, painted, places
from tests.looks.test_looks import made, noise


def naive(one: torch.Tensor, two: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor]) -> set[tuple[int, ...]]:
    """Compare every patch with every patch."""
    cosine = torch.cosine_similarity(one.double()[:, :, None, None], two.double()[None, None], dim=-1)
    cosine = torch.where(masks[0][:, :, None, None] & masks[1][None, None], cosine, -2)
    found = set()
    for row, column in masks[0].nonzero().tolist():
        there = divmod(int(cosine[row, column].argmax()), two.shape[1])
        back = divmod(int(cosine[:, :, there[0], there[1]].argmax()), one.shape[1])
        if back == (row, column):
            found.add((row, column, *there))
    return found


def test_mutual_matches_are_those_of_a_naive_loop() -> None:
    one, two = noise(5, 4, 6), noise(3, 7, 6, seed=1)
    masks = noise(5, 4, seed=2) > -0.5, noise(3, 7, seed=3) > -0.5
    found = mutual(made(one), made(two), masks)
    pairs = torch.cat([found.first, found.second], dim=1).tolist()
    assert set(map(tuple, pairs)) == naive(one, two, masks)
    expected = [torch.cosine_similarity(one[a, b].double(), two[c, d].double(), dim=0) for a, b, c, d in pairs]
    torch.testing.assert_close(found.cosine, torch.stack(expected))
    assert found.cosine.tolist() == sorted(found.cosine.tolist(), reverse=True)
    assert len(pairs) >= 3


def test_an_image_and_its_shifted_self_are_joined_by_parallel_lines() -> None:
    wide = noise(6, 9, 8)
    one, two = made(wide[:, :7]), made(wide[:, 2:], "b.png")
    everything = torch.ones(6, 7).bool(), torch.ones(6, 7).bool()
    found = mutual(one, two, everything)
    exact = found.cosine > 1 - 1e-9
    assert int(exact.sum()) == 6 * 5  # what both show
    assert (found.second - found.first)[exact].unique(dim=0).tolist() == [[0, -2]]
    kept = few(found, lines=4, apart=1)
    assert (kept.second - kept.first).unique(dim=0).tolist() == [[0, -2]]


def test_of_neighbouring_matches_the_most_alike_is_drawn() -> None:
    first = torch.tensor([[0, 0], [0, 1], [0, 5], [5, 0], [5, 5]])
    second = torch.tensor([[0, 0], [4, 4], [0, 1], [5, 0], [5, 5]])
    found = Matches(first, second, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double())
    # the second is near the first in one image, the third in the other
    assert few(found, lines=9, apart=1).first.tolist() == [[0, 0], [5, 0], [5, 5]]
    assert few(found, lines=2, apart=0).first.tolist() == [[0, 0], [0, 1]]


def test_a_match_has_the_colour_of_its_place() -> None:
    wide = noise(6, 9, 8)
    one, two = made(wide[:, :7]), made(wide[:, 2:], "b.png")
    everything = torch.ones(6, 7).bool(), torch.ones(6, 7).bool()
    colours = places(one)
    drawn = painted(one, two, everything, colours, apart=0)
    assert numpy.array_equal(drawn[:, :5], colours[:, 2:])
    assert len(numpy.unique(colours.reshape(-1, 3), axis=0)) == 42
    hidden = torch.zeros(6, 7).bool()
    hidden[2] = True
    alone = painted(one, two, (everything[0], hidden), colours, apart=9)
    assert not alone[[0, 1, 3, 4, 5]].any()
    assert numpy.array_equal(alone[2, :5], colours[2, 2:])


def test_a_place_whose_way_back_leads_elsewhere_is_black() -> None:
    kinds = torch.eye(3)
    one = kinds[[0, 1]].reshape(1, 2, 3)
    two = torch.stack([kinds[0], kinds[1] + 0.4 * kinds[2], kinds[2], kinds[1]]).reshape(1, 4, 3)
    everything = torch.ones(1, 2).bool(), torch.ones(1, 4).bool()
    drawn = painted(made(one), made(two), everything, places(made(one)), apart=0)
    assert drawn.any(axis=2).tolist() == [[True, False, False, True]]
    near = painted(made(one), made(two), everything, places(made(one)), apart=2)
    assert near.any(axis=2)[0, 1]  # the way back misses it by two patches
    assert numpy.array_equal(near[0, 1], places(made(one))[0, 1])


def test_lines_lie_on_their_patches() -> None:
    wide = noise(6, 9, 8)
    fields = [made(wide[:, :7]), made(wide[:, 2:], "b.png")]
    ((cell,),) = matches.rows("", fields, Config(among="all", lines=1))
    kept = few(mutual(*fields, (torch.ones(6, 7).bool(), torch.ones(6, 7).bool())), lines=1, apart=3)
    (row, column), (there, across) = kept.first[0].tolist(), kept.second[0].tolist()
    assert cell.size == (2 * 560 + 8, 480)  # the pictures of 28 x 24 pixels are 20 times as large
    for x, y in ((80 * column + 40, 80 * row + 40), (568 + 80 * across + 40, 80 * there + 40)):
        assert cell.colours[y, x].tolist() == places(fields[0])[row, column].tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_matches_are_of_two_images(count: int) -> None:
    with pytest.raises(UserError, match=f"matches are of two images, got {count}; give A and B"):
        matches.rows("", [made(noise(3, 3, 4))] * count, Config())
