"""A student of a distillation: its losses against a teacher whose grid of patches may be finer than its own.

Sources: as distil.py; that a coarser student is compared with means of the teacher's patches is ours.
"""

from collections.abc import Mapping
from typing import Any, final

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dinokit.models.architecture import Architecture, build
from dinokit.models.features import Features
from dinokit.models.pair import Pair
from dinokit.objectives.base import Inputs, Losses
from dinokit.training.step import as_objective, build_objectives
from dinokit.views.multicrop import Views

TEACHERS = ".head.teacher."  # in names of a student's state: the teacher's heads, which all students share


@final
class Learner(nn.Module):
    """A student with its average, and its heads with the teacher's beside them."""

    def __init__(
        self, architecture: Architecture, configs: Mapping[str, Any], heads: Mapping[str, nn.Module], *, seed: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone: Pair[Any] = Pair(build(architecture, seed=seed))
        self.objectives = build_objectives(configs, dim=architecture.dim, seed=seed)
        for name, objective in self.objectives.items():
            for pair in as_objective(objective).pairs().values():
                pair.teacher = heads[name]

    def losses(
        self, views: Views, teacher: Features, masks: Bool[Tensor, "view batch patch"], *, step: int
    ) -> dict[str, Losses]:
        """Compare the student with the teacher.

        Args:
            teacher: features of the global crops [view, batch, ...].
            masks: on the teacher's grid; True where a patch counts.
        """
        view = views.global_crops.shape[0]
        student_global = self.backbone.student(views.global_crops.flatten(0, 1)).unflatten(view)
        student_local = None
        if views.local_crops.shape[0]:
            local = views.local_crops  # [local, batch, channel, h, w]
            student_local = self.backbone.student(local.flatten(0, 1), local=True).unflatten(local.shape[0])
        inputs = Inputs(
            student_global=student_global,
            student_local=student_local,
            teacher_global=on_grid(teacher, student_global.grid),
            masks=masks_on_grid(masks, teacher.grid, student_global.grid),
        )
        return {name: as_objective(objective)(inputs, step=step) for name, objective in self.objectives.items()}

    def own_state(self) -> dict[str, Tensor]:
        """Return all numbers but the teacher's."""
        return {name: value for name, value in self.state_dict().items() if TEACHERS not in name}


def resized(images: Float[Tensor, "batch channel H W"], side: int) -> Float[Tensor, "batch channel side side"]:
    """Scale square images, without aliasing when they get smaller."""
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def on_grid(features: Features, grid: tuple[int, int]) -> Features:
    """Average the patches [view, batch, ...] that each cell of a coarser grid covers."""
    if features.grid == grid:
        return features
    maps = functional.adaptive_avg_pool2d(features.maps.flatten(0, 1), grid)  # [view * batch, width, rows, columns]
    patches = maps.flatten(2).transpose(1, 2)
    patches = patches.reshape(*features.patches.shape[:2], *patches.shape[1:])
    return Features(features.cls, features.registers, patches, grid)


def masks_on_grid(
    masks: Bool[Tensor, "view batch patch"], grid: tuple[int, int], coarser: tuple[int, int]
) -> Bool[Tensor, "view batch cell"]:
    """Choose the cells of a coarser grid of which at least half is chosen."""
    if grid == coarser:
        return masks
    shares = functional.adaptive_avg_pool2d(masks.float().reshape(*masks.shape[:2], *grid), coarser)
    return shares.flatten(-2) >= 0.5
