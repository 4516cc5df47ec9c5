"""The linear depth heads: every patch's depth by one linear map of its features, through bins.

    DINOv3   patches of the last layer -> batch norm -> 1 x 1 convolution -> bins
    DINOv2   patches and the CLS of one or four layers, enlarged four times -> 1 x 1 convolution -> bins

Source: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.core.seed import torch_generator
from dinokit.models.bins import Config as Bins
from dinokit.models.bins import decode
from dinokit.models.dense_head import joined
from dinokit.models.features import Features


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a linear depth head."""

    width: int = at_least(1)  # numbers per patch, of all layers together, without CLS
    cls: bool = False  # put the CLS of each layer behind its patches
    cls_width: int = at_least(0, 0)  # numbers of the CLS of all layers together
    enlarge: int = at_least(1, 1)  # times, before the map
    batch_norm: bool = True  # normalise each channel first
    bins: Bins = field(default_factory=Bins)

    def __post_init__(self) -> None:
        if self.cls and not self.cls_width:
            raise UserError("a depth head that reads the CLS needs its cls_width")

    @property
    def inputs(self) -> int:
        """Numbers per patch that are mapped."""
        return self.width + (self.cls_width if self.cls else 0)


class LinearDepth(nn.Module):
    """Features of some layers -> metres."""

    def __init__(self, config: Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm2d(config.inputs) if config.batch_norm else nn.Identity()
        self.regress = nn.Conv2d(config.inputs, config.bins.count, kernel_size=1)
        nn.init.normal_(self.regress.weight, std=0.01, generator=torch_generator(seed))
        assert self.regress.bias is not None
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "batch 1 rows columns"]:
        """Return the depth of every patch, or of every cell of the enlarged map.

        Raises:
            UserError: if the features are of another width than the head.
        """
        maps = []
        for layer in features:
            maps.append(layer.maps)
            if self.config.cls:
                maps.append(layer.cls[..., None, None].expand(-1, -1, *layer.grid))
        seen = joined(maps, width=self.config.inputs)
        if self.config.enlarge > 1:
            seen = F.interpolate(seen, scale_factor=self.config.enlarge, mode="bilinear", align_corners=False)
        return decode(self.regress(self.norm(seen)), self.config.bins)
