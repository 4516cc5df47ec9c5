"""KoLeo: keep the CLS tokens of different images apart by pushing every one away from its nearest neighbour.

    L = - sum over global crops of   mean over images i of   log min over j != i of |z_i - z_j|        z: of length 1

Minus the mean log-distance to the nearest neighbour is the Kozachenko-Leonenko estimate of (minus) the entropy of the
features: it is lowest when they cover the sphere evenly. Each global crop is a set of its own, so that two views of one
image are never pushed apart, and the losses of the sets are summed.
Sources: Sablayrolles et al. 2019 (arXiv:1806.03198) section 3; DINOv2 (arXiv:2304.07193) section 4, "KoLeo
regularizer"; the groups over ranks are those of DINOv3 (arXiv:2508.10104).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dinokit.core import dist
from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.objectives import base

_TINY = 1e-8  # keeps lengths, distances and their gradients finite, also between two equal images


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Defaults: pre-training of DINOv2 and DINOv3."""

    weight: float = at_least(0, 0.1)  # of the sum over global crops
    neighbours: int = at_least(1, 1)  # how many nearest neighbours each image is pushed from
    group: int | None = at_least(2, None)  # images of a micro-batch, over all ranks, to search in; null: all of them

    def check_batch(self, images: int, *, ranks: int = 1) -> None:
        """Refuse images that do not make whole groups, groups without enough neighbours, or ranks that cut groups."""
        check_groups(self.group or images, own=images // ranks, images=images, neighbours=self.neighbours)

    def for_students(self) -> "Config":
        """Push three times as hard.

        Ours, found at a small size (docs/log.md, "Distillation that beats scratch"): features that no longer have to
        agree with themselves spread by themselves less. DINOv3 leaves the weight as in the pretraining.
        """
        return replace(self, weight=3 * self.weight)


class Objective(base.Objective):
    """The loss on the student's CLS tokens of the global crops, before any head. It has no parameters and no state."""

    needs = frozenset({"student_global"})

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:  # noqa: ARG002 (the same at every step)
        """Compute `koleo`, the mean over the global crops; its weight counts them, so that the sum is minimised."""
        assert inputs.student_global is not None
        losses = [
            koleo(crop, neighbours=self.config.neighbours, group=self.config.group)
            for crop in inputs.student_global.cls
        ]
        weight = self.config.weight * len(losses)
        return base.Losses(terms={"koleo": torch.stack(losses).mean()}, weights={"koleo": weight})


def koleo(features: Float[Tensor, "batch dim"], *, neighbours: int = 1, group: int | None = None) -> Float[Tensor, ""]:
    """Return minus the mean log-distance to the nearest neighbours on the sphere, in float32.

    The gradient reaches an image and its neighbours, also those on other ranks. An image alone in its group has no
    neighbour: the loss is then 0.

    Args:
        features: of THIS rank's images, of any length; if a group spans ranks, all ranks must call together.
        neighbours: how many neighbours each image is pushed from.
        group: size of the sets of consecutive images, in rank order, in which neighbours are searched; it divides the
            rank's images or is a multiple of them, and divides those of all ranks. None, or more: all images.
    """
    unit = functional.normalize(features.float(), dim=-1, eps=_TINY)
    batch, dim = unit.shape
    everyone = batch * dist.world_size()
    group = min(group or everyone, everyone)
    check_groups(group, own=batch, images=everyone, neighbours=neighbours)
    if group == 1:
        return unit.sum() * 0  # still attached to the graph
    if group <= batch:
        images = pool = unit.view(-1, group, dim)  # [group, image, dim]
        offset = 0
    else:
        first, offset = divmod(dist.rank() * batch, group)
        images = unit[None]  # [1, image, dim]
        pool = dist.all_gather(unit).view(-1, group, dim)[first : first + 1]  # [1, member, dim]
    with torch.no_grad(), torch.autocast(unit.device.type, enabled=False):  # autocast would compare in bfloat16
        similarity = images @ pool.transpose(1, 2)  # [group, image, member]
        own = torch.arange(images.shape[1], device=unit.device)
        similarity[:, own, own + offset] = -torch.inf  # nobody is a neighbour of itself
        index = similarity.topk(neighbours, dim=-1).indices  # [group, image, neighbour]
    nearest = pool[torch.arange(len(pool), device=pool.device)[:, None, None], index]  # [group, image, neighbour, dim]
    distances = functional.pairwise_distance(images[:, :, None], nearest, eps=_TINY)  # [group, image, neighbour]
    return -(distances + _TINY).log().mean()


def check_groups(group: int, *, own: int, images: int, neighbours: int) -> None:
    """Refuse groups that the images of a micro-batch do not fill, that ranks cut, or that have too few neighbours.

    Args:
        own: images of a rank.
        images: of all ranks.
    """
    group = min(group, images)
    if images % group or (own % group and group % own):
        cut = f", or be a multiple of them that divides the {images} of all ranks" if own < images else ""
        raise UserError(
            f"koleo.group {group} must divide the {own} images of a rank's micro-batch{cut}; use {own} or null (all)"
        )
    if 1 < group <= neighbours:
        raise UserError(f"koleo.neighbours must be below the {group} images searched, got {neighbours}")
