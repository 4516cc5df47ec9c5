"""How a detector learns: from features that are computed once and kept, or from views drawn anew at every step.

    small     100 queries, 512 pixels, features of every image and its mirror kept on disk, focal loss; minutes to hours
    dinov3    1,500 and 1,500 queries, 2,048 pixels in 3 x 3 windows, a mirror with 0.5, the short side from U(1,228,
              2,048) or else a piece of 60 to 100 % of the area first, IA-BCE (arXiv:2508.10104, appendix D.9, COCO)

The loss of a layer is that of its one-to-one queries and that of its one-to-many queries, each object `repeats` times;
what places propose is judged without classes. Images, mirrors and views of a step follow from (seed, step).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import check_same, digest_of_files, digest_of_model, read_json, write_atomic, write_json
from dinokit.core.messages import info, progress
from dinokit.core.numbers import above, at_least
from dinokit.core.seed import Passes, generator
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.losses import Weights, loss
from dinokit.dense.detr.matching import Answers, Objects
from dinokit.dense.detr.network import Config as Sizes
from dinokit.dense.detr.network import Maps
from dinokit.dense.detr.views import View, features, width_of
from dinokit.dense.fit import Batch, Sample, Training
from dinokit.images import intensity
from dinokit.models.features import Backbone

STAMP = "features.json"
UNNAMED = "object"  # what nobody has named
SMALLEST = 1.0  # pixels of a side, as seen, below which a box is left out of a view


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a detector is, what it sees and how it learns."""

    view: View
    dim: int = at_least(32, 256)
    hidden: int = at_least(1, 1024)
    encoder: int = at_least(0, 2)  # layers
    decoder: int = at_least(1, 3)  # layers
    queries: int = at_least(1, 100)
    many: int = at_least(0, 100)  # queries in training of which several answer for an object
    repeats: int = at_least(1, 6)  # how many
    weights: Weights = field(default_factory=Weights)
    lr: float = above(0, 2e-4)
    batch_size: int = at_least(1, 8)
    training: Training
    shortest: int | None = at_least(1, None)  # pixels: views are drawn at every step, of this short side to view.size
    tested: tuple[int, ...] = ()  # short sides that are merged at test, mirrored too; empty: view.size alone

    def sizes(self, backbone: Backbone, classes: int) -> Sizes:
        """Return the sizes of the detector for a backbone."""
        return Sizes(
            width=width_of(backbone, self.view),
            classes=classes,
            stride=backbone.patch_size,
            dim=self.dim,
            hidden=self.hidden,
            encoder=self.encoder,
            decoder=self.decoder,
            queries=self.queries,
            many=self.many,
        )


RECIPES = {
    "small": Recipe(
        view=View(size=512, longest=683),
        training=Training(iterations=3_000, warmup=200, weight_decay=0.05, clip=0.1),
    ),
    "dinov3": Recipe(
        view=View(size=2048, windows=3),
        dim=768,
        hidden=2048,
        encoder=6,
        decoder=6,
        queries=1500,
        many=1500,
        weights=Weights(kind="ia-bce", boxes=4.0),
        lr=2.5e-5,
        batch_size=32,
        training=Training(iterations=44_000, warmup=2_000, weight_decay=0.05, clip=0.1),
        shortest=1228,
        tested=(1536, 1728, 1920, 2112, 2304, 2496, 2688, 2880),
    ),
}


@dataclass(frozen=True)
class Seen:
    """A view of an image: its features, its size in pixels, and what there is."""

    map: Float32[Tensor, "feature rows columns"]
    size: tuple[int, int]  # width, height
    objects: Objects


Views = Callable[[int, tuple[int, ...]], Seen]  # an image of the split, and a key that draws a view of it


def sampled(views: Views, length: int, *, batch_size: int, seed: int, device: torch.device) -> Sample:
    """Return what makes the batch of a step: every image once per pass, in a new order each."""
    order = Passes(length, seed)

    def sample(step: int) -> Batch:
        places = range(step * batch_size, (step + 1) * batch_size)
        seen = [views(int(order.indices(place, 1)[0]), (seed, *divmod(place, length))) for place in places]
        sizes = torch.tensor([one.size for one in seen], dtype=torch.float32)
        objects = [Objects(one.objects.boxes.to(device), one.objects.classes.to(device)) for one in seen]
        return Batch(Maps([one.map.to(device) for one in seen], sizes.to(device)), None, objects)

    return sample


def judged(recipe: Recipe) -> Callable[[tuple[Answers, list[Answers]], Sequence[Objects], int], Float[Tensor, ""]]:
    """Return the loss of all that a detector says."""

    def judge(said: tuple[Answers, list[Answers]], objects: Sequence[Objects], _: int) -> Float[Tensor, ""]:
        proposals, layers = said
        things = [replace(one, classes=torch.zeros_like(one.classes)) for one in objects]
        total = loss(proposals, things, recipe.weights)
        for layer in layers:
            total = total + loss(layer.some(slice(None, recipe.queries)), objects, recipe.weights)
            if recipe.many:
                many = layer.some(slice(recipe.queries, None))
                total = total + loss(many, objects, recipe.weights, repeats=recipe.repeats)
        return total

    return judge


def scaled(marks: Any, classes: Sequence[str], *, seen: tuple[int, int], mirror: bool) -> Objects:
    """Return the boxes of an image, but crowds, where they lie in what is seen of it, (width, height) pixels."""
    kept = ~(marks.crowd | marks.difficult)
    scale = torch.tensor([*seen, *seen]) / torch.tensor([*marks.size, *marks.size])
    found = torch.from_numpy(marks.boxes[kept]).float() * scale
    names = [name for name, one in zip(marks.names, kept.tolist(), strict=True) if one]
    kinds = torch.tensor([classes.index(name or UNNAMED) for name in names], dtype=torch.int64)
    return Objects(box.mirrored(found, seen[0]) if mirror else found, kinds)


class Kept:
    """Features of every image and its mirror, computed once, float16 on disk."""

    def __init__(self, backbone: Backbone, data: Boxed, classes: Sequence[str], view: View, folder: Path) -> None:
        """Compute what is missing; refuse a folder of other weights, images or views."""
        self.data, self.classes, self.view, self.folder, self.patch = data, classes, view, folder, backbone.patch_size
        files = [one.image for one in data.marks]
        stamp = {"weights": digest_of_model(backbone), "view": repr(view), "images": digest_of_files(files)}
        sides = [view.sides(height, width, self.patch) for width, height in (one.size for one in data.marks)]
        places = sum(height * width for height, width in sides) // self.patch**2
        total = 2 * 2 * places * width_of(backbone, view)  # float16, two views
        missing = [index for index in range(len(data)) if not self._file(index, mirror=True).exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STAMP).exists():
            check_same(read_json(folder / STAMP), stamp, place=folder)
        else:
            missing = list(range(len(data)))
        write_json(folder / STAMP, stamp)
        if missing:
            info(f"features of {len(data):,} images and their mirrors are kept: {total / 1e9:.2f} GB in {folder}")
        for index in progress(missing, len(missing)):
            image = data.read(index)
            for mirror in (False, True):
                self._write(index, features(backbone, image, view, mirror=mirror), mirror=mirror)

    def __call__(self, index: int, key: tuple[int, ...]) -> Seen:
        """Return an image or its mirror."""
        return self.seen(index, mirror=bool(generator(*key).integers(2)))

    def seen(self, index: int, *, mirror: bool) -> Seen:
        """Read a view."""
        found = torch.from_numpy(numpy.load(self._file(index, mirror=mirror))).float()
        size = found.shape[2] * self.patch, found.shape[1] * self.patch
        return Seen(found, size, scaled(self.data.marks[index], self.classes, seen=size, mirror=mirror))

    def _file(self, index: int, *, mirror: bool) -> Path:
        return self.folder / f"{index:07d}{'m' if mirror else ''}.npy"

    def _write(self, index: int, found: Float32[Tensor, "feature rows columns"], *, mirror: bool) -> None:
        with write_atomic(self._file(index, mirror=mirror)) as temporary, temporary.open("wb") as file:
            numpy.save(file, found.half().numpy())


class Drawn:
    """Views that are drawn anew, and features that are computed anew, at every step, by a recipe with `shortest`."""

    def __init__(self, backbone: Backbone, data: Boxed, classes: Sequence[str], recipe: Recipe) -> None:
        self.backbone, self.data, self.classes, self.recipe = backbone, data, classes, recipe

    def __call__(self, index: int, key: tuple[int, ...]) -> Seen:
        """Resize, or cut a piece out and resize it, and mirror."""
        draw, view = generator(*key), self.recipe.view
        image, marks = self.data.read(index), self.data.marks[index]
        assert self.recipe.shortest is not None
        side = int(draw.integers(self.recipe.shortest, view.size + 1))
        mirror = bool(draw.integers(2))
        if draw.integers(2):
            image, marks = piece(image, marks, share=float(draw.uniform(0.6, 1.0)), draw=draw)
        found = features(self.backbone, image, replace(view, size=side), mirror=mirror)
        size = found.shape[2] * self.backbone.patch_size, found.shape[1] * self.backbone.patch_size
        return Seen(found, size, scaled(marks, self.classes, seen=size, mirror=mirror))


def piece(image: intensity.Image, marks: Any, *, share: float, draw: numpy.random.Generator) -> tuple[Tensor, Any]:
    """Cut a piece of a share of the area and the shape of the whole out of an image; boxes are cut with it."""
    height, width = image.shape[1:]
    rows, columns = (max(1, round(side * share**0.5)) for side in (height, width))
    top, left = (int(draw.integers(whole - part + 1)) for whole, part in ((height, rows), (width, columns)))
    cut = numpy.clip(marks.boxes - [left, top, left, top], 0, [columns, rows, columns, rows])
    inside = (cut[:, 2:] - cut[:, :2] >= SMALLEST).all(axis=1)
    within = replace(marks, boxes=cut, size=(columns, rows)).some(inside)
    return image[:, top : top + rows, left : left + columns].contiguous(), within
