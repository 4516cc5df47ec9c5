"""Semantic segmentation on frozen patches: can a linear map, or their neighbours alone, name every pixel?

    linear       DINOv3: batch norm and 1 x 1 convolution on the last layer, windows of 32 x 32 patches
    linear-v2    DINOv2: the same without dropout, windows of 512 pixels
    ms           DINOv2 "+ms": the last four layers, windows of 640 pixels, five scales and their mirrors
    knn          nothing is trained: training patches vote
    quick        ours, right in minutes on a CPU: the head of `linear` learns from patches of up to 500 images that were
                 encoded once; up to 200 test images

Source: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.1). The short side of every image
is resized to the window. With `head` nothing is trained: a saved head is measured as it sees images, at one scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import nn

from dinokit.annotations.pairs import Pairs, open_pairs, pair_splits
from dinokit.core.messages import UserError, progress, warn
from dinokit.core.numbers import above, at_least
from dinokit.dense.fit import Member, Training
from dinokit.dense.lesson import Lesson, gathered, learn
from dinokit.dense.maps import Layers, Windows, augmented, best_class, frozen, predictor, prepared, slide, tried
from dinokit.dense.segmentation import Config as HeadConfig
from dinokit.dense.segmentation import Crops, LinearHead, PatchVote, cell_labels, crop_pair, cross_entropy
from dinokit.evaluation.base import QUICK, Found, check_untrained, halves, keep_best, saved_head
from dinokit.evaluation.sets.wanted import check_classes
from dinokit.finetuning.course import Course, of_pixels
from dinokit.metrics.iou import confusion, scores
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"mIoU": "%", "mAcc": "%", "aAcc": "%"}
MEASURING = {"data", "head", "test", "limit"}  # all that a saved head leaves to choose
WINDOW = 32  # patches along the side of a window of DINOv3: 1024 tokens


@dataclass(frozen=True)
class Protocol:
    """What the names of this module's docstring stand for."""

    size: int | None = None  # pixels, side of a window; null: 32 patches
    layers: int = 1  # the last so many
    dropout: float = 0.0
    scale: tuple[float, float] = (0.5, 2.0)  # of training crops
    cap: float | None = None  # largest share of one class in a training crop
    hue: float = 0.5  # distortion of training crops
    schedule: Literal["poly", "cosine"] = "poly"
    iterations: int = 40_000  # training steps
    lr: float = 1e-3
    weight_decay: float = 1e-4
    overlap: tuple[int, int] = (2, 3)  # stride of the windows, as a fraction of their size
    ratios: tuple[float, ...] = (1.0,)  # scales at test
    flip: bool = False  # and their mirrors

    def windows(self, size: int) -> Windows:
        """Return how a test image is cut up."""
        part, whole = self.overlap
        return Windows(size, max(1, size * part // whole))


PROTOCOLS = {
    "linear": Protocol(dropout=0.1, schedule="cosine", weight_decay=1e-3),
    "linear-v2": Protocol(size=512, cap=0.75, hue=0.1),
    "ms": Protocol(
        size=640,
        layers=4,
        scale=(1.0, 3.0),
        cap=0.75,
        hue=0.1,
        overlap=(1, 2),
        ratios=(1.0, 1.32, 1.73, 2.28, 3.0),
        flip=True,
    ),
    "knn": Protocol(),
    QUICK: Protocol(schedule="cosine", iterations=1_000, lr=1e-2, weight_decay=1e-3),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pairs, and how they are learnt from."""

    data: str  # a folder with images/ and masks/, or ADE20K, Cityscapes, Pascal VOC as published
    protocol: Literal["linear", "linear-v2", "ms", "knn", "quick"] | None = None  # null: linear, on a CPU quick
    head: str | None = None  # a saved head that is measured instead of training one
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: val, or else test
    size: int | None = at_least(1, None)  # pixels, side of a window; null: that of the protocol
    iterations: int | None = at_least(1, None)  # training steps; null: 40,000, quick 1,000
    warmup: int = at_least(0, 1_500)  # of them with a rising learning rate
    batch_size: int = at_least(1, 16)  # crops per step; quick: as many windows full of patches
    lr: tuple[float, ...] | None = above(0, None)  # side by side; null: 1e-3, quick 1e-2. DINOv3: 1e-4, 3e-4, 1e-3
    seed: int = at_least(0, 0)  # of crops, dropout and initial weights
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all, quick 200
    k: int = at_least(1, 20)  # knn: neighbours of a patch
    temperature: float = above(0, 0.07)  # knn: of the weights softmax(cosine / temperature)
    bank: int = at_least(1, 100_000)  # knn, quick: training patches that are kept, drawn at random

    def __post_init__(self) -> None:
        check_untrained(self, leaves=MEASURING)


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train or gather on one split and measure on the other; return `mIoU`, `mAcc`, `aAcc` in percent.

    Args:
        out: folder that receives the trained head as `head/`; an interrupted training in it is continued.
    """
    train, learns, test, judges = _opened(backbone, config)
    if config.head is not None:
        head, about = saved_head(backbone, config.head, task="segmentation")
        check_classes(about.details["classes"], test.meaning.classes, data=test.name)
        windows = Windows(about.crop, about.stride)
        return measured(
            backbone, head, test=test, indices=judges, short=about.short, windows=windows, layers=about.layers
        )
    protocol, size = PROTOCOLS[str(config.protocol)], side_of(backbone, config)
    learnt = train.check(learns)
    strange = [train.meaning.classes[index] for index in sorted(test.check(judges) - learnt)]
    if strange:
        some = ", ".join(strange[:3]) + ("..." if len(strange) > 3 else "")
        warn(f"no training mask shows {some}, which masks to measure on do: never found, it counts as 0 in mIoU")
    details = {"classes": list(train.meaning.classes), "colours": [list(colour) for colour in train.meaning.colours]}
    members = _learnt(backbone, train, config, indices=learns, out=out)
    seen: dict[str, Any] = {"windows": protocol.windows(size), "layers": protocol.layers, "short": size}
    scales: dict[str, Any] = {"ratios": protocol.ratios, "flip": protocol.flip}
    judged = partial(measured, backbone, test=test, indices=judges, **seen, **scales)
    how: dict[str, Any] = {"task": "segmentation", "details": details, **seen}
    return keep_best(backbone, members, judged, better=lambda one: one["mIoU"], out=out, **how)


def course(backbone: Backbone, config: Config, *, batch_size: int) -> Course:
    """Return what a backbone and its head learn together: the crops of the protocol, with the classes of their pixels.

    Args:
        batch_size: crops per step.
    """
    train, learns, _, _ = _opened(backbone, config)
    return of_pixels(backbone, _lesson(backbone, train, config, indices=learns), batch_size=batch_size)


def side_of(backbone: Backbone, config: Config) -> int:
    """Return the side of a window in pixels."""
    return config.size or PROTOCOLS[str(config.protocol)].size or WINDOW * backbone.patch_size


def _opened(backbone: Backbone, config: Config) -> tuple[Pairs, list[int], Pairs, list[int]]:
    return halves(
        config,
        lambda split: open_pairs(config.data, split=split, channels=backbone.channels, white=backbone.pixels.white),
        pair_splits(config.data),
        prefers=("val", "test"),
        trains=config.head is None,
    )


def measured(
    backbone: Backbone,
    head: nn.Module,
    *,
    test: Pairs,
    indices: list[int],
    short: int | None,
    windows: Windows,
    layers: Layers,
    ratios: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> Found:
    """Predict test images at the size of their masks, and count; return the numbers and the IoU of every class."""
    classes = test.meaning.classes
    total = numpy.zeros((len(classes), len(classes)), dtype=numpy.int64)
    link = partial(torch.softmax, dim=1)
    with frozen(backbone):
        predict = predictor(backbone, head, layers=layers)
        for index in progress(indices, len(indices)):
            image, mask = test.read(index)
            seen, shape = prepared(image, backbone, short=short), (mask.shape[0], mask.shape[1])
            if len(ratios) > 1 or flip:
                values = augmented(seen, predict, size=shape, windows=windows, ratios=ratios, flip=flip, link=link)
                found = values[0].argmax(0)
            else:
                found = best_class(slide(seen, predict, windows), shape)
            total += confusion(mask, found.cpu().numpy(), classes=len(classes))
    found_scores = scores(total)
    numbers = {"mIoU": found_scores.miou, "mAcc": found_scores.macc, "aAcc": found_scores.aacc}
    return numbers | {"images": float(len(indices))}, {"IoU": dict(zip(classes, found_scores.iou.tolist()))}


def _lesson(backbone: Backbone, train: Pairs, config: Config, *, indices: list[int]) -> Lesson:
    """Return how a protocol shows the training pairs."""
    protocol, size = PROTOCOLS[str(config.protocol)], side_of(backbone, config)
    cut = Crops(size, protocol.scale, protocol.cap, protocol.hue)
    return Lesson(
        train=train,
        indices=indices,
        cut=lambda image, mask, key: crop_pair(image, mask, cut, key=key),
        label=cell_labels,
        loss=lambda values, targets, _: cross_entropy(values, targets),
        layers=protocol.layers,
        short=size,
        most=config.bank,
        empty=f"no patch of the masks of {train.name} counts: most of each is 255; give other masks",
        seed=config.seed,
    )


def _learnt(
    backbone: Backbone, train: Pairs, config: Config, *, indices: list[int], out: Path | None
) -> Sequence[Member]:
    """Return the heads of the protocol, trained, or the patches that vote."""
    protocol = PROTOCOLS[str(config.protocol)]
    try:
        width = sum(layer.patches.shape[-1] for layer in tried(backbone, layers=protocol.layers))
    except UserError as error:
        depth = str(error).split(",", maxsplit=1)[0]
        raise UserError(f"{config.protocol} reads the last {protocol.layers} layers; {depth}; take linear") from error
    classes, lesson = len(train.meaning.classes), _lesson(backbone, train, config, indices=indices)
    if config.protocol == "knn":
        votes = PatchVote(*gathered(backbone, lesson), classes=classes, k=config.k, temperature=config.temperature)
        return [Member(votes, None)]
    shape = HeadConfig(width=width, outputs=classes, dropout=protocol.dropout)
    training = Training(
        iterations=config.iterations or protocol.iterations,
        warmup=config.warmup,
        schedule=protocol.schedule,
        weight_decay=protocol.weight_decay,
        seed=config.seed,
    )
    members = [Member(LinearHead(shape, seed=config.seed), lr) for lr in config.lr or (protocol.lr,)]
    settings = [config.protocol, side_of(backbone, config), config.batch_size, config.bank]
    crops, patches = config.batch_size, WINDOW**2 // 4 if config.protocol == QUICK else None
    return learn(backbone, members, lesson, training, crops=crops, patches=patches, folder=out, settings=settings)
