import numpy
import pytest
import torch
from PIL import Image

from dinokit.features.embedding import nearest
from dinokit.images.intensity import multiple, prepare


def test_enlarging_does_not_leave_the_range_of_a_float_image() -> None:
    steps = torch.tensor([-40.0, 120.0]).repeat_interleave(8).expand(1, 16, 16)
    image = prepare(steps, size=32, patch_size=4)
    assert (image.min(), image.max()) == (-40, 120)
    image = prepare((steps > 0).float(), size=32, patch_size=4)
    assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize(("side", "expected"), [(1, 4), (4, 4), (5, 4), (7, 8), (17, 16), (19, 20)])
def test_a_side_goes_to_the_nearest_multiple(side: int, expected: int) -> None:
    assert multiple(side, 4) == expected


def test_native_images_keep_their_shape_and_sized_ones_are_squares() -> None:
    image = torch.zeros(3, 30, 17, dtype=torch.uint8)
    assert prepare(image, size=None, patch_size=4).shape == (3, 32, 16)
    assert prepare(image, size=14, patch_size=4).shape == (3, 16, 16)


def test_the_centre_is_kept() -> None:
    image = torch.zeros(1, 8, 24, dtype=torch.uint8)
    image[:, :, 8:16] = 200
    assert (prepare(image, size=8, patch_size=4) == 200).all()


def test_resizing_agrees_with_pillow() -> None:
    pixels = numpy.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=numpy.uint8)
    expected = numpy.array(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    ours = prepare(torch.from_numpy(pixels).permute(2, 0, 1), size=16, patch_size=4).permute(1, 2, 0).numpy()
    # the two round weights differently; without antialias the difference is above 100
    assert abs(ours.astype(int) - expected.astype(int)).max() <= 1


def test_the_nearest_are_the_first_of_equals() -> None:
    similarity = torch.tensor([[0.5, 1.0, 0.5, 0.5, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    values, places = nearest(similarity, 3)
    assert places.tolist() == [[1, 4, 0], [4, 3, 2]]
    assert torch.equal(values, similarity.gather(1, places))
