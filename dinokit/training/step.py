"""One training step, as in the papers' algorithm box.

    teacher targets from the unmasked global crops, student outputs from masked global and local crops,
    sum of weighted losses, gradient, clip, AdamW, then theta_teacher <- m theta_teacher + (1 - m) theta_student.

Source: DINO (arXiv:2104.14294) algorithm 1; DINOv2 (arXiv:2304.07193) section 4; DINOv3 (arXiv:2508.10104) section 3.2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.device import autocast, keep_freed_memory
from dinokit.core.seed import derived, seed_torch
from dinokit.models.architecture import Architecture, Network
from dinokit.models.pair import Pair
from dinokit.models.vit import VisionTransformer
from dinokit.objectives.base import Losses, Objective, find
from dinokit.sources.source import Source
from dinokit.training import optim, shard
from dinokit.training.config import Experiment
from dinokit.training.execution import Recompute
from dinokit.views.multicrop import Cut, Views


@dataclass(frozen=True)
class Report:
    """What one step measured, or why it was skipped."""

    values: dict[str, float]  # loss, loss/NAME, grad_norm/PART; if taken also lr, weight_decay, momentum
    fault: str = ""  # empty for a step that was taken

    @property
    def finite(self) -> bool:
        """Tell whether the step was taken."""
        return not self.fault


class Trainer(ABC):
    """All that learns, and how it takes a step; what it is made of, and its losses, are a subclass's."""

    experiment: Experiment
    backbone: Pair[Any]  # what is shown and measured while it trains
    anchor: VisionTransformer | None  # the earlier network that objective gram looks at
    objectives: nn.ModuleDict  # whose prototypes the health of `backbone` is told by
    needs: frozenset[str]  # fields of Inputs that some objective reads
    parts: dict[str, nn.Module]  # what the optimiser moves, by name
    optimizer: torch.optim.AdamW
    team: dist.Team | None = None  # of ranks that train the same, where not all do

    def __init__(
        self, experiment: Experiment, device: torch.device, *, recompute: Recompute, sharded: bool, first: int
    ) -> None:
        """Keep what all trainers share.

        Args:
            first: step of the run that is the first of this experiment; its schedules count from there.
        """
        if device.type == "cpu":
            keep_freed_memory()
        self.experiment = experiment
        self.first = first
        self.device = device
        self.sharded = sharded
        self.lr_factor = 1.0
        # selective recomputation must repeat what it saw, and a cached weight is rounded once only
        self.autocast = autocast(device, experiment.precision, cache=recompute != "selective")

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side in pixels of what a mask speaks of."""

    @abstractmethod
    def losses(self, views: Views, *, step: int) -> dict[str, Losses]:
        """Compute the losses of a micro-batch by objective; `step` is that of the experiment."""

    @abstractmethod
    def pairs(self) -> list[Pair[Any]]:
        """List what has an average that follows it."""

    @abstractmethod
    def named_objectives(self) -> dict[str, Objective]:
        """Name what computes losses, as `losses` does."""

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """List every network, learning or not."""

    @abstractmethod
    def models(self) -> dict[str, tuple[Network, Architecture]]:
        """Return the networks that a checkpoint is for, by the name of their file."""

    @abstractmethod
    def begin(self, images: Source) -> None:
        """Find what a fresh run needs of its images before the first step; all ranks must call together."""

    @abstractmethod
    def shard(self) -> None:
        """Keep this rank's rows of every network; all ranks must call together."""

    @abstractmethod
    def catch_up(self) -> None:
        """Take over what other teams have learnt before it is looked at or saved; all ranks must call together."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return every number training continues from, under flat names."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state back; every name must match."""

    def step(self, micro_batches: Sequence[Views | Cut], *, step: int) -> Report:
        """Learn from one global batch, given as this rank's micro-batches; skip it untouched if it is not finite.

        Args:
            step: of the run.
        """
        own = step - self.first
        rates = optim.set_rates(self.optimizer, self.experiment.optim, step=own, lr_factor=self.lr_factor)
        with self.together():
            values, statistics = self._gradients(micro_batches, step=step)
        values = self._of_all_teams(values)
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if odd:
            self.optimizer.zero_grad(set_to_none=True)
            self._renew_anchor_if_due(own)  # at its step, though this one teaches nothing: the teacher is as it was
            return Report(values=values, fault=f"not finite are {', '.join(odd)}")
        self.optimizer.step()
        momentum = self.experiment.momentum.at(own)
        for pair in self.pairs():
            pair.update(momentum)
        for name, objective in self.named_objectives().items():
            objective.after_step(statistics[name])
        self._renew_anchor_if_due(own)
        return Report(values=values | rates | {"momentum": momentum})

    def _gradients(
        self, micro_batches: Sequence[Views | Cut], *, step: int
    ) -> tuple[dict[str, float], dict[str, dict[str, Tensor]]]:
        """Leave clipped gradients in the parameters; return what was measured, and statistics by objective."""
        own = step - self.first
        self.optimizer.zero_grad(set_to_none=True)
        measured: list[dict[str, Tensor]] = []
        statistics: list[dict[str, dict[str, Tensor]]] = []
        for micro, views in enumerate(micro_batches):
            # drop path and RoPE augmentation follow seed, step, micro-batch and rank alone
            seed_torch(self.experiment.seed, step, micro, dist.rank())
            losses = self.losses(views.on(self.device), step=own)
            total = torch.stack([loss.total for loss in losses.values()]).sum()
            torch.autograd.backward(total / len(micro_batches))
            if self.sharded:
                shard.release(self.networks())
            statistics.append({name: loss.statistics for name, loss in losses.items()})
            terms = {f"loss/{term}": value for loss in losses.values() for term, value in loss.terms.items()}
            measured.append({"loss": total.detach()} | {name: value.detach() for name, value in terms.items()})

        values = _mean_over_ranks(_mean(measured))
        if not self.sharded:
            dist.average_gradients(parameter for part in self.parts.values() for parameter in part.parameters())
        optim.drop_frozen_gradients(self.optimizer, self.experiment.optim, step=own)
        norms = optim.clip_gradients(self.parts, self.experiment.optim)
        values |= {f"grad_norm/{part}": norm for part, norm in norms.items()}
        return values, {name: _mean([micro[name] for micro in statistics]) for name in statistics[0]}

    def together(self) -> AbstractContextManager[None]:
        """Let "all ranks" mean those that train the same, each on its share of the images."""
        return dist.within(None if self.team is None else self.team.members)

    def leads(self) -> bool:
        """Tell whether this rank speaks for those that train the same."""
        with self.together():
            return dist.rank() == 0

    def _of_all_teams(self, values: dict[str, float]) -> dict[str, float]:
        """Join what the teams have measured, so that all ranks decide alike whether the step is taken."""
        if self.team is None:
            return values
        teams = dist.gather_lists([values] if self.leads() else [])
        joined = {name: value for team in teams for name, value in team.items()}
        return joined | {"loss": sum(team["loss"] for team in teams)}

    def renew_anchor(self) -> None:
        """Make the anchor what the EMA teacher is now."""
        if self.anchor is not None:
            self.anchor.load_state_dict(self.backbone.teacher.state_dict())

    def _renew_anchor_if_due(self, step: int) -> None:
        if self.experiment.anchor is not None and self.experiment.anchor.due(step + 1):
            self.renew_anchor()

    def layout(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Make room for a tensor of a saved state: this rank's rows if the trainer is sharded, else all."""
        moment, _, _ = name.removeprefix("optimizer.").rpartition(".")
        own = dict(optim.named(self.parts)).get(moment) if name.startswith("optimizer.") else self.state().get(name)
        return shard.room(own, shape, dtype)


def build_objectives(configs: Mapping[str, Any], *, dim: int, seed: int) -> nn.ModuleDict:
    """Build the objectives for features of a width."""
    built: dict[str, Objective] = {}
    for index, (name, config) in enumerate(configs.items()):
        kind = find(name).Objective
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


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
