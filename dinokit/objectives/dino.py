"""DINO: whatever crop of an image the student sees, it should say of it what the teacher says of another crop.

Both say it as a distribution over prototypes; the loss is the cross-entropy between the teacher's for a global crop and
the student's for every other crop, global or local. With `local_weight` 1 it is the mean over all pairs of crops, each
counted the same, as in DINO, DINOv2 and DINOv3.
Sources: DINO (arXiv:2104.14294) section 3.1, equations 2 and 3; DINOv2 (arXiv:2304.07193) section 4, "image-level
objective"; the weight of the local pairs is that of DINOv3's published recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core.errors import UserError
from dinokit.core.schedule import Schedule, constant
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head
from dinokit.models.pair import Pair
from dinokit.objectives import assign, base


@dataclass(frozen=True, kw_only=True)
class Config(assign.Config):
    """Defaults: DINOv3 at ImageNet-1k scale."""

    local_weight: Schedule = field(  # of the pairs with a local crop, per step; DINOv3 ends with 0.5
        default_factory=lambda: constant(1.0)
    )
    head: HeadConfig = field(default_factory=HeadConfig)  # on the CLS token
    ignore_diagonal: bool = True  # leave out pairs of a global crop with itself

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.local_weight.peak, self.local_weight.end, self.local_weight.start) < 0:
            raise UserError(f"local_weight must be >= 0 at every step, got {self.local_weight}; 1 is usual")


class Objective(base.Objective):
    """The loss on the CLS token, and the head it needs."""

    needs = frozenset({"student_global", "student_local", "teacher_global"})

    def __init__(self, config: Config, *, dim: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.head = Pair(Head(dim, config.head, seed=seed))
        self.targets = assign.Targets(config, prototypes=config.head.prototypes)

    @classmethod
    def build(
        cls,
        config: Config,
        *,
        dim: int,
        seed: int,
        siblings: Mapping[str, base.Objective],  # noqa: ARG003 (part of the contract; its head is its own)
    ) -> "Objective":
        """Make the objective with a head of its own."""
        return cls(config, dim=dim, seed=seed)

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:
        """Compute `dino_global`, over pairs of global crops, and `dino_local`, over pairs with a local crop.

        A term without a pair is absent: `dino_local` when there are no local crops.
        """
        assert inputs.student_global is not None
        assert inputs.teacher_global is not None
        with torch.no_grad():
            logits = self.head.teacher(inputs.teacher_global.cls.flatten(0, 1))  # [teacher * batch, prototype]
        targets, statistics = self.targets(logits, step=step)
        targets = targets.unflatten(0, inputs.teacher_global.cls.shape[:2])  # [teacher, batch, prototype]
        crops = {"dino_global": inputs.student_global.cls}
        if inputs.student_local is not None:
            crops["dino_local"] = inputs.student_local.cls
        diagonal = {"dino_global": not self.config.ignore_diagonal, "dino_local": True}
        pairs = {name: count_pairs(len(cls), len(targets), diagonal=diagonal[name]) for name, cls in crops.items()}
        weights = self._weights(pairs, step=step)
        temperature = self.config.student_temperature
        terms = {
            name: cross_entropy(student, targets, temperature=temperature, diagonal=diagonal[name])
            for name, student in self._student(crops).items()
            if pairs[name]
        }
        return base.Losses(terms=terms, weights=weights, statistics=statistics)

    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Move the centre, if there is one."""
        self.targets.fold(statistics)

    def pairs(self) -> dict[str, Pair]:
        """Name the head."""
        return {"head": self.head}

    def _student(self, crops: dict[str, Tensor]) -> dict[str, Tensor]:
        """Send all crops through the head at once: one matrix product instead of two."""
        logits = self.head.student(torch.cat(list(crops.values())).flatten(0, 1))  # [all crops * batch, prototype]
        parts = logits.split([cls.shape[0] * cls.shape[1] for cls in crops.values()])
        return {name: part.unflatten(0, cls.shape[:2]) for (name, cls), part in zip(crops.items(), parts, strict=True)}

    def _weights(self, pairs: dict[str, int], *, step: int) -> dict[str, float]:
        """Weigh each term by its share of the pairs, so that every pair counts the same."""
        total = sum(pairs.values())
        if total == 0:
            raise UserError(
                "dino compares different crops of an image, got a single one; use 2 global crops, or locals"
            )
        scale = {"dino_global": 1.0, "dino_local": self.config.local_weight.at(step)}
        return {name: self.config.weight * scale[name] * count / total for name, count in pairs.items() if count}


def count_pairs(students: int, teachers: int, *, diagonal: bool) -> int:
    """Count pairs of a student and a teacher crop, with or without those of a crop with itself."""
    return students * teachers - (0 if diagonal else min(students, teachers))


def cross_entropy(
    student: Float[Tensor, "student batch prototype"],
    targets: Float[Tensor, "teacher batch prototype"],
    *,
    temperature: float,
    diagonal: bool = True,
) -> Float[Tensor, ""]:
    """Average the cross-entropy over images and pairs of crops, in float32.

    The sum over pairs (s, t) of <target_t, log p_s> is <sum of targets, sum of log p>, so pairs are never formed.

    Args:
        student: logits.
        targets: rows sum to 1.
        temperature: of the student's softmax.
        diagonal: False leaves out the pairs of student crop i with teacher crop i.
    """
    students, batch, _ = student.shape
    log_p = (student.float() / temperature).log_softmax(dim=-1)
    agreement = (targets.sum(dim=0) * log_p.sum(dim=0)).sum()
    if not diagonal:
        same = min(students, len(targets))
        agreement = agreement - (targets[:same] * log_p[:same]).sum()
    return -agreement / (batch * count_pairs(students, len(targets), diagonal=diagonal))
