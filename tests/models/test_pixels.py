import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.models.pixels import ColourHistograms


def test_colours_are_counted_by_hand() -> None:
    histograms = ColourHistograms(patch_size=2, levels=2)
    images = torch.zeros(1, 3, 2, 4)
    images[0, 0, 0, 0] = 1.0  # one red pixel
    images[0, :, :, 2:] = 0.6  # a white patch; 0.6 is in the upper half
    found = histograms(images)
    cls = torch.zeros(8)
    cls[0], cls[1], cls[7] = 3 / 8, 1 / 8, 4 / 8
    assert torch.allclose(found.cls[0], cls.sqrt())
    assert found.grid == (1, 2)
    assert torch.allclose(found.patches[0, 0] ** 2, torch.tensor([3 / 4, 1 / 4, 0, 0, 0, 0, 0, 0]))
    assert torch.allclose(found.patches[0, 1], torch.eye(8)[7])


@pytest.mark.parametrize(("channels", "dim"), [(1, 4), (3, 64), (5, 20)])
def test_where_colours_are_does_not_count_and_vectors_have_one_length(channels: int, dim: int) -> None:
    histograms = ColourHistograms(patch_size=3, channels=channels)
    images = torch.rand(2, channels, 6, 7, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(42, generator=torch.Generator().manual_seed(1))
    moved = images.flatten(2)[..., order].unflatten(-1, (6, 7))
    found = histograms(images)
    assert found.cls.shape == (2, dim) == (2, histograms.dim)
    assert found.patches.shape == (2, 4, dim)  # the column that fills no patch is in CLS alone
    assert torch.allclose(found.cls, histograms(moved).cls)
    assert torch.allclose(found.cls.norm(dim=-1), torch.ones(2))
    assert torch.allclose(found.patches.norm(dim=-1), torch.ones(2, 4))


def test_white_and_beyond_are_the_last_step() -> None:
    histograms = ColourHistograms(patch_size=1, channels=1)
    assert histograms(torch.tensor([[[[1.0, 1.5, -0.2]]]])).cls.tolist()[0] == pytest.approx(
        [(1 / 3) ** 0.5, 0, 0, (2 / 3) ** 0.5]
    )
    with pytest.raises(UserError, match="no weights|baseline"):
        histograms.untrained()
