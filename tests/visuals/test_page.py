import base64
import io

import numpy
import pytest
import torch
from PIL import Image

from dinokit.visuals.page import data_uri


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_come_back_bit_by_bit(channels: int) -> None:
    picture = torch.randint(0, 256, (28, 20, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    uri = data_uri(picture)
    assert uri.startswith("data:image/png;base64,")
    assert numpy.array_equal(numpy.array(opened(uri)).reshape(28, 20, channels), picture.numpy())


def test_photos_shrink_and_stay_small() -> None:
    noise = torch.randint(0, 256, (8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photo = torch.from_numpy(numpy.array(Image.fromarray(noise.numpy()).resize((600, 400), Image.Resampling.BICUBIC)))
    uri = data_uri(photo, side=160)
    assert opened(uri).size == (160, 107)
    assert len(uri) < 20_000


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_shown_by_their_first(channels: int) -> None:
    data_uri(torch.zeros(4, 4, channels, dtype=torch.uint8))
