"""What a model is shown of an image outside training: one class per way to bring an image to a size.

A transform is two numbers, called with an image, and its `repr` says all that changes the result, so that features can
be kept under it. Sides in pixels are brought to the nearest multiple of the patch. Images keep their type; resizing is
bicubic and antialiased, once each. Sources: DINOv3 (arXiv:2508.10104) appendix D.8 for `Padded`, `Whole` and `Inner`;
DINO (arXiv:2104.14294) section 4.2.1 for `Squashed`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from dinokit.images.intensity import Image, multiple, prepare, resized

Seen = Shaped[Tensor, "channel rows columns"]


@dataclass(frozen=True)
class Transform(ABC):
    """Brings an image to what a model is shown of it."""

    size: int | None  # wanted side in pixels; None: `Square` and `Short` alone have a meaning without
    patch_size: int

    @abstractmethod
    def __call__(self, image: Image) -> Seen:
        """Return what is shown of one image; its type stays."""

    @property
    def side(self) -> int:
        """The size, to whole patches."""
        assert self.size is not None
        return multiple(self.size, self.patch_size)

    @property
    def enough(self) -> int | None:
        """The short side, in pixels, that a file may be decoded to; None: all of it is seen."""
        return None if self.size is None else self.side


@final
class Square(Transform):
    """The centre square; without a size nothing is cut and each side goes to its own multiple of the patch."""

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        return prepare(image, size=self.size, patch_size=self.patch_size)


@final
class Whole(Transform):
    """The whole image, its long side at the size, its shape kept up to the patch."""

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        assert self.size is not None
        scale = self.size / max(image.shape[1:])
        height, width = (multiple(round(side * scale), self.patch_size) for side in image.shape[1:])
        return resized(image, height, width)


@final
class Short(Transform):
    """The whole image, its short side at the size, None: as it is; each side goes to its own multiple of the patch."""

    @property
    def enough(self) -> int | None:
        """See `Transform`."""
        return self.size

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is brought to."""
        scale = 1.0 if self.size is None else self.size / min(height, width)
        rows, columns = (multiple(round(side * scale), self.patch_size) for side in (height, width))
        return rows, columns

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        return resized(image, *self.sides(*image.shape[1:]))


@final
class Padded(Transform):
    """The whole image, its shape kept, in the middle of a black square."""

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        scale = self.side / max(image.shape[1:])
        height, width = (max(1, round(side * scale)) for side in image.shape[1:])
        top, left = (self.side - height) // 2, (self.side - width) // 2
        around = left, self.side - width - left, top, self.side - height - top
        return functional.pad(resized(image, height, width), around)


@final
class Squashed(Transform):
    """The whole image as a square, whatever its shape."""

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        return resized(image, self.side, self.side)


@final
class Inner(Transform):
    """The centre square within an eighth of the short side, as classification sees 224 of 256 pixels."""

    @property
    def enough(self) -> int:
        """See `Transform`."""
        return round(self.side * 8 / 7)

    def __call__(self, image: Image) -> Seen:
        """See `Transform`."""
        scale = self.enough / min(image.shape[1:])
        height, width = (round(side * scale) for side in image.shape[1:])
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return resized(image, height, width)[:, top : top + self.side, left : left + self.side].contiguous()
