"""Semantic segmentation on frozen patches: can a linear map, or their neighbours alone, name every pixel?

    linear       DINOv3: batch norm and 1 x 1 convolution on the last layer, windows of 32 x 32 patches
    linear-v2    DINOv2: the same without dropout, windows of 512 pixels
    ms           DINOv2 "+ms": the last four layers, windows of 640 pixels, five scales and their mirrors
    knn          nothing is trained: training patches vote

Source: DINOv2 (arXiv:2304.07193, section 7.4), DINOv3 (arXiv:2508.10104, appendix D.1). The short side of every image
is resized to the window. As published, the best learning rate of a sweep is the best on the test images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.annotations.masks import IGNORED
from dinokit.annotations.pairs import Pairs, open_pairs, pair_splits
from dinokit.checkpoints.dense import About, save_head
from dinokit.core.bounds import above, at_least
from dinokit.core.errors import UserError
from dinokit.core.files import write_json
from dinokit.core.log import progress
from dinokit.core.order import evenly
from dinokit.core.ownership import digest_of_weights
from dinokit.core.seed import generator
from dinokit.dense.crops import Crops, crop_pair
from dinokit.dense.embedding import normalised
from dinokit.dense.fit import Member, Training, cross_entropy, fit
from dinokit.dense.maps import encode, frozen, pad, predictor, prepared, width
from dinokit.dense.vote import PatchVote, cell_labels, labelled_patches
from dinokit.dense.windows import Windows, augmented, best_class, slide, softmax
from dinokit.metrics.iou import Scores, confusion, scores
from dinokit.models.dense_head import Config as HeadConfig
from dinokit.models.dense_head import LinearHead
from dinokit.models.features import Backbone
from dinokit.sources.source import absolute

PATCHES = 32  # along the side of a window of DINOv3: 1024 tokens


@dataclass(frozen=True)
class Protocol:
    """What the names of this module's docstring stand for."""

    size: int | None = None  # pixels, side of a window; None: 32 patches
    layers: int = 1  # the last so many
    dropout: float = 0.0
    scale: tuple[float, float] = (0.5, 2.0)  # of training crops
    cap: float | None = None  # largest share of one class in a training crop
    hue: float = 0.5  # distortion of training crops
    schedule: Literal["poly", "cosine"] = "poly"
    weight_decay: float = 1e-4
    overlap: tuple[int, int] = (2, 3)  # stride of the windows, as a fraction of their size
    ratios: tuple[float, ...] = (1.0,)  # scales at test
    flip: bool = False  # and their mirrors


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
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pairs, and how they are learnt from."""

    data: str  # a folder with images/ and masks/, or ADE20K, Cityscapes, Pascal VOC as published
    protocol: Literal["linear", "linear-v2", "ms", "knn"] = "linear"  # see above
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: val, or else test
    size: int | None = at_least(1, None)  # pixels, side of a window; null: that of the protocol
    iterations: int = at_least(1, 40_000)  # training steps
    warmup: int = at_least(0, 1_500)  # of them with a rising learning rate
    batch_size: int = at_least(1, 16)  # crops per step
    lr: tuple[float, ...] = above(0, (1e-3,))  # learning rates, trained side by side; DINOv3 tries 1e-4, 3e-4 and 1e-3
    seed: int = at_least(0, 0)  # of crops, dropout and initial weights
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all
    k: int = at_least(1, 20)  # knn: neighbours of a patch
    temperature: float = above(0, 0.07)  # knn: of the weights softmax(cosine / temperature)
    bank: int = at_least(1, 100_000)  # knn: training patches that are kept, drawn at random


def run(backbone: Backbone, config: Config, out: Path | None = None) -> dict[str, float]:
    """Train or gather on one split and measure on the other; return `mIoU`, `mAcc`, `aAcc` in percent.

    Args:
        out: folder that receives `segmentation.json` with the IoU of every class, and the trained head as `head/`; an
            interrupted training in it is continued.
    """
    protocol = PROTOCOLS[config.protocol]
    known = pair_splits(config.data)
    test_split = config.test or next((name for name in ("val", "test") if name in known), None)
    if test_split is None:
        raise UserError(f"expected labelled images in {config.data} to test on, found no split val or test; add one")
    train = open_pairs(config.data, split=config.train, channels=backbone.channels)
    test = open_pairs(config.data, split=test_split, channels=backbone.channels)
    size = config.size or protocol.size or PATCHES * backbone.patch_size
    heads: list[tuple[float, nn.Module]]
    if config.protocol == "knn":
        heads = [(0.0, _gathered(backbone, train, config, size=size))]
    else:
        heads = _trained(backbone, train, config, protocol, size=size, out=out)
    measured = [
        (measure(backbone, head, test, protocol, size=size, limit=config.limit), lr, head) for lr, head in heads
    ]
    found, lr, head = max(measured, key=lambda one: one[0].miou)
    result = {"mIoU": found.miou, "mAcc": found.macc, "aAcc": found.aacc, "images": float(_count(test, config.limit))}
    if config.protocol != "knn":
        result["lr"] = lr
    if out is not None:
        if isinstance(head, LinearHead):
            save_head(out / "head", head, _about(backbone, protocol, train, size=size))
        iou = {
            name: None if numpy.isnan(value) else float(value) for name, value in zip(test.meaning.classes, found.iou)
        }
        write_json(out / "segmentation.json", result | {"IoU": iou})
    return result


def measure(
    backbone: Backbone, head: nn.Module, test: Pairs, protocol: Protocol, *, size: int, limit: int | None
) -> Scores:
    """Predict every test image at the size of its mask, and count."""
    classes = len(test.meaning.classes)
    total = numpy.zeros((classes, classes), dtype=numpy.int64)
    indices = evenly(limit, len(test)).tolist()
    several = len(protocol.ratios) > 1 or protocol.flip
    with frozen(backbone):
        predict = predictor(backbone, head, layers=protocol.layers)
        for index in progress(indices, len(indices)):
            image, mask = test.read(index)
            seen, windows, shape = prepared(image, backbone, short=size), _windows(protocol, size), mask.shape
            if several:
                ratios, flip = protocol.ratios, protocol.flip
                values = augmented(seen, predict, size=shape, windows=windows, ratios=ratios, flip=flip, link=softmax)
                found = values[0].argmax(0)
            else:
                found = best_class(slide(seen, predict, windows), shape)
            total += confusion(mask, found.cpu().numpy(), classes=classes)
    if not total.any():
        raise UserError(f"no pixel of the masks of {test.name} counts: all are 255")
    return scores(total)


def _trained(
    backbone: Backbone, train: Pairs, config: Config, protocol: Protocol, *, size: int, out: Path | None
) -> list[tuple[float, nn.Module]]:
    shape = HeadConfig(
        width=width(backbone, layers=protocol.layers), outputs=len(train.meaning.classes), dropout=protocol.dropout
    )
    members = [Member(LinearHead(shape, seed=config.seed), lr) for lr in config.lr]
    training = Training(
        iterations=config.iterations,
        warmup=config.warmup,
        schedule=protocol.schedule,
        weight_decay=protocol.weight_decay,
        seed=config.seed,
    )
    sample = _sampler(backbone, train, config, Crops(size, protocol.scale, protocol.cap, protocol.hue))
    data = {
        "of": absolute(config.data),
        "split": config.train,
        "images": [train.key(index) for index in range(len(train))],
        "size": size,
    }
    data |= {"protocol": config.protocol, "batch_size": config.batch_size}
    fit(backbone, members, training, sample=sample, loss=cross_entropy, layers=protocol.layers, folder=out, data=data)
    return [(member.lr, member.head) for member in members]


def _sampler(
    backbone: Backbone, train: Pairs, config: Config, crops: Crops
) -> Callable[[int], tuple[Float[Tensor, "batch channel size size"], Int64[Tensor, "batch size size"]]]:
    """Return what draws the batch of a step: every image once per pass, in a new order each."""

    def sample(step: int) -> tuple[Tensor, Tensor]:
        images, targets = [], []
        for place in range(step * config.batch_size, (step + 1) * config.batch_size):
            turn, position = divmod(place, len(train))
            index = int(generator(config.seed, turn).permutation(len(train))[position])
            pixels, labels = crop_pair(*train.read(index), crops, key=(config.seed, turn, position))
            images.append(pixels)
            targets.append(labels)
        # missing pixels are 0 once normalised
        return normalised(backbone, torch.stack(images)).nan_to_num_(0.0), torch.stack(targets)

    return sample


def _gathered(backbone: Backbone, train: Pairs, config: Config, *, size: int) -> PatchVote:
    """Keep a random share of the labelled patches of every training image."""
    share = max(1, config.bank // len(train))
    bank, labels = [], []
    with frozen(backbone):
        for index in progress(range(len(train)), len(train)):
            image, mask = train.read(index)
            seen = prepared(image, backbone, short=size)
            wide = torch.from_numpy(mask)[None, None].float()
            wide = F.interpolate(wide, size=tuple(seen.shape[2:]), mode="nearest-exact")
            # shifted by 255, so that the padding is the ignored class
            cells = cell_labels(
                (pad(wide - IGNORED, backbone.patch_size)[0][0, 0] + IGNORED).long(), backbone.patch_size
            )
            (features,), _ = encode(backbone, seen)
            patches, classes = labelled_patches(features.maps[0].float(), cells.to(seen.device))
            rows = torch.from_numpy(generator(config.seed, index).permutation(len(patches))[:share]).to(seen.device)
            bank.append(patches[rows])
            labels.append(classes[rows])
    if not sum(map(len, labels)):
        raise UserError(f"no patch of the masks of {train.name} counts: all are 255")
    return PatchVote(
        torch.cat(bank),
        torch.cat(labels),
        classes=len(train.meaning.classes),
        k=config.k,
        temperature=config.temperature,
    )


def _windows(protocol: Protocol, size: int) -> Windows:
    part, whole = protocol.overlap
    return Windows(size, max(1, size * part // whole))


def _about(backbone: Backbone, protocol: Protocol, train: Pairs, *, size: int) -> About:
    windows = _windows(protocol, size)
    colours = [list(colour) for colour in train.meaning.colours]
    return About(
        task="segmentation",
        model=backbone.name,
        digest=digest_of_weights(backbone),
        layers=protocol.layers,
        short=size,
        crop=size,
        stride=windows.stride,
        details={"classes": list(train.meaning.classes), "colours": colours},
    )


def _count(test: Pairs, limit: int | None) -> int:
    return len(test) if limit is None else min(limit, len(test))
