"""Frozen features of a set of images: one vector per image, in rows that stay in step with the images' keys.

Everything that measures, searches or shows a backbone starts here, so that an image meets every model in the same way:
the centre square, one bicubic antialiased resize, no augmentation, float32, no gradient. The feature is the CLS token
after the final norm, no projection head. Source: DINOv3 (arXiv:2508.10104), appendix D, where the short side is resized
to the crop itself. The size rule stands in images/intensity.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy
import torch
from jaxtyping import Float, Float32, Float64, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.messages import RunError, UserError, info
from dinokit.images import intensity
from dinokit.images.intensity import multiple, prepare
from dinokit.models.features import Backbone, Features
from dinokit.sources.source import Source, Unusable


@dataclass(frozen=True)
class Embeddings:
    """Features of the readable images of a source; row i of every field belongs to the same image."""

    cls: Float32[numpy.ndarray, "image dim"]
    indices: Int64[numpy.ndarray, " image"]  # place of each row in the source
    keys: tuple[str, ...]
    labels: Int64[numpy.ndarray, " image"] | None
    classes: tuple[str, ...]
    domains: numpy.ndarray | None
    digests: tuple[bytes, ...]  # of the pixels that the backbone has seen: equal ones, equal pictures
    bad: tuple[Unusable, ...]


def extract(
    backbone: Backbone,
    source: Source,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    workers: int = 2,
    precision: Precision = "fp32",
) -> Embeddings:
    """Compute the frozen features of all images of a source, in its order.

    Images of equal size and type are computed together; equal images are computed once, so that their rows are equal to
    the bit. An image that cannot be read is left out of every field and listed in `bad`.

    Args:
        device: where to compute; the backbone is moved there. None: where the backbone is.
        workers: threads that read and resize; 0 reads in this thread.
        precision: of the matrix products; "auto" is bf16 where the hardware multiplies it natively, and then the lowest
            cosine to float32 among the first images is said.

    Raises:
        UserError: if no image is readable.
        RunError: if a feature is not finite.
    """
    device = torch.device(device) if device is not None else backbone.device
    was_training = backbone.to(device).training
    backbone.eval()
    bad, digests = list[Unusable](), dict[int, bytes]()
    rows: dict[int, Float32[numpy.ndarray, " dim"]] = {}
    for batch in batches(_readable(source, backbone, workers=workers, bad=bad, digests=digests), batch_size):
        images = torch.stack([image for _, image in batch]).to(device)
        if not rows:
            intensity.warn_of_values([image for _, image in batch], backbone.pixels)
        features = encode(backbone, images, precision=precision)
        if not rows and devices.uses_bf16(device, precision):
            cosine = (unit(features.cls) * unit(encode(backbone, images).cls)).sum(dim=-1).min().item()
            info(f"bf16 matrix products: cosine to fp32 at least {cosine:.6f} in the first {len(batch)} images")
        cls = features.cls.float().cpu().numpy()
        rows |= {index: row for (index, _), row in zip(batch, cls, strict=True)}
    backbone.train(was_training)
    if not rows:
        first = f"; the first: {bad[0].key}: {bad[0].reason}" if bad else ""
        raise UserError(f"expected images in {source.name}, got none that can be read{first}")
    return _assembled(source, rows, digests, bad)


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


def enough(backbone: Backbone) -> int | None:
    """Return the short side, in pixels, that a file may be decoded to; None: all of it is seen."""
    size = backbone.pixels.size
    return None if size is None else multiple(size, backbone.patch_size)


def seen(image: intensity.Image, backbone: Backbone) -> Shaped[Tensor, "channel rows columns"]:
    """Return of an image what a backbone sees outside training."""
    return prepare(image, size=backbone.pixels.size, patch_size=backbone.patch_size)


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


def _readable(
    source: Source, backbone: Backbone, *, workers: int, bad: list[Unusable], digests: dict[int, bytes]
) -> Iterator[tuple[int, intensity.Image]]:
    """Yield (index, prepared image) in order; note what cannot be read in `bad`, the pixels of others in `digests`.

    Of equal images the first is yielded.
    """
    known = set[bytes]()

    def read(index: int) -> intensity.Image:
        return seen(source.read(index, min_side=enough(backbone)), backbone)

    for index, image in source.each(read, range(len(source)), workers=workers):
        if isinstance(image, Unusable):
            bad.append(image)
            continue
        digests[index] = digest_of(image)
        if digests[index] not in known:
            known.add(digests[index])
            yield index, image


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


def _assembled(
    source: Source,
    rows: dict[int, Float32[numpy.ndarray, " dim"]],
    digests: dict[int, bytes],
    bad: list[Unusable],
) -> Embeddings:
    firsts = {digests[index]: row for index, row in rows.items()}
    indices = numpy.array(sorted(digests), dtype=numpy.int64)
    cls = numpy.stack([firsts[digests[index]] for index in indices.tolist()])
    if not numpy.isfinite(cls).all():
        key = source.key(int(indices[~numpy.isfinite(cls).all(axis=1)][0]))
        raise RunError(f"the model gives features that are not finite, first for {key}; its weights are broken")
    return Embeddings(
        cls=cls,
        indices=indices,
        keys=tuple(source.key(index) for index in indices.tolist()),
        labels=None if source.labels is None else source.labels[indices],
        classes=tuple(source.classes),
        domains=None if source.domains is None else source.domains[indices],
        digests=tuple(digests[index] for index in indices.tolist()),
        bad=tuple(bad),
    )
