"""A network that learns: its moving average, its objectives with their heads, and what they are shown of a batch.

In a pretraining its own average is its teacher: that sees the whole global crops, the network itself those with patches
hidden and the local ones, and the anchor crops of its own. In a distillation a frozen teacher has looked at the global
crops already: nothing is hidden, masks only choose the patches that count, and a coarser grid is compared with means of
the teacher's patches. Only what some objective needs is computed.
Sources: DINO (arXiv:2104.14294) algorithm 1; DINOv2 (arXiv:2304.07193) sections 4 and 5; DINOv3 (arXiv:2508.10104)
sections 3.2, 4.2 and 5.2; that a coarser student is compared with means is ours.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dinokit.core.device import slices
from dinokit.core.seed import derived
from dinokit.models.architecture import Architecture, Network, build
from dinokit.models.features import Features
from dinokit.models.head import Pair
from dinokit.objectives.base import Inputs, Losses, Objective, find
from dinokit.training.trained import ALL, HEADS, MASK, WithMask, choose
from dinokit.views.multicrop import Views

FROZEN = ".head.teacher."  # in names of a student's state: the heads of a frozen teacher, which all students share


@final
class Learner(nn.Module):
    """A backbone and its average, objectives, and perhaps the earlier network that objective gram looks at.

    Args:
        heads: of a frozen teacher, by objective; None: its own average teaches it.
        anchored: whether it has an anchor, which begins as its teacher.
        at_once: whether teacher and anchor see all crops in one pass, as those with batch norms always do.
        trained: what of the backbone learns, see trained.py.
    """

    def __init__(
        self,
        architecture: Architecture,
        configs: Mapping[str, Any],
        *,
        seed: int,
        heads: Mapping[str, nn.Module] | None = None,
        anchored: bool = False,
        device: torch.device,
        outline: bool = False,
        at_once: bool = False,
        trained: str = ALL,
    ) -> None:
        """Build with initial values from the seed; as an `outline` backbones have shapes and no numbers."""
        super().__init__()
        self.frozen, self.at_once = heads is not None, at_once or architecture.batch_norm
        with torch.device("meta" if outline else "cpu"):
            backbone = build(architecture, seed=seed)
        self.backbone: Pair[Any] = Pair(backbone if outline else backbone.to(device))
        self.still = trained == HEADS
        if self.still:  # as it is: no path is dropped, no statistics of batches are kept
            self.backbone.eval()
        self.low_rank = choose(self.backbone.student, trained, seed=seed)
        for name, part in self.backbone.student.named_modules():  # a block that does not learn is as it is, too
            if not any(each.requires_grad for each in part.parameters()) and any(True for _ in part.parameters()):
                part.eval()
                self.backbone.teacher.get_submodule(name).eval()
        self.anchor: Network | None = copy.deepcopy(self.backbone.teacher).eval() if anchored else None
        self.named: dict[str, Objective] = {}
        for index, (name, config) in enumerate(configs.items()):
            kind: type[Objective] = find(name).Objective
            own = derived(seed, index)
            self.named[name] = kind(config, dim=architecture.dim, seed=own, siblings=self.named)
        self.objectives = nn.ModuleDict(self.named).to(device)
        self.needs = frozenset[str]().union(*(objective.needs for objective in self.named.values()))
        self.heads = {f"{name}_{each}": pair for name, it in self.named.items() for each, pair in it.pairs().items()}
        for name, objective in self.named.items() if heads is not None else ():
            for pair in objective.pairs().values():
                pair.teacher = heads[name]  # type: ignore[index]

    def parts(self) -> dict[str, nn.Module]:
        """Name what the optimiser moves."""
        heads = {name: pair.student for name, pair in self.heads.items()}
        if self.still:
            return heads
        mask = getattr(self.backbone.student, MASK, None)
        if self.low_rank is not None and mask is not None and mask.requires_grad:
            return {"backbone": WithMask(self.low_rank, mask)} | heads
        return {"backbone": self.low_rank or self.backbone.student} | heads

    def pairs(self) -> list[Pair[Any]]:
        """List what has an average that follows it; heads of a frozen teacher do not, nor what does not learn."""
        return [*([] if self.still else [self.backbone]), *([] if self.frozen else self.heads.values())]

    def backbones(self) -> list[Network]:
        """List student, teacher and anchor."""
        return [self.backbone.student, self.backbone.teacher, *([] if self.anchor is None else [self.anchor])]

    def forward(self, views: Views, taught: Features | None, *, step: int) -> dict[str, Losses]:
        """Run the networks, then the objectives.

        Args:
            taught: what a frozen teacher makes of the global crops [view, batch, ...].
            step: of the experiment.
        """
        # float32 where it matters is each objective's own business; only the heads' products may run in bf16
        inputs = self._inputs(views) if taught is None else self._compared(views, taught)
        return {name: objective(inputs, step=step) for name, objective in self.named.items()}

    def _inputs(self, views: Views) -> Inputs:
        """Run each network on what some objective needs, and on nothing else."""
        crops = views.global_crops.flatten(0, 1)  # [view * batch, channel, H, W]
        view = len(views.global_crops)
        masks = views.masks if "masks" in self.needs else None  # [view, batch, patch]
        teacher = anchor = None
        with torch.no_grad():
            if "teacher_global" in self.needs or ("anchor_global" in self.needs and self.anchor is None):
                teacher = self._watched(self.backbone.teacher, crops).unflatten(view)
            if "anchor_global" in self.needs and self.anchor is not None:
                assert views.anchor_crops is not None
                anchor = self._watched(self.anchor, views.anchor_crops.flatten(0, 1)).unflatten(view)
        return Inputs(
            student_global=self.backbone.student(crops, masks=None if masks is None else masks.flatten(0, 1)).unflatten(
                view
            ),
            student_local=self._local(views),
            teacher_global=teacher,
            anchor_global=teacher if self.anchor is None else anchor,
            masks=masks,
        )

    def _watched(self, network: Network, crops: Float[Tensor, "crop channel height width"]) -> Features:
        """Run what gets no gradient; on a CPU some crops after the other, so that its caches hold what is made of them.

        Any other device is kept busy by all of them at once.
        """
        if self.at_once or crops.device.type != "cpu":
            return network(crops)
        parts = slices(crops.device, rows=crops[0].numel(), columns=len(crops))
        return network(crops) if len(parts) == 1 else joined([network(crops[part]) for part in parts])

    def _compared(self, views: Views, teacher: Features) -> Inputs:
        """Look at everything, and bring the teacher's patches to the own grid."""
        student = self.backbone.student(views.global_crops.flatten(0, 1)).unflatten(len(views.global_crops))
        masks = views.masks
        if masks is None:
            masks = torch.ones(teacher.patches.shape[:3], dtype=torch.bool, device=teacher.patches.device)
        return Inputs(
            student_global=student,
            student_local=self._local(views),
            teacher_global=on_grid(teacher, student.grid),
            masks=masks_on_grid(masks, teacher.grid, student.grid),
        )

    def _local(self, views: Views) -> Features | None:
        local = views.local_crops  # [local, batch, channel, h, w]
        if "student_local" not in self.needs or not len(local):
            return None
        found: Features = self.backbone.student(local.flatten(0, 1), local=True).unflatten(len(local))
        return found

    def own_state(self) -> dict[str, Tensor]:
        """Return all numbers but those of a frozen teacher."""
        return {name: value for name, value in self.state_dict().items() if not (self.frozen and FROZEN in name)}


def joined(parts: Sequence[Features]) -> Features:
    """Put the images of several passes, all of one size, behind each other."""
    cls, registers, patches = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("cls", "registers", "patches")
    )
    return Features(cls, registers, patches, parts[0].grid)


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
