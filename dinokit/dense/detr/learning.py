"""How a detector learns, by a recipe: what it is shown at a step, and what its answers cost.

The loss of a layer is that of its one-to-one queries and that of its one-to-many queries, each object `repeats` times;
what places propose is judged without classes. Images, mirrors and views of a step follow from (seed, step). Features of
an image and its mirror may be kept (kept.py); views that are drawn anew are computed anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float32
from torch import Tensor

from dinokit.annotations.boxes import Boxed
from dinokit.annotations.marks import Marks
from dinokit.core.seed import Passes, generator
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.losses import terms
from dinokit.dense.detr.matching import Answers, Objects
from dinokit.dense.detr.network import Maps
from dinokit.dense.detr.recipe import Recipe
from dinokit.dense.detr.views import features
from dinokit.dense.fit import Batch, Judged, Sample
from dinokit.images import intensity
from dinokit.models.features import Backbone

UNNAMED = "object"  # what nobody has named
SMALLEST = 1.0  # pixels of a side, of the image, below which what is left of a box is left out of a piece


@dataclass(frozen=True)
class Seen:
    """A view of an image: its features, its size in pixels, and what there is."""

    map: Float32[Tensor, "feature rows columns"]
    size: tuple[int, int]  # width, height
    objects: Objects


Views = Callable[[int, tuple[int, ...]], Seen]  # an image of the split, and a key that draws a view of it


def order_of(length: int, *, seed: int) -> Callable[[int], tuple[int, tuple[int, ...]]]:
    """Return what gives the image at a place of the training, and the key of its view."""
    order = Passes(length, seed)

    def at(place: int) -> tuple[int, tuple[int, ...]]:
        return int(order.indices(place, 1)[0]), (seed, *divmod(place, length))

    return at


def sampled(views: Views, length: int, *, batch_size: int, seed: int, device: torch.device) -> Sample:
    """Return what makes the batch of a step: every image once per pass, in a new order each."""
    order = order_of(length, seed=seed)

    def sample(step: int) -> Batch:
        seen = [views(*order(place)) for place in range(step * batch_size, (step + 1) * batch_size)]
        sizes = torch.tensor([one.size for one in seen], dtype=torch.float32)
        objects = [Objects(one.objects.boxes.to(device), one.objects.classes.to(device)) for one in seen]
        return Batch(Maps([one.map.to(device) for one in seen], sizes.to(device)), None, objects)

    return sample


def judged(recipe: Recipe) -> Callable[[tuple[Answers, Answers], Sequence[Objects], int], Judged]:
    """Return the loss of all that a detector says, with its terms.

    These are class, boxes and deltas of the one-to-one queries of all layers, `proposals`, and `many`, the one-to-many
    queries; together they are the loss.
    """

    def judge(said: tuple[Answers, Answers], objects: Sequence[Objects], _: int) -> Judged:
        proposals, layers = said
        things = [replace(one, classes=torch.zeros_like(one.classes)) for one in objects]
        total = terms(proposals, things, recipe.weights).total
        told = {"proposals": total.detach()}
        one, many = slice(None, recipe.queries), slice(recipe.queries, None)
        own = terms(layers.of(..., one, slice(None)), objects, recipe.weights)
        total = total + own.total
        if recipe.many:
            more = terms(layers.of(..., many, slice(None)), objects, recipe.weights, repeats=recipe.repeats).total
            total, told = total + more, {"many": more.detach(), **told}
        return Judged(total, own.told | told)

    return judge


def scaled(marks: Marks, classes: Mapping[str, int], *, seen: tuple[int, int], mirror: bool) -> Objects:
    """Return the boxes of an image, but crowds, where they lie in what is seen of it, (width, height) pixels.

    Args:
        classes: number of each, by its name.
    """
    kept = ~(marks.crowd | marks.difficult)
    scale = torch.tensor([*seen, *seen]) / torch.tensor([*marks.size, *marks.size])
    found = torch.from_numpy(marks.boxes[kept]).float() * scale
    names = [name for name, one in zip(marks.names, kept.tolist(), strict=True) if one]
    kinds = torch.tensor([classes[name or UNNAMED] for name in names], dtype=torch.int64)
    return Objects(box.mirrored(found, seen[0]) if mirror else found, kinds)


def numbered(classes: Sequence[str]) -> dict[str, int]:
    """Return the number of each class by its name: LVIS has 1,203."""
    return {name: number for number, name in enumerate(classes)}


class Drawn:
    """Views that are drawn anew, and features that are computed anew, at every step, by a recipe with `shortest`."""

    def __init__(self, backbone: Backbone, data: Boxed, classes: Sequence[str], recipe: Recipe) -> None:
        self.backbone, self.data, self.classes, self.recipe = backbone, data, numbered(classes), recipe

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


def piece(image: intensity.Image, marks: Marks, *, share: float, draw: numpy.random.Generator) -> tuple[Tensor, Marks]:
    """Cut a piece of a share of the area and the shape of the whole out of an image; boxes are cut with it."""
    height, width = image.shape[1:]
    rows, columns = (max(1, round(side * share**0.5)) for side in (height, width))
    top, left = (int(draw.integers(whole - part + 1)) for whole, part in ((height, rows), (width, columns)))
    cut = numpy.clip(marks.boxes - [left, top, left, top], 0, [columns, rows, columns, rows])
    inside = (cut[:, 2:] - cut[:, :2] >= SMALLEST).all(axis=1)
    within = replace(marks, boxes=cut, size=(columns, rows)).some(inside)
    return image[:, top : top + rows, left : left + columns].contiguous(), within
