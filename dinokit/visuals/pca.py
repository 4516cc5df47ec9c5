"""What patches have in common, as colour: the three main components of patch features shown as red, green and blue.

One decomposition over all images together, so that a colour means the same in each of them (DINOv2, arXiv:2304.07193,
section 7.5). A component's sign is free; here it points away from the pictures' borders, so that backgrounds are dark
and the colours of two models can be laid side by side.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

QUANTILES = (0.02, 0.98)  # scaled to 0 and 1: a few outlying patches must not grey all the others


def pca_maps(
    patches: Float[Tensor, "image patch dim"], grid: tuple[int, int]
) -> UInt8[Tensor, "image rows columns rgb"]:
    """Colour every patch by its three main components over all images.

    Args:
        grid: rows and columns of the row-major patches.
    """
    images, count, _ = patches.shape
    scores = components(patches.flatten(0, 1), count=3).reshape(images, count, 3)  # [image, patch, component]
    border = torch.ones(grid, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    inside, outside = scores[:, ~border.flatten()], scores[:, border.flatten()]
    # the pictures' borders come on the low side; where there is no inside, the skew decides
    towards = (scores**3).mean(dim=(0, 1))
    if inside.shape[1]:
        towards = inside.mean(dim=(0, 1)) - outside.mean(dim=(0, 1))
    scores = scores * torch.where(towards < 0, -1.0, 1.0)
    low, high = torch.quantile(scores.flatten(0, 1), torch.tensor(QUANTILES, dtype=scores.dtype), dim=0)  # [component]
    spread = high - low
    # a component that does not vary (a collapsed model) is mid-grey, not amplified noise
    scaled = torch.where(spread > 1e-6, (scores - low) / spread.clamp(min=1e-6), 0.5)
    return (scaled.clamp(0, 1) * 255).round().to(torch.uint8).reshape(images, *grid, 3)


def components(rows: Float[Tensor, "row dim"], *, count: int) -> Float[Tensor, "row component"]:
    """Project centred rows on their `count` directions of largest variance, in order; missing ones are zero.

    float64 and an eigen-decomposition of the covariance: exact, without a random start.
    """
    centred = rows.double() - rows.double().mean(dim=0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(-1)[:, :count]  # [dim, component]
    scores = centred @ vectors
    return torch.nn.functional.pad(scores, (0, count - scores.shape[1]))
