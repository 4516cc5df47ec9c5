"""iBOT: of a patch hidden from it, the student should say what the teacher, who sees everything, says of that patch.

Only masked patches pass through a head. The masked patches of an image share one vote, and the sum is divided by the
number of ALL global crops: images without a mask dilute the loss, as in DINOv2 and DINOv3.
Sources: iBOT (arXiv:2111.07832) section 3, the loss L_MIM; DINOv2 (arXiv:2304.07193) section 4, "patch-level objective"
(targets, and whether the head is shared with the image-level objective).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dinokit.core.errors import UserError
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head
from dinokit.models.pair import Pair
from dinokit.objectives import assign, base, dino
from dinokit.objectives.prototypes import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Config(assign.Config):
    """Defaults: DINOv3 at ImageNet-1k scale."""

    head: HeadConfig | None = field(default_factory=HeadConfig)  # on the masked patches; null: the head of dino


class Objective(base.Objective):
    """The loss on masked patches, and the head it needs, its own or borrowed."""

    needs = frozenset({"student_global", "teacher_global", "masks"})

    def __init__(self, config: Config, *, head: Pair[Head], prototypes: int, owned: bool) -> None:
        super().__init__()
        self.config = config
        self.head = head if owned else None
        # A tuple hides a borrowed head from torch: the objective that lends it saves it, moves it and trains it.
        self.borrowed: tuple[Pair[Head], ...] = () if owned else (head,)
        self.targets = assign.Targets(config, prototypes=prototypes)

    @classmethod
    def build(cls, config: Config, *, dim: int, seed: int, siblings: Mapping[str, base.Objective]) -> "Objective":
        """Make the objective with a head of its own, or with that of the sibling "dino"."""
        if config.head is not None:
            own = Pair(Head(dim, config.head, seed=seed))
            return cls(config, head=own, prototypes=config.head.prototypes, owned=True)
        lender = siblings.get("dino")
        if not isinstance(lender, dino.Objective):
            raise UserError("ibot.head is null, which shares the head of dino, but no dino comes before ibot; add it")
        return cls(config, head=lender.head, prototypes=lender.config.head.prototypes, owned=False)

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

    def after_step(self, statistics: Mapping[str, Tensor]) -> None:
        """Move the centre, if there is one."""
        self.targets.fold(statistics)

    def pairs(self) -> dict[str, Pair[Head]]:
        """Name the head, unless it is borrowed."""
        return {} if self.head is None else {"head": self.head}


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
