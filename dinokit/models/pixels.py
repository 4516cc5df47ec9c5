"""The baseline every representation must beat: the pixels themselves, of whole images and of patches.

CLS is the flattened image, a patch is its flattened pixels (a single one by default). k-NN on raw pixels reaches a
surprising accuracy on small, centred data, so an evaluation without this row says little.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from dinokit.core.errors import UserError
from dinokit.images.normalisation import Pixels
from dinokit.models.features import Backbone, Features, accepted


class RawPixels(Backbone):
    """Images -> their own values in [0, 1]; no parameters, no registers."""

    def __init__(self, *, size: int, patch_size: int = 1, channels: int = 3) -> None:
        """Describe the images: `size` x `size` pixels, cut into square patches.

        Raises:
            UserError: if the size is not a multiple of the patch size.
        """
        super().__init__()
        if size < 1 or patch_size < 1 or size % patch_size:
            raise UserError(f"image size {size} is not a positive multiple of the patch size {patch_size}")
        self.size = size
        self.patch_size = patch_size
        self.channels = channels
        self.dim = channels * size * size
        self.pixels = Pixels((0.0,) * channels, (1.0,) * channels, size)

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; pixels have no norm to choose)
    ) -> Features:
        """Flatten the images.

        Raises:
            UserError: if the images have another shape, or if masks are given.
        """
        if masks is not None:
            raise UserError("raw pixels cannot be masked; evaluate without masks")
        expected = (self.channels, self.size, self.size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"raw pixels expect images of shape {expected}, got {tuple(images.shape[1:])}")
        rows = self.size // self.patch_size
        cells = torch.unflatten(images, 3, (rows, -1))  # [batch, channel, height, column, x]
        tiles = torch.unflatten(cells, 2, (rows, -1))  # [batch, channel, row, y, column, x]
        patches = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [batch, patch, channel*y*x]
        cls = images.flatten(1)  # [batch, channel*height*width]
        return Features(cls, cls.new_empty(len(cls), 0, self.dim), patches, (rows, rows))

    def intermediate(
        self,
        images: Float[Tensor, "batch channel height width"],
        layers: int | Sequence[int],
        *,
        norm: bool = True,  # noqa: ARG002 (part of the contract; there is no final norm)
    ) -> tuple[Features, ...]:
        """Return the pixels as the one and only layer.

        Raises:
            UserError: if another layer than the last is asked for.
        """
        if layers != 1 and (isinstance(layers, int) or tuple(layers) != (0,)):
            raise UserError(f"raw pixels have a single layer, got layers={layers}; use 1")
        return (self(images),)

    def fresh(self, seed: int) -> "RawPixels":  # noqa: ARG002 (part of the contract; there are no weights)
        """Refuse: pixels are what others are compared with.

        Raises:
            UserError: always.
        """
        raise UserError("raw pixels are a baseline and have none themselves; evaluate a network")


class PatchPixels(Backbone):
    """Images of any size -> the values of each patch, in [0, 1]: the baseline of dense predictions; no parameters."""

    def __init__(self, *, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.dim = channels * patch_size**2
        self.pixels = Pixels((0.0,) * channels, (1.0,) * channels)

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; pixels have no norm to choose)
    ) -> Features:
        """Flatten the pixels of each whole patch; CLS is the mean patch.

        Raises:
            UserError: if the images do not fit, or if masks are given.
        """
        if masks is not None:
            raise UserError("raw pixels cannot be masked; evaluate without masks")
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=torch.float32)
        return Features.from_maps(pixel_unshuffle(_whole(images, self.patch_size), self.patch_size))

    def intermediate(
        self,
        images: Float[Tensor, "batch channel height width"],
        layers: int | Sequence[int],
        *,
        norm: bool = True,  # noqa: ARG002 (part of the contract; there is no final norm)
    ) -> tuple[Features, ...]:
        """Return the pixels, whatever layers are asked for: so that they stand beside networks of any depth."""
        return (self(images),) * (layers if isinstance(layers, int) else len(layers))

    def fresh(self, seed: int) -> "PatchPixels":  # noqa: ARG002 (part of the contract; there are no weights)
        """Refuse: pixels are what others are compared with.

        Raises:
            UserError: always.
        """
        raise UserError("raw pixels are a baseline and have none themselves; evaluate a network")


def _whole(
    images: Float[Tensor, "batch channel height width"], patch: int
) -> Float[Tensor, "batch channel rows columns"]:
    """Leave out what does not fill a patch."""
    height, width = images.shape[2:]
    return images[..., : height // patch * patch, : width // patch * patch]
