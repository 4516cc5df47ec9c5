"""Linear classification: how well does one linear layer, trained by descent on frozen features, tell the classes?

A protocol names a grid of heads (`dense/protocols.py`: dino, dinov2, dinov3, and quick, which is ours) and how long it
learns. All heads are trained in one pass (`dense/grid.py`), on random resized crops that the backbone sees anew, or on
the kept features of the training images as they are evaluated: `crops`, by default where there is a GPU. The head with
the best metric on validation images counts, of equal ones the first; further sets (`tests`) are measured with it as it
is (`sets/further.py`). With `head` nothing is trained: a saved head is measured on the images that would be tested on.

The published numbers are chosen on what they are measured on, ImageNet's val, and so are those of these protocols where
data has no third split, with a line that says so; quick sets a tenth of train aside instead, and `val` names a split.
Test images are shown as everywhere here, resized to the crop itself, where DINO and DINOv2 cut 224 of 256 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy
import torch
from jaxtyping import Int64

from dinokit.core.files import digest, digest_of_model
from dinokit.core.numbers import above, at_least, between
from dinokit.dense.batches import cropped, kept
from dinokit.dense.grid import Grid, Layout, Member, Training
from dinokit.dense.heads import save_head
from dinokit.dense.linear import LinearHead, about_of
from dinokit.dense.protocols import PROTOCOLS, heads_of
from dinokit.dense.sweep import train
from dinokit.evaluation.base import QUICK, Found, check_untrained, saved_head
from dinokit.evaluation.sets.further import Images, around, further, measured, named, opened_for
from dinokit.evaluation.sets.labelled import embedded
from dinokit.evaluation.sets.lesson import Lesson, images_of, lesson_of, sees_crops
from dinokit.evaluation.sets.results import interval, summary
from dinokit.evaluation.sets.roles import FewShot, thirds
from dinokit.evaluation.sets.wanted import Wanted, check_classes
from dinokit.finetuning.course import Course, of_images
from dinokit.metrics.accuracy import accuracy, per_class
from dinokit.models.features import Backbone

UNITS = {"top1": "%", "top5": "%", "per-class": "%", "mAP": "%", "val": "%", "mCE": "%"}
# all that a saved head leaves to choose
MEASURING = {"data", "head", "tests", "train", "val", "test", "metric", "limit"}
_ROWS = 1024  # images that all heads of a grid score at once


@dataclass(frozen=True, kw_only=True)
class Config(FewShot):
    """Which images, and which heads."""

    published: ClassVar[str] = "dinov3"  # the protocol where there is a GPU

    data: str  # a folder with one folder per class, or a demo: name
    head: str | None = None  # a saved head that is measured instead of training some
    tests: tuple[str, ...] = ()  # further sets that the chosen head is measured on
    protocol: Literal["dino", "dinov2", "dinov3", "quick"] | None = None  # null: dinov3, on a CPU quick
    train: str | None = None  # split that is learnt from; null: train, or everything where there are no splits
    val: str | None = None  # split that chooses the head; null: val, or what is tested on, for quick a part of train
    test: str | None = None  # split that is measured; null: test, or else val, or else a part of train
    crops: bool | None = None  # learn from random crops, not kept features; null: on a GPU, not for quick
    lr: tuple[float, ...] | None = above(0, None)  # peak rates, side by side; null: those of the protocol
    weight_decay: tuple[float, ...] | None = at_least(0, None)  # side by side; null: those of the protocol
    blocks: tuple[int, ...] | None = at_least(1, None)  # CLS of so many last ones, side by side; null: the protocol's
    mean_patch: tuple[bool, ...] | None = None  # without or with it, side by side; null: the protocol's
    optimizer: Literal["sgd", "adamw"] = "sgd"  # with momentum 0.9; or with its usual constants
    loss: Literal["ce", "bce"] | None = None  # null: ce, for images of several classes bce
    iterations: int | None = at_least(1, None)  # training steps; null: those of the protocol
    batch_size: int | None = at_least(1, None)  # images per step; null: 1,024, quick 256
    metric: Literal["top1", "per-class", "mAP"] | None = (
        None  # chooses; null: as published, or top1, of several classes mAP
    )
    limit: int | None = at_least(4, None)  # images of each split, evenly spaced in the data; null: all
    near: float | None = between(-1, 1, None)  # cosine above which two pictures are one, said as leakage; null: equal
    seed: int = at_least(0, 0)  # of initial weights, order and crops

    def __post_init__(self) -> None:
        super().__post_init__()
        check_untrained(self, leaves=MEASURING)


@dataclass(frozen=True)
class Chosen:
    """The best head of a grid, and how the others did."""

    head: LinearHead
    member: Member
    val: float | None  # in percent; None: there was nothing to choose
    tried: list[dict[str, object]]


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train a grid of heads, choose one and measure it; return its metrics in percent, and what it is.

    Few-shot, means over the draws, with the standard deviation as `top1/std`; the details hold each.

    Args:
        out: folder that receives the head as `head/`, few-shot that of the first draw; an interrupted training in it is
            continued.
    """
    if config.head is not None:
        return _saved(backbone, config, config.head)
    grid, layout = _grid(backbone, config)
    lesson = lesson_of(backbone, config, layout, chooses=len(grid) > 1)
    draws = [None] if config.shots is None else config.drawn(lesson.labels)
    chosen = [_trained(backbone, config, grid, lesson, rows, out) for rows in draws]
    heads = [one.head for one in chosen]
    if out is not None:
        save_head(out / "head", heads[0], about_of(backbone, heads[0], lesson.classes))
    found = {"": [measured(head, lesson.test, layout, lesson.classes) for head in heads]}
    for name, other in lesson.further.items():
        found[name] = further(backbone, heads, other, learnt=lesson.learnt)
    numbers, details, intervals = summary(found, first=lesson.metric, few=config.shots is not None)
    if lesson.metric == "mAP":  # no mean over images
        intervals["mAP"] = interval(heads, lesson.test, layout)
    counts = {"heads": float(len(grid)), "test": float(len(lesson.test.rows))}
    counts["train"] = float(len(lesson.labels) if draws[0] is None else len(draws[0]))
    counts |= {"leaks": float(lesson.leaks)} if lesson.leaks else {}
    vals = [one.val for one in chosen if one.val is not None]
    counts |= {"val": float(numpy.mean(vals))} if vals else {}
    if config.shots is None:
        best = chosen[0].member
        counts |= {"lr": best.lr, "weight_decay": best.weight_decay}
        counts |= {"blocks": float(best.reading.blocks), "mean_patch": float(best.reading.mean_patch)}
        details |= {"tried": chosen[0].tried}
    return numbers | counts, lesson.details | details | {"intervals": intervals}


def _grid(backbone: Backbone, config: Config) -> tuple[list[Member], Layout]:
    given = {name: getattr(config, name) for name in ("lr", "weight_decay", "blocks", "mean_patch")}
    return heads_of(backbone, PROTOCOLS[str(config.protocol)], **given)


def _saved(backbone: Backbone, config: Config, folder: str) -> Found:
    """Measure a saved head on the images that its like would be tested on, and on further sets."""
    head, about = saved_head(backbone, folder, task="linear")
    assert isinstance(head, LinearHead)
    _, _, test = thirds(backbone, config, choosing="the head", shared=True, chooses=False)
    wanted, layout = Wanted.of(test, config.metric, data=config.data), around([head], backbone)
    check_classes(about.details["classes"], wanted.classes, data=test.name)
    images = images_of(embedded(backbone, test, reading=layout.reading), wanted)
    found = {"": [measured(head, images, layout, wanted.classes)]}
    for name, spec in named(config.tests).items():
        found[name] = further(backbone, [head], opened_for(backbone, spec, wanted.classes, limit=config.limit))
    numbers, details, intervals = summary(found, first=wanted.metric, few=False)
    if wanted.metric == "mAP":
        intervals["mAP"] = interval([head], images, layout)
    return numbers | {"test": float(len(images.rows))}, details | {"intervals": intervals}


def course(backbone: Backbone, config: Config, *, batch_size: int) -> Course:
    """Return what a backbone and its head learn together: random crops of the training images, with their classes.

    Args:
        batch_size: crops per step.
    """
    heads, layout = _grid(backbone, config)
    shared = config.protocol != QUICK
    train, _, _ = thirds(backbone, config, choosing="the head", shared=shared, chooses=len(heads) > 1)
    reading = None if sees_crops(backbone, config) else layout.reading  # as heads alone read them: they are kept
    wanted, found = Wanted.of(train, config.metric, data=config.data), embedded(backbone, train, reading=reading)
    assert found.labels is not None
    loss = config.loss or ("bce" if wanted.several else "ce")
    targets = wanted.targets(found.labels, loss)
    batch = min(batch_size, len(targets))
    return of_images(backbone, train.subset(found.indices), targets, loss=loss, batch=batch, seed=config.seed)


def _trained(
    backbone: Backbone,
    config: Config,
    heads: Sequence[Member],
    lesson: Lesson,
    rows: Int64[numpy.ndarray, " drawn"] | None,
    out: Path | None,
) -> Chosen:
    """Train all heads on all images, or on some, and choose one."""
    protocol = PROTOCOLS[str(config.protocol)]
    count = len(lesson.labels) if rows is None else len(rows)
    batch = min(config.batch_size or protocol.batch_size, count)
    iterations = config.iterations or protocol.iterations or math.ceil((protocol.passes or 0) * count / batch)
    training = Training(
        iterations=iterations,
        optimizer=config.optimizer,
        loss=config.loss or ("ce" if lesson.targets.ndim == 1 else "bce"),
        seed=config.seed,
    )
    grid = Grid(heads, lesson.layout, classes=len(lesson.classes), training=training, device=backbone.device)
    some = slice(None) if rows is None else rows
    mean = scale = None
    if lesson.rows is None:
        source = lesson.source if rows is None else lesson.source.subset(rows)
        batches = cropped(backbone, source, lesson.targets[some], lesson.layout.reading, batch=batch, seed=config.seed)
    else:
        seen = lesson.rows[some]
        if protocol.standard:
            mean, scale = (each(seen, axis=0, dtype=float).astype(seen.dtype) for each in (numpy.mean, numpy.std))
            scale[scale == 0] = 1
            seen = (seen - mean) / scale
        batches = kept(seen, lesson.targets[some], device=backbone.device, batch=batch, seed=config.seed)
    folder = out if rows is None else None  # few images are learnt in seconds
    stamp = {
        "weights": digest_of_model(backbone),
        "images": digest([*lesson.learnt.digests, lesson.labels.numpy()]),
        "settings": [batch, lesson.rows is None, protocol.standard],
    }
    train(grid, batches, folder=folder, stamp=stamp)
    if mean is not None:
        grid.undo(torch.from_numpy(mean).to(grid.device), torch.from_numpy(scale).to(grid.device))
    if lesson.val is None:
        return Chosen(LinearHead.of(grid, 0), grid.members[0], None, [])
    values = _values(grid, lesson.val, lesson)
    tried: list[dict[str, object]] = [
        {
            "blocks": member.reading.blocks,
            "mean_patch": member.reading.mean_patch,
            "lr": member.lr,
            "weight_decay": member.weight_decay,
            "val": value,
        }
        for member, value in zip(grid.members, values, strict=True)
    ]
    best = int(numpy.argmax([-1.0 if value is None else value for value in values]))  # of equal ones the first
    return Chosen(LinearHead.of(grid, best), grid.members[best], values[best], tried)


def _values(grid: Grid, images: Images, lesson: Lesson) -> list[float | None]:
    """Return the metric of every head in percent; None of one that has diverged."""
    finite = grid.finite().tolist()
    if lesson.metric == "mAP":
        heads = [LinearHead.of(grid, place) if fine else None for place, fine in enumerate(finite)]
        found = [None if head is None else measured(head, images, grid.layout, lesson.classes) for head in heads]
        return [None if result is None else result.numbers["mAP"] for result in found]
    some = []
    for start in range(0, len(images.rows), _ROWS):
        rows = torch.from_numpy(images.rows[start : start + _ROWS]).to(grid.device)
        some.append(grid.answers(rows).cpu())
    answers, judge = torch.cat(some, dim=1).numpy(), {"top1": accuracy, "per-class": per_class}[lesson.metric]
    return [100 * judge(images.truth.labels, row) if fine else None for row, fine in zip(answers, finite, strict=True)]
