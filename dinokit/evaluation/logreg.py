"""Logistic regression on frozen features: how well does a linear boundary part the classes, with no rate to choose?

The CLS features of the training images, as they are - neither normalised nor standardised - are fitted by a logistic
regression in float64 for each of 45 values of C from 1e-6 to 1e5, evenly spaced in their logarithm. The C with the best
metric on validation images counts, of equal ones the smallest; it is fitted once more to training and validation images
together and measured on the test images. The metric is the share of images that are right, or as a mean over the
classes, as the paper of the data has it. Source: DINOv2 (arXiv:2304.07193) section 7.3, on the twelve sets of SimCLR;
DINOv3 (arXiv:2508.10104) appendix D.

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
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from dinokit.core.device import exact
from dinokit.core.messages import UserError, info, progress
from dinokit.core.numbers import above, at_least
from dinokit.dense.logistic import Solution, solutions
from dinokit.evaluation.base import FewShot, Found, features, some_of_each
from dinokit.metrics.accuracy import accuracy, per_class
from dinokit.metrics.interval import per_class_shares, percent
from dinokit.models.features import Backbone
from dinokit.sources.location import split_name
from dinokit.sources.source import splits
from dinokit.sources.table import members

UNITS = {"top1": "%", "per-class": "%", "val": "%"}
METRICS = {"top1": accuracy, "per-class": per_class}
JUDGES = ("test", "val")  # splits to test on, in this order
CHOICE, FEW_CHOICE, TEST = 0.1, 0.01, 0.2  # shares of each class that are set aside to choose, and to test
CS = tuple(10 ** (-6 + place / 4) for place in range(45))

Classifier = Callable[[Tensor], Tensor]  # features [image, dim] -> classes [image]


@dataclass(frozen=True, kw_only=True)
class Config(FewShot):
    """Which images, and what is tried."""

    data: str  # a folder with one folder per class, or a demo: name
    train: str | None = None  # split that is learnt from; null: train, or everything where there are no splits
    val: str | None = None  # split that chooses C; null: val, if it is not tested on, or else a part of train
    test: str | None = None  # split that is measured; null: test, or else val, or else a part of train
    c: tuple[float, ...] | None = above(0, None)  # tried weights of the data; null: the 45 of the papers
    metric: Literal["top1", "per-class"] = "top1"  # right of all images, or as a mean over classes
    limit: int | None = at_least(4, None)  # images of each split, evenly spaced in the data; null: all


@dataclass(frozen=True)
class Images:
    """Features with their classes."""

    features: Float32[Tensor, "image dim"]
    labels: Int64[Tensor, " image"]

    def some(self, rows: Int64[numpy.ndarray, " chosen"]) -> "Images":
        """Return some of them."""
        return Images(self.features[rows], self.labels[rows])

    def parted(self, share: float) -> tuple["Images", "Images"]:
        """Set a share of each class aside: at least one image, but of a class of one none; return the rest, and it."""
        labels = self.labels.cpu().numpy()
        aside = some_of_each(self.labels.cpu(), share, seed=0)
        aside = aside[numpy.bincount(labels)[labels[aside]] > 1]
        return self.some(numpy.setdiff1d(numpy.arange(len(labels)), aside)), self.some(aside)


def run(backbone: Backbone, config: Config, _: Path | None) -> Found:
    """Choose C and classify every test image; return the metric in percent, its value where C was chosen, and C.

    Few-shot, means over the draws, with the standard deviation as `top1/std`; the details hold each.
    """
    train, val, test = _parts(backbone, config)
    if not torch.isin(test.labels, train.labels).any():
        raise UserError(
            f"no class of the test images of {config.data} is one of the training images, so that no answer can be "
            "right; name the class folders alike"
        )
    if val is None:
        train, val = train.parted(CHOICE if config.shots is None else FEW_CHOICE)
    if not len(val.labels):
        raise UserError(
            f"expected two or more images of a class to learn from in {config.data}, got one of each, so that none can "
            "choose C; add images, or a split val"
        )
    if config.shots is None:
        numbers, tried, counted = _measured(train, val, test, config)
        return numbers, {"tried": tried, "intervals": {config.metric: percent(counted)}}
    found = [_measured(train.some(rows), val, test, config) for rows in config.drawn(train.labels.cpu())]
    each, counted = [numbers for numbers, _, _ in found], numpy.mean([one for _, _, one in found], axis=0)
    values = [numbers[config.metric] for numbers in each]
    means = {name: float(numpy.mean([numbers[name] for numbers in each])) for name in each[0] if name != "C"}
    details: dict[str, object] = {"draws": each, "intervals": {config.metric: percent(counted)}}
    return means | {f"{config.metric}/std": float(numpy.std(values))}, details


def roles(config: Config, known: Sequence[str]) -> tuple[str | None, str | None, str | None]:
    """Return the splits that are learnt from, choose C, and are measured; None where a part of the first has to do it.

    Raises:
        UserError: if one split would do two of it: C must not be chosen, nor measured, on what is learnt.
    """
    train, val, test = (name and split_name(name) for name in (config.train, config.val, config.test))
    test = test or next((name for name in JUDGES if name in known and name not in (train, val)), None)
    train = train or ("train" if "train" in known else None)
    val = val or ("val" if "val" in known and "val" not in (train, test) else None)
    if known and train is None:
        raise UserError(f"expected a split train in {config.data}, found {', '.join(known)}; name one with --train")
    given = [name for name in (train, val, test) if name is not None]
    if len(set(given)) < len(given):
        raise UserError(
            f"expected three different splits to learn from, to choose C and to test on, got {', '.join(given)}; leave "
            "one out, and a part of train does it"
        )
    return train, val, test


def _parts(backbone: Backbone, config: Config) -> tuple[Images, Images | None, Images]:
    """Extract the features of all images; without a split to test on, a part of those to learn from."""
    learn, choose, judge = roles(config, splits(config.data))

    def extracted(split: str | None) -> Images:
        found = features(backbone, config.data, split=split, limit=config.limit)
        if members(found.classes) is not None:
            raise UserError(
                f"images of {config.data} have several classes, such as {found.classes[0]}; only knn measures that"
            )
        device = exact(backbone.device)
        return Images(torch.from_numpy(found.vectors).to(device), torch.from_numpy(found.labels).to(device))

    train = extracted(learn)
    val = None if choose is None else extracted(choose)
    if judge is not None:
        return train, val, extracted(judge)
    info(f"no split to test on in {config.data}: {TEST:.0%} of each class are set aside for it")
    train, test = train.parted(TEST)
    if not len(test.labels):
        raise UserError(
            f"expected two or more images of a class in {config.data}, got one of each; add images, or a split test"
        )
    return train, val, test


def _measured(
    train: Images, val: Images, test: Images, config: Config
) -> tuple[dict[str, float], dict[str, float], Float64[numpy.ndarray, " image"]]:
    """Return the numbers, by C the metric on the validation images, and what each test image counts."""
    cs = sorted(set(config.c or CS))
    tried, best, chosen = dict[float, float](), -1.0, None
    for c, classifier in progress(fitted(train, cs), len(cs)):
        tried[c] = judged(classifier, val, config)
        if tried[c] > best:
            best, chosen = tried[c], (c, classifier)
    assert chosen is not None
    if config.shots is None:
        train = Images(torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels]))
        (chosen,) = fitted(train, [chosen[0]])
    numbers = {config.metric: judged(chosen[1], test, config), "val": best, "C": chosen[0]}
    counts = {"train": float(len(train.labels)), "test": float(len(test.labels))}
    truth, right = test.labels.cpu().numpy(), (chosen[1](test.features) == test.labels).cpu().numpy()
    counted = right.astype(numpy.float64) if config.metric == "top1" else per_class_shares(truth, right)
    return numbers | counts, {f"{c:g}": value for c, value in tried.items()}, counted


def fitted(images: Images, cs: Sequence[float]) -> Iterator[tuple[float, Classifier]]:
    """Yield each C with what tells the classes of features after it."""
    classes, labels = torch.unique(images.labels, return_inverse=True)
    for c, solution in zip(cs, solutions(images.features, labels, cs)):
        yield c, partial(_answers, classes, solution)


def judged(classifier: Classifier, images: Images, config: Config) -> float:
    """Return the metric of some images in percent."""
    return 100 * METRICS[config.metric](images.labels.cpu().numpy(), classifier(images.features).cpu().numpy())


def _answers(
    classes: Int64[Tensor, " class"], solution: Solution, features: Float32[Tensor, "image dim"]
) -> Int64[Tensor, " image"]:
    return classes[solution(features).argmax(dim=1)]
