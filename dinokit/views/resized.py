"""One random resized crop of an image, perhaps mirrored: what a classifier of frozen features learns from.

Area uniform in 0.08 to 1 of the image, aspect ratio log-uniform in 3/4 to 4/3, bicubic, mirrored with probability 0.5
("inception crops"). Source: Szegedy et al. 2015 (arXiv:1409.4842), section 6, as in the linear evaluations of DINO
(arXiv:2104.14294), DINOv2 (arXiv:2304.07193) and DINOv3 (arXiv:2508.10104, appendix D).
"""

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from dinokit.core.seed import generator
from dinokit.images import intensity
from dinokit.views import crop

SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5


def resized_crop(image: intensity.Image, *, size: int, key: tuple[int, ...]) -> Shaped[Tensor, "channel size size"]:
    """Cut one crop, a pure function of the key; type and range of the image stay."""
    uniforms = generator(*key).random((1, crop.DRAWS))
    height, width = (np.array([side]) for side in image.shape[1:])
    windows = crop.boxes(uniforms, height=height, width=width, scale=SCALE, ratio=RATIO)
    mirrored = crop.flips(uniforms, probability=FLIP)
    low, high = intensity.value_range(image)
    within = image if (low, high) == (0, 1) else (image - low) / (high - low)
    found = crop.cut([within], windows[None], mirrored[None], size=size, kernel="bicubic")[0, 0]
    return found if within is image else found * (high - low) + low
