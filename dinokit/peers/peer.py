"""What the networks of other libraries share behind our interface.

    cls        the class token after the final norm, before any projection into a space of text; the pooled vector
               (attention pooling, else the mean) where there is no class token or the model was trained to pool
    registers  all other tokens in front of the patches
    patches    after the final norm, the one that cls gets if the model itself norms nothing else; row-major
    grid       (height // patch, width // patch); pixels beyond the last whole patch are not seen by a transformer

Images come normalised as `pixels` says, which is the library's own preprocessing of that model.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.messages import UserError, line_of
from dinokit.core.seed import derived
from dinokit.images.intensity import Pixels
from dinokit.models.features import Backbone, Features, accepted, chosen_layers


class Peer(Backbone):
    """Images -> Features, computed by a network of another library."""

    depth: int  # how many layers `intermediate` can tell apart
    tokens: bool  # it is a transformer, which takes whole patches only

    def __init__(self, network: nn.Module, *, name: str, pixels: Pixels, build: Callable[[], nn.Module]) -> None:
        """Take over a loaded network.

        Args:
            name: as it was asked for, for the messages.
            build: makes the same network with the library's random initial values.
        Raises:
            UserError: if it is of a kind that cannot be read.
        """
        super().__init__()
        self.network, self.name, self.pixels, self.build = network, name, pixels, build
        self.measure(network)

    @abstractmethod
    def measure(self, network: Any) -> None:
        """Set the sizes of the backbone, `depth` and `tokens`."""

    @abstractmethod
    def run(
        self, images: Float[Tensor, "batch channel height width"], layers: Sequence[int], *, norm: bool
    ) -> tuple[Features, Mapping[int, Features]]:
        """Return the features of the whole network, and those after each of some layers.

        norm: pass the latter through the final norm, where they have its width and grid.
        """

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,  # noqa: ARG002 (part of the contract; there is one norm for all crops)
    ) -> Features:
        """Embed images; a UserError if they do not fit, or if masks are given."""
        if masks is not None:
            raise UserError(f"{self.name} cannot hide patches; use a model of ours, or no masks")
        return self._checked(images, (), norm=True)[0]

    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return features after the last `layers` layers, or after those of the given indices, in the order given.

        Layers are blocks, or stages of a network that shrinks its maps. The last one with norm is what `forward`
        returns; before it there is no trained pooling, and cls is the class token or the mean.
        """
        wanted = chosen_layers(layers, count=self.depth, unit="layers")
        final, found = self._checked(images, sorted(set(wanted)), norm=norm)
        return tuple(final if norm and index == self.depth - 1 else found[index] for index in wanted)

    def untrained(self, *, seed: int = 0) -> "Peer":
        """Build the same architecture on the CPU with the library's own initial values, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(seed))
            return type(self)(self.build(), name=self.name, pixels=self.pixels, build=self.build).eval()

    def _checked(self, images: Tensor, layers: Sequence[int], *, norm: bool) -> tuple[Features, Mapping[int, Features]]:
        dtype = next((weights.dtype for weights in self.parameters()), torch.float32)
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=dtype)
        height, width = images.shape[2:]
        if self.tokens:
            images = images[:, :, : height - height % self.patch_size, : width - width % self.patch_size]
        try:
            return self.run(images, layers, norm=norm)
        except (UserError, torch.OutOfMemoryError):
            raise
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            side = self.pixels.size
            if side is not None and (height, width) != (side, side):
                sizes = f"{side}x{side} pixels, got {height}x{width} ({line_of(error)})"
                raise UserError(f"{self.name} takes images of {sizes}; resize them") from error
            if layers:
                raise UserError(f"{self.name} gives no inner layers ({line_of(error)}); use its output") from error
            raise UserError(f"{self.name} gives no features of patches ({line_of(error)}); choose another") from error


def pixels_of(mean: Sequence[float], std: Sequence[float], size: int | Sequence[int]) -> Pixels:
    """Return what a library says of a model's images; of several sizes the last is their side."""
    return Pixels(tuple(mean), tuple(std), int(size if isinstance(size, int) else size[-1]))


def assembled(
    tokens: Float[Tensor, "batch token dim"],
    *,
    grid: tuple[int, int],
    prefix: int,
    name: str,
    cls: Float[Tensor, "batch dim"] | None = None,
) -> Features:
    """Cut a sequence [prefix, patches] into Features.

    Args:
        prefix: tokens in front of the patches.
        cls: stands for the image; None: the first token does.
    Raises:
        UserError: if the tokens are not as many as the grid has cells.
    """
    count, cells = tokens.shape[1] - prefix, grid[0] * grid[1]
    if count != cells:
        raise UserError(f"{name} gives {count} patches where a grid of {grid[0]}x{grid[1]} has {cells}; choose another")
    first, patches = tokens[:, :prefix], tokens[:, prefix:]
    if cls is None:
        return Features(first[:, 0], first[:, 1:], patches, grid)
    return Features(cls, first, patches, grid)
