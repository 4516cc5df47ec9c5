"""Teacher targets: from the logits of the teacher's head to a distribution over prototypes for every sample.

    centring          q_ik = softmax_k((z_ik - c_k) / temperature)         c <- m c + (1 - m) mean over samples of z
    Sinkhorn-Knopp    q_ik = a_i b_k exp(z_ik / temperature)   with a, b such that   sum_k q_ik = 1,
                      sum_i q_ik = samples / prototypes, up to the last of a few iterations

Both keep the teacher from saying the same of every image. Centring is cheap and needs a state, the running mean c.
Sinkhorn-Knopp balances the batch, each prototype receiving the same mass; it needs no state, but looks at the samples
of all ranks at once.
Sources: DINO (arXiv:2104.14294) section 3.1 and equation 4 for centring; Cuturi 2013 (arXiv:1306.0895) as used in SwAV
(arXiv:2006.09882) and DINOv2 (arXiv:2304.07193) section 4 for Sinkhorn-Knopp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dinokit.core import dist
from dinokit.core.device import slices
from dinokit.core.numbers import Schedule, above, at_least, between, ramp
from dinokit.objectives import base

# Added to the mass of a prototype: one that no sample can see in float32 has none, and 0 / 0 is not a number.
_NO_MASS = 1e-35
# Log of the smallest weight a sample starts with in `sinkhorn`; in float32 such a weight is lost beside 1 anyway.
_FAINTEST = -60.0


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """The part of a configuration that all objectives with prototypes share."""

    targets: Literal["sinkhorn", "centring"] = "sinkhorn"  # how the teacher's logits become targets
    student_temperature: float = above(0, 0.1)  # of the student's softmax
    teacher_temperature: Schedule = above(0, ramp(0.04, 0.07, steps=37_500))  # of the targets; smaller is harder
    sinkhorn_iterations: int = at_least(0, 3)  # of "sinkhorn", over prototypes and samples; 0 is a plain softmax
    centre_momentum: float = between(0, 1, 0.9, without=1)  # of "centring": share of the old centre kept per step

    @property
    def reductions(self) -> int:
        """The sums over ranks that make targets: one per iteration, or that of a mean."""
        return self.sinkhorn_iterations if self.targets == "sinkhorn" else 1


class Targets(base.Memory):
    """The chosen rule together with its state: `centre`, which only `fold` changes."""

    centre: Tensor | None

    def __init__(self, config: Config, *, prototypes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.zeros(prototypes) if config.targets == "centring" else None)

    def forward(
        self, logits: Float[Tensor, "sample prototype"], *, step: int
    ) -> tuple[Float[Tensor, "sample prototype"], dict[str, Tensor]]:
        """Return the targets and, for `fold`, the statistics; the logits may be overwritten.

        All ranks must call together.
        """
        temperature = self.config.teacher_temperature.at(step)
        if self.centre is None:
            iterations = self.config.sinkhorn_iterations
            return sinkhorn(logits, temperature=temperature, iterations=iterations, overwrite=True), {}
        statistics = {"centre": mean_over_ranks(logits, otherwise=self.centre)}
        return centred(logits, self.centre, temperature=temperature), statistics

    def fold(self, statistics: Mapping[str, Tensor]) -> None:
        """Move the centre towards the mean of the step that has just finished."""
        if self.centre is not None:
            momentum = self.config.centre_momentum
            self.centre.copy_(momentum * self.centre.float() + (1 - momentum) * statistics["centre"].float())


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "sample prototype"], *, temperature: float, iterations: int = 3, overwrite: bool = False
) -> Float[Tensor, "sample prototype"]:
    """Assign samples to prototypes so that every prototype receives the same mass.

    Rows of the result sum to 1; over all ranks, columns approach samples / prototypes. Float32, whatever comes in.
    Ranks may bring different numbers of samples, also none.

    The classic form divides a matrix by the masses of prototypes and samples in turn. Here the matrix stays, and one
    factor per prototype and one per sample change. What the samples of an iteration and the prototypes of the next one
    need is read together, a few rows at a time, so that an iteration moves the matrix through the caches once. The
    constants 1 / prototypes and 1 / samples of the classic form cancel in the last division.

    Args:
        scores: logits of THIS rank's samples; all ranks must call together.
        temperature: > 0; smaller is harder.
        iterations: normalisations of prototypes, then samples; 3 suffices, 0 returns a softmax.
        overwrite: work in the memory of the scores, if they are float32.
    """
    assert temperature > 0, temperature
    scores = scores.float() if overwrite else scores.float().clone()
    samples, prototypes = scores.shape
    blocks = slices(scores.device, rows=prototypes, columns=samples)  # of whole samples
    peak = scores.new_empty(samples)
    for block in blocks:
        mass = scores[block].div_(temperature)
        torch.amax(mass, dim=1, out=peak[block])
        mass.sub_(peak[block, None]).exp_()  # (0, 1], with a 1 in every row: no overflow, and no row without mass

    # The peaks taken from the rows return as the first factors, relative to the highest peak of all ranks.
    highest = dist.all_reduce(peak.max() if samples else scores.new_tensor(-torch.inf), largest=True)
    per_sample = (peak - highest).clamp_min_(_FAINTEST).exp_()  # [sample]
    per_prototype = scores.new_ones(prototypes)
    with torch.autocast(scores.device.type, enabled=False):  # autocast would multiply in bfloat16
        received = scores.T.mv(per_sample)  # [prototype]
        for _ in range(iterations):
            per_prototype = dist.all_reduce(received).add_(_NO_MASS).reciprocal_()
            received.zero_()
            for block in blocks:
                factor = torch.mv(scores[block], per_prototype, out=per_sample[block]).reciprocal_()
                received.addmv_(scores[block].T, factor)
        for block in blocks:
            mass = scores[block].mul_(per_prototype)
            mass.div_(mass.sum(dim=1, keepdim=True))
    return scores


@torch.no_grad()
def centred(
    scores: Float[Tensor, "sample prototype"], centre: Float[Tensor, " prototype"], *, temperature: float
) -> Float[Tensor, "sample prototype"]:
    """Subtract the centre and sharpen: softmax((scores - centre) / temperature), in float32."""
    assert temperature > 0, temperature
    return ((scores.float() - centre.float()) / temperature).softmax(dim=-1)


@torch.no_grad()
def mean_over_ranks(
    scores: Float[Tensor, "sample prototype"], *, otherwise: Float[Tensor, " prototype"]
) -> Float[Tensor, " prototype"]:
    """Average the mean row of every rank, in float32; all ranks must call together.

    Each rank that has samples counts the same, however many they are, as published; the mean over all samples differs
    from it for masked patches, whose number differs between ranks.

    Args:
        otherwise: the answer if no rank has a sample; a centre moved towards itself stays.
    """
    samples = len(scores)
    present = scores.new_full((1,), float(samples > 0), dtype=torch.float32)
    mean = scores.float().sum(dim=0) / max(1, samples)
    total = dist.all_reduce(torch.cat([mean, present]))  # [prototype + 1]
    return torch.where(total[-1] > 0, total[:-1] / total[-1].clamp_min(1), otherwise.float())
