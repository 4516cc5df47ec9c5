"""Depth from frozen patches: how far is every pixel, by a linear map or a small decoder?

    linear       DINOv3: batch norm and 1 x 1 convolution on the last layer, bins; sigloss
    linear-v2    DINOv2 "lin. 1": patches and CLS of the last layer, enlarged four times; sigloss and gradient loss
    linear4      DINOv2 "lin. 4": the same of four layers
    dpt          DINOv2: a DPT on four layers; with bins, as DINOv3's, for a single value behind a ReLU may never learn
    quick        ours, right in minutes on a CPU: the head of `linear` learns from patches of up to 500 images that were
                 encoded once; up to 200 test images

Source: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.2). At test the image and its
mirror are seen at native size and averaged, depths are brought to the size of the truth and kept within the range.
Training crops are mirrored by half and made lighter or darker; the small turns and the other colours of DINOv2 are not.
With `head` nothing is trained: a saved head is measured on other data (SUN RGB-D by a head of NYUv2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from dinokit.annotations.depths import Depths, open_depths, splits_of
from dinokit.core.messages import UserError, progress
from dinokit.core.numbers import above, at_least
from dinokit.dense.depth import DPT, Bins, DPTConfig, LinearConfig, LinearDepth
from dinokit.dense.depth_lesson import crop, log_loss, mean_depths, seen
from dinokit.dense.fit import Member, Training
from dinokit.dense.lesson import Lesson, learn
from dinokit.dense.maps import Layers, Windows, augmented, frozen, predictor, prepared, tried
from dinokit.evaluation.base import QUICK, Found, check_untrained, halves, keep_best, saved_head
from dinokit.finetuning.course import Course, of_pixels
from dinokit.metrics.depth import Crop, counted, errors, mean
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"RMSE": "m", "delta1": "%", "delta2": "%", "delta3": "%"}
BANK = 100_000  # patches that the quick protocol keeps
FOURS = {24: (4, 11, 17, 23)}  # the published four of so many blocks, where they are not each quarter's last
MEASURING = {"data", "head", "test", "low", "high", "units", "crop", "limit"}  # all that a saved head leaves to choose


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pairs, and how they are learnt from."""

    data: str  # a folder with images/ and depth/, or NYUv2, KITTI, SUN RGB-D as published
    protocol: Literal["linear", "linear-v2", "linear4", "dpt", "quick"] | None = None  # null: linear, on a CPU quick
    head: str | None = None  # a saved head that is measured instead of training one
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: test, or else val
    low: float = above(0, 1e-3)  # metres; what is nearer does not count
    high: float | None = above(0, None)  # metres; nor what is further; null: 10, KITTI 80, of a folder the head's
    units: float | None = above(0, None)  # of a depth, a metre; null: of integers 1000, KITTI 256, of floats 1
    crop: Literal["none", "nyu", "garg", "eigen"] | None = None  # pixels that count; null: nyu and garg on their sets
    window: tuple[int, int] | None = at_least(1, None)  # rows, columns of crops; null: 416 x 544, KITTI 352 x 704
    short: int | None = at_least(1, None)  # pixels; short side to which images are resized first; null: native size
    tile: int | None = at_least(1, None)  # pixels; side of the windows in which images are seen at test; null: whole
    iterations: int | None = at_least(1, None)  # training steps; null: 38,400, quick 1,000
    warmup: int = at_least(0, 12_800)  # of them with a rising learning rate; at most the half
    batch_size: int = at_least(1, 16)  # crops per step; quick: as many windows full of patches
    lr: tuple[float, ...] | None = above(0, None)  # side by side; null: 3e-4, quick 1e-2. DINOv3: 1e-4, 3e-4, 1e-3
    weight_decay: float | None = at_least(0, None)  # null: 1e-4, of DINOv2 1e-2
    seed: int = at_least(0, 0)  # of crops and initial weights
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all, quick 200

    def __post_init__(self) -> None:
        if self.high is not None and self.low >= self.high:
            raise UserError(f"expected low < high, got {self.low} and {self.high}")
        check_untrained(self, leaves=MEASURING)


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train on one split and measure on the other; return the means over images of all errors, deltas in percent.

    Args:
        out: folder that receives the trained head as `head/`; an interrupted training in it goes on.
    """
    train, learns, test, judges = _opened(backbone, config)
    low, high = config.low, config.high or test.layout.high
    part = config.crop or cast("Crop", test.layout.crop)
    if config.head is not None:
        head, about = saved_head(backbone, config.head, task="depth")
        high = high if config.high is not None or test.layout.lists else float(about.details["high"])
        members: Sequence[Member] = [Member(head, None)]
        layers, short, windows = about.layers, about.short, Windows(about.crop, about.stride)
    else:
        layers, short = layers_of(backbone, config), config.short
        windows = Windows() if config.tile is None else Windows(config.tile, max(1, config.tile * 2 // 3))
        train.check(learns, low=low, high=high)
    test.check(judges, low=low, high=high, crop=part)
    if config.head is None:
        bins = Bins(low=low, high=high)
        members = _learnt(backbone, train, config, bins, indices=learns, out=out)

    def judged(head: nn.Module) -> Found:
        found = []
        with frozen(backbone) as device:
            predict = predictor(backbone, head.to(device), layers=layers)
            for index in progress(judges, len(judges)):
                image, truth = test.read(index)
                there = counted(truth, low=low, high=high, crop=part)
                if there.any():
                    values, size = prepared(image, backbone, short=short), (truth.shape[0], truth.shape[1])
                    values = augmented(values, predict, size=size, windows=windows, flip=True)
                    metres = values[0, 0].clamp(low, high).cpu().numpy()
                    found.append(errors(metres[there], truth[there]))
        return mean(found) | {"images": float(len(found))}, {}

    details = {"low": low, "high": high}
    how: dict[str, Any] = {"windows": windows, "layers": layers, "short": short, "details": details}
    return keep_best(backbone, members, judged, better=lambda one: -one["RMSE"], out=out, task="depth", **how)


def course(backbone: Backbone, config: Config, *, batch_size: int) -> Course:
    """Return what a backbone and its head learn together: the crops of the protocol, with the depths of their pixels.

    Args:
        batch_size: crops per step.
    """
    train, learns, test, _ = _opened(backbone, config)
    bins = Bins(low=config.low, high=config.high or test.layout.high)
    return of_pixels(backbone, _lesson(backbone, train, config, bins, indices=learns)[0], batch_size=batch_size)


def _opened(backbone: Backbone, config: Config) -> tuple[Depths, list[int], Depths, list[int]]:
    channels, white = backbone.channels, backbone.pixels.white
    return halves(
        config,
        lambda split: open_depths(config.data, split=split, channels=channels, white=white, units=config.units),
        splits_of(config.data),
        prefers=("test", "val"),
        trains=config.head is None,
    )


def layers_of(backbone: Backbone, config: Config) -> Layers:
    """Return the blocks that a protocol reads: the last, or four evenly spaced ones that end with it."""
    if config.protocol in ("linear", "linear-v2", QUICK):
        return 1
    blocks = getattr(backbone, "blocks", None)
    depth = len(blocks) if isinstance(blocks, nn.ModuleList) else getattr(backbone, "depth", 0)
    if depth < 4:
        known = f"{depth} blocks" if depth else "stages of different grids"
        raise UserError(f"{config.protocol} reads four layers of one grid, the model has {known}; take linear")
    return FOURS.get(depth, tuple(depth * number // 4 - 1 for number in (1, 2, 3, 4)))


def _lesson(
    backbone: Backbone, train: Depths, config: Config, bins: Bins, *, indices: list[int]
) -> tuple[Lesson, tuple[int, int]]:
    """Return how a protocol shows the training pairs, and the rows and columns of a crop."""
    short, border = config.short, train.layout.border
    first, _ = seen(*train.read(0), short=short, border=border)
    rows, columns = train.layout.window
    window = config.window or (min(rows, first.shape[1]), min(columns, first.shape[2]))
    lesson = Lesson(
        train=train,
        indices=indices,
        cut=lambda image, metres, key: crop(image, metres, window, short=short, border=border, key=key),
        label=lambda cells: mean_depths(cells, low=bins.low, high=bins.high),
        loss=partial(log_loss, bins=bins, gradient=config.protocol not in (QUICK, "linear")),
        layers=layers_of(backbone, config),
        short=short,
        most=BANK,
        empty=f"no patch of {train.name} has a depth on half of its pixels; take linear",
        seed=config.seed,
    )
    return lesson, window


def _learnt(
    backbone: Backbone, train: Depths, config: Config, bins: Bins, *, indices: list[int], out: Path | None
) -> Sequence[Member]:
    is_quick = config.protocol == QUICK
    is_new = is_quick or config.protocol == "linear"
    lesson, window = _lesson(backbone, train, config, bins, indices=indices)
    training = Training(
        iterations=config.iterations or (1_000 if is_quick else 38_400),
        warmup=config.warmup,
        schedule="one-cycle" if is_new else "cosine",
        weight_decay=config.weight_decay if config.weight_decay is not None else (1e-4 if is_new else 1e-2),
        clip=35.0,
        seed=config.seed,
    )
    rates = config.lr or ((1e-2,) if is_quick else (3e-4,))
    members = [Member(_head(backbone, config, bins, layers=lesson.layers), lr) for lr in rates]
    settings = [config.protocol, *window, config.short, config.batch_size, bins.low, bins.high]
    crops, patches = config.batch_size, 256 if is_quick else None
    return learn(backbone, members, lesson, training, crops=crops, patches=patches, folder=out, settings=settings)


def _head(backbone: Backbone, config: Config, bins: Bins, *, layers: Layers) -> nn.Module:
    found = tried(backbone, layers=layers)
    if len({layer.grid for layer in found}) > 1:
        raise UserError(f"{config.protocol} reads four layers of one grid, the model has several; take linear")
    widths = tuple(layer.patches.shape[-1] for layer in found)
    cls = tuple(layer.cls.shape[-1] for layer in found)
    if config.protocol == "dpt":
        return DPT(DPTConfig(widths=widths, cls_widths=cls, bins=bins), seed=config.seed)
    old = config.protocol not in ("linear", QUICK)
    shape = LinearConfig(
        width=sum(widths), cls=old, cls_width=sum(cls), enlarge=4 if old else 1, batch_norm=not old, bins=bins
    )
    return LinearDepth(shape, seed=config.seed)
