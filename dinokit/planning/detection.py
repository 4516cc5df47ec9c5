"""The plan of a detector on frozen features: parameters, operations, memory, disk, hours.

The decoder is the real one, run without numbers (traced.py) on a batch that is spread evenly over the sizes of the
images, with its padding. Its loss is all but the assignment, which is scipy's and has neither gradient nor a tensor of
ours. A transformer of ours is counted as everywhere (cost.py), any other network is run without numbers, too.
"""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dinokit.core.order import evenly
from dinokit.dense.detr.kept import asked, octets
from dinokit.dense.detr.losses import focal, ia_bce
from dinokit.dense.detr.matching import Answers
from dinokit.dense.detr.network import Detector, Maps
from dinokit.dense.detr.recipe import Recipe
from dinokit.dense.detr.views import View, layers_of, passes, width_of
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer
from dinokit.planning import cost
from dinokit.planning.traced import Taken, traced

Size = tuple[int, int]  # of pixels

COCO = 118_287  # images of train2017
USUAL = (640, 480)  # width and height of most of them
CLASSES, OBJECTS = 80, 7.3  # of an image
# measured by benchmarks/plan.py: bytes of scipy and of what kernels keep, and the share of the activations that a CPU's
# allocator holds beside them
KERNELS, SPILLED = 0.15e9, 0.25
SIDES = 9  # short sides that stand for those that are drawn
PARTS = {  # of the network
    "project": "neck",
    "finer": "proposals",
    "coarser": "proposals",
    "proposed": "proposals",
    "thing": "proposals",
    "content": "queries",
    "position": "queries",
}


@dataclass(frozen=True)
class DetectorPlan:
    """What the training of a detector takes. Bytes, operations and seconds."""

    parameters: dict[str, int]  # of each part
    work: dict[str, float]  # operations of a step
    view: float  # operations of the features of a view
    image: float  # operations to find the boxes of an image at test
    memory: dict[str, float]
    looking: float  # bytes of a pass of the backbone, before those of the step
    views: int  # of all images and their mirrors
    asked: int  # of them that the training sees; 0: they are drawn anew
    disk: float  # bytes of all views
    asked_disk: float  # bytes of those that the training sees
    steps: int
    batch_size: int
    rate: float  # operations per second that are reached
    passes: int  # of the backbone in training

    @property
    def peak(self) -> float:
        """Bytes at the peak."""
        step = self.memory["activations and gradients"]
        return sum(self.memory.values()) - step + max(step, self.looking)

    @property
    def seconds(self) -> float:
        """The whole training, if nothing waits for data."""
        return (self.steps * sum(self.work.values()) + self.passes * self.view) / self.rate


def plan_detector(
    backbone: Backbone,
    recipe: Recipe,
    *,
    sizes: Sequence[Size],
    classes: int,
    rate: float,
    objects: float = OBJECTS,
    seed: int = 0,
) -> DetectorPlan:
    """Predict the training of a detector.

    Args:
        backbone: its weights need no numbers, so it may be on the meta device.
        sizes: width and height of every image.
        rate: operations per second that are reached.
        objects: of an image, on average; those who answer for them are learnt from.
    """
    patch, width = backbone.patch_size, width_of(backbone, recipe.view)
    shown = _shown(recipe, sizes, patch=patch)
    batch = [shown[place * len(shown) // recipe.batch_size - 1] for place in range(1, recipe.batch_size + 1)]
    steps, places = recipe.training.iterations, sum(height * across for height, across in batch) // patch**2
    wanted = asked(len(sizes), steps=steps, batch_size=recipe.batch_size, seed=seed) if recipe.shortest is None else []
    each = [octets(recipe.view, size, patch=patch, width=width) for size in sizes]
    backbone = deepcopy(backbone).to("meta")  # the caller's stays as it is
    with torch.device("meta"):
        network = Detector(recipe.sizes(width=width, stride=patch, classes=classes))
        work, held = _step(network, recipe, batch, objects=objects, patch=patch)
        looking = {sides: _looking(backbone, recipe.view, sides) for sides in set(shown)}
        typical = sorted(sizes)[len(sizes) // 2]
        largest = set(passes(*shown[-1], windows=recipe.view.windows, patch=patch))
        return DetectorPlan(
            parameters=_parts(network),
            work=work,
            view=sum(looking[sides] for sides in shown) / len(shown),
            image=_answered(backbone, network, recipe, typical),
            memory={
                "process": cost.BASE + KERNELS,
                "backbone": cost.FLOAT * float(_numbers(backbone)),
                "decoder": cost.FLOAT * float(_numbers(network)),
                "AdamW": 2 * cost.FLOAT * float(_numbers(network)),
                "features of a batch": float(cost.FLOAT * width * places),
                "activations and gradients": held,
                "allocator": SPILLED * held,
            },
            looking=float(max(_passed(backbone, recipe.view, size).peak for size in largest)),
            views=2 * len(sizes),
            asked=len(wanted),
            disk=2.0 * sum(each),
            asked_disk=float(sum(each[index] for index, _ in wanted)),
            steps=steps,
            batch_size=recipe.batch_size,
            rate=rate,
            passes=len(wanted) or steps * recipe.batch_size,
        )


def _shown(recipe: Recipe, sizes: Sequence[Size], *, patch: int) -> list[Size]:
    """Return height and width of all views, the smallest first; some short sides stand for those that are drawn."""
    views = [recipe.view]
    if recipe.shortest is not None:
        drawn = [recipe.shortest + each for each in evenly(SIDES, recipe.view.size - recipe.shortest + 1).tolist()]
        views = [replace(recipe.view, size=side) for side in drawn]
    seen = {size: [view.sides(size[1], size[0], patch) for view in views] for size in set(sizes)}
    return sorted((sides for size in sizes for sides in seen[size]), key=lambda sides: (sides[0] * sides[1], sides))


def _looking(backbone: Backbone, view: View, sides: Size) -> float:
    """Count the features of an image as it is seen."""
    sizes = passes(*sides, windows=view.windows, patch=backbone.patch_size)
    if isinstance(backbone, VisionTransformer):
        tokens = 1 + backbone.config.registers
        patches = [height * width // backbone.patch_size**2 for height, width in sizes]
        return float(sum(cost.forward(backbone.config, tokens + each) for each in patches))
    return sum(_passed(backbone, view, size).operations * often for size, often in Counter(sizes).items())


def _passed(backbone: Backbone, view: View, size: Size) -> Taken:
    """Send an image of some height and width through the network."""
    with traced() as taken, torch.no_grad():
        backbone.intermediate(torch.zeros(1, backbone.channels, *size), layers_of(backbone, view))
    return taken


def _step(
    network: Detector, recipe: Recipe, batch: Sequence[Size], *, objects: float, patch: int
) -> tuple[dict[str, float], float]:
    """Run a step on images of some heights and widths; return its operations, and the bytes it makes at a time."""
    maps = [torch.zeros(network.config.width, height // patch, width // patch) for height, width in batch]
    sizes = torch.tensor([[width, height] for height, width in batch], dtype=torch.float32)
    with traced(rows=round(objects * len(batch))) as taken:
        proposals, layers = network.train()(Maps(maps, sizes))
        forward = taken.operations
        torch.autograd.backward([_judged(each, recipe) for each in (proposals, layers)])
        del proposals, layers
    return {"decoder forward": forward, "decoder backward": taken.operations - forward}, float(taken.peak)


def _judged(said: Answers, recipe: Recipe) -> Tensor:
    """Return what a loss keeps as much for as the real one, whatever answers for what."""
    logits = said.logits.flatten(0, -2)
    target = torch.zeros_like(logits)
    named = focal(logits, target) if recipe.weights.kind == "focal" else ia_bce(logits, target, target)
    return named.sum() + said.deltas.sum() + said.boxes.sum()


def _answered(backbone: Backbone, network: Detector, recipe: Recipe, size: Size) -> float:
    """Count what finds the boxes of an image of some width and height, at all sizes that are merged."""
    patch, total = backbone.patch_size, 0.0
    for side in recipe.tested or (recipe.view.size,):
        height, width = replace(recipe.view, size=side).sides(size[1], size[0], patch)
        seen = torch.zeros(network.config.width, height // patch, width // patch)
        with traced() as taken, torch.no_grad():
            network.eval()(Maps([seen], torch.tensor([[width, height]], dtype=torch.float32)))
        once = taken.operations + _looking(backbone, recipe.view, (height, width))
        total += once * (2 if recipe.tested else 1)  # and of its mirror
    return total


def _parts(network: Detector) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, part in network.named_children():
        found[PARTS.get(name, name)] = found.get(PARTS.get(name, name), 0) + _numbers(part)
    return found


def _numbers(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())
