"""Detection on frozen features: a decoder is trained on one split and finds the boxes of another.

    small      100 queries, 512 pixels, 3,000 steps; the features of all images and their mirrors are computed once
    dinov3     1,500 queries, 2,048 pixels, eight sizes and mirrors at test: the published one, for many GPUs

Detections are those of the last layer, the best scores over queries and classes; their average precision is COCO's
(metrics/detection.py). Crowds and difficult objects are neither learnt nor missed. Source: Plain-DETR
(arXiv:2308.01904), DINOv3 (arXiv:2508.10104, section 6.2.2 and appendix D.9); the network stands in dense/detr/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, cast

import numpy
from torch import nn

from dinokit.annotations.boxes import Boxed, box_splits, open_boxes
from dinokit.annotations.marks import Marks
from dinokit.core.files import digest, write_atomic, write_json
from dinokit.core.messages import UserError, library, progress, warn
from dinokit.core.numbers import above, at_least
from dinokit.core.order import evenly
from dinokit.dense.detection import Detections, as_arrays, detect, drawn
from dinokit.dense.detr.kept import Kept, asked
from dinokit.dense.detr.learning import UNNAMED, Drawn, Views, judged, sampled
from dinokit.dense.detr.network import Detector
from dinokit.dense.detr.recipe import RECIPES, Recipe
from dinokit.dense.detr.views import View
from dinokit.dense.fit import Member, fit
from dinokit.dense.heads import check_model, load_head
from dinokit.dense.maps import WHOLE, frozen
from dinokit.evaluation.base import Found, halves, keep_best
from dinokit.metrics.detection import Found as FoundBoxes
from dinokit.metrics.detection import Objects, average_precision, plain, results
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"AP": "%"}
SHOWN = 12  # pictures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images, and how boxes are learnt from them."""

    data: str  # COCO or Pascal VOC as published, a table of boxes, or a folder with images/ and masks/
    recipe: Literal["small", "dinov3"] = "small"
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: val, or else test
    head: str | None = None  # a saved head that is measured instead of training one
    size: int | None = at_least(1, None)  # pixels of the short side; null: 512, dinov3 2,048
    queries: int | None = at_least(1, None)  # null: 100, dinov3 1,500
    iterations: int | None = at_least(1, None)  # training steps; null: 3,000, dinov3 44,358
    batch_size: int | None = at_least(1, None)  # images per step; null: 8, dinov3 32
    lr: float | None = above(0, None)  # null: 2e-4, dinov3 2.5e-5
    seed: int = at_least(0, 0)  # of initial weights, order and mirrors
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all

    def __post_init__(self) -> None:
        if self.head is not None:
            usual = Config(data=self.data)
            learning = ("recipe", "train", "size", "queries", "iterations", "batch_size", "lr", "seed")
            changed = [name for name in learning if getattr(self, name) != getattr(usual, name)]
            if changed:
                raise UserError(f"a saved head is not trained, so that {', '.join(changed)} cannot be set with head")


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train on one split and measure on the other; return `AP` and its like in percent.

    Args:
        out: folder that receives the trained head as `head/`, detections.json as COCO writes results, truth.json,
            pictures, and the features of the training images; an interrupted training in it goes on.
    """
    library("faster_coco_eval", extra="detection")
    train, _, test, judges = halves(
        config,
        lambda split: open_boxes(config.data, split=split, channels=backbone.channels, white=backbone.pixels.white),
        box_splits(config.data),
        prefers=("val", "test"),
        trains=config.head is None,
    )
    for split, some in (("train", train.marks), ("measure", [test.marks[index] for index in judges])):
        if (split == "measure" or config.head is None) and not any(
            (~(one.crowd | one.difficult)).any() for one in some
        ):
            raise UserError(
                f"expected boxes to {split} on in {config.data} that are no crowds and not difficult, got none"
            )
    if config.head is not None:
        head, about = load_head(config.head)
        if about.task != "detection":
            raise UserError(f"{config.head} is a head of {about.task}; give one that `evaluate detection --save` wrote")
        check_model(about, backbone, model=backbone.name)
        classes = list(about.details["classes"])
        view, tested = View(**about.details["view"]), tuple(about.details["tested"])
        members: Sequence[Member] = [Member(head, None)]
    else:
        recipe = chosen(config)
        classes = sorted({name or UNNAMED for one in train.marks for name in one.names})
        view, tested = recipe.view, recipe.tested
        members = [_learnt(backbone, train, classes, recipe, config, out)]
    strange = sorted({name or UNNAMED for one in test.marks for name in one.names} - set(classes))
    if strange:
        warn(f"nothing was learnt of {', '.join(strange[:3])}{'...' * (len(strange) > 3)}: never found, AP 0 of each")
    measured = partial(
        _measured, backbone, test=test, indices=judges, classes=classes, view=view, tested=tested, out=out
    )
    details = {"classes": classes, "view": vars(view), "tested": list(tested)}
    return keep_best(
        backbone,
        members,
        measured,
        better=lambda one: one["AP"],
        out=out,
        task="detection",
        windows=WHOLE,
        details=details,
    )


def chosen(config: Config) -> Recipe:
    """Return the recipe with the settings that were given."""
    recipe = RECIPES[config.recipe]
    recipe = recipe if config.size is None else recipe.at(config.size)
    queries = config.queries or recipe.queries
    iterations = config.iterations or recipe.training.iterations
    return replace(
        recipe,
        queries=queries,
        many=queries,
        batch_size=config.batch_size or recipe.batch_size,
        lr=config.lr or recipe.lr,
        training=replace(recipe.training, iterations=iterations, seed=config.seed),
    )


def _learnt(
    backbone: Backbone, train: Boxed, classes: Sequence[str], recipe: Recipe, config: Config, out: Path | None
) -> Member:
    """Train a detector on a split."""
    member = Member(Detector(recipe.sizes(backbone, len(classes)), seed=config.seed), recipe.lr)
    boxes = [
        part for one in train.marks for part in (one.boxes, one.crowd | one.difficult, repr((one.image, one.names)))
    ]
    stamp = {"data": digest(boxes), "recipe": repr(recipe), "classes": list(classes)}
    with TemporaryDirectory() as passing:  # the features of a training that nobody keeps
        if recipe.shortest is None:
            steps, batch_size = recipe.training.iterations, recipe.batch_size
            wanted = asked(len(train), steps=steps, batch_size=batch_size, seed=config.seed)
            folder, passes = (out or Path(passing)) / "features", steps * batch_size
            views: Views = Kept(backbone, train, classes, recipe.view, folder, wanted=wanted, passes=passes)
        else:
            views = Drawn(backbone, train, classes, recipe)
        with frozen(backbone) as device:
            sample = sampled(views, len(train), batch_size=recipe.batch_size, seed=config.seed, device=device)
        loss = judged(recipe)
        fit(backbone, [member], recipe.training, sample=sample, loss=loss, folder=out, stamp=stamp)
    return member


def _measured(
    backbone: Backbone,
    head: nn.Module,
    *,
    test: Boxed,
    indices: Sequence[int],
    classes: Sequence[str],
    view: View,
    tested: Sequence[int],
    out: Path | None,
) -> Found:
    """Find boxes on test images and compare them with those that were drawn."""
    known = [*classes, *sorted({name or UNNAMED for one in test.marks for name in one.names} - set(classes))]
    objects = [_objects(test.marks[index], known) for index in indices]
    found = list[Detections]()
    with frozen(backbone) as device:
        head = head.to(device).eval()
        for index in progress(indices, len(indices)):
            found.append(detect(backbone, cast("Detector", head), test.read(index), view, tested=tested))
    arrays = [FoundBoxes(*as_arrays(one)) for one in found]
    numbers, each = average_precision(objects, arrays, classes=len(known))
    if out is not None:
        write_json(out / "truth.json", plain(objects, len(known)))
        write_json(out / "detections.json", results(arrays))
        for place in evenly(SHOWN, len(indices)).tolist():
            picture = drawn(test.read(indices[place]), found[place], known)
            with write_atomic(out / "pictures" / f"{indices[place]:06d}.png") as temporary:
                picture.save(temporary, "PNG")
    rounded = {name: value for name, value in numbers.items() if not numpy.isnan(value)}
    return rounded | {"images": float(len(indices))}, {"classes": dict(zip(known, each.tolist(), strict=True))}


def _objects(marks: Marks, classes: Sequence[str]) -> Objects:
    kinds = numpy.array([classes.index(name or UNNAMED) for name in marks.names], dtype=numpy.int64)
    return Objects(marks.boxes, kinds, marks.areas, marks.crowd | marks.difficult)
