"""The frozen teacher of a distillation: its network, and its heads or prototypes found among its features.

Published backbones come without heads. Theirs are fitted once, before the first step: spherical k-means of the CLS
tokens, and of patches, of images from the training data. A feature's logits are then its cosines to the centres; the
objectives turn them into targets as those of any head.
Sources: heads of the frozen teacher, DINOv3 (arXiv:2508.10104) section 5.2; k-means as a stand-in for prototypes is
ours, after the clustering view of DeepCluster (arXiv:1807.05520) and SwAV (arXiv:2006.09882).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.core import dist
from dinokit.core.files import digest_of_weights
from dinokit.core.messages import UserError, info, is_main
from dinokit.core.seed import generator
from dinokit.health import vitals
from dinokit.health.probe import open_probe
from dinokit.models.features import Features
from dinokit.models.head import Head
from dinokit.objectives.base import find
from dinokit.sources.source import Source
from dinokit.training.config import Experiment, TrainConfig, read

ROUNDS = 10  # of k-means; later ones move few images
_BLOCK = 1 << 24  # cosines held at a time
_STREAM = 5  # keeps these random numbers apart from those of loader (0 to 3) and probe (4)


@final
class Teacher:
    """A frozen network and its heads, which get their numbers from `begin` or a checkpoint.

    It looks at the global crops at the size where its grid is that of the finest student: for a ConvNeXt of stride 32
    at 512 pixels a teacher of 16 px patches sees 256.

    Args:
        finest: patch size in pixels of that student.

    Raises:
        UserError: if teacher and settings do not fit together.
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        *,
        finest: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        assert experiment.distil is not None
        self.experiment, self.distil, self.finest = experiment, experiment.distil, finest
        self.device, self.autocast = device, autocast
        self.network = load(self.distil.teacher).to(device)
        # hashed once: a checkpoint does not hold the network, but which one it was
        self.digest = torch.frombuffer(bytearray.fromhex(digest_of_weights(self.network)), dtype=torch.uint8)
        self.run, dim = teacher_run(self.distil.teacher), self.network.dim
        self.heads: dict[str, nn.Module] = {}
        for name, objective in (self.run.experiment if self.run else experiment).objectives.items():
            config = getattr(objective, "head", None)
            if config is not None:
                head = Head(dim, config, seed=0) if self.run else Centroids(dim, config.prototypes)
                self.heads[name] = head.requires_grad_(False).eval().to(device)
        for name, objective in experiment.objectives.items():
            config = getattr(objective, "head", None)
            if config is not None and name not in self.heads:
                raise UserError(f"the teacher has no head of {name}; set objectives.{name} to null")
            own = self.heads.get(name)
            if config is not None and isinstance(own, Head) and config.prototypes != len(own.prototypes):
                raise UserError(
                    f"objectives.{name}.head.prototypes must be the teacher's {len(own.prototypes)}, "
                    f"got {config.prototypes}"
                )

    def side(self, side: int) -> int:
        """Return the side of its crops at which its grid is the finest student's."""
        return side // self.finest * self.network.patch_size

    def state(self) -> dict[str, Tensor]:
        """Return the numbers of the heads, and a digest of the network."""
        heads = {f"heads.{name}.{key}": v for name, head in self.heads.items() for key, v in head.state_dict().items()}
        return heads | {"teacher.digest": self.digest}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the numbers of the heads back.

        Raises:
            UserError: if the network is another than the one that the students have learnt from.
        """
        if not torch.equal(state["teacher.digest"].cpu(), self.digest):
            raise UserError(
                f"{self.distil.teacher} is another network than when this run began; put it back, or choose "
                "another --out"
            )
        for name, head in self.heads.items():
            head.load_state_dict(under(f"heads.{name}.", state))

    @torch.no_grad()
    def look(self, crops: Float[Tensor, "view batch channel H W"], team: dist.Team | None) -> Features:
        """Return its features [view, batch, ...]; ranks that hold the same images look at a share each."""
        view, batch = crops.shape[:2]
        number, count = (0, 1) if team is None else (team.number, team.count)
        share = crops[:, number * batch // count : (number + 1) * batch // count].flatten(0, 1)
        side = self.side(crops.shape[-1])
        if share.shape[-1] != side:
            share = functional.interpolate(
                share, size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )
        with self.autocast():
            features = self.network(share).unflatten(view)
        if team is None:
            return features
        with dist.within(team.peers):
            cls, registers, patches = (
                dist.all_gather(part.transpose(0, 1).contiguous()).transpose(0, 1).contiguous()  # [view, images, ...]
                for part in (features.cls, features.registers, features.patches)
            )
        return Features(cls, registers, patches, features.grid)

    @torch.no_grad()
    def begin(self, images: Source, students: Iterable[nn.Module]) -> None:
        """Give the heads their numbers: those of its run, or prototypes of its features; all ranks must call together.

        Args:
            students: their objectives, whose centres become those of the run.

        Raises:
            UserError: if its run has not kept them, or there are not enough images.
        """
        if self.run is None:
            self._fit_heads(images)
            return
        state = self.run.state()
        for name, head in self.heads.items():
            head.load_state_dict(under(f"{name}.head.teacher.", state))
        for objectives in students:
            for name, buffer in objectives.named_buffers():
                if name.endswith(".targets.centre") and name in state:  # the students' targets are those of the teacher
                    buffer.copy_(state[name])

    def _fit_heads(self, images: Source) -> None:
        experiment = self.experiment
        probe = open_probe(
            images,
            self.network.pixels,
            side=self.side(experiment.data.views.variants()[0].global_size),
            patch_size=self.network.patch_size,
            images=self.distil.fit_images,
            seed=experiment.seed,
        )
        if probe is None:
            raise UserError(f"prototypes are found among images of {images.name}, and fewer than two can be read")
        with self.autocast():
            features = [self.network(batch) for batch in probe.batches(self.device)]
        cls = torch.cat([each.cls.float() for each in features])
        patches = torch.cat([vitals.some_patches(each.patches).float() for each in features])
        for name, head in self.heads.items():
            assert isinstance(head, Centroids)
            # what is hidden, or chosen, is patches
            tokens = patches if "masks" in find(name).Objective.needed(experiment.objectives[name]) else cls
            gathered = dist.all_gather(tokens).reshape(dist.world_size(), len(cls), -1, tokens.shape[-1])
            # in the order of one process: the ranks have the images in turn
            head.fit(gathered.transpose(0, 1).flatten(0, 2).cpu(), seed=experiment.seed, name=name)
        info(
            f"{self.distil.teacher} has no heads: its prototypes are those of {len(probe.images):,} images a rank by "
            "k-means"
        )


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

    def fit(self, features: Float32[Tensor, "sample dim"], *, seed: int, name: str) -> None:
        """Find the centres; one rank does and tells the others, for processors round differently.

        Args:
            features: of all ranks, on the CPU.
            name: of the objective that they are for.

        Raises:
            UserError: if there are fewer features than centres.
        """
        if len(features) < len(self.centres):
            raise UserError(
                f"{len(self.centres):,} prototypes want as many features, got {len(features):,}; lower "
                f"objectives.{name}.head.prototypes, or raise distil.fit_images if there are more images"
            )
        found = {name: torch.zeros_like(value) for name, value in self.named_buffers()}
        if is_main():
            mean = features.mean(dim=0)
            unit = functional.normalize(features - mean, dim=-1)
            centres = spherical_kmeans(unit, len(self.centres), seed=seed)
            found = {"mean": mean.to(self.mean.device), "centres": centres.to(self.mean.device)}
        self.load_state_dict({name: dist.all_reduce(value) for name, value in found.items()})


@torch.no_grad()
def spherical_kmeans(unit: Float32[Tensor, "sample dim"], count: int, *, seed: int) -> Float32[Tensor, "centre dim"]:
    """Return centres of length 1 whose cosines to their samples are large; an empty one takes a sample at random."""
    draw = generator(seed, _STREAM)
    centres = unit[torch.from_numpy(draw.choice(len(unit), count, replace=False))]
    for _ in range(ROUNDS):
        parts = torch.split(unit, max(1, _BLOCK // count))
        nearest = torch.cat([(part @ centres.T).argmax(dim=1) for part in parts])  # [sample]
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=count) == 0
        sums[empty] = unit[torch.from_numpy(draw.choice(len(unit), int(empty.sum())))]
        centres = functional.normalize(sums, dim=-1)
    return centres


@dataclass(frozen=True)
class TeacherRun:
    """The run of a teacher that was trained here: its heads are there to be used."""

    folder: RunFolder
    step: int  # whose backbone and heads teach
    config: TrainConfig
    experiment: Experiment  # of the stage of that step

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
    config = read(folder.config)
    stage = next(stage for stage in config.experiment.all_stages if chosen <= stage.last)
    return None if stage.experiment.distil is not None else TeacherRun(folder, chosen, config, stage.experiment)


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
