"""One training step, as in the papers' algorithm box.

    teacher targets from the unmasked global crops, student outputs from masked global and local crops,
    sum of weighted losses, gradient, clip, AdamW, then theta_teacher <- m theta_teacher + (1 - m) theta_student.

Source: DINO (arXiv:2104.14294) algorithm 1; DINOv2 (arXiv:2304.07193) section 4; DINOv3 (arXiv:2508.10104) section 3.2.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dinokit.checkpoints.store import MODEL
from dinokit.core import dist
from dinokit.core.device import autocast, uses_bf16
from dinokit.core.seed import derived, seed_torch
from dinokit.data.views import Cut, Views
from dinokit.models.architecture import Architecture, Network
from dinokit.models.pair import Pair
from dinokit.models.vit import VisionTransformer
from dinokit.objectives import base as objectives
from dinokit.objectives.base import Inputs, Objective
from dinokit.training import anchor as anchors
from dinokit.training import optim, shard
from dinokit.training.config import Experiment
from dinokit.training.execution import Recompute, compile_blocks, set_recompute


@dataclass(frozen=True)
class Report:
    """What one step measured, or why it was skipped."""

    values: dict[str, float]  # loss, loss/NAME, grad_norm/PART; if taken also lr, weight_decay, momentum
    fault: str = ""  # empty for a step that was taken

    @property
    def finite(self) -> bool:
        """Tell whether the step was taken."""
        return not self.fault


class Trainer:
    """All that learns: the backbone's pair, the objectives with their heads' pairs, the optimiser."""

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
        """Build everything; if sharded, the backbone has no numbers until `shard` is called, by all ranks together.

        Args:
            first: step of the run that is the first of this experiment; its schedules count from there.
        """
        self.experiment = experiment
        self.first = first
        self.device = device
        self.sharded = sharded
        self.lr_factor = 1.0
        # selective recomputation must repeat what it saw, and a cached weight is rounded once only
        self.autocast = autocast(device, experiment.precision, cache=recompute != "selective")
        self._build(recompute, compiled)
        self.optimizer = optim.optimizer(self.parts, experiment.optim)

    def _build(self, recompute: Recompute, compiled: bool) -> None:
        """Build backbone, anchor and objectives, and say which parts learn and what they need."""
        experiment = self.experiment
        with torch.device("meta") if self.sharded else nullcontext():
            backbone = VisionTransformer(experiment.backbone, seed=experiment.seed)
        self.backbone: Pair[Any] = Pair(backbone if self.sharded else backbone.to(self.device))
        self.anchor: VisionTransformer | None = None
        if experiment.anchor is not None and experiment.anchor.source != anchors.TEACHER:
            self.anchor = copy.deepcopy(self.backbone.teacher)
        set_recompute(self.backbone.student, recompute)
        if compiled:
            for network in self._backbones():
                compile_blocks(network)
        built = build_objectives(experiment.objectives, dim=experiment.backbone.dim, seed=experiment.seed)
        self.objectives = built.to(self.device)
        self.needs = frozenset[str]().union(*(o.needs for o in self._objectives()))
        self.parts = {"backbone": self.backbone.student} | {
            name: pair.student for name, pair in unique_pairs(self.objectives).items()
        }

    def shard(self) -> None:
        """Keep this rank's rows of every network and draw the backbone's."""
        bf16 = uses_bf16(self.device, self.experiment.precision)
        for network in self._networks():
            shard.shard(network, self.device, bf16=bf16)
        for network in self._backbones():
            network.to_empty(device=self.device)
            network.initialise(self.experiment.seed)
        self.optimizer = optim.optimizer(self.parts, self.experiment.optim)

    def step(self, micro_batches: Sequence[Views | Cut], *, step: int) -> Report:
        """Learn from one global batch, given as this rank's micro-batches; skip it untouched if it is not finite.

        Args:
            step: of the run.
        """
        own = step - self.first
        rates = optim.set_rates(self.optimizer, self.experiment.optim, step=own, lr_factor=self.lr_factor)
        self.optimizer.zero_grad(set_to_none=True)
        measured: list[dict[str, Tensor]] = []
        statistics: list[dict[str, dict[str, Tensor]]] = []
        for micro, views in enumerate(micro_batches):
            # drop path and RoPE augmentation follow seed, step, micro-batch and rank alone
            seed_torch(self.experiment.seed, step, micro, dist.rank())
            losses = self._losses(views.on(self.device), step=own)
            total = torch.stack([loss.total for loss in losses.values()]).sum()
            torch.autograd.backward(total / len(micro_batches))
            if self.sharded:
                shard.release(self._networks())
            statistics.append({name: loss.statistics for name, loss in losses.items()})
            terms = {f"loss/{term}": value for loss in losses.values() for term, value in loss.terms.items()}
            measured.append({"loss": total.detach()} | {name: value.detach() for name, value in terms.items()})

        values = _mean_over_ranks(_mean(measured))
        if not self.sharded:
            dist.average_gradients(parameter for part in self.parts.values() for parameter in part.parameters())
        optim.drop_frozen_gradients(self.optimizer, self.experiment.optim, step=own)
        norms = optim.clip_gradients(self.parts, self.experiment.optim)
        values |= {f"grad_norm/{part}": norm for part, norm in norms.items()}
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if odd:
            self.optimizer.zero_grad(set_to_none=True)
            return Report(values=values, fault=f"not finite are {', '.join(odd)}")
        self.optimizer.step()
        momentum = self.experiment.momentum.at(own)
        for pair in self.pairs():
            pair.update(momentum)
        for name, objective in self.named_objectives().items():
            objective.after_step(_mean([micro[name] for micro in statistics]))
        if self.experiment.anchor is not None and self.experiment.anchor.due(own + 1):
            self.renew_anchor()
        return Report(values=values | rates | {"momentum": momentum})

    def pairs(self) -> list[Pair[Any]]:
        """List what has an average that follows it."""
        return [self.backbone, *unique_pairs(self.objectives).values()]

    def named_objectives(self) -> dict[str, Objective]:
        """Name what computes losses."""
        return {name: as_objective(module) for name, module in self.objectives.items()}

    @property
    def patch_size(self) -> int:
        """Side in pixels of what a mask hides."""
        return self.experiment.backbone.patch_size

    def models(self) -> dict[str, tuple[Network, Architecture]]:
        """Return the networks that a checkpoint is for, by the name of their file."""
        return {MODEL: (self.backbone.teacher, self.experiment.backbone)}

    def renew_anchor(self) -> None:
        """Make the anchor what the EMA teacher is now."""
        if self.anchor is not None:
            self.anchor.load_state_dict(self.backbone.teacher.state_dict())

    def _losses(self, views: Views, *, step: int) -> dict[str, objectives.Losses]:
        inputs = self._inputs(views)
        # float32 where it matters is each objective's own business; only the heads' products may run in bf16
        with self.autocast():
            return {name: as_objective(objective)(inputs, step=step) for name, objective in self.objectives.items()}

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

    def _backbones(self) -> list[VisionTransformer]:
        return [self.backbone.student, self.backbone.teacher, *([self.anchor] if self.anchor is not None else [])]

    def _networks(self) -> list[nn.Module]:
        heads = unique_pairs(self.objectives).values()
        return [*self._backbones(), *(network for pair in heads for network in (pair.student, pair.teacher))]

    def _objectives(self) -> list[Objective]:
        return [*self.named_objectives().values()]

    def state(self) -> dict[str, Tensor]:
        """Return every number training continues from, under flat names."""
        named = {"backbone": self.backbone.state_dict(), "objectives": self.objectives.state_dict()}
        if self.anchor is not None:
            named["anchor"] = self.anchor.state_dict()
        named["optimizer"] = optim.state_by_name(self.optimizer, self.parts)
        return {f"{prefix}.{name}": value for prefix, state in named.items() for name, value in state.items()}

    def layout(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Make room for a tensor of a saved state: this rank's rows if the trainer is sharded, else all."""
        moment, _, _ = name.removeprefix("optimizer.").rpartition(".")
        own = dict(optim.named(self.parts)).get(moment) if name.startswith("optimizer.") else self.state().get(name)
        return shard.room(own, shape, dtype)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state back; every name must match."""
        self.backbone.load_state_dict(_under("backbone.", state))
        self.objectives.load_state_dict(_under("objectives.", state))
        if self.anchor is not None:
            self.anchor.load_state_dict(_under("anchor.", state))
        optim.load_state_by_name(self.optimizer, self.parts, _under("optimizer.", state))


def build_objectives(configs: Mapping[str, Any], *, dim: int, seed: int) -> nn.ModuleDict:
    """Build the objectives for features of a width."""
    built: dict[str, Objective] = {}
    for index, (name, config) in enumerate(configs.items()):
        kind = objectives.find(name).Objective
        built[name] = kind.build(config, dim=dim, seed=derived(seed, index), siblings=built)
    return nn.ModuleDict(built)


def unique_pairs(modules: nn.ModuleDict) -> dict[str, Pair[Any]]:
    """Name each head's pair once, by the objective that built it, although another may share it."""
    pairs: dict[str, Pair[Any]] = {}
    for name, module in modules.items():
        for pair_name, pair in as_objective(module).pairs().items():
            if not any(pair is known for known in pairs.values()):
                pairs[f"{name}_{pair_name}"] = pair
    return pairs


def as_objective(module: nn.Module) -> Objective:
    """Tell the type checker what a module of objectives is."""
    assert isinstance(module, Objective)
    return module


def _mean(measured: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in measured]).mean(0) for name in measured[0]}


def _mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, float]:
    means = dist.all_reduce_sum(torch.stack(list(values.values()))) / dist.world_size()
    return dict(zip(values, means.tolist(), strict=True))


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
