"""The baselines every representation must beat: the pixels themselves, of whole images and of patches, and colours.

CLS is the flattened image, a patch is a single pixel, or the flattened pixels of a square. k-NN on raw pixels reaches a
surprising accuracy on small, centred data, so an evaluation without this row says little. Histograms know which colours
an image has and nothing of where: what they reach, colour alone gives away.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models.features import Backbone, Features, accepted


class OwnPixels(Backbone):
    """Images -> their own values in [0, 1]; no parameters, no registers."""

    @abstractmethod
    def flattened(self, images: Float[Tensor, "batch channel height width"]) -> Features:
        """Put the values of images into vectors; a UserError if the images do not fit."""

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; pixels have no norm to choose)
    ) -> Features:
        """Flatten the images; a UserError if they do not fit, or if masks are given."""
        if masks is not None:
            raise UserError("raw pixels cannot be masked; evaluate without masks")
        return self.flattened(images)

    def intermediate(
        self,
        images: Float[Tensor, "batch channel height width"],
        layers: int | Sequence[int],
        *,
        norm: bool = True,  # noqa: ARG002 (part of the contract; there is no final norm)
    ) -> tuple[Features, ...]:
        """Return the pixels, whatever layers are asked for: so that they stand beside networks of any depth."""
        return (self(images),) * (layers if isinstance(layers, int) else len(layers))

    def untrained(self, *, seed: int = 0) -> "OwnPixels":  # noqa: ARG002 (part of the contract; there are no weights)
        """Refuse, with a UserError: pixels are what others are compared with."""
        raise UserError("raw pixels are a baseline and have none themselves; evaluate a network")


class RawPixels(OwnPixels):
    """Images of one size -> all their values; CLS is the flattened image."""

    def __init__(self, *, size: int, channels: int = 3) -> None:
        """Describe the images: `size` x `size` pixels, each a patch."""
        super().__init__()
        self.size, self.patch_size, self.channels = size, 1, channels
        self.dim = channels * size * size
        self.pixels = Pixels((0.0,) * channels, (1.0,) * channels, size)

    def flattened(self, images: Float[Tensor, "batch channel height width"]) -> Features:
        """Flatten the images."""
        expected = (self.channels, self.size, self.size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"raw pixels expect images of shape {expected}, got {tuple(images.shape[1:])}")
        cells = Features.from_maps(images)
        cls = images.flatten(1)  # [batch, channel*height*width]
        return Features(cls, cls[:, None][:, :0], cells.patches, cells.grid)


class PatchPixels(OwnPixels):
    """Images of any size -> the values of each whole patch: the baseline of dense predictions; CLS is their mean."""

    depth = 4  # its only layer stands for each that a head on four of them reads

    def __init__(self, *, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.patch_size, self.channels = patch_size, channels
        self.dim = channels * patch_size**2
        self.pixels = Pixels((0.0,) * channels, (1.0,) * channels)

    def flattened(self, images: Float[Tensor, "batch channel height width"]) -> Features:
        """Flatten each whole patch; what does not fill one is left out."""
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=torch.float32)
        rows, columns = (side // self.patch_size * self.patch_size for side in images.shape[2:])
        return Features.from_maps(pixel_unshuffle(images[..., :rows, :columns], self.patch_size))


class ColourHistograms(OwnPixels):
    """Images of any size -> how often each colour comes, of the whole image (CLS) and of each whole patch.

    A channel has `levels` steps and a colour is one of `levels ** channels`; beyond three channels each has a histogram
    of its own. Values are roots of shares, so that a vector has length 1 and a cosine is the overlap of two histograms
    (Bhattacharyya 1943). Colours as features of images: Swain and Ballard 1991 (IJCV 7).
    """

    depth = 4  # its only layer stands for each that a head on four of them reads

    def __init__(self, *, patch_size: int, size: int | None = None, channels: int = 3, levels: int = 4) -> None:
        """Describe the images.

        Args:
            size: in pixels, of the square that evaluations resize to; None: images as they are.
        """
        super().__init__()
        self.patch_size, self.channels, self.levels = patch_size, channels, levels
        self.joint = channels <= 3
        self.dim = levels**channels if self.joint else channels * levels
        self.pixels = Pixels((0.0,) * channels, (1.0,) * channels, size)
        self.name = f"colour histograms of {self.dim}"

    def flattened(self, images: Float[Tensor, "batch channel height width"]) -> Features:
        """Count the colours of each whole patch, and those of all pixels."""
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=torch.float32)
        steps = (images * self.levels).long().clamp(0, self.levels - 1)  # [batch, channel, height, width]
        places = self.levels ** torch.arange(self.channels, device=images.device)
        if self.joint:
            colours = (steps * places[:, None, None]).sum(1, keepdim=True)  # [batch, 1, height, width]
        else:
            colours = steps + self.levels * torch.arange(self.channels, device=images.device)[:, None, None]
        rows, columns = (side // self.patch_size * self.patch_size for side in images.shape[2:])
        cells = pixel_unshuffle(colours[..., :rows, :columns], self.patch_size)  # [batch, pixel, row, column]
        patches = self._shares(cells.movedim(1, -1))  # [batch, row, column, colour]
        maps = Features.from_maps(patches.movedim(-1, 1))
        cls = self._shares(colours.flatten(1))  # [batch, colour]
        return Features(cls, maps.registers, maps.patches, maps.grid)

    def _shares(self, colours: Int64[Tensor, "*cell pixel"]) -> Float[Tensor, "*cell colour"]:
        """Return the roots of the shares of each colour among the pixels of a cell."""
        counts = torch.zeros(*colours.shape[:-1], self.dim, device=colours.device)
        counts.scatter_add_(-1, colours, torch.ones_like(colours, dtype=counts.dtype))
        return (counts / colours.shape[-1]).sqrt()
