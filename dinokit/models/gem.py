"""CLS beside the generalised mean of the patches: the descriptor of images that are searched for copies.

Between the mean (power 1) and the largest value (infinite), number by number. Sources: Radenovic et al. 2018
(arXiv:1711.02512), as DINO (arXiv:2104.14294, section 4.2.1) describes images for Copydays, with power 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.models.features import Backbone

LEAST = 1e-6  # of what is raised to a power


@dataclass(frozen=True)
class WithGem:
    """What is read of an image: CLS, then the generalised mean of the patches."""

    power: float

    def __call__(
        self, backbone: Backbone, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Compute it for normalised images, in float32."""
        features = backbone(images)
        patches = features.patches.float().clamp(min=LEAST)
        mean = patches.pow(self.power).mean(dim=1).pow(1 / self.power)  # [batch, width]
        return torch.cat([features.cls.float(), mean], dim=-1)
