"""Labels carried on from frame to frame of a video by the similarity of patches, and the masks of it on disk.

The label of a patch is a weighted mean of the labels of the patches most like it, among those of the first frame and of
the last few, not farther than a radius from its own place:

    weight_j = exp(cos_ij / temperature) over the k patches j with the largest cosine, normalised to 1

Labels stay soft on their way; nothing is trained. On disk a video is OUT/VIDEO/masks/00000.png (a palette),
overlay/00000.jpg and a film: overlay.mp4, or without the extra `video` overlay.webp.
The folder has its name once it is whole, and is used again only for what its stamp says (core/files.py).

Source: Jabri et al. 2020 (arXiv:2006.14613), section 3; DINO (arXiv:2104.14294), section 4.2.2; DINOv3
(arXiv:2508.10104), appendix D.5.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.masks import palette
from dinokit.core.files import check_same, digest_of_files, read_json, write_json
from dinokit.core.numbers import above, at_least
from dinokit.core.order import natural
from dinokit.dense import draw
from dinokit.dense.maps import resized
from dinokit.images import film, intensity

Numbers = UInt8[np.ndarray, "height width"]  # of the object in every pixel
STAMP = "made.json"
_SHARE = 0.5  # of the colour of an object in an overlay
_LONGEST = 640  # pixels of a frame of the film
_RATE = 15  # frames per second


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which patches vote; the defaults are the base that DINOv3 varied."""

    context: int = at_least(0, 7)  # frames before this one, besides the first
    radius: int | None = at_least(0, 12)  # patches; null: the whole frame
    shape: Literal["square", "circle"] = "square"  # of the neighbourhood
    neighbours: int = at_least(1, 5)  # patches that vote, over all frames of the context together
    temperature: float = above(0, 0.2)  # of the weights; smaller trusts the nearest more


@final
class Tracker:
    """The frames that vote, and their labels: each held once, the oldest but the first overwritten by the newest."""

    def __init__(
        self, rule: Rule, features: Float[Tensor, "rows columns dim"], labels: Float[Tensor, "rows columns label"]
    ) -> None:
        """Begin with the first frame.

        Args:
            features: rows of length 1.
            labels: shares of every label in every patch.
        """
        self.rule = rule
        frames = 1 + rule.context
        self.features = features.new_empty(frames, *features.shape)
        self.labels = labels.new_empty(frames, *labels.shape)
        self.features[0], self.labels[0] = features, labels
        self.seen = 1

    def follow(self, features: Float[Tensor, "rows columns dim"]) -> Float[Tensor, "rows columns label"]:
        """Label the next frame."""
        filled = min(self.seen, len(self.features))
        labels = propagated(features, self.features[:filled], self.labels[:filled], self.rule)
        if self.rule.context:
            place = 1 + (self.seen - 1) % self.rule.context
            self.features[place], self.labels[place] = features, labels
        self.seen += 1
        return labels


def propagated(
    target: Float[Tensor, "rows columns dim"],
    context: Float[Tensor, "frame rows columns dim"],
    labels: Float[Tensor, "frame rows columns label"],
    rule: Rule,
) -> Float[Tensor, "rows columns label"]:
    """Return the labels of a frame from those of its context, tile by tile, each beside its own neighbourhood."""
    rows, columns, _ = target.shape
    out = labels.new_empty(rows, columns, labels.shape[-1])
    for top, bottom in _cuts(rows, rule):
        for left, right in _cuts(columns, rule):
            reach = max(rows, columns) if rule.radius is None else rule.radius
            near = slice(max(top - reach, 0), bottom + reach), slice(max(left - reach, 0), right + reach)
            tile = target[top:bottom, left:right].flatten(0, 1)  # [patch, dim]
            votes = context[:, near[0], near[1]].flatten(0, 2)  # [neighbour, dim]
            similarity = tile @ votes.T
            if rule.radius is not None:
                allowed = _neighbourhood((top, bottom), (left, right), near, (rows, columns), rule)
                similarity.view(len(tile), len(context), -1).masked_fill_(~allowed[:, None], -torch.inf)
            chosen = labels[:, near[0], near[1]].flatten(0, 2)  # [neighbour, label]
            out[top:bottom, left:right] = _voted(similarity, chosen, rule).view(bottom - top, right - left, -1)
    return out


def _cuts(length: int, rule: Rule) -> list[tuple[int, int]]:
    """Cut an axis into tiles of twice the radius: half of what is multiplied is within reach, memory is bounded."""
    side = 16 if rule.radius is None else max(2 * rule.radius, 8)
    return [(start, min(start + side, length)) for start in range(0, length, side)]


def _neighbourhood(
    rows: tuple[int, int], columns: tuple[int, int], near: tuple[slice, slice], size: tuple[int, int], rule: Rule
) -> Bool[Tensor, "patch neighbour"]:
    """Tell which patches of the window lie within the radius of each patch of the tile."""
    assert rule.radius is not None
    y, x = (torch.arange(*cut) for cut in (rows, columns))
    other_y, other_x = (torch.arange(length)[part] for length, part in zip(size, near, strict=True))
    dy = (y[:, None] - other_y).abs()[:, None, :, None]
    dx = (x[:, None] - other_x).abs()[None, :, None, :]
    within = torch.maximum(dy, dx) <= rule.radius
    if rule.shape == "circle":
        within = dy**2 + dx**2 <= rule.radius**2
    return within.flatten(2).flatten(0, 1)


def _voted(
    similarity: Float[Tensor, "patch neighbour"], labels: Float[Tensor, "neighbour label"], rule: Rule
) -> Float[Tensor, "patch label"]:
    count = min(rule.neighbours, similarity.shape[1])
    nearest, index = similarity.topk(min(count + 1, similarity.shape[1]), dim=1)  # one more, to see ties
    weights = (nearest[:, :count] / rule.temperature).softmax(dim=1)
    voted = torch.einsum("pk,pkl->pl", weights, labels[index[:, :count]])
    tied = (
        nearest[:, count - 1] == nearest[:, -1] if nearest.shape[1] > count else nearest.new_zeros(0, dtype=torch.bool)
    )
    if tied.any():  # all that equal the last one vote too
        rows = similarity[tied]
        rows = rows.masked_fill(rows < nearest[tied, count - 1, None], -torch.inf)
        voted[tied] = (rows / rule.temperature).softmax(dim=1) @ labels
    return voted


def one_hot(mask: Numbers, objects: Sequence[int], grid: tuple[int, ...]) -> Float[Tensor, "rows columns label"]:
    """Return the label of every patch: that of the pixel nearest to its centre."""
    numbers = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
    return torch.stack([(numbers == number).float() for number in objects], dim=-1)


def read_out(
    labels: Float[Tensor, "rows columns label"],
    objects: Sequence[int],
    size: tuple[int, ...],
    *,
    mode: Literal["bilinear", "nearest"],
) -> Numbers:
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
    found: Numbers = np.array(objects, dtype=np.uint8)[chosen]
    return found


def kept_masks(folder: Path, stamp: Mapping[str, object]) -> dict[str, Numbers] | None:
    """Read the masks of a video, None if it is not there; refuse what was changed or made by something else."""
    if not folder.is_dir():
        return None
    files = sorted((folder / "masks").glob("*.png"), key=lambda path: natural(path.stem))
    kept = read_json(folder / STAMP) if (folder / STAMP).is_file() else None
    check_same(kept, {**stamp, "masks": digest_of_files(files)}, place=folder)
    found = {}
    for path in files:
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image)
    return found


@final
class Writer:
    """Writes the frames of one video as they come, into OUT/VIDEO once all are there."""

    def __init__(self, folder: Path, stamp: Mapping[str, object]) -> None:
        self.folder, self.stamp = folder, stamp
        self.partial = folder.with_name(f".{folder.name}.part")
        self.masks, self.overlays = list[Path](), list[Path]()
        shutil.rmtree(self.partial, ignore_errors=True)
        for name in ("masks", "overlay"):
            (self.partial / name).mkdir(parents=True)

    def add(self, name: str, image: intensity.Image, mask: Numbers) -> None:
        """Write a frame: the numbers of its objects with a palette, and their colours laid over it."""
        colours = np.array(palette(256), dtype=np.uint8)
        indexed = Image.fromarray(mask)
        indexed.putpalette(colours[:255].flatten().tolist())
        self.masks.append(self.partial / "masks" / f"{name}.png")
        indexed.save(self.masks[-1])
        self.overlays.append(self.partial / "overlay" / f"{name}.jpg")
        shown = draw.mixed(draw.rgb(image.cpu()), colours[mask], _SHARE * (mask > 0))
        Image.fromarray(shown).save(self.overlays[-1], quality=90)

    def close(self) -> None:
        """Make the film and give the folder its name."""
        ending = ".mp4" if find_spec("av") else ".webp"
        with film.Writer(self.partial / f"overlay{ending}", ending=ending) as made:
            for path in self.overlays:
                with Image.open(path) as picture:
                    picture.thumbnail((_LONGEST, _LONGEST))
                    made.add(picture, 1000 / _RATE)
        write_json(self.partial / STAMP, {**self.stamp, "masks": digest_of_files(self.masks)})
        self.partial.rename(self.folder)
