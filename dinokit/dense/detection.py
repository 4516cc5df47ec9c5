"""Detection: the head that says boxes, classes and scores of an image, and how they are drawn.

The network and what it learns from stand in detr/. An image is seen at one size, or at several and their mirrors, whose
detections are merged (detr/merging.py); boxes are brought back to the image as it is. The scores of a query's classes
count one by one, so a query may answer twice; of all, the best are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageDraw
from torch import Tensor

from dinokit.annotations.masks import palette
from dinokit.core.files import write_json
from dinokit.dense import draw
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.matching import Answers
from dinokit.dense.detr.merging import soft_nms
from dinokit.dense.detr.network import Config, Detector, Maps
from dinokit.dense.detr.views import View, features
from dinokit.images import intensity
from dinokit.metrics.detection import sided
from dinokit.models.features import Backbone

MOST = 100  # boxes of an image that are written
HEADS = {"plain-detr": (Config, Detector)}
DETAILS = ("classes", "view", "tested")  # of a head
FOLDERS = ("pictures",)
WRITTEN = "detections.json"
SHOWN = 0.3  # least score of a box in a picture, where no other images have said a better one


@dataclass(frozen=True)
class Detections:
    """What was found on an image, the best first; boxes are left, top, right, bottom in its pixels."""

    boxes: Float[Tensor, "found 4"]
    classes: Int64[Tensor, " found"]
    scores: Float[Tensor, " found"]

    def some(self, wanted: Tensor) -> "Detections":
        """Return some of them."""
        return Detections(self.boxes[wanted], self.classes[wanted], self.scores[wanted])


def detect(
    backbone: Backbone, head: Detector, image: intensity.Image, view: View, *, tested: Sequence[int] = ()
) -> Detections:
    """Find what there is on an image; backbone and head are on one device, the detections on the CPU.

    Args:
        tested: short sides to see it at, mirrored too, merged by Soft-NMS; empty: as the view says.
    """
    if not tested:
        return answered(head, features(backbone, image, view), image, backbone.patch_size)
    found = []
    for size in tested:
        for mirror in (False, True):
            seen = features(backbone, image, replace(view, size=size), mirror=mirror)
            found.append(answered(head, seen, image, backbone.patch_size, mirror=mirror))
    every = Detections(*(torch.cat(parts) for parts in zip(*((one.boxes, one.classes, one.scores) for one in found))))
    kept, scores = soft_nms(every.boxes, every.scores, every.classes, most=head.config.queries)
    return replace(every.some(kept), scores=scores)


@torch.no_grad()
def answered(
    head: Detector,
    seen: Float[Tensor, "feature rows columns"],
    image: intensity.Image,
    patch: int,
    *,
    mirror: bool = False,
) -> Detections:
    """Return what a head finds in the features of an image, or of its mirror."""
    device = next(head.parameters()).device
    size = torch.tensor([seen.shape[2] * patch, seen.shape[1] * patch], dtype=torch.float32, device=device)
    _, layers = head(Maps([seen.to(device)], size[None]))
    found = likeliest(layers.of(-1, 0), most=head.config.queries)
    boxes = box.mirrored(found.boxes, float(size[0])) if mirror else found.boxes
    height, width = image.shape[1:]
    scale = torch.tensor([width, height, width, height], device=device) / torch.cat([size, size])
    return Detections((boxes * scale).cpu(), found.classes.cpu(), found.scores.cpu())


def likeliest(said: Answers, *, most: int) -> Detections:
    """Return the highest scores of an image over its queries and classes; one query may answer several times."""
    scores, classes = said.logits.sigmoid().flatten(), said.logits.shape[-1]
    best = scores.topk(min(most, len(scores))).indices
    return Detections(said.boxes[best // classes], best % classes, scores[best])


def drawn(image: intensity.AnyImage, found: Detections, classes: Sequence[str], *, least: float = SHOWN) -> Image.Image:
    """Draw the boxes of a least score with names and scores, the best on top."""
    page = Image.fromarray(draw.rgb(image))
    pen, colours = ImageDraw.Draw(page), palette(len(classes) + 1)[1:]
    wide = max(1, round(max(page.size) / 300))
    shown = found.some(found.scores >= least)
    for corners, kind, score in reversed(
        list(zip(shown.boxes.tolist(), shown.classes.tolist(), shown.scores.tolist()))
    ):
        left, top, right, bottom = corners
        colour = tuple(colours[kind])
        pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=wide)
        text = f"{classes[kind]} {score:.2f}".encode("latin-1", "replace").decode("latin-1")
        edges = pen.textbbox((left, max(top - 12, 0)), text)
        pen.rectangle(edges, fill=colour)
        pen.text(edges[:2], text, fill="black" if sum(colour) > 380 else "white")
    return page


def least_of(least: float | None, *, held_out: bool) -> float:
    """Return the score from which on boxes are drawn: that by which most was right, if that is known of new images."""
    return least if held_out and least is not None else SHOWN


def legend(details: Mapping[str, Any]) -> Image.Image:
    """Draw which colour is which class."""
    classes = details["classes"]
    return draw.legend(classes, palette(len(classes) + 1)[1:])


def found(backbone: Backbone, head: Detector, about: Any, image: intensity.Image) -> Detections:
    """Find what there is on an image as the head was trained to see it."""
    return detect(backbone, head, image, View(**about.details["view"]), tested=about.details["tested"])


def told(values: Detections, image: intensity.Image) -> dict[str, Any]:
    """Return the best detections, and the width and height of the image, as plain values."""
    best, size = values.some(torch.arange(min(MOST, len(values.scores)))), image.shape[:0:-1]
    found = {"boxes": best.boxes.tolist(), "classes": best.classes.tolist(), "scores": best.scores.tolist()}
    return {"size": list(size)} | found


def pictures(values: Detections, image: intensity.Image, details: Mapping[str, Any]) -> dict[str, Image.Image]:
    """Draw the boxes on the image."""
    own = details.get("measured", {})
    least = least_of(own.get("least"), held_out=own.get("held_out", False))
    return {"pictures": drawn(image, values, details["classes"], least=least)}


def gathered(out: Path, lines: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> None:
    """Write OUT/detections.json as COCO writes annotations, with a score; ids count from 1.

    In the folder of the images it is a set of boxes, which can be corrected and learnt from.
    """
    marks = [
        {"image_id": image, "category_id": kind + 1, "bbox": sided(box), "score": score}
        for image, line in enumerate(lines, start=1)
        for box, kind, score in zip(line["boxes"], line["classes"], line["scores"], strict=True)
    ]
    images = [
        # lines of an OUT that was begun with an early version say no size
        {"id": image, "file_name": line["key"]} | dict(zip(("width", "height"), line.get("size", ())))
        for image, line in enumerate(lines, start=1)
    ]
    plain = {
        "images": images,
        "annotations": [
            {"id": number, **mark, "area": mark["bbox"][2] * mark["bbox"][3], "iscrowd": 0}
            for number, mark in enumerate(marks, start=1)
        ],
        "categories": [{"id": kind, "name": name} for kind, name in enumerate(details["classes"], start=1)],
    }
    write_json(out / WRITTEN, plain)


def as_arrays(found: Detections) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return boxes, classes and scores as metrics take them."""
    return found.boxes.double().numpy(), found.classes.numpy(), found.scores.double().numpy()
