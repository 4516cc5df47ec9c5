"""What every backbone returns, and what a backbone is.

Training, probing and export all see the same four values, so a loss or an evaluation written once works on a ViT, on a
ConvNet and on raw pixels. Token order inside our transformers is [CLS, registers, patches], as in DINOv2 with registers
(arXiv:2309.16588) and DINOv3 (arXiv:2508.10104).
"""

import io
import operator
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor, nn

from dinokit.core.messages import BadImage, UserError, reason
from dinokit.images import intensity
from dinokit.images.decode import decode
from dinokit.images.intensity import Pixels, default_pixels, prepare
from dinokit.models import init

Picture = str | Path | Image.Image | numpy.ndarray | Tensor  # a file, Pillow's, or numbers as in a .npy file
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow makes gray with


@dataclass(frozen=True)
class Features:
    """Normalised output tokens of a backbone; patches are row-major over `grid` = (rows, columns).

    `width` equals `dim` for every network; only raw pixels have patches narrower than their CLS.
    """

    cls: Float[Tensor, "*batch dim"]
    registers: Float[Tensor, "*batch register dim"]
    patches: Float[Tensor, "*batch patch width"]
    grid: tuple[int, int]

    @staticmethod
    def from_maps(maps: Float[Tensor, "batch width rows columns"]) -> "Features":
        """Take every cell of an image of vectors for a patch; CLS is their mean, there are no registers."""
        rows, columns = maps.shape[2:]
        patches = maps.flatten(2).transpose(1, 2)  # [batch, patch, width]
        cls = patches.mean(dim=1)  # [batch, width]
        return Features(cls, patches[:, :0], patches, (rows, columns))

    @property
    def maps(self) -> Float[Tensor, "*batch width rows columns"]:
        """The patches as an image of vectors."""
        return torch.unflatten(self.patches.transpose(-1, -2), -1, self.grid)

    def unflatten(self, views: int) -> "Features":
        """Split the leading axis: [view*batch, ...] -> [view, batch, ...] (crop-major)."""
        return self._each(lambda tokens: torch.unflatten(tokens, 0, (views, -1)))

    def flatten(self) -> "Features":
        """Join the two leading axes: [view, batch, ...] -> [view*batch, ...] (crop-major)."""
        return self._each(lambda tokens: tokens.flatten(0, 1))

    def part(self, rows: int | slice) -> "Features":
        """Return some rows of the leading axis: a slice keeps the axis, a number takes one image out of it."""
        return self._each(lambda tokens: tokens[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        return Features(change(self.cls), change(self.registers), change(self.patches), self.grid)


class Backbone(nn.Module, ABC):
    """Images -> Features. A subclass sets the first four attributes and nothing about crops, teachers or losses.

    Any height and width are welcome. A transformer sees whole patches only: pixels at the bottom and at the right that
    do not fill one are ignored, as if they had been cropped away. ConvNeXt's patches are counted the same way; those of
    a ResNet cover every pixel, the last ones also padding (see convnets.py for what reaches a patch).
    """

    dim: int  # width of the CLS token
    patch_size: int  # side of a patch in pixels
    channels: int
    pixels: Pixels
    licence: str | None = None  # of the weights, where others published them
    name: str = ""  # as the user wrote it, so that a head can say whose patches it reads
    _looked = False

    @overload
    def __call__(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,
    ) -> Features: ...

    @overload
    def __call__(self, images: Sequence[Float[Tensor, "..."]]) -> list[Features]: ...

    def __call__(
        self, images: Float[Tensor, "batch channel height width"] | Sequence[Float[Tensor, "..."]], **options: Any
    ) -> Features | list[Features]:
        """Embed a batch, see `forward`, or a list of images of any sizes.

        An item of a list is [channel, height, width], and its Features have no batch axis, or [batch, channel, height,
        width]. Each gets what it would get alone, up to rounding, in evaluation mode; images of the same size and dtype
        are computed as one batch.

        Raises:
            UserError: if a list is empty, mixes numbers of channels, or comes with masks; or as `forward` does.
        """
        if isinstance(images, Tensor):
            self.look_at(images)
            features: Features = super().__call__(images, **options)
            return features
        if isinstance(images, str) or not isinstance(images, Sequence):
            raise UserError(
                f"expected normalised tensors, got a {type(images).__name__}; of files, pictures and arrays "
                "model.transform(...) makes them"
            )
        if options:
            raise UserError(f"a list of images takes no {', '.join(options)}; give a batch of one size")
        return _of_each(self, images)

    @property
    def device(self) -> torch.device:
        """Where the weights are; a backbone without any is on the CPU."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def look_at(self, images: Tensor) -> None:
        """Warn of normalised images that cannot be meant: on the CPU always, elsewhere of the first, for it waits."""
        unseen = torch.compiler.is_compiling() or is_recorded() or images.is_meta
        if self.training or unseen or not images.is_floating_point() or (self._looked and images.device.type != "cpu"):
            return
        self._looked = True
        intensity.warn_if_far(images)

    def transform(self, pictures: Picture | Sequence[Picture]) -> Float[Tensor, "image channel height width"]:
        """Make the batch that this model wants of pictures, as every evaluation does: resized, cropped, normalised.

        The centre square of each is resized to `pixels.size`; without one each keeps its size, up to whole patches.
        features = model(model.transform("cat.jpg"))

        Args:
            pictures: one or several: the path of a file, a Pillow image, or an array or tensor of numbers as a .npy
                file may hold, of uint8 (255 is white) or floats (1.0, or `pixels.white`), channels last or first.
        Raises:
            UserError: if one cannot be read, or several have different sizes and the model resizes none.
        """
        several = [pictures] if isinstance(pictures, str) or not isinstance(pictures, Sequence) else pictures
        found = []
        for picture in several:
            image = decoded(picture, channels=self.channels, white=self.pixels.white)
            found.append(prepare(image, size=self.pixels.size, patch_size=self.patch_size))
        if len({image.shape for image in found}) != 1:
            sizes = " and ".join(sorted({f"{image.shape[1]}x{image.shape[2]}" for image in found})) or "none"
            raise UserError(f"expected at least one picture, all of one size, got {sizes}; transform each alone")
        like = next(self.parameters(), torch.empty(0))
        return intensity.normalised(intensity.to_unit(intensity.stacked(found)).to(like.device), self.pixels)

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,
    ) -> Features:
        """Embed normalised images; masks are True where a patch is HIDDEN; local marks local crops in training."""

    @abstractmethod
    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return the features after some blocks: the last `layers` of them, or those of the given indices, in order.

        norm: pass each of them through the final norm.
        """

    @abstractmethod
    def untrained(self, *, seed: int = 0) -> "Backbone":
        """Return the same architecture before any training, looking at the same images, in evaluation mode."""


class Residual(nn.Module, ABC):
    """A block that adds to what it is given: what is compiled, and computed again, as a whole."""


class Built(Backbone):
    """A backbone made from a configuration with initial values from a seed; a subclass says what it is made of."""

    config: Any

    def __init__(self, config: Any, *, seed: int = 0) -> None:
        """Build on torch's default device with initial values from the seed.

        On the meta device nothing is allocated: call `to_empty(device=...)`, then `initialise(seed)`. Whoever trains
        or loads the weights sets `pixels`; until then it is ImageNet's, or [-1, 1] for other than three channels.

        Args:
            config: sizes of the network, with `init`, the style of its initial values.
        """
        super().__init__()
        self.config = config
        self.dim, self.patch_size, self.channels = config.dim, config.patch_size, config.channels
        self.pixels = default_pixels(config.channels)
        device = torch.get_default_device()
        with torch.device("meta"):
            self.build(config)
        init.materialise(self, config.init, seed=seed, device=device)

    @abstractmethod
    def build(self, config: Any) -> None:
        """Make the parts of the network; called once, on the meta device."""

    def residuals(self) -> list[nn.Module]:
        """List the residual blocks, in the order in which they run."""
        return [module for module in self.modules() if isinstance(module, Residual)]

    @abstractmethod
    def depth_of(self, name: str) -> int:
        """Say where a parameter stands: 0 in what embeds the images, n in the n-th block, one more behind the last."""

    def untrained(self, *, seed: int = 0) -> "Built":
        """Build the same architecture with initial values from the seed, in evaluation mode."""
        twin = type(self)(self.config, seed=seed)
        twin.pixels = self.pixels
        return twin.eval()

    def initialise(self, seed: int) -> None:
        """Set all parameters and buffers in place."""
        init.initialise(self, self.config.init, seed=seed)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over weights, on the CPU in float32, where the network was built on the meta device; nothing is drawn.

        Args:
            state: every parameter and every buffer that is saved, of the right shapes.
        """
        exact = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        self.load_state_dict({name: value.contiguous() for name, value in exact.items()}, assign=True)
        for _, owner, name, tensor in list(init.tensors(self)):
            if tensor.is_meta:  # a buffer that is not saved
                assert isinstance(owner, init.HasConstants)
                setattr(owner, name, owner.constants[name]())


def is_recorded() -> bool:
    """Tell whether the steps are being written down for images of other sizes: torch.export, or tracing for ONNX.

    What is computed may then not follow from the sizes at hand.
    """
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()


def decoded(picture: Picture, *, channels: int, white: float | None) -> intensity.Image:
    """Return the pixels of a picture, whatever holds it, or raise UserError; see `decode`."""
    try:
        return decode(_bytes_of(picture), channels=channels, white=white)
    except BadImage as error:
        name = picture if isinstance(picture, str | Path) else f"the {type(picture).__name__}"
        raise UserError(f"{name} cannot be read: {error}") from error


def _bytes_of(picture: Picture) -> bytes:
    """Return a picture as a file would hold it, so that `decode` alone knows what pixels mean."""
    if isinstance(picture, str | Path):
        try:
            return Path(os.path.expanduser(picture)).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {picture}: {reason(error)}") from error
    file = io.BytesIO()
    if isinstance(picture, Image.Image):
        ImageOps.exif_transpose(picture).save(file, "TIFF")
    elif isinstance(picture, Tensor | numpy.ndarray):
        numpy.save(file, picture.numpy(force=True) if isinstance(picture, Tensor) else picture, allow_pickle=False)
    else:
        raise UserError(
            f"expected the path of an image, a Pillow image or an array, got a {type(picture).__name__}; "
            "several go into a list"
        )
    return file.getvalue()


def _of_each(backbone: Backbone, images: Sequence[Float[Tensor, "..."]]) -> list[Features]:
    for image in images:
        if not isinstance(image, Tensor):
            raise UserError(f"expected a list of torch tensors, got a {type(image).__name__} in it")
    strange = [list(image.shape) for image in images if image.ndim not in (3, 4)]
    if strange:
        raise UserError(f"expected a list of images [channel, height, width], got one of shape {strange[0]}")
    channels = sorted({image.shape[-3] for image in images})
    if len(channels) != 1:
        got = f"images of {' and '.join(map(str, channels))} channels" if channels else "an empty list"
        raise UserError(f"expected at least one image, all of the same number of channels, got {got}")
    alike: dict[object, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        alike[image.shape[-2:], image.dtype].append(index)
    found: dict[int, Features] = {}
    for indices in alike.values():
        batches = [images[index] if images[index].ndim == 4 else images[index][None] for index in indices]
        features, start = backbone(torch.cat(batches)), 0
        for index, batch in zip(indices, batches):
            found[index] = features.part(slice(start, start + len(batch)) if images[index].ndim == 4 else start)
            start += len(batch)
    return [found[index] for index in range(len(images))]


def accepted(
    images: Float[Tensor, "*axis"], *, channels: int, side: int, dtype: torch.dtype
) -> Float[Tensor, "batch channel height width"]:
    """Return images as a network takes them: in the dtype of its weights, and gray for a network of one channel.

    Args:
        images: normalised; RGB for a network of one channel becomes its luminance.
        channels: of the network.
        side: in pixels, of the smallest image.
        dtype: of the network's weights.
    Raises:
        UserError: if there are none, they are no floating point numbers, have no batch axis, another number of
            channels, or are smaller than a patch.
    """
    if not isinstance(images, Tensor):
        raise UserError(f"expected a torch tensor of images, got a {type(images).__name__}")
    if not images.is_floating_point():
        raise UserError(f"expected normalised images of floating point numbers, got {images.dtype}; see model.pixels")
    if images.ndim != 4:
        raise UserError(
            f"expected images of shape [batch, channel, height, width], got {list(images.shape)}; "
            "give a single image as image[None]"
        )
    count, found, height, width = images.shape
    if count == 0:
        raise UserError("expected at least one image, got a batch of none")
    if channels == 1 and found == 3:
        images = (images * images.new_tensor(LUMINANCE).view(3, 1, 1)).sum(dim=1, keepdim=True)
    elif found != channels:
        raise UserError(f"the model takes {channels} channels, the images have {found}")
    if height < side or width < side:  # no minimum: torch.export would take down which of the two is smaller
        raise UserError(
            f"images of {height}x{width} pixels are smaller than one patch of {side}x{side}; "
            "enlarge them or use a model with smaller patches"
        )
    return images.to(dtype)


def chosen_layers(layers: int | Sequence[int], *, count: int, unit: str = "blocks") -> Sequence[int]:
    """Return the indices that `layers` stands for, itself or the last so many of `count`, or raise UserError."""
    try:
        indices = range(count - layers, count) if isinstance(layers, int) else [operator.index(one) for one in layers]
    except TypeError as error:
        raise UserError(f"expected a number of {unit} or a list of their indices, got {layers!r}") from error
    if not indices or min(indices) < 0 or max(indices) >= count:
        got = layers if isinstance(layers, int) else indices
        raise UserError(f"the model has {count} {unit}, 0 to {count - 1}; got {got}")
    return indices
