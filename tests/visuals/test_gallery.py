import pytest
import torch

from dinokit.visuals.gallery import neighbours, pca_maps

GRID = (4, 5)


def test_the_order_is_by_cosine_not_length() -> None:
    gallery = torch.tensor([[0.1, 0.0], [5.0, 5.0], [0.0, 9.0]])
    assert neighbours(torch.tensor([[1.0, 0.2]]), gallery, own=[None], count=2).tolist() == [[0, 1]]


def test_the_query_itself_is_excluded_where_it_is_known() -> None:
    gallery = torch.eye(3) + 0.1
    found = neighbours(gallery[:2], gallery, own=[0, None], count=3)
    assert 0 not in found[0].tolist()
    assert found[1].tolist()[0] == 1


def patches(seed: int = 0, dim: int = 12) -> torch.Tensor:
    return torch.randn(3, 20, dim, generator=torch.Generator().manual_seed(seed)) * torch.linspace(3, 0.5, dim)


def test_colours_survive_rotation_shift_and_scale_of_the_features() -> None:
    features = patches()
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()).Q
    changed = (features.double() @ rotation * 7 + 3).float()
    difference = pca_maps(features, GRID).int() - pca_maps(changed, GRID).int()
    assert difference.abs().max() <= 1  # rounding to 8 bits


def test_the_sign_does_not_depend_on_the_sign_of_the_features() -> None:
    assert torch.equal(pca_maps(patches(), GRID), pca_maps(-patches(), GRID))


def test_images_are_coloured_together() -> None:
    features = patches()
    together = pca_maps(features, GRID)
    # the same colours in another order of the images; but not those of an image alone
    assert torch.equal(pca_maps(features.flip(0), GRID), together.flip(0))
    assert not torch.equal(pca_maps(features[:1], GRID)[0], together[0])


def test_the_border_is_dark_in_the_first_component() -> None:
    features = torch.zeros(2, 5, 5, 8)
    features[:, 1:4, 1:4, 0] = 5.0
    features += 0.01 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    red = pca_maps(features.flatten(1, 2), (5, 5))[..., 0]
    assert red[:, 1:4, 1:4].min() > 200
    assert red[:, 0].max() < 60


@pytest.mark.parametrize("dim", [1, 2, 12])
def test_features_that_do_not_vary_are_grey(dim: int) -> None:
    assert (pca_maps(torch.ones(2, 4, dim), (2, 2)) == 128).all()


def test_an_outlier_does_not_grey_the_rest() -> None:
    features = torch.zeros(1, 400, 3)
    features[0, :, 0] = torch.linspace(-1, 1, 400)
    features[0, 0, 0] = -100
    assert pca_maps(features, (20, 20))[..., 0].float().std() > 60
