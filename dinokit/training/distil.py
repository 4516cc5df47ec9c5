"""Distillation: students say of an image what a frozen teacher says of it; several learn from one pass of the teacher.

    targets   the teacher's CLS and patches through its heads, balanced or centred as in pretraining
    losses    dino on CLS of global and local crops, ibot on the patches of global crops, koleo; per student
    result    the moving average of each student

Nothing is hidden from a student: masks only choose the patches that count, and without masks all of them do. Every
student has its own grid of patches. The teacher looks at the global crops once, at the size where its grid is that of
the finest student (a ConvNeXt of stride 32 at 512 pixels and a teacher of 16 px patches at 256); a coarser student is
compared with the mean of the teacher's patches that its own cover.
Sources: DINOv2 (arXiv:2304.07193) section 5, "model distillation"; DINOv3 (arXiv:2508.10104) section 5.2, of which the
training of several students at once, each by ranks of its own; that masks choose patches is its released code.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL
from dinokit.core import dist
from dinokit.core.errors import UserError
from dinokit.core.log import info
from dinokit.core.ownership import digest_of_weights
from dinokit.health import vitals
from dinokit.health.probe import open_probe
from dinokit.models.architecture import Architecture, Network
from dinokit.models.features import Features
from dinokit.models.head import Head
from dinokit.models.pair import Pair
from dinokit.objectives.base import Losses, Objective
from dinokit.sources.source import Source
from dinokit.training import optim
from dinokit.training.config import Experiment
from dinokit.training.execution import Recompute
from dinokit.training.learner import TEACHERS, Learner, resized
from dinokit.training.step import Trainer, as_objective, under, unique_pairs
from dinokit.training.teacher_heads import Centroids, fresh_heads, teacher_run
from dinokit.views.multicrop import Views


@final
class Distillation(Trainer):
    """A frozen teacher, and students that learn side by side.

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
        first: int = 0,
        grouped: bool = False,
    ) -> None:
        """Load the teacher and build the students; the teacher's heads get their numbers from `begin` or a checkpoint.

        Args:
            grouped: whether every student has ranks of its own; all ranks must call together.

        Raises:
            UserError: if teacher, students and settings do not fit together.
        """
        super().__init__(experiment, device, recompute=recompute, sharded=sharded, first=first)
        distil = experiment.distil
        assert distil is not None
        if sharded or compiled or recompute != "none":
            raise UserError("a distillation runs with runtime.sharding none, compile false and recompute none")
        self.teacher = load(distil.teacher).to(device)
        self.run = teacher_run(distil.teacher)
        found = (
            self.run.heads(dim=self.teacher.dim)
            if self.run
            else fresh_heads(experiment.objectives, dim=self.teacher.dim)
        )
        self.heads: Mapping[str, nn.Module] = found
        self._check_heads()
        self.learners = {
            name: Learner(student.architecture, experiment.objectives, self.heads, seed=experiment.seed).to(device)
            for name, student in distil.students.items()
        }
        self.anchor = None
        self.objectives = nn.ModuleDict()  # of one backbone; here each student has its own
        self.needs = frozenset[str]() if experiment.data.masks is None else frozenset({"masks"})
        self.backbone = self.learners[distil.shown].backbone
        self.team = dist.teams(len(self.learners), late=dist.START) if grouped else None
        self.own = self.learners  # what this rank trains; the others' numbers are those of the last `catch_up`
        if self.team is not None:
            self.own = dict([list(self.learners.items())[self.team.number]])
        self.parts = _parts(self.own)
        self.optimizer = optim.optimizer(_parts(self.learners), experiment.optim)

    def _check_heads(self) -> None:
        for name, config in self.experiment.objectives.items():
            head = getattr(config, "head", None)
            if head is None:
                continue
            if name not in self.heads:
                raise UserError(f"the teacher has no head of {name}; set objectives.{name} to null")
            own = self.heads[name]
            count = len(own.prototypes) if isinstance(own, Head) else head.prototypes
            if head.prototypes != count:
                raise UserError(
                    f"objectives.{name}.head.prototypes must be the teacher's {count}, got {head.prototypes}"
                )

    @torch.no_grad()
    def begin(self, images: Source) -> None:
        """Give the teacher's heads their numbers: those of its run, or prototypes of its features.

        Raises:
            UserError: if its run has not kept them, or there are not enough images.
        """
        if self.run is None:
            self._fit_heads(images)
            return
        state = self.run.state()
        for name, head in self.heads.items():
            head.load_state_dict(under(f"{name}.head.teacher.", state))
        for learner in self.learners.values():
            for name, buffer in learner.objectives.named_buffers():
                if name.endswith(".targets.centre") and name in state:  # the students' targets are those of the teacher
                    buffer.copy_(state[name])

    def _fit_heads(self, images: Source) -> None:
        experiment, distil = self.experiment, self.experiment.distil
        assert distil is not None
        probe = open_probe(
            images,
            self.teacher.pixels,
            side=self._teacher_side(experiment.data.views.variants()[0].global_size),
            patch_size=self.teacher.patch_size,
            images=distil.fit_images,
            seed=experiment.seed,
        )
        if probe is None:
            raise UserError(f"prototypes are found among images of {images.name}, and fewer than two can be read")
        seen: list[tuple[Tensor, Tensor]] = []
        with self.autocast():
            for batch in probe.batches(self.device):
                features = self.teacher(batch)
                seen.append((features.cls.float(), vitals.some_patches(features.patches).float()))
        cls, patches = (torch.cat(parts) for parts in zip(*seen, strict=True))
        for name, head in self.heads.items():
            assert isinstance(head, Centroids)
            head.fit(_of_all_ranks(cls if name == "dino" else patches, len(cls)).cpu(), seed=experiment.seed)
        info(
            f"{distil.teacher} has no heads: its prototypes are those of {len(probe.images):,} images a rank by k-means"
        )

    def shard(self) -> None:
        """Refuse: a distillation is not sharded."""
        raise UserError("a distillation runs with runtime.sharding none")

    def pairs(self) -> list[Pair[Any]]:
        """List the students, whose averages are kept; their heads have the teacher's beside them."""
        return [learner.backbone for learner in self.own.values()]

    def named_objectives(self) -> dict[str, Objective]:
        """Name what computes losses: STUDENT.OBJECTIVE."""
        return {
            f"{name}.{objective}": as_objective(module)
            for name, learner in self.own.items()
            for objective, module in learner.objectives.items()
        }

    @property
    def patch_size(self) -> int:
        """Side in pixels of what a mask chooses: a patch of the finest student."""
        return min(learner.architecture.patch_size for learner in self.learners.values())

    def models(self) -> dict[str, tuple[Network, Architecture]]:
        """Return the average of every student, and the one that stands for the run."""
        assert self.experiment.distil is not None
        files = {MODEL: self.learners[self.experiment.distil.shown]}
        files |= {f"{name}.safetensors": each for name, each in self.learners.items()}
        return {name: (each.backbone.teacher, each.architecture) for name, each in files.items()}

    def networks(self) -> list[nn.Module]:
        """List the teacher, its heads, and what learns."""
        return [self.teacher, *self.heads.values(), *self.learners.values()]

    def losses(self, views: Views, *, step: int) -> dict[str, Losses]:
        """Let the teacher look once, then each student."""
        teacher = self._teach(views.global_crops)
        masks = views.masks
        if masks is None:
            masks = torch.ones(teacher.patches.shape[:3], dtype=torch.bool, device=self.device)
        found = {}
        for name, learner in self.own.items():
            # what a student draws does not depend on the others
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self.autocast():
                for objective, losses in learner.losses(views, teacher, masks, step=step).items():
                    found[f"{name}.{objective}"] = _renamed(losses, name)
        return found

    @torch.no_grad()
    def _teach(self, crops: Float[Tensor, "view batch channel H W"]) -> Features:
        """Return the teacher's features [view, batch, ...]; ranks that hold the same images look at a share each."""
        view, batch = crops.shape[:2]
        number, count = (0, 1) if self.team is None else (self.team.number, self.team.count)
        share = crops[:, number * batch // count : (number + 1) * batch // count]
        with self.autocast():
            features = self.teacher(resized(share.flatten(0, 1), self._teacher_side(crops.shape[-1]))).unflatten(view)
        if self.team is None:
            return features
        with dist.within(self.team.peers):
            cls, registers, patches = map(_of_all_images, (features.cls, features.registers, features.patches))
        return Features(cls, registers, patches, features.grid)

    def _teacher_side(self, side: int) -> int:
        """Return the side of the teacher's crops at which its grid is the finest student's."""
        return side // self.patch_size * self.teacher.patch_size

    def state(self) -> dict[str, Tensor]:
        """Return the numbers of students, heads and moments; of the teacher, whose backbone has a file, a digest."""
        state = self._learnt(self.learners)
        state |= {f"heads.{name}.{key}": v for name, head in self.heads.items() for key, v in head.state_dict().items()}
        return state | {"teacher.digest": self._digest()}

    def catch_up(self) -> None:
        """Take over the other students' numbers and moments from the first ranks of their teams."""
        if self.team is not None:
            self._learn_from(dist.shared(self._learnt(self.own) if self.leads() else {}, self.device))

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put a state back; every name must match.

        Raises:
            UserError: if the teacher is another than the one that the students have learnt from.
        """
        if not torch.equal(state["teacher.digest"].cpu(), self._digest()):
            assert self.experiment.distil is not None
            raise UserError(
                f"{self.experiment.distil.teacher} is another network than when this run began; put it back, or choose "
                "another --out"
            )
        for name, head in self.heads.items():
            head.load_state_dict(under(f"heads.{name}.", state))
        self._learn_from(state)

    def _learnt(self, learners: Mapping[str, Learner]) -> dict[str, Tensor]:
        """Return the numbers and moments of some students."""
        state = {f"{name}.{key}": v for name, each in learners.items() for key, v in each.own_state().items()}
        moments = optim.state_by_name(self.optimizer, _parts(learners))
        return state | {f"optimizer.{name}": value for name, value in moments.items()}

    def _learn_from(self, state: Mapping[str, Tensor]) -> None:
        """Put the numbers and moments of all students back."""
        for name, learner in self.learners.items():
            shared = {key: value for key, value in learner.state_dict().items() if TEACHERS in key}
            learner.load_state_dict(shared | under(f"{name}.", state))
        optim.load_state_by_name(self.optimizer, _parts(self.learners), under("optimizer.", state))

    def _digest(self) -> Tensor:
        """Return 16 bytes that tell the teacher's weights."""
        return torch.frombuffer(bytearray.fromhex(digest_of_weights(self.teacher)), dtype=torch.uint8)


def _parts(learners: Mapping[str, Learner]) -> dict[str, nn.Module]:
    """Name what the optimiser moves: backbones and heads."""
    parts: dict[str, nn.Module] = {}
    for name, learner in learners.items():
        parts[f"{name}.backbone"] = learner.backbone.student
        parts |= {f"{name}.{head}": pair.student for head, pair in unique_pairs(learner.objectives).items()}
    return parts


def _of_all_images(part: Shaped[Tensor, "view image *rest"]) -> Shaped[Tensor, "view images *rest"]:
    """Join the shares of the ranks that hold the same images, in their order."""
    return dist.all_gather(part.transpose(0, 1).contiguous()).transpose(0, 1).contiguous()


def _of_all_ranks(features: Float[Tensor, "sample dim"], images: int) -> Float[Tensor, "samples dim"]:
    """Gather the samples of so many images a rank in the order of one process: the ranks have them in turn."""
    gathered = dist.all_gather(features)
    ranks = gathered.reshape(dist.world_size(), images, -1, gathered.shape[-1])  # [rank, image, sample, dim]
    return ranks.transpose(0, 1).flatten(0, 2)


def _renamed(losses: Losses, student: str) -> Losses:
    return Losses(
        terms={f"{student}/{name}": value for name, value in losses.terms.items()},
        weights={f"{student}/{name}": value for name, value in losses.weights.items()},
        statistics=losses.statistics,
    )
