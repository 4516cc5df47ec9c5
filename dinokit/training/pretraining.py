"""Pretraining: the student learns from its own average, the teacher, and perhaps keeps to an anchor.

What the networks see is what some objective needs: the teacher the whole global crops, the student those with patches
hidden and the local ones, the anchor crops of its own.
Source: DINO (arXiv:2104.14294) algorithm 1; DINOv2 (arXiv:2304.07193) section 4; DINOv3 (arXiv:2508.10104) sections 3.2
and 4.2.
"""

import copy
from contextlib import nullcontext
from typing import final

import torch
from torch import Tensor, nn

from dinokit.checkpoints.store import MODEL
from dinokit.core.device import uses_bf16
from dinokit.models.architecture import Architecture, Network
from dinokit.models.pair import Pair
from dinokit.models.vit import VisionTransformer
from dinokit.objectives.base import Inputs, Losses, Objective
from dinokit.sources.source import Source
from dinokit.training import anchor as anchors
from dinokit.training import optim, shard
from dinokit.training.config import Experiment
from dinokit.training.execution import Recompute, compile_blocks, set_recompute
from dinokit.training.step import Trainer, as_objective, build_objectives, under, unique_pairs
from dinokit.views.multicrop import Views


@final
class Pretraining(Trainer):
    """The backbone's pair, the objectives with their heads' pairs, the anchor, the optimiser."""

    backbone: Pair[VisionTransformer]

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        *,
        recompute: Recompute = "none",
        compiled: bool = False,
        sharded: bool = False,
        first: int = 0,
    ) -> None:
        """Build everything; if sharded, the backbone has no numbers until `shard` is called, by all ranks together."""
        super().__init__(experiment, device, recompute=recompute, sharded=sharded, first=first)
        with torch.device("meta") if sharded else nullcontext():
            backbone = VisionTransformer(experiment.backbone, seed=experiment.seed)
        self.backbone = Pair(backbone if sharded else backbone.to(device))
        self.anchor = None
        if experiment.anchor is not None and experiment.anchor.source != anchors.TEACHER:
            self.anchor = copy.deepcopy(self.backbone.teacher)
        set_recompute(self.backbone.student, recompute)
        if compiled:
            for network in self._backbones():
                compile_blocks(network)
        built = build_objectives(experiment.objectives, dim=experiment.backbone.dim, seed=experiment.seed)
        self.objectives = built.to(device)
        self.needs = frozenset[str]().union(*(o.needs for o in self.named_objectives().values()))
        self.parts = {"backbone": self.backbone.student} | {
            name: pair.student for name, pair in unique_pairs(self.objectives).items()
        }
        self.optimizer = optim.optimizer(self.parts, experiment.optim)

    @property
    def patch_size(self) -> int:
        """Side in pixels of what a mask hides."""
        return self.experiment.backbone.patch_size

    def begin(self, images: Source) -> None:
        """Do nothing: random weights need no image."""

    def catch_up(self) -> None:
        """Do nothing: all ranks learn the same."""

    def shard(self) -> None:
        """Keep this rank's rows of every network and draw the backbone's."""
        bf16 = uses_bf16(self.device, self.experiment.precision)
        for network in self.networks():
            shard.shard(network, self.device, bf16=bf16)
        for network in self._backbones():
            network.to_empty(device=self.device)
            network.initialise(self.experiment.seed)
        self.optimizer = optim.optimizer(self.parts, self.experiment.optim)

    def losses(self, views: Views, *, step: int) -> dict[str, Losses]:
        """Run the networks, then the objectives."""
        inputs = self._inputs(views)
        # float32 where it matters is each objective's own business; only the heads' products may run in bf16
        with self.autocast():
            return {name: objective(inputs, step=step) for name, objective in self.named_objectives().items()}

    def _inputs(self, views: Views) -> Inputs:
        """Run each network on what some objective needs, and on nothing else."""
        crops = views.global_crops  # [view, batch, channel, H, W]
        masks = views.masks if "masks" in self.needs else None  # [view, batch, patch]
        view = crops.shape[0]
        student_local = teacher_global = anchor_global = None
        with torch.no_grad(), self.autocast():
            if "teacher_global" in self.needs or ("anchor_global" in self.needs and self.anchor is None):
                teacher_global = self.backbone.teacher(crops.flatten(0, 1)).unflatten(view)
            if "anchor_global" in self.needs:
                anchor_global = teacher_global
                if self.anchor is not None:
                    assert views.anchor_crops is not None
                    anchor_global = self.anchor(views.anchor_crops.flatten(0, 1)).unflatten(view)
        with self.autocast():
            hidden = None if masks is None else masks.flatten(0, 1)
            student_global = self.backbone.student(crops.flatten(0, 1), masks=hidden).unflatten(view)
            if "student_local" in self.needs and views.local_crops.shape[0]:
                local = views.local_crops  # [local, batch, channel, h, w]
                student_local = self.backbone.student(local.flatten(0, 1), local=True).unflatten(local.shape[0])
        return Inputs(
            student_global=student_global,
            student_local=student_local,
            teacher_global=teacher_global,
            anchor_global=anchor_global,
            masks=masks,
        )

    def pairs(self) -> list[Pair[nn.Module]]:
        """List the backbone and the heads."""
        return [self.backbone, *unique_pairs(self.objectives).values()]

    def named_objectives(self) -> dict[str, Objective]:
        """Name the objectives as the experiment does."""
        return {name: as_objective(module) for name, module in self.objectives.items()}

    def networks(self) -> list[nn.Module]:
        """List student, teacher, anchor and heads."""
        heads = unique_pairs(self.objectives).values()
        return [*self._backbones(), *(network for pair in heads for network in (pair.student, pair.teacher))]

    def models(self) -> dict[str, tuple[Network, Architecture]]:
        """Return the teacher."""
        return {MODEL: (self.backbone.teacher, self.experiment.backbone)}

    def _backbones(self) -> list[VisionTransformer]:
        return [self.backbone.student, self.backbone.teacher, *([self.anchor] if self.anchor is not None else [])]

    def state(self) -> dict[str, Tensor]:
        """Return the numbers of networks, centres and moments."""
        named = {"backbone": self.backbone.state_dict(), "objectives": self.objectives.state_dict()}
        if self.anchor is not None:
            named["anchor"] = self.anchor.state_dict()
        named["optimizer"] = optim.state_by_name(self.optimizer, self.parts)
        return {f"{prefix}.{name}": value for prefix, state in named.items() for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state back; every name must match."""
        self.backbone.load_state_dict(under("backbone.", state))
        self.objectives.load_state_dict(under("objectives.", state))
        if self.anchor is not None:
            self.anchor.load_state_dict(under("anchor.", state))
        optim.load_state_by_name(self.optimizer, self.parts, under("optimizer.", state))
