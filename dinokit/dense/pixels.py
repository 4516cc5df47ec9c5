"""Features of every pixel of an image, or of every so many, a band of rows at a time.

Three ways, of which the last two can be taken together:

    tiles       One vector per patch, from windows (dense/strips), bilinear between the middles of patches. As dear as
                one look at the image. What is smaller than a patch is not told apart: an edge is a slope a patch wide.
    shifts      The image seen on k x k grids, each a k-th of a patch further on; a cell, a k-th of a patch wide, is the
                mean of the patches that cover it. k x k times as dear. An edge is where it is to a k-th of a patch, but
                a slope two patches wide, for so far do the patches reach that cover a cell.
    bilateral   Joint bilateral up-sampling (dense/upsample; Kopf and others, 2007), guided by the image: features end
                where colours do. About as dear as tiles. Where an edge has no colour it is as soft as with tiles; where
                colours change without one, features vary that should not.

Measured (docs/log.md, 2026-11-29): 4096 x 4096 pixels at width 384, beside a network of one block, take 55 seconds of a
core and 1.2 GB by tiles, 76 s and 1.1 GB by the bilateral. A linear classifier's mean IoU within 3 pixels of an edge,
patches of 16 and of 8 pixels: tiles 46 and 63, shifts 2 46 and 65, shifts 4 47 and 65, bilateral 68 and 78.

Nothing of the image's size is held but the image itself: features exist for one row of windows of patches (with shifts
one of each grid) and for one band, the pixels of a row of patches, in float16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy
from jaxtyping import Float16, Shaped
from torch import Tensor

from dinokit.checkpoints.load import called, load
from dinokit.config import from_plain
from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.files import digest, write_atomic
from dinokit.core.messages import RunError, UserError, unknown_name
from dinokit.core.numbers import at_least
from dinokit.dense.maps import tried
from dinokit.dense.strips import Rows, Strip, shifted
from dinokit.dense.upsample import Bilateral, Bilinear, nearest
from dinokit.images import intensity
from dinokit.images.transforms import Short
from dinokit.models.features import Backbone, Picture, decoded

Upsample = Literal["bilinear", "bilateral"]
Band = Float16[numpy.ndarray, "rows columns dim"]
LARGEST = 65504.0  # of float16


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Where features of an image are wanted, and how they come there."""

    size: int | None = at_least(1, None)  # pixels of the short side as the model sees it; null: as it is
    stride: int | None = at_least(1, 1)  # pixels of the image from one vector to the next; null: one per patch, or cell
    shifts: int = at_least(1, 1)  # grids each way, each so many-th of a patch further on; 1: no shifts
    upsample: Upsample = "bilinear"  # between patches: by distance alone, or guided by the colours of the image

    def __post_init__(self) -> None:
        if self.upsample == "bilateral" and self.stride is None:
            raise UserError("bilateral guides features of patches to pixels; give a stride, such as 1")

    def check(self, backbone: Backbone) -> None:
        """Refuse shifts that are no whole pixels of a model's patch."""
        patch = backbone.patch_size
        if patch % self.shifts:
            fits = ", ".join(str(each) for each in range(1, patch + 1) if patch % each == 0)
            raise UserError(f"shifts {self.shifts} does not divide the patch of {patch} pixels; use one of {fits}")

    def shape(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Return rows and columns of the vectors of an image of so many pixels."""
        seen = Short(self.size, patch).sides(height, width)
        if self.stride is None:
            return seen[0] // patch * self.shifts, seen[1] // patch * self.shifts
        return max(1, round(height / self.stride)), max(1, round(width / self.stride))


@final
@dataclass(frozen=True, kw_only=True)
class PixelFeatures:
    """Features of an image on a grid that covers it evenly, after the final norm; computed when they are asked for."""

    backbone: Backbone
    image: Shaped[Tensor, "channel height width"]
    shape: tuple[int, int, int]  # rows, columns, and numbers of a vector
    sampling: Sampling
    precision: Precision = "fp32"

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        rows, columns, dim = self.shape
        return 2 * rows * columns * dim

    def bands(self) -> Iterator[Band]:
        """Compute a band of rows at a time, from the top; one behind the other they are the whole.

        Raises:
            UserError: if the model has no patch per square of pixels, as a ResNet.
            RunError: if a feature is not finite, or too large for float16.
        """
        seen = Short(self.sampling.size, self.backbone.patch_size)(self.image)
        side = self.backbone.patch_size // self.sampling.shifts
        points, cells = self.shape[:2], (seen.shape[1] // side, seen.shape[2] // side)
        guided = self.sampling.upsample == "bilateral"
        fill = Bilateral(self.image, points, cells) if guided else Bilinear(points, cells)
        rows, own = Rows(self._checked(seen)), nearest(points[0], cells[0])
        for cell in range(cells[0]):
            first = max(cell - fill.reach, 0)
            vectors, wanted = rows(first, min(cell + fill.reach + 1, cells[0])), (own == cell).nonzero().flatten()
            if len(wanted):
                yield fill(vectors, first=first, wanted=wanted).numpy()

    def _checked(self, seen: Shaped[Tensor, "channel height width"]) -> Iterator[Strip]:
        """What is between vectors is never larger than they."""
        for strip in shifted(self.backbone, seen, self.sampling.shifts, precision=self.precision):
            if not bool((strip.abs() <= LARGEST).all()):
                why = "too large for float16" if strip.isfinite().all() else "not finite; its weights are broken"
                raise RunError(f"{self.backbone.name or 'the model'} gives features that are {why}")
            yield strip

    def array(self) -> Band:
        """Compute all of it at once, in memory."""
        found = numpy.empty(self.shape, numpy.float16)
        first = 0
        for band in self.bands():
            found[first : first + len(band)] = band
            first += len(band)
        return found

    def save(self, path: str | Path) -> str:
        """Write a .npy file, which `numpy.load(path, mmap_mode="r")` opens, band by band; return a digest of it."""
        head = {"descr": numpy.lib.format.dtype_to_descr(numpy.dtype(numpy.float16)), "fortran_order": False}
        with write_atomic(Path(path)) as temporary, temporary.open("wb") as file:
            numpy.lib.format.write_array_header_1_0(file, head | {"shape": self.shape})

            def written() -> Iterator[Band]:
                for band in self.bands():
                    file.write(band.data)  # not tofile, which does not say why a disk refuses
                    yield band

            return digest(written())


def pixels(
    model: str | Path | Backbone,
    image: Picture,
    *,
    size: int | None = None,
    stride: int | None = 1,
    shifts: int = 1,
    upsample: Upsample = "bilinear",
    precision: Precision = "fp32",
) -> PixelFeatures:
    """Return the features of every pixel of an image; they are computed when bands, an array or a file are asked for.

        features = dinokit.pixels(model, "photo.jpg", stride=4, upsample="bilateral")
        features.shape                      # rows, columns, numbers of a vector
        features.array()                    # float16, all of it
        for band in features.bands(): ...   # a few rows at a time, also of 4096 x 4096 pixels
        features.save("photo.npy")          # numpy.load("photo.npy", mmap_mode="r")

    Args:
        model: a loaded one, which stays where it is, or what `load` takes.
        image: the path of a file, a Pillow image, or an array or tensor as `model.transform` takes it.
        size: pixels of the short side as the model sees it; None: as it is, up to whole patches.
        stride: pixels of the image from one vector to the next, of which a wide one passes patches over; None: one
            vector per patch, or cell of the shifts.
        shifts: grids each way, each so many-th of a patch further on: k costs k x k looks at the image.
        upsample: between patches, bilinear, by distance alone; or bilateral, guided by the colours of the image.
        precision: of the matrix products.

    Raises:
        UserError: if the model or the image cannot be read, a value cannot be, or the shifts do not divide the patch.
    """
    for kind, name, known in (("upsample", upsample, Upsample), ("precision", precision, Precision)):
        if name not in get_args(known):
            raise unknown_name(kind, str(name), get_args(known))
    values: dict[str, Any] = {"size": size, "stride": stride, "shifts": shifts, "upsample": upsample}
    values = {name: value.item() if isinstance(value, numpy.integer) else value for name, value in values.items()}
    sampling, backbone = from_plain(Sampling, values), _opened(model)
    sampling.check(backbone)
    pixels = decoded(image, channels=backbone.channels, white=backbone.pixels.white)
    return sampled(backbone, pixels, sampling, precision=precision)


def _opened(model: str | Path | Backbone) -> Backbone:
    if isinstance(model, Backbone):
        return model
    backbone = load(model).to(devices.choose())
    backbone.name = called(model)
    return backbone


def sampled(
    backbone: Backbone,
    image: intensity.Image,
    sampling: Sampling,
    *,
    dim: int | None = None,
    of: tuple[int, int] | None = None,
    precision: Precision = "fp32",
) -> PixelFeatures:
    """Return the features of a decoded image.

    Args:
        dim: `width_of` the backbone, where it is known.
        of: height and width of the image as it lies there, where it was decoded to a smaller one.
    """
    sampling.check(backbone)
    height, width = of or (image.shape[1], image.shape[2])
    rows, columns = sampling.shape(height, width, backbone.patch_size)
    shape = rows, columns, width_of(backbone) if dim is None else dim
    return PixelFeatures(backbone=backbone, image=image, shape=shape, sampling=sampling, precision=precision)


def width_of(backbone: Backbone) -> int:
    """Return how many numbers a patch has."""
    return tried(backbone)[0].patches.shape[-1]
