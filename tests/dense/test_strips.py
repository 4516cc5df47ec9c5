"""Strips of patches are those of the whole image, whatever the windows, and cells of shifted grids their naive mean."""

from collections.abc import Callable

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.dense.strips import Rows, shifted, strips
from dinokit.models.features import Features
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(40, 24), (8, 8), (64, 4), (4, 64), (52, 76)])
@pytest.mark.parametrize("window", [1, 3, 4, 64])
def test_windows_of_what_looks_at_no_neighbour_change_nothing(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, window: int
) -> None:
    monkeypatch.setattr("dinokit.dense.strips.WINDOW", window)
    image = noise(3, height, width)
    found = list(strips(PIXELS, image))
    expected = PIXELS(image[None].float() / 255).patches.reshape(height // 4, width // 4, -1)
    torch.testing.assert_close(torch.cat(found), expected)
    assert max(map(len, found)) <= window


def test_gradients_and_modes_of_the_caller_stay_as_they_are_between_strips(
    make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinokit.dense.strips.WINDOW", 2)
    backbone = make_vit().train()
    for strip in strips(backbone, noise(3, 32, 8)):
        assert torch.is_grad_enabled()
        assert backbone.training
        assert not strip.requires_grad


@pytest.mark.parametrize("size", [(24, 16), (4, 16), (24, 4), (4, 4)])
@pytest.mark.parametrize("shifts", [1, 2, 4])
def test_a_cell_is_the_mean_of_the_patches_that_cover_it(make_vit: MakeVit, size: tuple[int, int], shifts: int) -> None:
    backbone, image, side = make_vit(), noise(3, *size), 4 // shifts
    total = torch.zeros(size[0] // side, size[1] // side, 16)
    hits = torch.zeros(*total.shape[:2], 1)
    for down in range(0, 4, side):
        for right in range(0, 4, side):
            cut = image[None, :, down:, right:]
            if min(cut.shape[2:]) < 4:
                continue
            with torch.no_grad():
                features = backbone((cut.float() / 255 - 0.5) / 0.25)
            patches = features.patches.reshape(*features.grid, -1)
            for row in range(features.grid[0]):
                for column in range(features.grid[1]):
                    top, left = (4 * row + down) // side, (4 * column + right) // side
                    total[top : top + shifts, left : left + shifts] += patches[row, column]
                    hits[top : top + shifts, left : left + shifts] += 1
    torch.testing.assert_close(torch.cat([*shifted(backbone, image, shifts)]), total / hits)


def test_rows_hold_no_more_than_was_asked_for_and_a_strip() -> None:
    strips_of_two = iter(torch.arange(20.0).reshape(10, 2, 1, 1))
    rows = Rows(strips_of_two)
    for first in range(17):
        assert rows(first, first + 3).flatten().tolist() == [first, first + 1, first + 2]
        assert len(rows._held) <= 4


class Halved(PatchPixels):
    """A network that has a patch for every second square."""

    def flattened(self, images: torch.Tensor) -> Features:
        """See `OwnPixels`."""
        return Features.from_maps(images[..., ::8, ::8])


def test_a_network_without_a_patch_per_square_is_refused() -> None:
    with pytest.raises(UserError, match=r"gives 2x2 patches of 4x4; looks need one per square of 4 pixels"):
        list(strips(Halved(patch_size=4), noise(3, 16, 16)))
