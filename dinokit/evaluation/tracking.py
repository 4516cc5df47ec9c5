"""Video object segmentation without training: the mask of the first frame follows the most similar patches.

The rule stands in dense/propagate.py, the scores in metrics/video.py. Source: DINO (arXiv:2104.14294) section 4.2.2,
DINOv3 (arXiv:2508.10104) section 6.1.3 and appendix D.5: the frame's short side is 30, 60 or 90 patches (S, M, L).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.video import Clip, Mask, open_clips
from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.core.files import write_json
from dinokit.core.log import progress
from dinokit.dense.embedding import normalised
from dinokit.dense.maps import frozen
from dinokit.dense.overlay import Writer, masks_of
from dinokit.dense.propagate import Rule, Tracker
from dinokit.dense.windows import resized
from dinokit.images import intensity
from dinokit.metrics.video import Series, scores, summary
from dinokit.models.features import Backbone

SIDES = {"S": 30, "M": 60, "L": 90}  # patches along the short side


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which videos, at which size, and who votes."""

    data: str  # DAVIS, YouTube-VOS, MOSE, a folder of frames or a video file
    split: str = "val"  # of DAVIS
    mask: str | None = None  # PNG of the first frame, for a single video
    size: Literal["S", "M", "L"] = "S"  # short side of 30, 60, 90 patches: 480, 960, 1440 px for patches of 16
    short: int | None = at_least(1, None)  # pixels of the short side instead
    read_out: Literal["bilinear", "nearest"] = "bilinear"  # from patches to pixels; nearest in DINOv3's notebook
    rule: Rule = field(default_factory=Rule)  # which patches vote


def run(backbone: Backbone, config: Config, out: Path | None = None) -> dict[str, float]:
    """Track every object of every video; return J&F, J and F in percent with recall and decay, and the counts.

    Without masks beyond the first there is nothing to score: then the numbers of videos and frames alone are returned.

    Args:
        out: folder that receives every frame's mask and overlay, an animation of each video and `tracking.json`; masks
            that are there already are not computed again.
    """
    objects: dict[str, Series] = {}
    frames = 0
    clips = open_clips(config.data, split=config.split, mask=config.mask)
    for clip in progress(clips, total=len(clips)):
        found: Mapping[str, Mask] | None = masks_of(out, clip.name) if out is not None else None
        if found is None:
            found = track(backbone, clip, config, Writer(out, clip.name) if out is not None else None)
        frames += len(found)
        truth = {name: clip.mask(name) for name in clip.masks}
        known = [name for name in found if name in truth]
        if len(known) > 2:  # the first is given and the last does not count
            each = scores([found[name] for name in known], [truth[name] for name in known])
            objects |= {f"{clip.name}/{number}": series for number, series in each.items()}
    result = (summary(objects) | {"objects": float(len(objects))}) if objects else {}
    result |= {"videos": float(len(clips)), "frames": float(frames)}
    if out is not None:
        each_object = {
            name: {"J": 100 * float(j.mean()), "F": 100 * float(f.mean())} for name, (j, f) in objects.items()
        }
        write_json(out / "tracking.json", result | {"each": each_object})
    return result


def track(backbone: Backbone, clip: Clip, config: Config, writer: Writer | None = None) -> Mapping[str, Mask]:
    """Return the mask of every frame from the first one that has a mask on."""
    tracker, found = None, {}
    objects: list[int] = []
    with frozen(backbone) as device:
        for name, image in clip.read(backbone.channels):
            if tracker is None and name not in clip.masks:
                continue
            features = patches(backbone, image.to(device), short=_short(config, backbone))  # [rows, columns, dim]
            if tracker is None:
                mask = _fitting(clip, name, image)
                objects = [0, *(int(number) for number in np.unique(mask) if number)]
                tracker = Tracker(config.rule, features, one_hot(mask, objects, tuple(features.shape[:2])).to(device))
            else:
                labels = tracker.follow(features)
                mask = read_out(labels, objects, tuple(image.shape[1:]), mode=config.read_out)
            found[name] = mask
            if writer is not None:
                writer.add(name, image, mask)
    if not found:
        raise UserError(f"no frame of {clip.place} has a mask; the set is not complete")
    if writer is not None:
        writer.close()
    return found


def patches(backbone: Backbone, image: intensity.Image, *, short: int) -> Float[Tensor, "rows columns dim"]:
    """Return the patch features of a frame, each of length 1; both sides are resized to the nearest multiple."""
    patch, scale = backbone.patch_size, short / min(image.shape[1:])
    height, width = (max(1, round(side * scale / patch)) * patch for side in image.shape[1:])
    values = F.interpolate(intensity.to_unit(image[None]).float(), size=(height, width), mode="bicubic", antialias=True)
    features = backbone(normalised(backbone, values.clamp_(*intensity.value_range(image))))
    return torch.unflatten(F.normalize(features.patches[0].float(), dim=-1), 0, features.grid)


def one_hot(mask: Mask, objects: list[int], grid: tuple[int, ...]) -> Float[Tensor, "rows columns label"]:
    """Return the label of every patch: that of the pixel nearest to its centre."""
    numbers = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
    return torch.stack([(numbers == number).float() for number in objects], dim=-1)


def read_out(
    labels: Float[Tensor, "rows columns label"],
    objects: list[int],
    size: tuple[int, ...],
    *,
    mode: Literal["bilinear", "nearest"],
) -> Mask:
    """Return the object of every pixel: the label that is largest once each is stretched to [0, 1]."""
    maps = labels.permute(2, 0, 1)[None]  # [1, label, rows, columns]
    height, width = size
    if mode == "bilinear":
        maps = resized(maps, (height, width))
    else:
        maps = F.interpolate(maps, size=(height, width), mode="nearest-exact")
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    stretched = torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-12), maps)
    chosen = stretched[0].argmax(dim=0).cpu().numpy()
    found: Mask = np.array(objects, dtype=np.uint8)[chosen]
    return found


def _short(config: Config, backbone: Backbone) -> int:
    return config.short if config.short is not None else SIDES[config.size] * backbone.patch_size


def _fitting(clip: Clip, name: str, image: intensity.Image) -> Mask:
    mask = clip.mask(name)
    if mask.shape != tuple(image.shape[1:]):
        raise UserError(
            f"the mask {clip.masks[name]} is {mask.shape[1]} x {mask.shape[0]} pixels, its frame "
            f"{image.shape[2]} x {image.shape[1]}; give a mask of the frame's size"
        )
    if not mask.any():
        raise UserError(f"the mask {clip.masks[name]} shows no object; expected numbers above 0 where one is")
    return mask
