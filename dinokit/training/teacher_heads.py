"""The teacher's heads in a distillation: those it was trained with, or prototypes found among its features.

Published backbones come without heads. Theirs are fitted once, before the first step: spherical k-means of the CLS
tokens, and of patches, of images from the training data. A feature's logits are then its cosines to the centres; the
objectives turn them into targets as those of any head.
Sources: heads of the frozen teacher, DINOv3 (arXiv:2508.10104) section 5.2; k-means as a stand-in for prototypes is
ours, after the clustering view of DeepCluster (arXiv:1807.05520) and SwAV (arXiv:2006.09882).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from dinokit import config as configuration
from dinokit.checkpoints.store import run_and_step
from dinokit.core.errors import UserError
from dinokit.core.seed import generator
from dinokit.models.head import Head
from dinokit.training.config import TrainConfig

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
        """Find the centres.

        Raises:
            UserError: if there are fewer features than centres.
        """
        if len(features) < len(self.centres):
            raise UserError(
                f"{len(self.centres):,} prototypes want as many features, got {len(features):,}; lower the head's "
                "prototypes, or raise distil.fit_images if there are more images"
            )
        self.mean.copy_(features.mean(dim=0))
        unit = functional.normalize(features - self.mean.cpu(), dim=-1)
        self.centres.copy_(spherical_kmeans(unit, len(self.centres), seed=seed))


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


def own_heads(teacher: str, *, dim: int) -> dict[str, Head]:
    """Return the heads of the teacher's run by objective; none if it is no run, or keeps no training state."""
    folder, step = run_and_step(Path(teacher))
    kept = folder.steps(with_state=True)
    if not folder.config.is_file():
        return {}
    if not kept or step not in (None, *kept):
        raise UserError(
            f"{teacher} keeps no heads any more, only its backbone; steps with a training state: "
            f"{', '.join(map(str, kept)) or 'none'}; name one, or give model.safetensors itself to get new heads"
        )
    config = configuration.from_plain(TrainConfig, configuration.read_yaml(folder.config))
    chosen = kept[-1] if step is None else step
    leg = next(leg for leg in config.experiment.legs() if chosen <= leg.last)
    if leg.experiment.distil is not None:
        return {}
    state, _ = folder.load(chosen)
    heads = {}
    for name, objective in leg.experiment.objectives.items():
        sizes = getattr(objective, "head", None)
        if sizes is not None:
            heads[name] = Head(dim, sizes, seed=0).requires_grad_(False).eval()
            heads[name].load_state_dict(_under(f"objectives.{name}.head.teacher.", state))
    return heads


def fresh_heads(objectives: Mapping[str, Any], *, dim: int) -> dict[str, Centroids]:
    """Return heads that are still to be fitted, one for each objective that has one."""
    sizes = {name: getattr(config, "head", None) for name, config in objectives.items()}
    return {name: Centroids(dim, head.prototypes) for name, head in sizes.items() if head is not None}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
