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
from jaxtyping import Float, Int
from torch import Tensor

from dinokit.core.bounds import at_least
from dinokit.core.errors import UserError
from dinokit.core.schedule import Schedule, constant
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head
from dinokit.models.pair import Pair
from dinokit.objectives import assign, base, prototypes


@dataclass(frozen=True, kw_only=True)
class Config(assign.Config):
    """Defaults: DINOv3 at ImageNet-1k scale."""

    local_weight: Schedule = at_least(0, constant(1.0))  # of the pairs with a local crop; DINOv3 ends with 0.5
    head: HeadConfig = field(default_factory=HeadConfig)  # on the CLS token
    ignore_diagonal: bool = True  # leave out pairs of a global crop with itself


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
        teachers = inputs.teacher_global.cls.shape[:2]  # [teacher, batch]
        with torch.no_grad():
            logits = self.head.teacher(inputs.teacher_global.cls.flatten(0, 1))  # [teacher * batch, prototype]
        targets, statistics = self.targets(logits, step=step)
        crops = {"dino_global": inputs.student_global.cls}
        if inputs.student_local is not None:
            crops["dino_local"] = inputs.student_local.cls
        counts = [len(cls) for cls in crops.values()]
        summed, rows = summed_targets(
            targets.unflatten(0, teachers), students=sum(counts), apart=counts[0] if self.config.ignore_diagonal else 0
        )
        losses = self._losses(torch.cat(list(crops.values())), summed, rows)  # [student, batch]

        same = {"dino_global": self.config.ignore_diagonal, "dino_local": False}
        pairs = {name: count_pairs(len(cls), teachers[0], diagonal=not same[name]) for name, cls in crops.items()}
        terms = {
            name: loss.sum() / (teachers[1] * pairs[name])
            for name, loss in zip(crops, torch.split(losses, counts), strict=True)
            if pairs[name]
        }
        return base.Losses(terms=terms, weights=self._weights(pairs, step=step), statistics=statistics)

    def _losses(self, cls: Tensor, summed: Tensor, rows: Tensor) -> Float[Tensor, "student batch"]:
        """Send all crops through the head at once and return the sum of each one's cross-entropies."""
        head = self.head.student
        vectors = head.project(cls.flatten(0, 1))  # [student * batch, bottleneck]
        temperature = self.config.student_temperature
        losses = prototypes.cross_entropy(vectors, head.prototypes, summed, temperature=temperature, rows=rows)
        return losses.view(cls.shape[:2])

    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Move the centre, if there is one."""
        self.targets.fold(statistics)

    def pairs(self) -> dict[str, Pair[Head]]:
        """Name the head."""
        return {"head": self.head}

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


def summed_targets(
    targets: Float[Tensor, "teacher batch prototype"], *, students: int, apart: int
) -> tuple[Float[Tensor, "row prototype"], Int[Tensor, " student_batch"]]:
    """Sum the targets that each student crop is compared with, and say which sum is whose.

    The sum over pairs (s, t) of <target_t, log p_s> is <sum of targets, log p_s>, so pairs are never formed, and crops
    that are compared with all teacher crops share one row.

    Args:
        students: crops of the student, the global ones first.
        apart: the first so many of them leave out the teacher crop of the same number, if there is one.

    Returns:
        The sums, and the row of each student crop and image, crop-major.
    """
    teachers, batch, _ = targets.shape
    total = targets.sum(dim=0)  # [batch, prototype]
    apart = min(apart, teachers)
    others = total - targets[:apart]  # [apart, batch, prototype]
    rows = torch.arange((apart + 1) * batch, device=targets.device).view(-1, batch)  # [apart + 1, batch]
    crop = torch.arange(students, device=targets.device).clamp_max(apart)  # [student]
    return torch.cat([others.flatten(0, 1), total]), rows[crop].flatten()
