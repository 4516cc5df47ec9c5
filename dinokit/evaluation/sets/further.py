"""Measure trained heads, as they are, on further sets: other pictures of the same classes, by their names.

The classes count that both know: of ImageNet-R and -A the logits of their 200 classes compete. Where images of a set
have several classes (ReaL, ObjectNet) all logits do, and any of these is right. Domains "corruption/severity", as
ImageNet-C has, give the mean corruption error.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy
import torch
from jaxtyping import Bool, Float, Float32, Float64

from dinokit.core.messages import UserError, listed
from dinokit.dense.grid import Layout
from dinokit.dense.linear import LinearHead
from dinokit.dense.protocols import widths_of
from dinokit.evaluation.sets.labelled import embedded
from dinokit.evaluation.sets.roles import JUDGES, doubted, opened
from dinokit.features.extraction import Embeddings
from dinokit.features.leaks import Leaks, leaks
from dinokit.metrics.classes import Judged, Truth, judged
from dinokit.metrics.interval import per_class_shares
from dinokit.metrics.robustness import corruption_errors, parsed
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, splits
from dinokit.sources.table import members


@dataclass(frozen=True)
class Images:
    """What is read of images, and which classes of a head they show."""

    rows: Float32[numpy.ndarray, "image width"]
    truth: Truth


@dataclass(frozen=True)
class Result:
    """What a head makes of a set."""

    numbers: dict[str, float]  # in percent
    counted: dict[str, Float64[numpy.ndarray, " image"]]  # measure -> values of images whose mean it is
    details: dict[str, object]


def measured(head: LinearHead, images: Images, layout: Layout, classes: Sequence[str]) -> Result:
    """Judge a head: `mAP` where images have several classes, else `top1`, `top5` of more than five, `per-class`.

    Args:
        layout: of the rows of the images.
        classes: names.
    """
    found = judged(scores_of(head, images.rows, layout), images.truth)
    if images.truth.several:
        numbers = {"mAP": 100 * float(numpy.mean([*found.precision.values()]))}
        return Result(numbers, {}, {"classes": _of_classes(found.precision, classes)})
    numbers = {name: 100 * float(right.mean()) for name, right in found.right.items()}
    numbers["per-class"] = 100 * float(numpy.mean([*found.per_class.values()]))
    counted = {name: right.astype(float) for name, right in found.right.items()}
    counted["per-class"] = per_class_shares(images.truth.labels, found.right["top1"])
    return Result(numbers, counted, {"classes": _of_classes(found.per_class, classes)})


def scores_of(
    head: LinearHead, rows: Float32[numpy.ndarray, "image width"], layout: Layout
) -> Float[numpy.ndarray, "image class"]:
    """Return what orders classes and images as the probabilities do, of rows that hold what the head reads and more.

    Logits of classes that are asked one by one, else logarithms: a probability near 0 or 1 is 0 or 1 in float32, and of
    the 200 classes of a set the best one may be as unlikely as the others beside one of the other 800.
    """
    logits = head.logits(torch.from_numpy(rows[:, layout.columns(head.reading)]))
    if head.config.loss == "ce":
        logits = logits.double().log_softmax(dim=1)
    scores: Float[numpy.ndarray, "image class"] = logits.numpy()
    return scores


def named(specs: Sequence[str]) -> dict[str, str]:
    """Name further sets: NAME of NAME:FOLDER, else by the last part of the path; where two are alike, as they are."""
    short = [
        spec.partition(":")[0] if re.match("(?!demo:|hf:|[a-z0-9]+://)[a-z0-9-]+:", spec) else PurePath(spec).name
        for spec in specs
    ]
    return {name if short.count(name) == 1 else spec: spec for name, spec in zip(short, specs)}


@dataclass(frozen=True)
class Set:
    """The images of another set that show a class of some heads."""

    spec: str
    source: Source
    shown: Bool[numpy.ndarray, "label class"]  # which classes of the heads a label names
    several: bool  # a label may name several


def further(
    backbone: Backbone, heads: Sequence[LinearHead], other: Set, *, learnt: Embeddings | None = None
) -> list[Result]:
    """Measure heads on the images of another set whose classes they know; return a result for each.

    Args:
        learnt: images that the heads were trained on: those of the set that are among them are said.
    """
    spec, source, shown, several = other.spec, other.source, other.shown, other.several
    compete = None if several else numpy.flatnonzero(shown.any(axis=0))
    layout, parts = around(heads, backbone), {"": source}
    if source.domains is not None:
        names = sorted(set(source.domains.tolist()))
        parts = {name: source.subset(numpy.flatnonzero(source.domains == name)) for name in names}
    found: list[dict[str, Judged]] = [{} for _ in heads]
    shared = list[tuple[str, str]]()
    for name, part in parts.items():  # one by one: ImageNet-C has four million images
        images = embedded(backbone, part, reading=layout.reading)
        assert images.labels is not None
        shared += [] if learnt is None else leaks(images, learnt).equal
        truth = Truth(images.labels, shown, several)
        for head, row in zip(heads, found, strict=True):
            row[name] = judged(scores_of(head, images.vectors, layout), truth, compete=compete)
    leaking = Leaks(tuple(shared), (), None)
    if shared:
        doubted(spec, [leaking.line("this set", "train")])
    results = [_summary(spec, row) for row in found]
    return [replace(result, details=result.details | leaking.details()) for result in results]


def opened_for(backbone: Backbone, spec: str, classes: Sequence[str], *, limit: int | None = None) -> Set:
    """Open another set for heads of some classes, before they are trained; UserError if it shows none of them."""
    known = splits(spec)
    source = opened(backbone, spec, split=next((name for name in JUDGES if name in known), None), limit=limit)
    assert source.labels is not None
    lists = members(source.classes)
    names, named = lists or (source.classes, numpy.eye(len(source.classes), dtype=bool))
    place = {name: index for index, name in enumerate(classes)}
    shown = numpy.zeros((len(named), len(classes)), dtype=bool)
    for column, name in enumerate(names):
        if name in place:
            shown[:, place[name]] = named[:, column]
    there = numpy.flatnonzero(shown[source.labels].any(axis=1))
    if not len(there):
        one = source.classes[source.labels[0]]
        raise UserError(
            f"no class of {spec} (such as '{one}') is one that the head was trained on (such as '{classes[0]}'); "
            "give both the same names"
        )
    if len(there) < len(source):
        doubted(spec, [f"images of no class that the head knows, left out: {len(source) - len(there):,}"])
    return Set(spec, source.subset(there), shown, lists is not None)


def around(heads: Sequence[LinearHead], backbone: Backbone) -> Layout:
    """Return the narrowest rows that hold what all heads read."""
    blocks = max(head.config.blocks for head in heads)
    dim, mean = widths_of(backbone, blocks)
    return Layout(blocks, dim, mean if any(head.config.mean_patch for head in heads) else 0)


def _summary(spec: str, parts: Mapping[str, Judged]) -> Result:
    """Put the domains of a set together; of corruptions the mCE comes first."""
    judged_ones = list(parts.values())
    counted = {
        name: numpy.concatenate([part.right[name] for part in judged_ones]).astype(float)
        for name in judged_ones[0].right
    }
    numbers = {name: 100 * float(values.mean()) for name, values in counted.items()}
    details: dict[str, object] = {"images": len(counted["top1"])}
    if "" in parts:
        return Result(numbers, counted, details)
    details["domains"] = {name: 100 * float(part.right["top1"].mean()) for name, part in parts.items()}
    which = {name: parsed(name) for name in parts}
    errors = {pair: 1 - float(parts[name].right["top1"].mean()) for name, pair in which.items() if pair is not None}
    if len(errors) < len(parts):
        return Result(numbers, counted, details)
    against = corruption_errors(errors)
    if against.missing:
        doubted(spec, [f"mCE without what is not there at every severity: {listed(against.missing)}"])
    details["CE"] = {name: 100 * value for name, value in against.each.items()}
    mean = {} if against.mce is None else {"mCE": 100 * against.mce}
    return Result(mean | numbers, counted, details)


def _of_classes(values: Mapping[int, float], classes: Sequence[str]) -> dict[str, float]:
    return {classes[place]: 100 * value for place, value in values.items()}
