"""iBOT: of a patch hidden from it, the student should say what the teacher, who sees everything, says of that patch.

    L = - mean over images of   mean over its hidden patches i of   sum_k q_k(i) log p_k(i)
    p(i) = softmax(head(patch i of the student) / temperature)    q(i): targets made of the teacher's logits (assign.py)

Only masked patches pass through a head. The masked patches of an image share one vote, and the sum is divided by the
number of ALL global crops: images without a mask dilute the loss, as in DINOv2 and DINOv3.
Sources: iBOT (arXiv:2111.07832) section 3, the loss L_MIM; DINOv2 (arXiv:2304.07193) section 4, "patch-level objective"
(targets, and whether the head is shared with the image-level objective).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head, Pair
from dinokit.objectives import assign, base
from dinokit.objectives.prototypes import cross_entropy

NO_HEAD = "ibot.head is null, which shares the head of dino, but no dino comes before ibot; add it"


@dataclass(frozen=True, kw_only=True)
class Config(assign.Config):
    """Defaults: DINOv3 at ImageNet-1k scale."""

    head: HeadConfig | None = field(default_factory=HeadConfig)  # on the masked patches; null: the head of dino

    def head_use(self, seen: base.Seen, *, siblings: Mapping[str, base.Config]) -> base.HeadUse:
        """Count hidden patches, for an own head or that of dino."""
        lender: Any = siblings.get("dino")
        if self.head is None and lender is None:
            raise UserError(NO_HEAD)
        return base.HeadUse(
            config=self.head or lender.head,
            owned=self.head is not None,
            student=seen.hidden,
            teacher=seen.hidden,
            targets=seen.hidden,
            reductions=self.reductions,
        )


class Objective(base.Objective):
    """The loss on masked patches, and the head it needs, its own or that of the sibling "dino"."""

    needs = frozenset({"student_global", "teacher_global", "masks"})

    def __init__(self, config: Config, *, dim: int, seed: int, siblings: Mapping[str, base.Objective]) -> None:
        super().__init__(config, dim=dim, seed=seed, siblings=siblings)
        lender: Any = siblings.get("dino")
        if config.head is None and lender is None:
            raise UserError(NO_HEAD)
        self.head = None if config.head is None else Pair(Head(dim, config.head, seed=seed))
        # A tuple hides a borrowed head from torch: the objective that lends it saves it, moves it and trains it.
        self.borrowed: tuple[Pair[Head], ...] = (lender.head,) if self.head is None else ()
        size = config.head or lender.config.head
        self.targets = assign.Targets(config, prototypes=size.prototypes)

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:
        """Compute `ibot`; with nothing hidden it is 0, and so are its gradients."""
        assert inputs.student_global is not None
        assert inputs.teacher_global is not None
        assert inputs.masks is not None
        head = self.head or self.borrowed[0]
        hidden = inputs.masks.flatten().nonzero().squeeze(1)  # [hidden]; found once, as a GPU waits for the count
        with torch.no_grad():
            logits = head.teacher(inputs.teacher_global.patches.flatten(0, 2)[hidden])  # [hidden, prototype]
        targets, statistics = self.targets(logits, step=step)
        vectors = head.student.project(inputs.student_global.patches.flatten(0, 2)[hidden])  # [hidden, bottleneck]
        temperature = self.config.student_temperature
        losses = cross_entropy(vectors, head.student.prototypes, targets, temperature=temperature)  # [hidden]
        loss = mean_over_images(losses, masks=inputs.masks)
        return base.Losses(terms={"ibot": loss}, weights={"ibot": self.config.weight}, statistics=statistics)


def mean_over_images(losses: Float[Tensor, " hidden"], *, masks: Bool[Tensor, "*image patch"]) -> Float[Tensor, ""]:
    """Average over the hidden patches of each image, then over all images.

    Args:
        losses: of the hidden patches, in the order of `masks` flattened.
        masks: of all images, also those without a hidden patch; they count with 0.
    """
    images = masks.shape[:-1].numel()
    share = masks.sum(dim=-1, keepdim=True).clamp_min(1).reciprocal()  # [*image, 1]
    weights = share.expand_as(masks)[masks]  # [hidden]
    return (weights * losses).sum() / images
