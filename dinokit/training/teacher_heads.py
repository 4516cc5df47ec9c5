"""The teacher's heads in a distillation: those it was trained with, or prototypes found among its features.

Published backbones come without heads. Theirs are fitted once, before the first step: spherical k-means of the CLS
tokens, and of patches, of images from the training data. A feature's logits are then its cosines to the centres; the
objectives turn them into targets as those of any head.
Sources: heads of the frozen teacher, DINOv3 (arXiv:2508.10104) section 5.2; k-means as a stand-in for prototypes is
ours, after the clustering view of DeepCluster (arXiv:1807.05520) and SwAV (arXiv:2006.09882).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from dinokit import config as configuration
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.core import dist
from dinokit.core.errors import UserError
from dinokit.core.seed import generator
from dinokit.models.head import Head
from dinokit.training.config import Experiment, TrainConfig
from dinokit.training.step import under

ROUNDS = 10  # of k-means; later ones move few images
_BLOCK = 1 << 24  # cosines held at a time
_STREAM = 5  # keeps these random numbers apart from those of loader (0 to 3) and probe (4)


class Centroids(nn.Module):
    """Logits of features without a head: cosines to centres, after the mean is taken away."""

    mean: Tensor
    centres: Tensor

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("centres", torch.zeros(prototypes, dim))

    def forward(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch prototype"]:
        """Return the cosines, in float32."""
        with torch.autocast(features.device.type, enabled=False):  # a step of bfloat16 near 1 is 0.004
            return functional.normalize(features.float() - self.mean, dim=-1) @ self.centres.T

    def fit(self, features: Float32[Tensor, "sample dim"], *, seed: int) -> None:
        """Find the centres; one rank does and tells the others, for processors round differently.

        Args:
            features: of all ranks, on the CPU.

        Raises:
            UserError: if there are fewer features than centres.
        """
        if len(features) < len(self.centres):
            raise UserError(
                f"{len(self.centres):,} prototypes want as many features, got {len(features):,}; lower "
                "objectives.dino.head.prototypes and that of ibot, or raise distil.fit_images if there are more images"
            )
        found = {name: torch.zeros_like(value) for name, value in self.named_buffers()}
        if dist.is_main():
            mean = features.mean(dim=0)
            unit = functional.normalize(features - mean, dim=-1)
            centres = spherical_kmeans(unit, len(self.centres), seed=seed)
            found = {"mean": mean.to(self.mean.device), "centres": centres.to(self.mean.device)}
        self.load_state_dict({name: dist.all_reduce_sum(value) for name, value in found.items()})


@torch.no_grad()
def spherical_kmeans(unit: Float32[Tensor, "sample dim"], count: int, *, seed: int) -> Float32[Tensor, "centre dim"]:
    """Return centres of length 1 whose cosines to their samples are large; an empty one takes a sample at random."""
    draw = generator(seed, _STREAM)
    centres = unit[torch.from_numpy(draw.choice(len(unit), count, replace=False))]
    for _ in range(ROUNDS):
        nearest = _nearest(unit, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=count) == 0
        sums[empty] = unit[torch.from_numpy(draw.choice(len(unit), int(empty.sum())))]
        centres = functional.normalize(sums, dim=-1)
    return centres


def _nearest(unit: Float32[Tensor, "sample dim"], centres: Float32[Tensor, "centre dim"]) -> Int64[Tensor, " sample"]:
    parts = torch.split(unit, max(1, _BLOCK // len(centres)))
    return torch.cat([(part @ centres.T).argmax(dim=1) for part in parts])


@dataclass(frozen=True)
class TeacherRun:
    """The run of a teacher that was trained here: its heads are there to be used."""

    folder: RunFolder
    step: int  # whose backbone and heads teach
    experiment: Experiment  # of the stage of that step

    def heads(self, *, dim: int) -> dict[str, Head]:
        """Build its heads by objective, without their numbers."""
        sizes = {name: getattr(config, "head", None) for name, config in self.experiment.objectives.items()}
        built = {name: Head(dim, head, seed=0) for name, head in sizes.items() if head is not None}
        return {name: head.requires_grad_(False).eval() for name, head in built.items()}

    def state(self) -> dict[str, Tensor]:
        """Read the numbers of its objectives: heads and centres.

        Raises:
            UserError: if they were not kept.
        """
        kept = self.folder.steps(with_state=True)
        if self.step not in kept:
            raise UserError(
                f"{self.folder.path} keeps no heads of step {self.step}, only the backbone; steps with heads: "
                f"{', '.join(map(str, kept)) or 'none'}; or give its model.safetensors as the teacher to get new ones"
            )
        return under("objectives.", self.folder.load(self.step)[0])


def teacher_run(teacher: str) -> TeacherRun | None:
    """Find the run that a teacher names; None for a model without one, and for a student, which has no heads."""
    folder, step = run_and_step(Path(teacher))
    if not folder.config.is_file() or not folder.steps():
        return None
    chosen = folder.steps()[-1] if step is None else step
    config = configuration.from_plain(TrainConfig, configuration.read_yaml(folder.config))
    leg = next(leg for leg in config.experiment.legs() if chosen <= leg.last)
    return None if leg.experiment.distil is not None else TeacherRun(folder, chosen, leg.experiment)


def fresh_heads(objectives: Mapping[str, Any], *, dim: int) -> dict[str, Centroids]:
    """Return heads that are still to be fitted, one for each objective that has one."""
    sizes = {name: getattr(config, "head", None) for name, config in objectives.items()}
    return {name: Centroids(dim, head.prototypes) for name, head in sizes.items() if head is not None}
