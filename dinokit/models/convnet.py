"""What the convolutional backbones share: four stages of shrinking maps, and Features of networks without tokens.

The stages have strides 4, 8, 16 and 32. CLS is the mean of the last map and its cells are the patches, as DINO reads
its ResNet-50 (arXiv:2104.14294, section 3.1) and DINOv3 its ConvNeXts (arXiv:2508.10104, section 5). There are no
registers, and nothing in these networks can stand for a hidden patch.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.errors import UserError
from dinokit.models.features import Built, Features, accepted, chosen_layers

STAGES = 4


class ConvNet(Built):
    """Images -> Features. A subclass says how its stages follow each other."""

    patch_size = 32  # stride of the last stage
    smallest: int  # side in pixels of the smallest image
    norm: nn.Module  # of CLS and patches of the last stage

    @abstractmethod
    def stages_of(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Iterator[Float[Tensor, "batch width rows columns"]]:
        """Yield the map after each stage; a stage runs only when it is asked for."""

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; there is one norm for all crops)
    ) -> Features:
        """Embed images.

        Raises:
            UserError: if the images do not fit, or if masks are given.
        """
        if masks is not None:
            raise UserError(f"a {type(self).__name__} has no mask token; use a vision transformer, or no masks")
        return self.intermediate(images, 1)[0]

    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return features after the last `layers` stages, or after those of the given indices, in the order given.

        Width and grid are those of the stage; the final norm belongs to the last stage and is applied to no other.
        """
        wanted = chosen_layers(layers, count=STAGES, unit="stages")
        dtype = next(self.parameters()).dtype
        images = accepted(images, channels=self.channels, side=self.smallest, dtype=dtype)
        found = {}
        for index, maps in enumerate(islice(self.stages_of(images), max(wanted) + 1)):
            if index in wanted:
                found[index] = Features.from_maps(maps)
        last = found.get(STAGES - 1)
        if norm and last is not None:
            tokens = self.norm(torch.cat([last.cls[:, None], last.patches], dim=1))  # [batch, 1 + patch, width]
            found[STAGES - 1] = Features(tokens[:, 0], last.registers, tokens[:, 1:], last.grid)
        return tuple(found[index] for index in wanted)
