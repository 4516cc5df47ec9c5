"""Images to tokens: one linear map of every non-overlapping patch (ViT, arXiv:2010.11929, section 3.1, equation 1).

A small network on small images learns faster when an overlapping convolution comes first (arXiv:2106.14881): the patch
grid then cuts less of what straddles it. None of the published models has one.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.models.features import accepted


class PatchEmbed(nn.Module):
    """Cut images into `patch_size` x `patch_size` squares and embed each.

    Any height and width, also those that are no multiple of the patch: trailing pixels at the bottom and at the right
    that do not fill a patch are ignored, as in the official convolution.
    """

    def __init__(self, *, patch_size: int, channels: int, dim: int, stem: int | None = None) -> None:
        """Build the map.

        Args:
            stem: channels of a 4 x 4 convolution with stride 2 in front; the patch size is then even.
        """
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.stem = None if stem is None else nn.Conv2d(channels, stem, kernel_size=4, stride=2, padding=1)
        side = patch_size if stem is None else patch_size // 2
        self.proj = nn.Conv2d(stem or channels, dim, kernel_size=side, stride=side)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch patch dim"], tuple[int, int]]:
        """Return the patches, row-major, and their grid (rows, columns).

        A model of one channel sees the luminance of RGB images, as if they had been decoded to gray.

        Raises:
            UserError: if the images have no batch axis, another number of channels, or are smaller than a patch.
        """
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=self.proj.weight.dtype)
        if self.stem is not None:
            images = F.gelu(self.stem(images))  # [batch, stem, height / 2, width / 2]
        side = self.proj.kernel_size[0]
        grid = images.shape[2] // side, images.shape[3] // side
        # a convolution whose windows do not overlap is one matrix product, and on a CPU a faster one
        whole = images[..., : grid[0] * side, : grid[1] * side]
        squares = whole.reshape(len(images), -1, grid[0], side, grid[1], side).permute(0, 2, 4, 1, 3, 5)
        patches = squares.flatten(3).flatten(1, 2)  # [batch, patch, channel * side * side]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias), grid
