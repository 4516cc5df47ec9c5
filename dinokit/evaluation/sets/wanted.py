"""What the labels of a set ask of a classifier: of which classes an image is, and by what an answer is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense.grid import Loss
from dinokit.metrics.classes import Truth
from dinokit.sources.base import Metric
from dinokit.sources.source import Source
from dinokit.sources.table import members, undecided


@dataclass(frozen=True)
class Wanted:
    """What labels mean."""

    classes: tuple[str, ...]
    shown: Bool[numpy.ndarray, "label class"]  # the classes that a label names
    left_open: Bool[numpy.ndarray, "label class"]  # classes for which a label counts neither way
    several: bool  # a label may name several; else one
    metric: Metric

    @classmethod
    def of(cls, source: Source, metric: Metric | None, *, data: str) -> "Wanted":
        """Read the labels of a source.

        Args:
            metric: that is asked for; None: the source's own, or top1, of several classes mAP.
            data: what the source is called.

        Raises:
            UserError: if the metric does not judge images of several classes.
        """
        listed = members(source.classes)
        classes, shown = listed or (source.classes, numpy.eye(len(source.classes), dtype=bool))
        metric = metric or source.metric or ("top1" if listed is None else "mAP")
        if listed is not None and metric != "mAP":
            raise UserError(
                f"images of {data} have several classes, such as {source.classes[0]}, which {metric} does not judge"
            )
        left_open = numpy.zeros_like(shown) if listed is None else undecided(source.classes)
        return cls(classes, shown, left_open, listed is not None, metric)

    def truth(self, labels: Int64[numpy.ndarray, " image"]) -> Truth:
        """Say what images show."""
        return Truth(labels, self.shown, self.metric == "mAP", self.left_open)

    def targets(self, labels: Int64[numpy.ndarray, " image"], loss: Loss | None) -> Shaped[Tensor, "image *class"]:
        """Say what a head is to answer: class numbers, of several classes how much of each; NaN counts neither way."""
        if not self.several:
            return torch.from_numpy(labels)
        wanted = numpy.where(self.left_open, 0.0 if loss == "ce" else numpy.nan, self.shown)  # [label, class]
        wanted = wanted / numpy.maximum(wanted.sum(axis=1, keepdims=True), 1) if loss == "ce" else wanted
        return torch.from_numpy(wanted.astype(numpy.float32)[labels])  # [image, class]


def check_classes(known: Sequence[str], found: Sequence[str], *, data: str) -> None:
    """Refuse classes that are not those which a saved head tells apart, in their order."""
    if [*known] != [*found]:
        raise UserError(
            f"the head tells {len(known)} classes apart ({known[0]}, ...), {data} has {len(found)} ({found[0]}, ...); "
            "give data of the same classes, by the same names"
        )
