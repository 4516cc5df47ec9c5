"""One training step, as in the papers' algorithm box.

    teacher targets from the unmasked global crops, student outputs from masked global and local crops,
    sum of weighted losses, gradient, clip, AdamW, then theta_teacher <- m theta_teacher + (1 - m) theta_student.

A pretraining has one learner, which its own average teaches. A distillation has several, and one frozen teacher of all.
Sources: DINO (arXiv:2104.14294) algorithm 1; DINOv2 (arXiv:2304.07193) section 4; DINOv3 (arXiv:2508.10104) section 3.2
and, of students that learn side by side, each by ranks of its own, section 5.2.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.device import autocast, keep_freed_memory, repeatable, settled
from dinokit.core.gradients import Averaging
from dinokit.core.seed import derived
from dinokit.models.head import running_statistics
from dinokit.objectives.base import Losses
from dinokit.sources.source import Source
from dinokit.training import optim
from dinokit.training.config import ALONE, Experiment
from dinokit.training.execution import Recompute, execute, release, shard, share
from dinokit.training.learner import Learner
from dinokit.training.teacher import Teacher, under
from dinokit.training.trained import LowRank
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


@final
class Trainer:
    """All that learns in a stage, and how it takes a step.

    A student is bit by bit what it would be alone, as long as the finest student, which sets the teacher's grid and
    that of the masks, is as fine, and no step is skipped because another's loss is not finite.
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        *,
        recompute: Recompute = "none",
        compiled: bool = False,
        sharded: bool = False,
        teams: bool = False,
        first: int = 0,
    ) -> None:
        """Build everything; in a distillation load the teacher, whose heads get their numbers from `begin`.

        Args:
            sharded: whether this rank keeps its rows of every network alone; all ranks must call together.
            teams: whether every student has ranks of its own; all ranks must call together.
            first: step of the run that is the first of this experiment; its schedules count from there.

        Raises:
            UserError: if teacher, students and settings do not fit together.
        """
        if device.type == "cpu":
            keep_freed_memory(sparingly=recompute != "none")
        self.experiment, self.device, self.sharded, self.first = experiment, device, sharded, first
        self.lr_factor = 1.0
        # selective recomputation must repeat what it saw, and a cached weight is rounded once only
        self.precision = settled(device, experiment.precision, dim=experiment.width)
        self.autocast = autocast(device, self.precision, cache=recompute != "selective")
        # not every version of torch has a gradient of a ResNet's max-pooling under `repeatable`
        self.repeats = all(each.kind != "resnet" for each in experiment.networks.values())
        distil = experiment.distil
        # of what a mask hides or chooses
        self.patch_size = min(each.patch_size for each in experiment.networks.values())
        self.teacher: Teacher | None = None
        common: dict[str, Any] = {"seed": experiment.seed, "device": device, "outline": sharded}
        common["anchored"] = experiment.anchor is not None and experiment.anchor.apart
        common["trained"] = experiment.optim.trained
        common["at_once"] = compiled or sharded  # a new size compiles again, and every pass gathers all weights
        if distil is not None:
            self.teacher = Teacher(experiment, device, finest=self.patch_size, autocast=self.autocast)
            common["heads"] = self.teacher.heads
        self.learners = {
            name: Learner(each, experiment.objectives, **common) for name, each in experiment.networks.items()
        }
        shown = self.learners[ALONE if distil is None else distil.shown]
        self.backbone, self.anchor, self.needs = shown.backbone, shown.anchor, shown.needs  # shown and measured
        self.objectives = shown.named if distil is None else {}  # whose prototypes the health of `backbone` is told by
        for learner in self.learners.values():
            execute(learner.backbones(), recompute, compiled=compiled)
        if sharded:
            self._shard(shown)
        self.team = dist.teams(len(self.learners)) if teams else None
        # what this rank trains; the others' numbers are those of the last `catch_up`
        own = slice(None) if self.team is None else slice(self.team.number, self.team.number + 1)
        self.own = dict(list(self.learners.items())[own])
        with self.together():
            self.leads = dist.rank() == 0  # whether this rank speaks for those that train the same
        self.running = running_statistics(nn.ModuleList(self.own.values()))  # of batch norms
        self.parts = _parts(self.own)  # what this rank's optimiser moves
        self.average = Averaging()
        self.optimizer = optim.optimizer(_parts(self.learners), experiment.optim)

    def _shard(self, shown: Learner) -> None:
        """Keep this rank's rows alone of every network, which is an outline until then."""
        for each in self.networks():
            shard(each, self.device, bf16=self.precision == "bf16")
        share(self.networks(), self.device)
        for backbone in shown.backbones():
            backbone.to_empty(device=self.device)
            backbone.initialise(self.experiment.seed)

    def step(self, micro_batches: Sequence[Views | Cut], *, step: int) -> Report:
        """Learn from one global batch, given as this rank's micro-batches; skip it untouched if it is not finite.

        Args:
            step: of the run.
        """
        own, settings = step - self.first, self.experiment.optim
        rates = optim.set_rates(self.optimizer, settings, step=own, lr_factor=self.lr_factor)
        running = [(each, each.clone()) for each in self.running]  # a forward pass moves them
        with self.together(), repeatable(self.device, self.repeats):
            values, statistics = self._gradients(micro_batches, step=step)
        values = self._of_all_teams(values)
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if odd:
            self.optimizer.zero_grad()
            for each, before in running:
                each.copy_(before)
        else:
            self._move()
            momentum = self.experiment.momentum.at(own)
            for pair in (pair for learner in self.own.values() for pair in learner.pairs()):
                pair.update(momentum, statistics=self.teacher is not None)
            for (name, objective), found in statistics.items():
                self.learners[name].named[objective].after_step(found)
            values |= rates | {"momentum": momentum}
        # at its step, also if that teaches nothing: the teacher is then as it was
        if self.experiment.anchor is not None and self.experiment.anchor.due(own + 1):
            self.renew_anchor()
        return Report(values, f"not finite are {', '.join(odd)}" if odd else "")

    def _move(self) -> None:
        """Let the optimiser move what it has gradients of, and matrices follow their factors."""
        followed = [(each, each.products()) for each in self._low_rank()]
        self.optimizer.step()
        for each, before in followed:
            each.follow(before)

    def _low_rank(self) -> list[LowRank]:
        return [each.low_rank for each in self.own.values() if each.low_rank is not None]

    def _gradients(
        self, micro_batches: Sequence[Views | Cut], *, step: int
    ) -> tuple[dict[str, float], dict[tuple[str, str], dict[str, Tensor]]]:
        """Leave clipped gradients in the parameters; return what was measured, and statistics by objective."""
        own, settings = step - self.first, self.experiment.optim
        self.optimizer.zero_grad()
        measured: list[dict[str, Tensor]] = []
        statistics: list[dict[tuple[str, str], dict[str, Tensor]]] = []
        for micro, views in enumerate(micro_batches):
            losses = self.losses(views.on(self.device), step=step, micro=micro)
            total = torch.stack([loss.total for loss in losses.values()]).sum()
            torch.autograd.backward(total / len(micro_batches))
            if self.sharded:
                release(self.networks())
            statistics.append({name: loss.statistics for name, loss in losses.items()})
            terms = {
                f"loss/{_named(name, term, '/')}": value.detach()
                for (name, _), loss in losses.items()
                for term, value in loss.terms.items()
            }
            measured.append({"loss": total.detach()} | terms)
        means = _mean(measured)
        over_ranks = dist.all_reduce(torch.stack(list(means.values()))) / dist.world_size()
        values = dict(zip(means, over_ranks.tolist(), strict=True))
        for each in self._low_rank():
            each.fold()
        if not self.sharded:
            self.average(parameter for part in self.parts.values() for parameter in part.parameters())
        optim.drop_frozen_gradients(self.optimizer, settings, step=own)
        norms = optim.clip_gradients(self.parts, settings)
        values |= {f"grad_norm/{part}": norm for part, norm in norms.items()}
        return values, {name: _mean([micro[name] for micro in statistics]) for name in statistics[0]}

    def losses(self, views: Views, *, step: int, micro: int = 0) -> dict[tuple[str, str], Losses]:
        """Compute the losses of a micro-batch by learner and objective."""
        taught = None if self.teacher is None else self.teacher.look(views.global_crops, self.team)
        found: dict[tuple[str, str], Losses] = {}
        for name, learner in self.own.items():
            # drop path and RoPE augmentation follow seed, step, micro-batch and rank alone, and no other learner
            torch.manual_seed(derived(self.experiment.seed, step, micro, dist.rank()))
            with self.autocast():
                losses = learner(views, taught, step=step - self.first)
            found |= {(name, objective): each for objective, each in losses.items()}
        return found

    def together(self) -> AbstractContextManager[None]:
        """Let "all ranks" mean those that train the same, each on its share of the images."""
        return dist.within(None if self.team is None else self.team.members)

    def _of_all_teams(self, values: dict[str, float]) -> dict[str, float]:
        """Join what the teams have measured, so that all ranks decide alike whether the step is taken."""
        if self.team is None:
            return values
        teams = dist.gather_lists([values] if self.leads else [])
        joined = {name: value for team in teams for name, value in team.items()}
        return joined | {"loss": sum(team["loss"] for team in teams)}

    def networks(self) -> list[nn.Module]:
        """List every network, learning or not."""
        if self.teacher is not None:
            return [self.teacher.network, *self.teacher.heads.values(), *self.learners.values()]
        (learner,) = self.learners.values()
        heads = [network for pair in learner.heads.values() for network in (pair.student, pair.teacher)]
        return [*learner.backbones(), *heads]

    def models(self) -> dict[str, Learner]:
        """Return those whose averages a checkpoint is for, by the name of their file without its ending."""
        shown = next(each for each in self.learners.values() if each.backbone is self.backbone)
        return {"model": shown} | {name: each for name, each in self.learners.items() if name}

    def begin(self, images: Source) -> None:
        """Find what a fresh run needs of its images before the first step; all ranks must call together."""
        if self.teacher is not None:
            self.teacher.begin(images, [each.objectives for each in self.learners.values()])

    def renew_anchor(self) -> None:
        """Make the anchor what the EMA teacher is now."""
        if self.anchor is not None:
            self.anchor.load_state_dict(self.backbone.teacher.state_dict())

    def catch_up(self) -> None:
        """Take over what other teams have learnt before it is looked at or saved; all ranks must call together."""
        if self.team is not None:
            self._learn_from(dist.shared(self._learnt(self.own) if self.leads else {}, self.device))

    def state(self) -> dict[str, Tensor]:
        """Return every number training continues from, under flat names; of a frozen network a digest."""
        return self._learnt(self.learners) | ({} if self.teacher is None else self.teacher.state())

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state back; every name must match.

        Raises:
            UserError: if the teacher is another than the one that the students have learnt from.
        """
        if self.teacher is not None:
            self.teacher.load_state(state)
        self._learn_from(state)

    @property
    def layout(self) -> Callable[[str, torch.Size, torch.dtype], Tensor]:
        """What makes room for a tensor of a saved state: this rank's rows if the trainer is sharded, else all."""
        own: dict[str, Tensor] = {}
        if self.sharded:
            own = {f"optimizer.{name}": each for name, each in optim.named(self.parts)} | self.state()

        def room(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            like = own.get(name.rpartition(".")[0] if name.startswith("optimizer.") else name)
            if like is None or like.shape != shape:
                return torch.empty(shape, dtype=dtype)
            return torch.empty_like(like, dtype=dtype, requires_grad=False)

        return room

    def _learnt(self, learners: Mapping[str, Learner]) -> dict[str, Tensor]:
        """Return the numbers and moments of some learners."""
        state = {_named(name, key): v for name, each in learners.items() for key, v in each.own_state().items()}
        moments = optim.state_by_name(self.optimizer, _parts(learners))
        return state | {f"optimizer.{name}": value for name, value in moments.items()}

    def _learn_from(self, state: Mapping[str, Tensor]) -> None:
        """Put the numbers and moments of all learners back."""
        for name, learner in self.learners.items():
            own = {key: value for key, value in state.items() if name or not key.startswith("optimizer.")}
            learnt = learner.own_state()
            shared = {key: v for key, v in learner.state_dict().items() if key not in learnt}
            learner.load_state_dict(shared | (under(f"{name}.", own) if name else own))
        optim.load_state_by_name(self.optimizer, _parts(self.learners), under("optimizer.", state))


def _parts(learners: Mapping[str, Learner]) -> dict[str, nn.Module]:
    return {_named(name, part): module for name, each in learners.items() for part, module in each.parts().items()}


def _named(learner: str, what: str, dot: str = ".") -> str:
    return f"{learner}{dot}{what}" if learner else what


def _mean(measured: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in measured]).mean(0) for name in measured[0]}
