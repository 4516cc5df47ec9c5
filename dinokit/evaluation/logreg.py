"""Logistic regression on frozen features: how well does a linear boundary part the classes, with no rate to choose?

The CLS features of the training images, as they are - neither normalised nor standardised - are fitted by a logistic
regression in float64 for each of 45 values of C from 1e-6 to 1e5, evenly spaced in their logarithm. The C with the best
metric on validation images counts, of equal ones the smallest; it is fitted once more to training and validation images
together and measured on the test images. The metric is the share of images that are right, or as a mean over the
classes, as the paper of the data has it. Source: DINOv2 (arXiv:2304.07193) section 7.3, on the twelve sets of SimCLR;
DINOv3 (arXiv:2508.10104) appendix D.

Where images have several classes, each class is told from all others by a regression of its own, one C is chosen for
all, and the metric is the 11-point mAP. An image of which a class is left open, as VOC 2007 does with difficult
objects, is neither learnt nor measured for that class.

Without validation images a tenth of each class of the training images is set aside, at least one where there are two
(DINOv3's rule; DINOv2 draws from all images alike). Few-shot, a hundredth is, the images that are learnt from are drawn
from the others several times, and nothing is fitted once more. The papers say nothing of data without test images: here
a fifth of each class is set aside for it first. Every solution is the minimum (`dense/logistic.py`), where the papers
end after 1,000 iterations. A class of the test images that is never learnt is never right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy
import torch
from jaxtyping import Float32, Float64, Int8, Int64
from torch import Tensor

from dinokit.core.device import exact
from dinokit.core.messages import UserError, progress
from dinokit.core.numbers import above, at_least, between
from dinokit.dense.logistic import IS, IS_NOT, OPEN, Solution, each_against_others, solutions
from dinokit.evaluation.base import Found
from dinokit.evaluation.sets.labelled import embedded, leaked
from dinokit.evaluation.sets.roles import FewShot, thirds
from dinokit.features.extraction import Embeddings
from dinokit.metrics.accuracy import accuracy, per_class
from dinokit.metrics.interval import per_class_shares, percent
from dinokit.metrics.precision import mean_precision, mean_precision_interval
from dinokit.models.features import Backbone
from dinokit.sources.base import Metric
from dinokit.sources.source import Source
from dinokit.sources.table import members, undecided

UNITS = {"top1": "%", "per-class": "%", "mAP": "%", "val": "%"}
METRICS = {"top1": accuracy, "per-class": per_class}
CS = tuple(10 ** (-6 + place / 4) for place in range(45))

Classifier = Callable[[Tensor], Tensor]  # features [image, dim] -> classes [image], or for mAP scores [image, class]


@dataclass(frozen=True, kw_only=True)
class Config(FewShot):
    """Which images, and what is tried."""

    data: str  # a folder with one folder per class, or a demo: name
    train: str | None = None  # split that is learnt from; null: train, or everything where there are no splits
    val: str | None = None  # split that chooses C; null: val, if it is not tested on, or else a part of train
    test: str | None = None  # split that is measured; null: test, or else val, or else a part of train
    c: tuple[float, ...] | None = above(0, None)  # tried weights of the data; null: the 45 of the papers
    # right of all images, as a mean over classes, 11-point mAP; null: what the set is measured by, else top1
    metric: Literal["top1", "per-class", "mAP"] | None = None
    limit: int | None = at_least(4, None)  # images of each split, evenly spaced in the data; null: all
    near: float | None = between(-1, 1, None)  # cosine above which two pictures are one, said as leakage; null: equal


@dataclass(frozen=True)
class Images:
    """Features with their classes."""

    features: Float32[Tensor, "image dim"]
    labels: Int64[Tensor, " image"]
    truth: Int8[Tensor, "image class"] | None = None  # what each is of, for mAP: IS, IS_NOT or OPEN

    def some(self, rows: Int64[numpy.ndarray, " chosen"]) -> "Images":
        """Return some of them."""
        return Images(self.features[rows], self.labels[rows], None if self.truth is None else self.truth[rows])

    def joined(self, other: "Images") -> "Images":
        """Return these, then the others."""
        features, labels = torch.cat([self.features, other.features]), torch.cat([self.labels, other.labels])
        if self.truth is None or other.truth is None:
            return Images(features, labels)
        return Images(features, labels, torch.cat([self.truth, other.truth]))


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Choose C and classify every test image; return the metric in percent, its value where C was chosen, and C.

    Few-shot, means over the draws, with the standard deviation as `top1/std`; the details hold each.
    """
    learnt, chooses, asked = thirds(backbone, config, choosing="C")
    assert chooses is not None
    metric = _metric(config, learnt)
    found = [embedded(backbone, source) for source in (learnt, chooses, asked)]
    train, val, test = (_images(backbone, each, metric) for each in found)
    if val.truth is not None and not (val.truth == IS).any():
        raise UserError(
            f"expected two or more images of a class to learn from in {config.data}, got one of each, so that none can "
            "choose C; add images, or a split val"
        )
    leaking = leaked(config.data, found[2], found[0], found[1], above=config.near)
    counts = {"leaks": float(len(leaking))} if len(leaking) else {}
    measured = partial(_measured, val=val, test=test, metric=metric, config=config)
    if config.shots is None:
        numbers, tried, judges = measured(train)
        intervals = {metric: _interval([judges], test, metric)}
        return numbers | counts, leaking.details() | {"tried": tried, "intervals": intervals}
    drawn = [measured(train.some(rows)) for rows in config.drawn(train.labels.cpu())]
    each = [numbers for numbers, _, _ in drawn]
    values = [numbers[metric] for numbers in each]
    means = {name: float(numpy.mean([numbers[name] for numbers in each])) for name in each[0] if name != "C"}
    ends = _interval([judges for _, _, judges in drawn], test, metric)
    means[f"{metric}/std"] = float(numpy.std(values))
    return means | counts, leaking.details() | {"draws": each, "intervals": {metric: ends}}


def _metric(config: Config, source: Source) -> Metric:
    """Return what a set is measured by."""
    several = members(source.classes) is not None
    metric = config.metric or source.metric or ("mAP" if several else "top1")
    if several and metric != "mAP":
        raise UserError(
            f"images of {config.data} have several classes, such as {source.classes[0]}, which {metric} does not judge"
        )
    return metric


def _images(backbone: Backbone, found: Embeddings, metric: Metric) -> Images:
    """Return features with their classes, where they can be fitted exactly."""
    device, several = exact(backbone.device), members(found.classes)
    assert found.labels is not None
    truth = None
    if metric == "mAP":
        named = numpy.eye(len(found.classes), dtype=bool) if several is None else several[1]
        left_open = numpy.zeros_like(named) if several is None else undecided(found.classes)
        of_label = numpy.where(left_open, OPEN, numpy.where(named, IS, IS_NOT)).astype(numpy.int8)
        truth = torch.from_numpy(of_label[found.labels])
    return Images(torch.from_numpy(found.vectors).to(device), torch.from_numpy(found.labels).to(device), truth)


def _measured(
    train: Images, *, val: Images, test: Images, metric: Metric, config: Config
) -> tuple[dict[str, float], dict[str, float], Classifier]:
    """Return the numbers, by C the metric on the validation images, and what has classified the test images."""
    cs = sorted(set(config.c or CS))
    tried, best, chosen = dict[float, float](), -1.0, None
    for c, classifier in progress(fitted(train, cs), len(cs)):
        tried[c] = judged(classifier, val, metric)
        if tried[c] > best:
            best, chosen = tried[c], (c, classifier)
    assert chosen is not None
    if config.shots is None:
        train = train.joined(val)
        (chosen,) = fitted(train, [chosen[0]])
    numbers = {metric: judged(chosen[1], test, metric), "val": best, "C": chosen[0]}
    counts = {"train": float(len(train.labels)), "test": float(len(test.labels))}
    return numbers | counts, {f"{c:g}": value for c, value in tried.items()}, chosen[1]


def _interval(classifiers: Sequence[Classifier], test: Images, metric: Metric) -> list[float]:
    """Return the ends of the interval of the metric, as a mean over classifiers."""
    found = [classifier(test.features).cpu().numpy() for classifier in classifiers]
    if metric == "mAP":
        assert test.truth is not None
        truth = test.truth.numpy()
        return [100 * end for end in mean_precision_interval(truth == IS, found, left_out=truth == OPEN)]
    truth = test.labels.cpu().numpy()
    right = [answers == truth for answers in found]
    counted = right if metric == "top1" else [per_class_shares(truth, one) for one in right]
    return percent(numpy.mean(counted, axis=0))


def fitted(images: Images, cs: Sequence[float]) -> Iterator[tuple[float, Classifier]]:
    """Yield each C with what tells the classes of features after it, or for mAP scores them."""
    if images.truth is not None:
        known = [((images.truth == kind).any(dim=0)) for kind in (IS, IS_NOT)]
        learnt = (known[0] & known[1]).nonzero().flatten()  # of others there is nothing to tell apart
        truth = images.truth[:, learnt].to(images.features.device)
        for c, solution in zip(cs, each_against_others(images.features, truth, cs)):
            yield c, partial(_scores, solution, learnt, images.truth.shape[1])
        return
    classes, labels = torch.unique(images.labels, return_inverse=True)
    for c, solution in zip(cs, solutions(images.features, labels, cs)):
        yield c, partial(_answers, classes, solution)


def judged(classifier: Classifier, images: Images, metric: Metric) -> float:
    """Return the metric of some images in percent."""
    found = classifier(images.features).cpu().numpy()
    if metric == "mAP":
        assert images.truth is not None
        truth = images.truth.numpy()
        return 100 * mean_precision(truth == IS, found, left_out=truth == OPEN)
    return 100 * METRICS[metric](images.labels.cpu().numpy(), found)


def _answers(
    classes: Int64[Tensor, " class"], solution: Solution, features: Float32[Tensor, "image dim"]
) -> Int64[Tensor, " image"]:
    return classes[solution(features).argmax(dim=1)]


def _scores(
    solution: Solution, learnt: Int64[Tensor, " known"], classes: int, features: Float32[Tensor, "image dim"]
) -> Float64[Tensor, "image class"]:
    """Score every class; one that was not learnt is never likelier in one image than in another."""
    scores = features.new_zeros(len(features), classes, dtype=torch.float64)
    scores[:, learnt] = solution(features)
    return scores
