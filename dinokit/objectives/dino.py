"""DINO: whatever crop of an image the student sees, it should say of it what the teacher says of another crop.

    L = - mean over pairs (t, s) of crops, t != s, of   sum_k q_k(t) log p_k(s)
    p(s) = softmax(head(CLS of the student) / temperature)      q(t): targets made of the teacher's logits (assign.py)

t is a global crop, s any other, global or local. With `local_weight` 1 it is the mean over all pairs of crops, each
counted the same, as in DINO, DINOv2 and DINOv3.
Sources: DINO (arXiv:2104.14294) section 3.1, equations 2 and 3; DINOv2 (arXiv:2304.07193) section 4, "image-level
objective"; the weight of the local pairs is that of DINOv3's published recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.core.numbers import Schedule, at_least, constant
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head, Pair
from dinokit.objectives import assign, base, prototypes


@dataclass(frozen=True, kw_only=True)
class Config(assign.Config):
    """Defaults: DINOv3 at ImageNet-1k scale."""

    local_weight: Schedule = at_least(0, constant(1.0))  # of the pairs with a local crop; DINOv3 ends with 0.5
    head: HeadConfig = field(default_factory=HeadConfig)  # on the CLS token
    ignore_diagonal: bool = True  # leave out pairs of a global crop with itself

    def for_students(self) -> "Config":
        """Give the student's head one layer, and let a crop be compared with itself.

        Ours, found at a small size (docs/log.md, "Distillation that beats scratch"): what a deep head learns the
        features lack, and where nothing is hidden a crop has most to say of itself. DINOv3 leaves both.
        """
        return replace(self, ignore_diagonal=False, head=replace(self.head, layers=1))

    def head_use(self, seen: base.Seen, *, siblings: Mapping[str, base.Config]) -> base.HeadUse:  # noqa: ARG002
        """Count CLS tokens."""
        return base.HeadUse(
            config=self.head,
            owned=True,
            student=float(seen.crops + seen.locals),
            teacher=float(seen.crops),
            targets=1.0 + (seen.crops if self.ignore_diagonal else 0),
            reductions=self.reductions,
        )


class Objective(base.Objective):
    """The loss on the CLS token, and the head it needs."""

    needs = frozenset({"student_global", "student_local", "teacher_global"})

    def __init__(self, config: Config, *, dim: int, seed: int, siblings: Mapping[str, base.Objective]) -> None:
        super().__init__(config, dim=dim, seed=seed, siblings=siblings)
        self.head = Pair(Head(dim, config.head, seed=seed))
        self.targets = assign.Targets(config, prototypes=config.head.prototypes)

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:
        """Compute `dino_global`, over pairs of global crops, and `dino_local`, over pairs with a local crop.

        A term without a pair is absent: `dino_local` when there are no local crops.
        """
        assert inputs.student_global is not None
        assert inputs.teacher_global is not None
        config, student = self.config, self.head.student
        teachers, batch = inputs.teacher_global.cls.shape[:2]
        with torch.no_grad():
            logits = self.head.teacher(inputs.teacher_global.cls.flatten(0, 1))  # [teacher * batch, prototype]
        targets, statistics = self.targets(logits, step=step)
        crops = {"dino_global": inputs.student_global.cls}
        if inputs.student_local is not None:
            crops["dino_local"] = inputs.student_local.cls
        counts = [len(cls) for cls in crops.values()]
        summed, rows = summed_targets(
            targets.unflatten(0, (teachers, batch)),
            students=sum(counts),
            apart=counts[0] if config.ignore_diagonal else 0,
        )
        cls = torch.cat(list(crops.values())).flatten(0, 1)  # [student * batch, dim]
        losses = prototypes.cross_entropy(
            student.project(cls), student.prototypes, summed, temperature=config.student_temperature, rows=rows
        ).view(-1, batch)  # [student, batch]: the sum of each crop's cross-entropies

        same = min(counts[0], teachers) if config.ignore_diagonal else 0  # pairs of a crop with itself
        pairs = {name: len(cls) * teachers - (same if name == "dino_global" else 0) for name, cls in crops.items()}
        total = sum(pairs.values())
        if total == 0:
            raise UserError(
                "dino compares different crops of an image, got a single one; use 2 global crops, or locals"
            )
        scale = {"dino_global": 1.0, "dino_local": config.local_weight.at(step)}
        # each term weighs by its share of the pairs, so that every pair counts the same
        return base.Losses(
            terms={
                name: loss.sum() / (batch * pairs[name])
                for name, loss in zip(crops, torch.split(losses, counts), strict=True)
                if pairs[name]
            },
            weights={name: config.weight * scale[name] * count / total for name, count in pairs.items() if count},
            statistics=statistics,
        )


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
