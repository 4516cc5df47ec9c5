"""Depth from frozen patches: how far is every pixel, by a linear map or a small decoder?

    linear       DINOv3: batch norm and 1 x 1 convolution on the last layer, bins; sigloss
    linear-v2    DINOv2 "lin. 1": patches and CLS of the last layer, enlarged four times; sigloss and gradient loss
    linear4      DINOv2 "lin. 4": the same of four layers
    dpt          DINOv2: a DPT on four layers; with bins, as DINOv3's, for a single value behind a ReLU may never learn

Source: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.2). At test the image and its
mirror are seen at native size and averaged, depths are brought to the size of the truth and kept within the range.
Training crops are mirrored by half and made lighter or darker; the small turns and the other colours of DINOv2 are not.
As published, the best learning rate of a sweep is the best on the test images. With `head` nothing is trained: a saved
head is measured on other data (SUN RGB-D by a head of NYUv2).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dinokit.annotations.depths import Depths, open_depths, splits_of
from dinokit.checkpoints.dense import About, check_model, load_head, save_head
from dinokit.config import differences
from dinokit.core.bounds import above, at_least
from dinokit.core.errors import UserError
from dinokit.core.files import write_json
from dinokit.core.log import progress
from dinokit.core.order import evenly
from dinokit.core.ownership import digest_of_weights
from dinokit.dense.depth_lesson import Lesson, seen
from dinokit.dense.fit import Member, Training, fit
from dinokit.dense.maps import Layers, frozen, predictor, prepared
from dinokit.dense.windows import Windows, augmented
from dinokit.metrics.depth import counted, errors, mean
from dinokit.models import bins, depth_head, dpt
from dinokit.models.features import Backbone
from dinokit.models.pixels import PatchPixels
from dinokit.sources.source import absolute

GRADIENT = 0.5  # weight of the gradient loss, of DINOv2
FOURS = {24: (4, 11, 17, 23)}  # the published four of so many blocks, where they are not each quarter's last
MEASURING = {"data", "head", "test", "low", "high", "units", "crop", "limit"}  # all that a saved head leaves to choose


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pairs, and how they are learnt from."""

    data: str  # a folder with images/ and depth/, or NYUv2, KITTI, SUN RGB-D as published
    protocol: Literal["linear", "linear-v2", "linear4", "dpt"] = "linear"  # see above
    head: str | None = None  # a saved head that is measured instead of training one
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: test, or else val
    low: float = above(0, 1e-3)  # metres; what is nearer does not count
    high: float | None = above(0, None)  # metres; nor what is further; null: 10, KITTI 80, of a folder the head's
    units: float | None = above(0, None)  # of integer depths, a metre; null: 1000, KITTI 256
    crop: Literal["none", "nyu", "garg", "eigen"] | None = None  # pixels that count; null: nyu and garg on their sets
    window: tuple[int, int] | None = at_least(
        1, None
    )  # height, width of training crops; null: 416, 544, KITTI 352, 704
    short: int | None = at_least(1, None)  # pixels; short side to which images are resized first; null: native size
    tile: int | None = at_least(1, None)  # pixels; side of the windows in which images are seen at test; null: whole
    iterations: int = at_least(1, 38_400)  # training steps
    warmup: int = at_least(0, 12_800)  # of them with a rising learning rate
    batch_size: int = at_least(1, 16)  # crops per step
    lr: tuple[float, ...] = above(0, (3e-4,))  # learning rates, trained side by side; DINOv3 tries 1e-4, 3e-4 and 1e-3
    weight_decay: float | None = at_least(0, None)  # null: 1e-4, of DINOv2 1e-2
    seed: int = at_least(0, 0)  # of crops and initial weights
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all

    def __post_init__(self) -> None:
        if self.high is not None and self.low >= self.high:
            raise UserError(f"expected low < high, got {self.low} and {self.high}")
        if self.head is not None:
            unused = [name for name in differences(Config(data=self.data), self) if name not in MEASURING]
            if unused:
                raise UserError(f"a saved head is not trained, so that {', '.join(unused)} cannot be set with head")


def run(backbone: Backbone, config: Config, out: Path | None = None) -> dict[str, float]:
    """Train on one split and measure on the other; return the means over images of all errors, deltas in percent.

    Args:
        out: folder that receives `depth.json` and the trained head as `head/`; an interrupted training in it goes on.
    """
    known = splits_of(config.data)
    split = config.test or next((name for name in ("test", "val") if name in known), None)
    if split is None and (known or config.head is None):
        raise UserError(f"expected depths in {config.data} to test on, found no split test or val; add one")
    if config.head is None and config.train is None and "train" not in known:
        raise UserError(f"expected depths in {config.data} to train on, found no split train; add one, or give --head")
    test = open_depths(config.data, split=split, channels=backbone.channels, units=config.units)
    if config.head is not None:
        head, about = load_head(config.head)
        if about.task != "depth":
            raise UserError(f"{config.head} is a head of {about.task}; give one that `evaluate depth --save` wrote")
        check_model(about, backbone, model=backbone.name)
        heads: list[tuple[float, nn.Module]] = [(0.0, head)]
        layers, short, windows = about.layers, about.short, Windows(about.crop, about.stride)
        high = config.high if config.high is not None or test.layout.lists else about.details["high"]
        config = replace(config, high=high)
    else:
        train = open_depths(config.data, split=config.train, channels=backbone.channels, units=config.units)
        layers, short = layers_of(backbone, config), config.short
        windows = Windows() if config.tile is None else Windows(config.tile, max(1, config.tile * 2 // 3))
        heads = _trained(backbone, train, config, layers=layers, out=out)
    measured = [
        (measure(backbone, head, test, config, layers=layers, short=short, windows=windows), lr, head)
        for lr, head in heads
    ]
    result, lr, head = min(measured, key=lambda one: one[0]["RMSE"])
    if config.head is None:
        result["lr"] = lr
    if out is not None:
        if config.head is None:
            assert isinstance(head, depth_head.LinearDepth | dpt.DPT)
            range_ = head.config.bins
            details = {"low": range_.low, "high": range_.high}
            about = About(
                task="depth",
                model=backbone.name,
                digest=digest_of_weights(backbone),
                layers=layers,
                short=short,
                crop=windows.crop,
                stride=windows.stride,
                details=details,
            )
            save_head(out / "head", head, about)
        write_json(out / "depth.json", result)
    return result


def measure(
    backbone: Backbone,
    head: nn.Module,
    test: Depths,
    config: Config,
    *,
    layers: Layers,
    short: int | None,
    windows: Windows,
) -> dict[str, float]:
    """Predict every test image and average the errors of each."""
    low, high = config.low, test.layout.high if config.high is None else config.high
    count = len(test) if config.limit is None else min(config.limit, len(test))
    found = []
    with frozen(backbone) as device:
        predict = predictor(backbone, head.to(device), layers=layers)
        for index in progress(evenly(count, len(test)).tolist(), count):
            image, truth = test.read(index)
            values = prepared(image, backbone, short=short)
            values = augmented(values, predict, size=truth.shape, windows=windows, flip=True)
            metres = values[0, 0].clamp(low, high).cpu().numpy()
            valid = counted(truth, low=low, high=high, crop=config.crop or test.layout.crop)  # type: ignore[arg-type]
            if valid.any():
                found.append(errors(metres[valid], truth[valid]))
    if not found:
        raise UserError(f"no pixel of {test.name} has a depth between {low} and {high} m; look at units and high")
    return mean(found) | {"images": float(len(found))}


def layers_of(backbone: Backbone, config: Config) -> Layers:
    """Return the blocks that a protocol reads: the last, or four evenly spaced ones that end with it."""
    if config.protocol in ("linear", "linear-v2"):
        return 1
    if isinstance(backbone, PatchPixels):
        return (0, 1, 2, 3)  # its only one, four times
    blocks = getattr(backbone, "blocks", None)
    depth = len(blocks) if isinstance(blocks, nn.ModuleList) else getattr(backbone, "depth", 0)
    if depth < 4:
        known = f"{depth} blocks" if depth else "stages of different grids"
        raise UserError(f"{config.protocol} reads four layers of one grid, the model has {known}; take linear")
    return FOURS.get(depth, tuple(depth * number // 4 - 1 for number in (1, 2, 3, 4)))


def _trained(
    backbone: Backbone, train: Depths, config: Config, *, layers: Layers, out: Path | None
) -> list[tuple[float, nn.Module]]:
    published = config.protocol == "linear"
    high = train.layout.high if config.high is None else config.high
    range_ = bins.Config(low=config.low, high=high)
    members = [Member(_head(backbone, config, range_, layers=layers), lr) for lr in config.lr]
    decay = config.weight_decay if config.weight_decay is not None else (1e-4 if published else 1e-2)
    training = Training(
        iterations=config.iterations,
        warmup=config.warmup,
        schedule="one-cycle" if published else "cosine",
        weight_decay=decay,
        clip=35.0,
        seed=config.seed,
    )
    window = config.window or _window(train, config.short)
    lesson = Lesson(
        backbone=backbone,
        train=train,
        window=window,
        short=config.short,
        batch_size=config.batch_size,
        seed=config.seed,
        low=range_.low,
        high=range_.high,
        gradient=0.0 if published else GRADIENT,
    )
    data: dict[str, object] = {
        "of": absolute(config.data),
        "images": [str(path) for path in (*train.images, *train.depths)],
        "units": train.units,
        "window": list(window),
        "short": config.short,
    }
    data |= {"protocol": config.protocol, "batch_size": config.batch_size, "low": range_.low, "high": range_.high}
    fit(backbone, members, training, sample=lesson.sample, loss=lesson.loss, layers=layers, folder=out, data=data)
    return [(member.lr, member.head) for member in members]


def _head(backbone: Backbone, config: Config, range_: bins.Config, *, layers: Layers) -> nn.Module:
    side = 2 * backbone.patch_size
    with frozen(backbone) as device:
        tried = backbone.intermediate(torch.zeros(1, backbone.channels, side, side, device=device), layers)
    if len({layer.grid for layer in tried}) > 1:
        raise UserError(f"{config.protocol} reads four layers of one grid, the model has several; take linear")
    widths = tuple(layer.patches.shape[-1] for layer in tried)
    cls = tuple(layer.cls.shape[-1] for layer in tried)
    if config.protocol == "dpt":
        return dpt.DPT(dpt.Config(widths=widths, cls_widths=cls, bins=range_), seed=config.seed)
    old = config.protocol != "linear"
    shape = depth_head.Config(
        width=sum(widths),
        cls=old,
        cls_width=sum(cls),
        enlarge=4 if old else 1,
        batch_norm=not old,
        bins=range_,
    )
    return depth_head.LinearDepth(shape, seed=config.seed)


def _window(train: Depths, short: int | None) -> tuple[int, int]:
    """Return the published window, or less if the first image is smaller."""
    _, truth, _ = seen(train, 0, short)
    rows, columns = train.layout.window
    return min(rows, truth.shape[0]), min(columns, truth.shape[1])
