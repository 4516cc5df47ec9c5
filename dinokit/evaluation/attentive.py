"""Attentive probing: what do all tokens of an image tell, if a learned query may choose where to look?

For networks whose CLS says little or that have none, as those that are trained by masks alone, and how recent encoders
are compared. A probe (dense/attentive.py) is one query that attends to CLS and all patches of the last block, a layer
norm and a linear layer. Probes of 6 rates x 3 weight decays learn side by side from the same tokens, which are computed
once: AdamW, 20 passes over the training images in batches of 64, the rate falling by a cosine to 0. The one with the
best metric on the validation images counts, of equal ones the first: of the lower rate, then decay. Without a split val
a tenth of each class of train is set aside, few-shot a hundredth, and a fifth is where there is nothing to test on.

Source: the protocol of the video probes of V-JEPA 2 (arXiv:2506.09985) and of DINOv3 (arXiv:2508.10104, appendix D.6),
of which an image takes the last stage alone, without the four blocks of self-attention before it: what CAPI
(arXiv:2502.08769) and AIM (arXiv:2401.08541) probe images by. There crops are random in training; here images are seen
as they are evaluated, so that tokens can be kept. A model without a size of its own sees squares of 224 pixels; the
tokens of raw pixels are squares of 4 x 4, whose places a probe does not know.
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dinokit.core import device as devices
from dinokit.core.files import cache_folder, digest, digest_of_model
from dinokit.core.messages import UserError, info
from dinokit.core.numbers import above, at_least
from dinokit.core.order import evenly
from dinokit.core.seed import Passes
from dinokit.dense.attentive import TASK, AttentiveHead, Member, Probes, Scale, Training, shown_by
from dinokit.dense.heads import About, save_head
from dinokit.dense.maps import frozen
from dinokit.dense.sweep import Batches, train
from dinokit.evaluation.base import Found
from dinokit.evaluation.sets.labelled import checked, leaked
from dinokit.evaluation.sets.roles import FewShot, thirds
from dinokit.features.cache import folder_of
from dinokit.features.extraction import Embeddings, extract
from dinokit.metrics.accuracy import accuracy, per_class
from dinokit.metrics.interval import per_class_shares, percent
from dinokit.models.features import Backbone
from dinokit.models.pixels import RawPixels
from dinokit.models.tokens import Tokens
from dinokit.sources.source import Source
from dinokit.sources.table import members

UNITS = {"top1": "%", "per-class": "%", "val": "%"}
METRICS = {"top1": accuracy, "per-class": per_class}
SAMPLE = 1024  # images on whose tokens mean and variance are measured
ASKED = 64  # images that are judged at a time
HELD = 0.15  # of the memory: tokens of a split that take more are read from the disk, step by step
SAID = 1e9  # bytes of tokens that are worth a line


@dataclass(frozen=True, kw_only=True)
class Config(FewShot):
    """Which images, and which probes."""

    data: str  # a folder with one folder per class, or a demo: name
    train: str | None = None  # split that is learnt from; null: train, or everything where there are no splits
    val: str | None = None  # split that chooses the probe; null: val, if it is not tested on, or else a part of train
    test: str | None = None  # split that is measured; null: test, or else val, or else a part of train
    lr: tuple[float, ...] = above(0, (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3))  # peak rates, side by side
    weight_decay: tuple[float, ...] = at_least(0, (1e-3, 1e-2, 1e-1))  # of AdamW, of matrices; side by side
    passes: int = at_least(1, 20)  # over the training images
    batch_size: int = at_least(1, 64)  # images per step
    metric: Literal["top1", "per-class"] | None = None  # right of all, or a mean over classes; null: as published
    limit: int | None = at_least(4, None)  # images of each split, evenly spaced in the data; null: all
    seed: int = at_least(0, 0)  # of initial weights and order


@dataclass(frozen=True)
class Images:
    """Tokens of some images with their classes; read when they are needed, if they are many."""

    found: Embeddings
    rows: Int64[numpy.ndarray, " image"]  # of the tokens
    held: bool  # in memory

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Int64[numpy.ndarray, " image"]:
        """The class of each."""
        assert self.found.labels is not None
        labels: Int64[numpy.ndarray, " image"] = self.found.labels[self.rows]
        return labels

    def some(self, places: Int64[numpy.ndarray, " chosen"]) -> "Images":
        """Return some of them."""
        return Images(self.found, self.rows[places], self.held)

    def tokens(self, places: Int64[numpy.ndarray, " chosen"]) -> Float[Tensor, "chosen token dim"]:
        """Return the tokens of some of them."""
        rows = self.rows[places]
        return torch.from_numpy(self.found.vectors[rows] if self.held else self.found.take(rows))


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train the probes, choose one and measure it; return the metric in percent, and which probe it is.

    Few-shot, means over the draws, with the standard deviation as `top1/std`; the details hold each.

    Args:
        out: folder that receives the probe as `head/`, few-shot that of the first draw; an interrupted training in it
            is continued.
    """
    learnt, val, test = thirds(backbone, config, choosing="the probe")
    assert val is not None
    _check(backbone, (learnt, val, test))
    images, chooses, asks = (_extracted(backbone, source) for source in (learnt, val, test))
    leaking = leaked(config.data, asks.found, images.found, chooses.found)
    metric = config.metric or ("per-class" if learnt.metric == "per-class" else "top1")
    details = leaking.details()
    trained = partial(_trained, backbone, config, classes=len(learnt.classes), val=chooses, test=asks, metric=metric)
    if config.shots is None:
        found = [trained(images, out=out)]
        numbers, details["tried"] = found[0].numbers, found[0].tried
    else:  # few images are learnt in seconds: no state is kept
        found = [trained(images.some(rows), out=None) for rows in config.drawn(torch.from_numpy(images.labels))]
        each = [one.numbers for one in found]
        shared = [name for name in each[0] if name not in ("lr", "weight_decay")]
        numbers = {name: float(numpy.mean([numbers[name] for numbers in each])) for name in shared}
        numbers[f"{metric}/std"] = float(numpy.std([numbers[metric] for numbers in each]))
        details["draws"] = each
    if out is not None:
        names = {"classes": list(learnt.classes)}
        save_head(out / "head", found[0].head, About(TASK, backbone.name, digest_of_model(backbone), details=names))
    counted = numpy.mean([one.counted for one in found], axis=0)
    return numbers, details | {"intervals": {metric: percent(counted)}}


def _check(backbone: Backbone, sources: Sequence[Source]) -> None:
    """Refuse images of several classes, and more tokens than there is room for."""
    several = next((source for source in sources if members(source.classes) is not None), None)
    if several is not None:
        raise UserError(
            f"images of {several.name} have several classes, such as {several.classes[0]}; knn, logreg and linear "
            "measure that"
        )
    if isinstance(backbone, RawPixels):
        return  # they are not kept
    transform = shown_by(backbone)
    with frozen(backbone) as device:
        nothing = torch.zeros(1, backbone.channels, transform.side, transform.side, device=device)
        size = Tokens()(backbone, nothing).nbytes * sum(map(len, sources))
    home = cache_folder()
    kept = sum(path.stat().st_size for path in folder_of(backbone, Tokens(), transform, "fp32").glob("*.npy"))
    free = shutil.disk_usage(next(place for place in (home, *home.absolute().parents) if place.exists())).free
    if size - kept > free:
        raise UserError(
            f"the tokens of all images take {size / 1e9:.1f} GB in the cache {home}, {free / 1e9:.1f} GB are free; set "
            "DINOKIT_CACHE to a larger disk, or take fewer images: --limit"
        )
    if size - kept > SAID:
        info(f"the tokens of all images are kept in {home}: {size / 1e9:.1f} GB")


def _extracted(backbone: Backbone, source: Source) -> Images:
    """Compute the tokens of images."""
    found = checked(source, extract(backbone, source, reading=Tokens(), transform=shown_by(backbone)))
    rows = numpy.arange(len(found.keys))
    size = found.take(rows[:1]).nbytes * len(rows)
    return Images(found, rows, held=size <= HELD * devices.memory(torch.device("cpu")))


@dataclass(frozen=True)
class Chosen:
    """The best probe of a sweep, and how the others did."""

    head: AttentiveHead
    numbers: dict[str, float]
    tried: list[dict[str, object]]
    counted: Float64[numpy.ndarray, " image"]  # of the test, whose mean the metric is


def _trained(
    backbone: Backbone,
    config: Config,
    images: Images,
    *,
    classes: int,
    val: Images,
    test: Images,
    metric: Literal["top1", "per-class"],
    out: Path | None,
) -> Chosen:
    """Train all probes, choose one and measure it."""
    device, batch = backbone.device, min(config.batch_size, len(images))
    sample = numpy.array_split(evenly(SAMPLE, len(images)), max(1, min(SAMPLE, len(images)) // ASKED))
    probes = Probes(
        [Member(lr=lr, weight_decay=decay) for lr in sorted({*config.lr}) for decay in sorted({*config.weight_decay})],
        Scale.of(images.tokens(part) for part in sample),
        classes=classes,
        training=Training(iterations=math.ceil(config.passes * len(images) / batch), seed=config.seed),
        device=device,
    )
    stamp = {
        "weights": digest_of_model(backbone),
        "images": digest([*(images.found.digests[row] for row in images.rows.tolist()), images.labels]),
        "batch": batch,
    }
    train(probes, _batches(images, batch, config.seed, device), folder=out, stamp=stamp)
    answers, finite = _answers(probes, val, device), probes.finite().tolist()
    values = [100 * METRICS[metric](val.labels, row) if fine else None for row, fine in zip(answers, finite)]
    best = int(numpy.argmax([-1.0 if value is None else value for value in values]))
    found = _answers(probes, test, device)[best]
    right, chosen = found == test.labels, asdict(probes.members[best])
    numbers = {metric: 100 * METRICS[metric](test.labels, found), "val": values[best], **chosen}
    return Chosen(
        head=AttentiveHead.of(probes, best),
        numbers=numbers | {"train": float(len(images)), "test": float(len(test))},
        tried=[asdict(one) | {"val": value} for one, value in zip(probes.members, values, strict=True)],
        counted=right.astype(float) if metric == "top1" else per_class_shares(test.labels, right),
    )


def _batches(images: Images, batch: int, seed: int, device: torch.device) -> Batches:
    """Return what draws the images of every step: each once per pass, in a new order each."""
    order, labels = Passes(len(images), seed), torch.from_numpy(images.labels)

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = first
        while True:
            places = numpy.sort(order.indices(step * batch, batch))  # as they lie on the disk
            yield images.tokens(places).to(device), labels[torch.from_numpy(places)].to(device)
            step += 1

    return batches


@torch.inference_mode()
def _answers(probes: Probes, images: Images, device: torch.device) -> Int64[numpy.ndarray, "probe image"]:
    """Return the class with the highest logit, by every probe; of equal ones the first."""
    parts = (numpy.arange(start, min(start + ASKED, len(images))) for start in range(0, len(images), ASKED))
    found = [probes.logits(images.tokens(part).to(device)).argmax(dim=2).cpu().numpy() for part in parts]
    return numpy.concatenate(found, axis=1)
