"""KoLeo: keep the CLS tokens of different images apart by pushing every one away from its nearest neighbour.

Minus the mean log-distance to the nearest neighbour is the Kozachenko-Leonenko estimate of (minus) the entropy of the
features: it is lowest when they cover the sphere evenly. Each global crop is a set of its own, so that two views of one
image are never pushed apart, and the losses of the sets are summed.
Sources: Sablayrolles et al. 2019 (arXiv:1806.03198) section 3; DINOv2 (arXiv:2304.07193) section 4, "KoLeo
regularizer"; the groups over ranks are those of DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dinokit.core import dist
from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.models.pair import Pair
from dinokit.objectives import base

_TINY = 1e-8  # keeps lengths, distances and their gradients finite, also between two equal images


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Defaults: pre-training of DINOv2 and DINOv3."""

    weight: float = at_least(0, 0.1)  # of the sum over global crops
    neighbours: int = at_least(1, 1)  # how many nearest neighbours each image is pushed from
    group: int | None = at_least(1, None)  # images of a micro-batch, over all ranks, to search in; null: all of them

    def __post_init__(self) -> None:
        if self.group is not None and self.group <= self.neighbours:
            raise UserError(f"koleo.group must be larger than neighbours {self.neighbours}, got {self.group}")

    def check_batch(self, images: int, *, ranks: int = 1) -> None:
        """Refuse images that do not make whole groups, groups without enough neighbours, or ranks that cut groups."""
        group = min(self.group or images, images)
        if images % group:
            raise UserError(f"koleo.group must divide the {images} images of a micro-batch, got {group}; or null (all)")
        own = images // ranks
        if own % group and group % own:
            raise UserError(
                f"koleo.group {group} must divide the {own} images of each of {ranks} ranks or hold them all"
            )
        if 1 < group <= self.neighbours:
            raise UserError(f"koleo.neighbours must be below the {group} images searched, got {self.neighbours}")


class Objective(base.Objective):
    """The loss on the student's CLS tokens of the global crops, before any head. It has no parameters and no state."""

    needs = frozenset({"student_global"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(
        cls,
        config: Config,
        *,
        dim: int,  # noqa: ARG003 (part of the contract; there is nothing to size)
        seed: int,  # noqa: ARG003 (nor to initialise)
        siblings: Mapping[str, base.Objective],  # noqa: ARG003 (nor to borrow)
    ) -> "Objective":
        """Make the objective."""
        return cls(config)

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:  # noqa: ARG002 (the same at every step)
        """Compute `koleo`, the mean over the global crops; its weight counts them, so that the sum is minimised."""
        assert inputs.student_global is not None
        losses = [
            koleo(crop, neighbours=self.config.neighbours, group=self.config.group)
            for crop in inputs.student_global.cls
        ]
        weight = self.config.weight * len(losses)
        return base.Losses(terms={"koleo": torch.stack(losses).mean()}, weights={"koleo": weight})

    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def pairs(self) -> dict[str, Pair[Any]]:
        """Name no pair."""
        return {}


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
    everyone = len(unit) * dist.world_size()
    images, pool, offset = _grouped(unit, group=min(group or everyone, everyone))
    if pool.shape[1] == 1:
        return unit.sum() * 0  # still attached to the graph
    if neighbours >= pool.shape[1]:
        raise UserError(f"koleo.neighbours must be below the {pool.shape[1]} images searched, got {neighbours}")
    index = _nearest(images, pool, neighbours=neighbours, offset=offset)  # [group, image, neighbour]
    nearest = pool[torch.arange(len(pool), device=pool.device)[:, None, None], index]  # [group, image, neighbour, dim]
    distances = functional.pairwise_distance(images[:, :, None], nearest, eps=_TINY)  # [group, image, neighbour]
    return -(distances + _TINY).log().mean()


def _grouped(
    unit: Float[Tensor, "batch dim"], *, group: int
) -> tuple[Float[Tensor, "group image dim"], Float[Tensor, "group member dim"], int]:
    """Return this rank's images by group, the members of those groups, and where the images begin among them."""
    batch, dim = unit.shape
    everyone = batch * dist.world_size()
    if (batch % group and group % batch) or everyone % group:
        raise UserError(
            f"koleo.group {group} must divide the {batch} images of a rank, or be a multiple of them that divides the "
            f"{everyone} of all ranks; use {batch} or null (all)"
        )
    if group <= batch:
        groups = unit.view(-1, group, dim)  # [group, image, dim]
        return groups, groups, 0
    first, offset = divmod(dist.rank() * batch, group)
    members = dist.all_gather(unit).view(-1, group, dim)[first : first + 1]  # [1, member, dim]
    return unit[None], members, offset


@torch.no_grad()
def _nearest(
    images: Float[Tensor, "group image dim"], pool: Float[Tensor, "group member dim"], *, neighbours: int, offset: int
) -> Int[Tensor, "group image neighbour"]:
    with torch.autocast(images.device.type, enabled=False):  # autocast would compare in bfloat16
        similarity = images @ pool.transpose(1, 2)  # [group, image, member]
    own = torch.arange(images.shape[1], device=images.device)
    similarity[:, own, own + offset] = -torch.inf  # nobody is a neighbour of itself
    return similarity.topk(neighbours, dim=-1).indices
