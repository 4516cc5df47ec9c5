"""Every way to show an image: its size, and what of the image is left."""

import pytest
import torch

from dinokit.images.intensity import prepare
from dinokit.images.transforms import Inner, Padded, Short, Square, Squashed, Transform, Whole

WAYS: list[type[Transform]] = [Square, Whole, Short, Padded, Squashed, Inner]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (5, 5), (200, 7)])
@pytest.mark.parametrize("size", [16, 18, 23])
def test_sides_are_whole_patches_and_the_type_stays(way: type[Transform], height: int, width: int, size: int) -> None:
    for image in (torch.full((3, height, width), 7, dtype=torch.uint8), torch.full((1, height, width), -0.5)):
        shown = way(size, 4)(image)
        assert shown.dtype == image.dtype
        assert all(side % 4 == 0 and side > 0 for side in shown.shape[1:])
        if way is Short:
            assert min(shown.shape[1:]) == way(size, 4).side
        elif way is not Whole:
            assert set(shown.shape[1:]) == {way(size, 4).side}


@pytest.mark.parametrize("way", WAYS)
def test_a_square_of_the_size_is_not_touched_unless_its_edge_is_cut(way: type[Transform]) -> None:
    image = torch.arange(3 * 16 * 16, dtype=torch.uint8).view(3, 16, 16)
    assert torch.equal(way(16, 4)(image), image) == (way is not Inner)


@pytest.mark.parametrize("way", WAYS)
def test_the_name_and_both_numbers_are_in_the_key(way: type[Transform]) -> None:
    assert repr(way(24, 4)) == f"{way.__name__}(size=24, patch_size=4)"


def test_a_square_is_what_every_evaluation_sees() -> None:
    image = torch.randint(0, 256, (3, 21, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size in (16, None):
        assert torch.equal(Square(size, 4)(image), prepare(image, size=size, patch_size=4))
    assert Square(None, 4).enough is None


def test_the_whole_image_keeps_its_shape_up_to_the_patch() -> None:
    image = torch.zeros(3, 333, 500, dtype=torch.uint8)
    assert Whole(512, 16)(image).shape[1:] == (336, 512)
    assert Whole(508, 14)(image).shape[1:] == (336, 504)


def test_the_short_side_takes_the_size_and_without_one_each_its_nearest_patch() -> None:
    image = torch.zeros(3, 50, 333, dtype=torch.uint8)
    assert Short(100, 16)(image).shape[1:] == (96, 672)
    assert Short(None, 16)(image).shape[1:] == (48, 336)
    assert Short(None, 4).enough is None


def test_a_padded_image_lies_in_the_middle_of_black() -> None:
    shown = Padded(8, 4)(torch.full((1, 4, 16), 200, dtype=torch.uint8))
    assert shown[0, :, 0].tolist() == [0, 0, 0, 200, 200, 0, 0, 0]
    assert (shown[0, 3:5] == 200).all()
    assert torch.equal(Padded(8, 4)(torch.full((1, 16, 4), 200, dtype=torch.uint8)), shown.transpose(1, 2))


def test_what_is_cut_of_an_image() -> None:
    """A picture that is black on the left, white on the right, gray in between."""
    image = torch.full((1, 16, 48), 128, dtype=torch.uint8)
    image[..., :16], image[..., 32:] = 0, 255
    for way, cut in ((Square, True), (Inner, True), (Squashed, False), (Whole, False), (Padded, False)):
        left, right = way(16, 4)(image)[0].float().mean(dim=0)[[0, -1]].tolist()
        assert (right - left < 10) == cut


def test_of_256_pixels_the_inner_224_are_seen() -> None:
    image = torch.arange(256, dtype=torch.uint8).expand(1, 256, 256).contiguous()
    assert torch.equal(Inner(224, 16)(image), image[:, 16:240, 16:240])
    assert Inner(224, 14).enough == 256


@pytest.mark.parametrize("way", WAYS)
def test_a_decoded_file_is_never_enlarged(way: type[Transform]) -> None:
    transform = way(16, 4)
    assert transform.enough is not None
    smallest = torch.zeros(3, transform.enough, 3 * transform.enough, dtype=torch.uint8)
    shown = transform(smallest)
    assert max(shown.shape[1:]) <= max(smallest.shape[1:])
