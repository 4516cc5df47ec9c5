"""Video object segmentation without training: the first mask of every object follows the most similar patches.

Objects that enter later are followed from their own first mask on and scored from the next one. The rule stands in
dense/tracking.py, the scores in metrics/video.py: those of MOSE v2 for MOSE v2, else those of DAVIS. DAVIS itself
counts objects by the largest number of the first mask, so that a number left out is a phantom with a score of 100;
here, what no mask shows is no object, unless `counting` is davis. Source: DINO (arXiv:2104.14294) section 4.2.2,
DINOv3 (arXiv:2508.10104) section 6.1.3 and appendix D.5: the frame's short side is 30, 60 or 90 patches (S, M, L).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.video import Clip, Numbers, open_clips
from dinokit.core.files import digest_of_files, digest_of_model
from dinokit.core.messages import info, progress
from dinokit.core.numbers import at_least
from dinokit.dense.maps import frozen
from dinokit.dense.tracking import Rule, Tracker, Writer, kept_masks, one_hot, read_out
from dinokit.images import intensity
from dinokit.metrics.video import Measure, Series, scores, summary
from dinokit.models.features import Backbone

PATCHES = True  # what is measured are patches, not CLS
UNITS = {"J&F": "%", "J": "%", "F": "%"}
SIDES = {"S": 30, "M": 60, "L": 90}  # patches along the short side


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which videos, at which size, and who votes."""

    data: str  # DAVIS, YouTube-VOS, MOSE, a folder of frames or a video file
    split: str | None = None  # of DAVIS, null: val; of YouTube-VOS and MOSE train or valid, null: train
    mask: str | None = None  # PNG of the first frame, for a single video
    counting: Literal["shown", "davis"] = "shown"  # objects that masks show, or all up to the largest of the first mask
    size: Literal["S", "M", "L"] = "S"  # short side of 30, 60, 90 patches: 480, 960, 1440 px for patches of 16
    short: int | None = at_least(1, None)  # pixels of the short side instead
    read_out: Literal["bilinear", "nearest"] = "bilinear"  # from patches to pixels; nearest in DINOv3's notebook
    rule: Rule = field(default_factory=Rule)  # which patches vote


def run(backbone: Backbone, config: Config, out: Path | None) -> tuple[dict[str, float], dict[str, object]]:
    """Track every object of every video; return J&F, J and F in percent with recall and decay, and the counts.

    Where there is nothing to score, the numbers of videos and frames alone are returned.

    Args:
        out: folder that receives every frame's mask and overlay, and an animation of each video; masks that the same
            weights, settings and frames made are not computed again.
    """
    opened = open_clips(config.data, split=config.split, mask=config.mask)
    measure: Measure = "mose2" if opened.mose2 else "davis"
    firsts = {clip.name: next(iter(clip.starts.values())) for clip in opened.each}
    total = sum(len(clip.starts) for clip in opened.each)
    later = total - sum(frame == firsts[clip.name] for clip in opened.each for frame in clip.starts.values())
    if later:
        info(f"{later} of {total} objects enter after the first: followed from their first mask, scored from the next")
    made = {}
    if out is not None:
        settings = {"short": _short(config, backbone), "read_out": config.read_out, "rule": asdict(config.rule)}
        made = {"weights": digest_of_model(backbone), "settings": settings}
    objects: dict[str, Series] = {}
    frames = 0
    for clip in progress(opened.each, total=len(opened.each)):
        found: Mapping[str, Numbers] | None = None
        writer = None
        if out is not None:
            names = [frame.stem for frame in clip.frames] + [*clip.masks]
            stamp = made | {"data": [names, digest_of_files([*(clip.frames or [clip.place]), *clip.masks.values()])]}
            found = kept_masks(out / clip.name, stamp)
            writer = Writer(out / clip.name, stamp) if found is None else None
        if found is None:
            found = track(backbone, clip, config, writer)
        frames += len(found)
        if opened.scored:
            names = [name for name in found if name in clip.masks]
            truth = [clip.mask(name) for name in names]
            starts = {number: names.index(frame) for number, frame in clip.starts.items()}
            if config.counting == "davis":
                starts = dict.fromkeys(range(1, int(truth[0].max()) + 1), 0)
            each = scores([found[name] for name in names], truth, starts, measure=measure)
            objects |= {f"{clip.name}/{number}": series for number, series in each.items() if len(series.j)}
    result = summary(objects, measure=measure) | {"objects": float(len(objects))} if objects else {}
    result |= {"videos": float(len(opened.each)), "frames": float(frames)}
    if out is not None:
        info(f"{out} holds the masks of every frame, overlays and a film of each video")
    each_object = {name: {"J": 100 * one.j.mean(), "F": 100 * one.f.mean()} for name, one in objects.items()}
    return result, {"measure": measure, "each": each_object}


def track(backbone: Backbone, clip: Clip, config: Config, writer: Writer | None = None) -> Mapping[str, Numbers]:
    """Return the mask of every frame from the first one with an object on."""
    found = dict[str, Numbers]()
    trackers, objects = list[Tracker](), [0]
    with frozen(backbone) as device:
        for name, image in clip.read(backbone.channels, backbone.pixels.white):
            entering = [number for number, frame in clip.starts.items() if frame == name]
            if not trackers and not entering:
                continue
            features = patches(backbone, image.to(device), short=_short(config, backbone))  # [rows, columns, dim]
            mask = np.zeros(image.shape[1:], dtype=np.uint8)
            if trackers:
                labels = [tracker.follow(features) for tracker in trackers]
                ground = torch.stack([each[..., 0] for each in labels]).amin(dim=0)  # where none has its object
                joined = torch.cat([ground[..., None], *(each[..., 1:] for each in labels)], dim=-1)
                mask = read_out(joined, objects, mask.shape, mode=config.read_out)
            if entering:  # a tracker of their own: frames before know nothing of them
                given = clip.mask(name, size=mask.shape)
                given = np.where(np.isin(given, entering), given, 0).astype(np.uint8)
                first = one_hot(given, [0, *entering], tuple(features.shape[:2])).to(device)
                trackers.append(Tracker(config.rule, features, first))
                objects += entering
                mask = np.where(given > 0, given, mask)
            found[name] = mask
            if writer is not None:
                writer.add(name, image, mask)
    if writer is not None:
        writer.close()
    return found


def patches(backbone: Backbone, image: intensity.Image, *, short: int) -> Float[Tensor, "rows columns dim"]:
    """Return the patch features of a frame, each of length 1; both sides are resized to the nearest multiple."""
    patch, scale = backbone.patch_size, short / min(image.shape[1:])
    height, width = (max(1, round(side * scale / patch)) * patch for side in image.shape[1:])
    values = F.interpolate(intensity.to_unit(image[None]).float(), size=(height, width), mode="bicubic", antialias=True)
    features = backbone(intensity.normalised(values.clamp_(*intensity.value_range(image)), backbone.pixels))
    return torch.unflatten(F.normalize(features.patches[0].float(), dim=-1), 0, features.grid)


def _short(config: Config, backbone: Backbone) -> int:
    return config.short if config.short is not None else SIDES[config.size] * backbone.patch_size
