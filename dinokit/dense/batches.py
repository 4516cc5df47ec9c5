"""What heads on whole images learn from, step by step: rows that are kept, or crops that a backbone sees anew.

Every image comes once per pass, in a new order each, so that the batch of a step is a function of (seed, step), and a
crop of (seed, position). Crops are read and cut by threads ahead of the network; of those of a step each rank sees a
part, and then all know all.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core import dist
from dinokit.core.device import Precision
from dinokit.core.messages import BadImage, RunError
from dinokit.core.seed import Passes
from dinokit.dense.maps import frozen
from dinokit.dense.sweep import Batches
from dinokit.features.embedding import read
from dinokit.features.extraction import sharers
from dinokit.images import intensity
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, Unusable
from dinokit.views.resized import resized_crop

_ORDER, _CROPS = 0, 1  # keep their random numbers apart
SIZE = 224  # pixels, of a crop for a model without a size of its own


def kept(
    rows: Float32[numpy.ndarray, "image width"],
    targets: Shaped[Tensor, "image *class"],
    *,
    batch: int,
    seed: int,
    device: torch.device,
) -> Batches:
    """Return what draws batches of rows that are kept, where the heads are if they fit."""
    order = Passes(len(rows), seed, _ORDER)
    fits = device.type == "cpu" or rows.nbytes < devices.memory(device) / 2
    there = torch.from_numpy(rows).to(device if fits else "cpu")

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = first
        while True:
            chosen = torch.from_numpy(order.indices(step * batch, batch))
            yield there[chosen.to(there.device)].to(device), targets[chosen].to(device)
            step += 1

    return batches


def crops_of(
    backbone: Backbone, source: Source, *, batch: int, seed: int, own: Sequence[int] | None = None
) -> Callable[[int], Iterator[tuple[Int64[numpy.ndarray, " batch"], intensity.Images]]]:
    """Return what draws random resized crops, step by step: which images a batch is of, and the crops of own places.

    Args:
        source: images that can be read.
        own: places in the batch that this rank sees; None: all.
    """
    order, device = Passes(len(source), seed, _ORDER), backbone.device
    size = intensity.multiple(backbone.pixels.size or SIZE, backbone.patch_size)
    own = range(batch) if own is None else own
    places = dict[int, int]()  # position -> image, of those that are under way

    def ahead(first: int) -> Iterator[int]:
        step = first
        while True:
            there = order.indices(step * batch, batch)
            for place in own:
                places[step * batch + place] = int(there[place])
                yield step * batch + place
            step += 1

    def cut(position: int) -> intensity.AnyImage | Unusable:
        index = places[position]
        try:
            return resized_crop(source.read(index), size=size, key=(seed, _CROPS, position))
        except BadImage as error:  # position is no index
            return Unusable(index, source.key(index), str(error))

    def drawn(first: int) -> Iterator[tuple[Int64[numpy.ndarray, " batch"], intensity.Images]]:
        crops, step = list[intensity.AnyImage](), first
        for _, found in source.each(cut, ahead(first), workers=devices.readers(device)):
            if isinstance(found, Unusable):
                raise RunError(f"{found.key} can no longer be read: {found.reason}")
            crops.append(found)
            if len(crops) < len(own):
                continue
            yield order.indices(step * batch, batch), intensity.stacked(crops)
            for place in own:
                places.pop(step * batch + place, None)
            crops, step = [], step + 1

    return drawn


def cropped(
    backbone: Backbone,
    source: Source,
    targets: Shaped[Tensor, "image *class"],
    reading: Reading,
    *,
    batch: int,
    seed: int,
) -> Batches:
    """Return what draws random resized crops, and shows them to the backbone; all ranks must begin at the same step.

    Args:
        source: images that can be read.
    """
    device = backbone.device
    precision: Precision = "fp32" if device.type == "cpu" else "auto"
    ranks, rank = sharers()
    share = -(-batch // ranks)
    own = [min(place, batch - 1) for place in range(rank * share, (rank + 1) * share)]  # all ranks have as many
    drawn = crops_of(backbone, source, batch=batch, seed=seed, own=own)

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for places, crops in drawn(first):
            with frozen(backbone):
                seen = read(backbone, crops.to(device), reading, precision=precision)
                if not seen.isfinite().all():
                    raise RunError(
                        f"the model {backbone.name} gives features that are not finite; its weights are broken"
                    )
                if ranks > 1:
                    seen = dist.all_gather(seen.clone())[:batch]
            yield seen, targets[places].to(device)

    return batches
