"""Images of the user for int8: from what they make of a network its steps of 8 bits are chosen, others judge them."""

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.messages import BadImage, UserError
from dinokit.exports.outputs import About
from dinokit.images.intensity import normalised, prepare, stacked, to_unit
from dinokit.models.features import Built
from dinokit.sources.source import open_source

MOST = 128  # images that are read of a source
JUDGES = 8  # of them, at most a quarter and at least LEAST, that are compared and choose nothing
LEAST = 2  # that choose, and that are compared: by one image a constant output is not found out


def photos_of(data: str, backbone: Built, told: About) -> Float[Tensor, "image channel side side"]:
    """Return normalised squares of images of a source, evenly spaced, as a file takes them; or raise UserError."""
    source = open_source(data, channels=backbone.channels, labels=False, white=backbone.pixels.white)
    found = []
    for index in numpy.linspace(0, len(source) - 1, min(len(source), MOST)).round().astype(int).tolist():
        try:
            found.append(prepare(source.read(index), size=told.size, patch_size=backbone.patch_size))
        except BadImage:
            continue
    if len(found) < 2 * LEAST:
        raise UserError(
            f"int8 takes at least {2 * LEAST} images, of which {LEAST} are compared; {data} holds {len(found)} that "
            "can be read"
        )
    return torch.cat([normalised(to_unit(stacked([each])), backbone.pixels) for each in found])


def halves(photos: Tensor) -> tuple[Tensor, Tensor]:
    """Return those that calibrate, and those that are compared: evenly spaced, as a folder may be sorted by class."""
    count = max(LEAST, min(JUDGES, len(photos) // 4))
    judges = torch.zeros(len(photos), dtype=torch.bool)
    judges[(torch.arange(count) * 2 + 1) * len(photos) // (2 * count)] = True
    return photos[~judges], photos[judges]
