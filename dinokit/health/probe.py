"""The probe: a few images that stay the same, and what a network makes of them.

They are seen as an evaluation sees them, and held in memory. Which ones is a function of the seed. Where images have
labels, few classes take part with several images each: with one image per class no neighbour could be of the same. Each
rank holds and sees its own share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.order import in_turns
from dinokit.core.seed import generator
from dinokit.images import intensity
from dinokit.images.intensity import Pixels, multiple, prepare
from dinokit.models.features import Features
from dinokit.sources.source import Source

CHUNK = 32  # images in one pass through a network; a training step holds more
PER_CLASS = 8  # images of a class, about, so that its neighbours can be asked for
_CANDIDATES = 128  # images drawn for each that is kept: enough for PER_CLASS of a class in data of 1,000 classes
_STREAM = 4  # keeps these random numbers apart from those of the loader (0 to 3)
CONTRAST, LIGHT = 0.7, 0.2  # of the second look, on normalised pixels


@dataclass(frozen=True)
class Probe:
    """This rank's images, and the labels of those of all ranks, in rank order."""

    images: Shaped[Tensor, "image channel side side"]  # uint8, or float32 with 1.0 as white
    labels: Int64[Tensor, " everyone"] | None
    pixels: Pixels

    def batches(self, device: torch.device) -> Iterator[Float32[Tensor, "chunk channel side side"]]:
        """Yield normalised images, a few at a time."""
        for images in torch.split(self.images, CHUNK):
            yield intensity.normalised(intensity.to_unit(images.to(device)), self.pixels)


@dataclass(frozen=True)
class Look:
    """What a network makes of images, in float32; the lengths are those before the final norm, which hides them."""

    features: Features
    cls_lengths: Float32[Tensor, " image"]
    patch_lengths: Float32[Tensor, "image patch"]

    def everyone(self) -> "Look":
        """Join what all ranks see, in rank order, on the CPU; all must call together."""
        own = self.features
        cls, registers, patches, first, others = (
            dist.all_gather(part).cpu()
            for part in (own.cls, own.registers, own.patches, self.cls_lengths, self.patch_lengths)
        )
        return Look(Features(cls, registers, patches, own.grid), first, others)


def open_probe(source: Source, pixels: Pixels, *, side: int, patch_size: int, images: int, seed: int) -> Probe | None:
    """Read the images; None if there are fewer than two. All ranks must call together.

    Args:
        side: in pixels, of what the networks see; the nearest multiple of the patch is taken.
        images: wanted, over all ranks; each rank has at least one.
    """
    side = multiple(side, patch_size)

    def read(index: int) -> intensity.Image:
        return prepare(source.read(index, min_side=side), size=side, patch_size=patch_size)

    each = max(1, min(images, len(source)) // dist.world_size())
    own = _order(source, images=images, seed=seed)[dist.rank() :: dist.world_size()].tolist()
    first = source.each(read, own[:each], workers=0 if source.decoded else 4)
    found: list[tuple[int, intensity.Image]] = []
    for index, image in chain(first, source.each(read, own[each:], workers=0)):
        if isinstance(image, Tensor):  # of others the loader speaks
            found.append((index, image))
        if len(found) == each:
            break
    intensity.warn_of_values([image for _, image in found[:8]], pixels)
    fewest = min(dist.gather_lists([len(found)]))  # ranks hold equally many
    if fewest * dist.world_size() < 2:
        return None
    chosen = dist.gather_lists([index for index, _ in found[:fewest]])
    labels = None if source.labels is None else torch.from_numpy(source.labels[np.array(chosen)])
    return Probe(intensity.stacked([image for _, image in found[:fewest]]), labels, pixels)


@torch.no_grad()
def look(network: nn.Module, batches: Iterable[Float32[Tensor, "chunk channel side side"]]) -> Look:
    """Run a backbone in evaluation mode and leave it in the mode it was in."""
    was_training = network.training
    network.eval()
    entered: list[Tensor] = []  # lengths of what enters the final norms: CLS, registers, patches, together or by turns

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered.append(inputs[0].float().norm(dim=-1).reshape(len(inputs[0]), -1))

    norms = [getattr(network, name, None) for name in ("cls_norm", "norm")]
    handles = [norm.register_forward_pre_hook(note) for norm in norms if isinstance(norm, nn.Module)]
    seen: list[Features] = []
    lengths: list[Tensor] = []
    try:
        for images in batches:
            entered.clear()
            seen.append(network(images))
            bare = torch.cat([seen[-1].cls[:, None], seen[-1].patches], dim=1).float().norm(dim=-1)  # without a norm
            lengths.append(torch.cat(entered or [bare], dim=1))  # [image, token]
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
    cls, registers, patches = (
        torch.cat([getattr(each, part) for each in seen]).float() for part in ("cls", "registers", "patches")
    )
    tokens = torch.cat(lengths)
    return Look(Features(cls, registers, patches, seen[0].grid), tokens[:, 0], tokens[:, -patches.shape[1] :])


def _order(source: Source, *, images: int, seed: int) -> Int64[np.ndarray, " candidate"]:
    """Return images in the order in which they are wanted; of few classes, in turns, where there are labels."""
    draw = generator(seed, _STREAM)
    rows = draw.choice(len(source), size=min(len(source), _CANDIDATES * images), replace=False)
    if source.labels is None:
        return rows
    labels = source.labels[rows]
    known = draw.permutation(np.unique(labels[labels >= 0]))[: max(2, images // PER_CLASS)]
    chosen = np.isin(labels, known)
    found: Int64[np.ndarray, " candidate"] = rows[chosen][in_turns(labels[chosen])]
    return found


def mirrored(
    batches: Iterable[Float32[Tensor, "chunk channel side side"]],
) -> Iterator[Float32[Tensor, "chunk channel side side"]]:
    """Turn normalised images into what the second look is at."""
    for images in batches:
        yield CONTRAST * images.flip(-1) + LIGHT
