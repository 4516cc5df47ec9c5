"""Frozen features of a set of images: one vector per image, in rows that stay in step with the images' keys.

Everything that measures, searches or shows a backbone starts here, so that an image meets every model in the same way:
the centre square, one bicubic antialiased resize, no augmentation, float32, no gradient. The feature is the CLS token
after the final norm, no projection head. Source: DINOv3 (arXiv:2508.10104), appendix D, where the short side is resized
to the crop itself. The size rule stands in images/intensity.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from dinokit.checkpoints.load import load
from dinokit.core import device as devices
from dinokit.core.device import Precision
from dinokit.core.files import (
    check_same,
    check_writable,
    digest_of_model,
    only_owner,
    read_json,
    write_atomic,
    write_json,
    write_jsonl,
)
from dinokit.core.messages import RunError, UserError, info, reason
from dinokit.images import intensity
from dinokit.images.intensity import multiple, prepare
from dinokit.models.features import Backbone, Features
from dinokit.sources.source import Source, Unusable, open_source

FILES = ("embeddings.npy", "patches.npy", "manifest.jsonl", "bad_images.jsonl", "embed.json")
LAST = FILES[-1]  # a folder that holds it is complete


@dataclass(frozen=True)
class Embeddings:
    """Features of the readable images of a source; row i of every field belongs to the same image."""

    cls: Float32[numpy.ndarray, "image dim"]
    patches: Float32[numpy.ndarray, "image patch dim"] | None
    indices: Int64[numpy.ndarray, " image"]  # place of each row in the source
    keys: tuple[str, ...]
    labels: Int64[numpy.ndarray, " image"] | None
    classes: tuple[str, ...]
    domains: numpy.ndarray | None
    bad: tuple[Unusable, ...]


def extract(
    backbone: Backbone,
    source: Source,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    workers: int = 2,
    patches: bool = False,
    precision: Precision = "fp32",
) -> Embeddings:
    """Compute the frozen features of all images of a source, in its order.

    Images of equal size and type are computed together; equal images are computed once, so that their rows are equal to
    the bit. An image that cannot be read is left out of every field and listed in `bad`.

    Args:
        device: where to compute; the backbone is moved there. None: where the backbone is.
        workers: threads that read and resize; 0 reads in this thread.
        patches: also keep the patch features; costs images x patches x dim x 4 bytes of memory.
        precision: of the matrix products; "auto" is bf16 where the hardware multiplies it natively, and then the lowest
            cosine to float32 among the first images is said.

    Raises:
        UserError: if no image is readable, or `patches` is asked for and the images give different numbers of patches.
        RunError: if a feature is not finite.
    """
    device = torch.device(device) if device is not None else backbone.device
    was_training = backbone.to(device).training
    backbone.eval()
    bad, twins = list[Unusable](), dict[int, int]()
    rows: dict[int, Float32[numpy.ndarray, " dim"]] = {}
    patch_rows: dict[int, Float32[numpy.ndarray, "patch dim"]] = {}
    for batch in _batches(_readable(source, backbone, workers=workers, bad=bad, twins=twins), batch_size):
        images = torch.stack([image for _, image in batch]).to(device)
        if not rows:
            intensity.warn_of_values([image for _, image in batch], backbone.pixels)
        features = encode(backbone, images, precision=precision)
        if not rows and devices.uses_bf16(device, precision):
            cosine = (unit(features.cls) * unit(encode(backbone, images).cls)).sum(dim=-1).min().item()
            info(f"bf16 matrix products: cosine to fp32 at least {cosine:.6f} in the first {len(batch)} images")
        cls = features.cls.float().cpu().numpy()
        rows |= {index: row for (index, _), row in zip(batch, cls, strict=True)}
        if patches:
            tokens = features.patches.float().cpu().numpy()
            patch_rows |= {index: row for (index, _), row in zip(batch, tokens, strict=True)}
    backbone.train(was_training)
    if not rows:
        first = f"; the first: {bad[0].key}: {bad[0].reason}" if bad else ""
        raise UserError(f"expected images in {source.name}, got none that can be read{first}")
    return _assembled(source, rows, patch_rows if patches else None, twins, bad)


def embed(
    model: str | Path,
    data: str,
    out: str | Path,
    *,
    heads: int | None = None,
    device: torch.device | str | None = None,
    patches: bool = False,
    precision: Precision = "auto",
) -> Embeddings:
    """Embed a folder of images and write the result to a folder.

    Writes `embeddings.npy` (float32, one row per readable image), `manifest.jsonl` (row, key, label of each),
    `bad_images.jsonl` if there are any, `patches.npy` if asked for, and last `embed.json`, so that a folder with
    `embed.json` is complete. An earlier result of the same model in `out` is replaced once the new one is whole; any
    other folder with content is refused.

    Args:
        model: whatever `load` takes: a run folder, a checkpoint folder, a weights file, timm/NAME, ...
        data: a folder of images or a `demo:` name.
        heads, precision: see `load` and `extract`.
    """
    out = Path(out)
    backbone = load(str(model), heads=heads)
    source = open_source(data, channels=backbone.channels, white=backbone.pixels.white)
    _check_folder(out)
    weights, kept = digest_of_model(backbone), read_json(out / LAST) if (out / LAST).exists() else {}
    if "weights" in kept:
        check_same({"weights": kept["weights"]}, {"weights": weights}, place=out)
    with only_owner(out):
        result = extract(backbone, source, device=device, patches=patches, precision=precision)
        images, dim = result.cls.shape
        summary = {
            "model": str(model),
            "weights": weights,
            "data": data,
            "split": None,
            "images": images,
            "skipped": len(result.bad),
            "dim": dim,
            "dtype": str(result.cls.dtype),
            "feature": "CLS token after the final norm, not normalised to length 1",
            "pixels": asdict(backbone.pixels),
            "precision": "bf16" if devices.uses_bf16(backbone.device, precision) else "fp32",
        }
        try:
            _write(result, out, summary=summary)
        except OSError as error:
            raise UserError(f"cannot write to {out}: {reason(error)}; give --out another folder") from error
    return result


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
    source: Source, backbone: Backbone, *, workers: int, bad: list[Unusable], twins: dict[int, int]
) -> Iterator[tuple[int, intensity.Image]]:
    """Yield (index, prepared image) in order; note what cannot be read in `bad`, in `twins` which image equals which.

    Of equal images the first is yielded.
    """
    size = backbone.pixels.size
    min_side = None if size is None else multiple(size, backbone.patch_size)
    firsts: dict[bytes, int] = {}  # pixels -> the first image that has them

    def read(index: int) -> intensity.Image:
        return prepare(source.read(index, min_side=min_side), size=size, patch_size=backbone.patch_size)

    for index, image in source.each(read, range(len(source)), workers=workers):
        if isinstance(image, Unusable):
            bad.append(image)
            continue
        kind = f"{image.dtype} {list(image.shape)}".encode()
        first = firsts.setdefault(blake2b(kind + image.numpy().tobytes(), digest_size=16).digest(), index)
        if first == index:
            yield index, image
        else:
            twins[index] = first


def _batches(images: Iterable[tuple[int, Tensor]], batch_size: int) -> Iterator[list[tuple[int, Tensor]]]:
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
    patch_rows: dict[int, Float32[numpy.ndarray, "patch dim"]] | None,
    twins: dict[int, int],
    bad: list[Unusable],
) -> Embeddings:
    rows |= {index: rows[first] for index, first in twins.items()}
    indices = numpy.array(sorted(rows), dtype=numpy.int64)
    cls = numpy.stack([rows[index] for index in indices.tolist()])
    if not numpy.isfinite(cls).all():
        key = source.key(int(indices[~numpy.isfinite(cls).all(axis=1)][0]))
        raise RunError(f"the model gives features that are not finite, first for {key}; its weights are broken")
    counts = sorted({row.shape[0] for row in (patch_rows or {}).values()})
    if len(counts) > 1:
        raise UserError(
            f"expected one number of patches for all images, got {counts[0]} to {counts[-1]}; "
            "patch features need a model with a fixed size (pixels.size)"
        )
    return Embeddings(
        cls=cls,
        patches=numpy.stack([patch_rows[twins.get(one, one)] for one in indices.tolist()]) if patch_rows else None,
        indices=indices,
        keys=tuple(source.key(index) for index in indices.tolist()),
        labels=None if source.labels is None else source.labels[indices],
        classes=tuple(source.classes),
        domains=None if source.domains is None else source.domains[indices],
        bad=tuple(bad),
    )


def _check_folder(out: Path) -> None:
    """Refuse a folder with content that is no earlier result, and one that cannot be written to."""
    if out.exists() and not out.is_dir():
        raise UserError(f"expected a folder for the embeddings, got the file {out}; give --out a new folder")
    # a folder with the last part was left between two names: what lies there is ours too
    ours = FILES if (out / LAST).exists() or _part(out, LAST).exists() else ()
    foreign = [path.name for path in sorted(out.glob("[!.]*")) if path.name not in ours]
    if foreign:
        raise UserError(f"{out} holds other files such as {foreign[0]}; nothing was written, give --out a new folder")
    check_writable(out)


def _write(result: Embeddings, out: Path, *, summary: dict[str, Any]) -> None:
    """Write everything under other names, then give it its own: a full disk leaves the earlier result as it was."""
    absent = {"patches.npy": result.patches is None, "bad_images.jsonl": not result.bad}
    written = [name for name in FILES if not absent.get(name)]
    try:
        for name, array in (("embeddings.npy", result.cls), ("patches.npy", result.patches)):
            if array is not None:
                with write_atomic(_part(out, name)) as temporary, temporary.open("wb") as file:
                    numpy.save(file, array, allow_pickle=False)
        lines: list[dict[str, Any]] = [{"row": row, "key": key} for row, key in enumerate(result.keys)]
        for line, label in zip(lines, () if result.labels is None else result.labels.tolist()):
            line |= {"label": label} | ({"class": result.classes[label]} if 0 <= label < len(result.classes) else {})
        for line, domain in zip(lines, () if result.domains is None else result.domains):
            line["domain"] = str(domain)
        write_jsonl(_part(out, "manifest.jsonl"), lines)
        if result.bad:
            write_jsonl(_part(out, "bad_images.jsonl"), map(asdict, result.bad))
        write_json(_part(out, LAST), summary)
    except OSError:
        for name in written[:-1]:
            _part(out, name).unlink(missing_ok=True)
        raise
    (out / LAST).unlink(missing_ok=True)  # first: while it is missing, the folder is not complete
    for name in FILES:
        if name in written:
            _part(out, name).replace(out / name)
            continue
        for old in (out / name, _part(out, name)):
            old.unlink(missing_ok=True)


def _part(out: Path, name: str) -> Path:
    return out / f".{name}.part"
