"""Object discovery without labels: do the patches alone part the object from what is around it?

TokenCut finds one box in every image (dense/discovery.py), from the patches after the last block at full resolution,
padded with zeros to whole patches. It is right if it overlaps any box that a person drew by half of their union (boxes
of crowds do not count, difficult ones do); CorLoc is the share of images that are right. As published, the tau that is
best on these images counts. Source: TokenCut (arXiv:2202.11539), DINOv3 (arXiv:2508.10104); the former took the keys of
the last block, which DINO makes good ones, and tau 0.2.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy

from dinokit.annotations.boxes import Boxed, open_boxes
from dinokit.core.files import (
    append_jsonl,
    digest,
    digest_of_files,
    digest_of_model,
    read_jsonl,
    write_atomic,
    write_jsonl,
)
from dinokit.core.messages import UserError, info, progress
from dinokit.core.numbers import at_least, between
from dinokit.core.order import evenly
from dinokit.dense.discovery import at_pixels, drawn, objects
from dinokit.dense.maps import encode, frozen, prepared
from dinokit.evaluation.base import Found
from dinokit.images import intensity
from dinokit.metrics.boxes import Boxes, located
from dinokit.metrics.interval import percent
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"CorLoc": "%"}
PREFERS = ("trainval", "20k")  # splits
MOST = 10_000  # patches of an image, whose joints take half a gigabyte
RECORD = "boxes.jsonl"
SHOWN = 12  # images


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images, and how they are cut."""

    data: str  # Pascal VOC, COCO, a table of boxes, or a folder with images/ and masks/
    split: str | None = None  # null: trainval of VOC, 20k of COCO with its list, else the first
    tau: tuple[float, ...] = between(-1, 1, (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4))  # cosine of alike ones
    size: int | None = at_least(1, None)  # pixels; the short side of every image is resized to it; null: as it is
    limit: int | None = at_least(1, None)  # images, evenly spaced in the data; null: all


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Find a box in every image; return `CorLoc` of the best tau in percent, that tau, and `CorLoc@TAU` of each.

    Args:
        out: folder that receives the boxes of every image for each tau, as they are found: what is there of the same
            weights, settings and image is not computed again; and pictures of some.
    """
    data = open_boxes(
        config.data, split=config.split, prefers=PREFERS, channels=backbone.channels, white=backbone.pixels.white
    )
    judged = [index for index, one in enumerate(data.marks) if not one.crowd.all()]  # of none all are
    if not judged:
        raise UserError(f"expected boxes of single objects in {config.data}, found crowds alone")
    if len(judged) < len(data):
        info(f"{len(data) - len(judged):,} of {len(data):,} images of {config.data} have no box and do not count")
    chosen = [judged[place] for place in evenly(config.limit, len(judged)).tolist()]
    taus = sorted(set(config.tau))
    found = _boxes(backbone, data, chosen, taus, config.size, out)
    truth = [one.boxes[~one.crowd] for one in data.marks]
    right = numpy.stack([located(found[index], truth[index]) for index in chosen])  # [image, tau]
    rates = 100 * right.mean(axis=0)
    best = int(rates.argmax())
    if out is not None:
        for index in (chosen[place] for place in evenly(SHOWN, len(chosen)).tolist()):
            hit = bool(right[chosen.index(index), best])
            picture = drawn(data.read(index), truth[index], found[index][best : best + 1], right=hit)
            with write_atomic(out / f"{index:06d}.png") as temporary:
                picture.save(temporary, "PNG")
    numbers = {"CorLoc": float(rates[best]), "tau": taus[best]}
    numbers |= {f"CorLoc@{tau:g}": float(rate) for tau, rate in zip(taus, rates)}
    numbers["images"] = float(len(chosen))
    return numbers, {"intervals": {"CorLoc": percent(right[:, best])}}


def _boxes(
    backbone: Backbone, data: Boxed, chosen: list[int], taus: list[float], size: int | None, out: Path | None
) -> dict[int, Boxes]:
    """Find the box of every tau in the chosen images, or read those that were found before."""
    record = None if out is None else out / RECORD
    kept = {line.get("by"): line for line in read_jsonl(record)} if record is not None else {}
    weights = digest_of_model(backbone) if record is not None else ""
    found, lines = dict[int, Boxes](), []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with frozen(backbone):
        for index in progress(chosen, len(chosen)):
            path = data.marks[index].image
            by = "" if record is None else digest([weights, repr((taus, size, str(path))), digest_of_files([path])])
            line = kept.get(by)
            if line is None:
                boxes = _found(backbone, data.read(index), taus, size, path)
                line = {"image": str(path), "tau": taus, "boxes": boxes.tolist(), "by": by}
                if record is not None:
                    append_jsonl(record, line)
            found[index] = numpy.array(line["boxes"], dtype=numpy.float64)
            lines.append(line)
    if record is not None:
        write_jsonl(record, lines)
    return found


def _found(backbone: Backbone, image: intensity.Image, taus: list[float], size: int | None, path: Path) -> Boxes:
    """Return the box of every tau in an image, in its pixels."""
    seen = prepared(image, backbone, short=size)
    patch, (height, width) = backbone.patch_size, image.shape[1:]
    rows, columns = (-(-side // patch) for side in seen.shape[2:])
    if rows * columns > MOST:
        near = int(min(seen.shape[2:]) * (MOST / (rows * columns)) ** 0.5) // patch * patch
        raise UserError(f"{path} has {rows * columns:,} patches, of which {MOST:,} can be cut; give --size {near}")
    (features,), frame = encode(backbone, seen)
    scale = numpy.array([width, height, width, height]) / (*frame.size[::-1], *frame.size[::-1])
    boxes = objects(features.patches[0].float(), features.grid, taus)
    found: Boxes = numpy.array([at_pixels(box, frame, patch) for box in boxes]) * scale
    return found
