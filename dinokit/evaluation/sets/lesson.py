"""What the linear evaluation learns from, what it chooses by and what it measures: all images opened, and what is read.

Heads learn from random crops that the backbone sees anew, or from what is read of the images as they are evaluated.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from dinokit.core.messages import UserError, info
from dinokit.dense.grid import Layout
from dinokit.evaluation.base import QUICK
from dinokit.evaluation.sets.further import Images, Set, named, opened_for
from dinokit.evaluation.sets.labelled import embedded, leaked
from dinokit.evaluation.sets.roles import thirds
from dinokit.evaluation.sets.wanted import Wanted
from dinokit.features.extraction import Embeddings
from dinokit.models.features import Backbone
from dinokit.sources.base import Metric
from dinokit.sources.source import Source

_say_once = cache(info)


@dataclass(frozen=True)
class Lesson:
    """What heads learn from, and what they are judged by."""

    classes: tuple[str, ...]
    labels: Int64[Tensor, " image"]  # of the images that are learnt from
    targets: Shaped[Tensor, "image *class"]  # what a head is to say of each
    source: Source  # of these images
    rows: Float32[numpy.ndarray, "image width"] | None  # what is read of them; None: crops are cut of them anew
    val: Images | None  # None: there is nothing to choose
    test: Images
    further: dict[str, Set]  # by the name of the set
    metric: Metric
    layout: Layout
    learnt: Embeddings  # of the images that are learnt from, as they are evaluated
    leaks: int  # test images that are learnt from, too
    details: dict[str, object]


def lesson_of(backbone: Backbone, config: Any, layout: Layout, *, chooses: bool) -> Lesson:
    """Open all images and extract what is read of them; say what makes the numbers doubtful.

    Args:
        chooses: whether there is anything to choose.
    """
    if config.crops and config.protocol == QUICK:
        raise UserError("the quick protocol learns from kept features; leave --crops out, or take --protocol dinov3")
    crops = sees_crops(backbone, config)
    if not crops and config.protocol != QUICK and config.crops is None:
        _say_once(
            "on a CPU: heads learn from kept features of whole images; --crops true shows random crops, for hours"
        )
    shared = config.protocol != QUICK
    train, val, test = thirds(backbone, config, choosing="the head", shared=shared, chooses=chooses)
    wanted = Wanted.of(train, config.metric, data=config.data)
    specs = named(config.tests)
    tests = {name: opened_for(backbone, spec, wanted.classes, limit=config.limit) for name, spec in specs.items()}
    learnt = embedded(backbone, train, reading=None if crops else layout.reading)
    asked = embedded(backbone, test, reading=layout.reading)
    chosen = asked if val is test else None if val is None else embedded(backbone, val, reading=layout.reading)
    parts = [(test, asked)] if val is None or chosen is None or val is test else [(test, asked), (val, chosen)]
    # cosines are those of what `learnt` holds
    near, *others = (embedded(backbone, one) if crops and config.near is not None else found for one, found in parts)
    leaking = leaked(config.data, near, learnt, *others, above=config.near)
    assert learnt.labels is not None
    return Lesson(
        classes=wanted.classes,
        labels=torch.from_numpy(learnt.labels),
        targets=wanted.targets(learnt.labels, config.loss),
        source=train.subset(learnt.indices),
        rows=None if crops else learnt.vectors,
        val=None if chosen is None else images_of(chosen, wanted),
        test=images_of(asked, wanted),
        further=tests,
        metric=wanted.metric,
        layout=layout,
        learnt=learnt,
        leaks=len(leaking),
        details=leaking.details(),
    )


def sees_crops(backbone: Backbone, config: Any) -> bool:
    return config.crops if config.crops is not None else config.protocol != QUICK and backbone.device.type != "cpu"


def images_of(found: Embeddings, wanted: Wanted) -> Images:
    assert found.labels is not None
    return Images(found.vectors, wanted.truth(found.labels))
