"""Tokens are CLS and the patches."""

import torch

from dinokit.models.pixels import RawPixels
from dinokit.models.tokens import Tokens
from tests.conftest import MakeVit


def test_tokens_are_cls_and_patches_and_squares_of_raw_pixels(make_vit: MakeVit) -> None:
    images, backbone = torch.rand(2, 3, 16, 16), make_vit()
    with torch.no_grad():
        found, features = Tokens()(backbone, images), backbone(images)
    assert found.shape == (2, 17, 16)
    assert torch.equal(found[:, 0], features.cls)
    assert torch.equal(found[:, 1:], features.patches)
    squares = Tokens()(RawPixels(size=18), torch.rand(2, 3, 18, 18))
    assert squares.shape == (2, 16, 48)
