"""White is 255 in uint8 and 1.0 in float32, everywhere."""

import torch

from dinokit.images import intensity


def test_mixed_depths_stack_to_one_scale() -> None:
    eight = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    deep = torch.tensor([[[0.0, 0.2, 1.0]]])
    both = intensity.stacked([eight, deep])
    torch.testing.assert_close(both[0], both[1])
    assert intensity.stacked([eight, eight]).dtype == torch.uint8


def test_the_range_of_an_image_holds_black_and_white() -> None:
    assert intensity.value_range(torch.zeros(1, 2, 2, dtype=torch.uint8)) == (0, 1)
    assert intensity.value_range(torch.full((1, 2, 2), 0.5)) == (0, 1)
    assert intensity.value_range(torch.tensor([[[-40.0, 120.0]]])) == (-40, 120)


def test_a_screen_shows_the_whole_range() -> None:
    images = torch.tensor([[[[-40.0, 40.0, 120.0]]], [[[0.0, 0.2, 1.0]]]])
    assert intensity.for_display(images).flatten(1).tolist() == [[0, 128, 255], [0, 51, 255]]
