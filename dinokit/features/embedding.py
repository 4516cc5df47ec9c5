"""Frozen features of images: how every image meets every model.

Everything that measures, searches or shows a backbone starts here: the centre square, one bicubic antialiased resize,
no augmentation, float32, no gradient. Source: DINOv3 (arXiv:2508.10104), appendix D, where the short side is resized to
the crop itself. The size rule stands in images/intensity.py.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.images import intensity
from dinokit.images.transforms import Square
from dinokit.models.features import Backbone, Features

# what is read of normalised images, such as models.classifier.Reading; its repr tells it from any other. In models/,
# whose code is part of where features are kept (features/cache.py)
Read = Callable[[Backbone, Float[Tensor, "image channel height width"]], Float[Tensor, "image *row"]]


@torch.inference_mode()
def encode(backbone: Backbone, images: intensity.Images, *, precision: Precision = "fp32") -> Features:
    """Compute the features of prepared images: scale so that 1.0 is white, normalise as the backbone expects, run it.

    Args:
        images: uint8, or float32 with 1.0 as white.
        precision: of the matrix products.
    """
    with devices.autocast(images.device, precision)():
        features: Features = backbone(intensity.normalised(intensity.to_unit(images), backbone.pixels))
    return features


@torch.inference_mode()
def read(
    backbone: Backbone, images: intensity.Images, what: Read, *, precision: Precision = "fp32"
) -> Float[Tensor, "image *row"]:
    """Compute what is read of prepared images, as `encode` sees them; bfloat16 comes back as float32."""
    with devices.autocast(images.device, precision)():
        found = what(backbone, intensity.normalised(intensity.to_unit(images), backbone.pixels))
    return found.float() if found.dtype == torch.bfloat16 else found


def square(backbone: Backbone) -> Square:
    """Return how an image is brought to what a backbone sees outside training."""
    return Square(backbone.pixels.size, backbone.patch_size)


def digest_of(image: Shaped[Tensor, "channel rows columns"]) -> bytes:
    """Return a digest of pixels, their type and shape."""
    kind = f"{image.dtype} {list(image.shape)}".encode()
    return blake2b(kind + image.numpy().tobytes(), digest_size=16).digest()


def unit(vectors: Float[Tensor, "image dim"]) -> Float64[Tensor, "image dim"]:
    """Return rows of length 1, so that a dot product is a cosine; a zero row stays zero.

    float64: with LayerScale at its initial 1e-5 the CLS features of all images differ only in the fifth digit, and
    their cosines from 1 in the tenth. In float32 a small untrained ViT scored 14 % instead of 64 % on demo:fashion.
    """
    return functional.normalize(vectors.double(), dim=-1)


def nearest(
    similarity: Float[Tensor, "query gallery"], k: int
) -> tuple[Float[Tensor, "query k"], Int64[Tensor, "query k"]]:
    """Return the k largest similarities of each query, largest first, and where they are; equal ones by their order."""
    values, places = similarity.topk(k)
    crowded = (similarity >= values[:, -1:]).sum(dim=1) > k  # more equal the last one than there is room for
    for query in crowded.nonzero().flatten().tolist():
        places[query] = similarity[query].sort(descending=True, stable=True).indices[:k]
    places = places.sort(dim=1).values
    values, order = similarity.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def batches(images: Iterable[tuple[int, Tensor]], batch_size: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Group images of equal size and type into batches; at most four batches of images wait for their like."""
    groups: dict[tuple[object, ...], list[tuple[int, Tensor]]] = {}
    waiting = 0
    for index, image in images:
        group = groups.setdefault((image.dtype, *image.shape), [])
        group.append((index, image))
        waiting += 1
        if len(group) == batch_size or waiting == 4 * batch_size:
            fullest = max(groups, key=lambda kind: len(groups[kind]))
            waiting -= len(groups[fullest])
            yield groups.pop(fullest)
    yield from groups.values()
