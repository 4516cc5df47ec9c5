"""What training puts beside a backbone: a projection head, and a teacher that follows by average.

Head: features -> scores of prototypes (DINO, arXiv:2104.14294, section 3.1 and appendix C).

    z = l2_normalise(MLP(x));   logits = W z

The prototypes W are the rows of the last layer. DINOv3 leaves them free, DINOv2 trains a length for each (weight
normalisation, arXiv:1602.07868), DINO fixes that length to 1.

Pair: the teacher is an exponential moving average of the student (mean teacher, arXiv:1703.01780).

    teacher <- momentum * teacher + (1 - momentum) * student          (DINO, section 3.1)

Of parameters: most buffers (RoPE periods, masks) are equal by construction. Batch norms of a teacher that looks at
crops see their batch and keep running statistics of their own, as in DINO's training of ResNet-50; those of one that
never looks, as in a distillation, are averaged like parameters.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.numbers import at_least
from dinokit.models import init
from dinokit.models.init import Style

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a projection head."""

    hidden: int = at_least(1, 2048)  # inner width of the MLP
    bottleneck: int = at_least(1, 256)  # width of the normalised vector
    prototypes: int = at_least(1, 65536)  # number of scores
    layers: int = at_least(1, 3)  # linear layers of the MLP
    weight_norm: Literal["none", "fixed", "trainable"] = "none"  # length of the prototypes: free, 1, learned apart
    init: Style = "dinov3"  # initial values; "narrow" for widths below a few hundred


class WeightNormed(nn.Module):
    """A linear map without bias whose rows are weight_g * weight_v / |weight_v|, under the official names.

    Written out because torch's own weight_norm cannot be deep-copied into a teacher after a forward pass.
    """

    def __init__(self, width: int, rows: int, *, trainable: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(rows, 1), requires_grad=trainable)
        self.weight_v = nn.Parameter(torch.empty(rows, width))

    @property
    def weight(self) -> Float[Tensor, "row width"]:
        """The rows, normalised."""
        lengths: Tensor = self.weight_v.norm(dim=1, keepdim=True)
        return self.weight_v * (self.weight_g / lengths)

    def forward(self, vectors: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch row"]:
        """Multiply by the normalised rows."""
        return F.linear(vectors, self.weight)


class Head(nn.Module):
    """Scores of prototypes, in two halves: `project` and the product with `prototypes`."""

    def __init__(self, dim: int, config: Config, *, seed: int) -> None:
        """Build on torch's default device; heads that must differ need different seeds."""
        super().__init__()
        device = torch.get_default_device()
        widths = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
        modules: list[nn.Module] = []
        self.last_layer: nn.Linear | WeightNormed
        with torch.device("meta"):
            for width, following in pairwise(widths):
                modules += [nn.Linear(width, following), nn.GELU()]
            self.mlp = nn.Sequential(*modules[:-1])
            if config.weight_norm == "none":
                self.last_layer = nn.Linear(config.bottleneck, config.prototypes, bias=False)
            else:
                trainable = config.weight_norm == "trainable"
                self.last_layer = WeightNormed(config.bottleneck, config.prototypes, trainable=trainable)
        init.materialise(self, config.init, seed=seed, device=device)

    def forward(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch prototype"]:
        """Return the logits, in the autocast dtype."""
        logits: Tensor = self.last_layer(self.project(features))
        return logits

    def project(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch bottleneck"]:
        """Return the bottleneck, of length 1."""
        bottleneck: Tensor = self.mlp(features)  # [*batch, bottleneck]
        eps = 1e-6 if bottleneck.dtype == torch.float16 else 1e-12  # 1e-12 is zero in float16
        return F.normalize(bottleneck, dim=-1, eps=eps)

    @property
    def prototypes(self) -> Float[Tensor, "prototype bottleneck"]:
        """The rows of the last layer: `project(x) @ prototypes.T` are the logits."""
        return self.last_layer.weight


class Pair(nn.Module, Generic[Network]):
    """A network and its teacher, of any kind: backbone or head."""

    student: Network
    teacher: Network

    def __init__(self, student: Network) -> None:
        """Keep the student and copy it to be the teacher, which gets no gradient."""
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.teacher.train(bool(running_statistics(student)))

    def train(self, mode: bool = True) -> "Pair[Network]":
        """Switch the student; a teacher stays in evaluation mode, unless its batch norms are to see their batch."""
        super().train(mode)
        self.teacher.train(mode and bool(running_statistics(self.teacher)))
        return self

    @torch.no_grad()
    def update(self, momentum: float, *, statistics: bool = False) -> None:
        """Move the teacher's parameters towards the student's; momentum 1 leaves it, 0 copies the student.

        Args:
            statistics: whether running statistics of batch norms move too.
        """
        teacher = [dist.own_rows(parameter) for parameter in self.teacher.parameters()]
        student = [dist.own_rows(parameter) for parameter in self.student.parameters()]
        for own, new in zip(*map(running_statistics, (self.teacher, self.student))) if statistics else ():
            teacher += [own] if own.is_floating_point() else []  # the others count batches
            student += [new] if new.is_floating_point() else []
        torch._foreach_lerp_(teacher, student, 1 - momentum)


def running_statistics(network: nn.Module) -> list[Tensor]:
    """List what the batch norms of a network remember; its forward pass in training changes them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return [buffer for norm in norms for buffer in norm.buffers()]
