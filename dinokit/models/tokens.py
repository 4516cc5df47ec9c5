"""All tokens of an image: CLS beside the patches after the last block, what attentive probes look at."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.models.features import Backbone
from dinokit.models.pixels import RawPixels

CELL = 4  # pixels along the squares that raw pixels are cut into


@dataclass(frozen=True)
class Tokens:
    """What is read of an image: CLS, then the patches; of raw pixels squares, whose places they do not say."""

    def __call__(
        self, backbone: Backbone, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Compute it for normalised images, in float32."""
        if isinstance(backbone, RawPixels):
            rows, columns = (side // CELL * CELL for side in images.shape[2:])
            return F.pixel_unshuffle(images[..., :rows, :columns], CELL).flatten(2).transpose(1, 2).float()
        features = backbone(images)
        return torch.cat([features.cls[:, None], features.patches], dim=1).float()
