"""A guard beside a network that learns on: what it could do is measured at every checkpoint, and may not get lost.

Two sets stay the same from step 0, when the teacher is the original: images of the folder that it learns from, and
those of a set that it is to go on understanding. Images with classes are measured by k-NN, each without itself, those
of several domains by retrieval, others by locality: how much more alike neighbouring patches are than distant ones.

    {"step": 300, "folder": 61.2, "retained": 83.4}      a line of guard.jsonl: percent, of locality hundredths
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, RunFolder
from dinokit.core.files import read_jsonl, write_atomic, write_jsonl
from dinokit.core.messages import UserError, info, line_of, warn
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn, retrieval
from dinokit.features.extraction import forgotten
from dinokit.health.vitals import Probe, look, mirrored, places
from dinokit.images.intensity import prepare, stacked
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, open_source, splits, thinned

BEST = "best.safetensors"
IMAGES, PROBE = 2_000, 256  # of a set, evenly spaced, at most; of those whose locality is measured
K = 10  # neighbours
LABELS = {"knn": f"k-NN (k = {K})", "retrieval": "retrieval mAP", "locality": "locality"}
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Watched:
    """A set, and what is measured of it."""

    name: str  # folder or retained
    source: str
    how: str  # knn, retrieval, locality

    @property
    def label(self) -> str:
        """What is measured, for people."""
        return f"{self.name} {LABELS[self.how]}"

    def measure(self, backbone: Backbone) -> float:
        """Return the number, in percent, of locality in hundredths; larger is better.

        Raises:
            UserError: if the images cannot be measured so.
        """
        known = splits(self.source)
        with forgotten():
            if self.how == "retrieval":
                return evaluations.measure("retrieval", backbone, retrieval.Config(data=self.source))["mAP"]
            if self.how == "locality":
                return 100 * self._locality(backbone)
            split = known[0] if known else None  # as it is trained on; each image without itself
            config = knn.Config(data=self.source, gallery=split, query=split, limit=IMAGES, k=(K,))
            return next(iter(evaluations.measure("knn", backbone, config).values()))

    def _locality(self, backbone: Backbone) -> float:
        pixels, patch = backbone.pixels, backbone.patch_size
        source = thinned(open_source(self.source, channels=backbone.channels, white=pixels.white), PROBE)
        side = max(pixels.size or 224, 3 * patch) // patch * patch  # pixels

        def read(index: int) -> Any:
            return prepare(source.read(index, min_side=1), size=side, patch_size=patch)

        # without `open_probe`, which divides the images among the ranks: one alone measures
        found = [image for _, image in source.each(read, list(range(len(source))), workers=0) if torch.is_tensor(image)]
        if len(found) < 2:
            raise UserError(f"the guard looks at images of {self.source}, and fewer than two of them can be read")
        probe = Probe(stacked(found), None, pixels)
        views = probe.batches(backbone.device), mirrored(probe.batches(backbone.device))
        return places(*(look(backbone, each) for each in views))["locality"]


def watched(name: str, source: str, images: Source) -> Watched:
    """Say how a set is measured, by what its images tell."""
    if images.labels is None or len(images.classes) < 2:
        return Watched(name, source, "locality")
    return Watched(name, source, "knn" if images.domains is None else "retrieval")


@final
class Guard:
    """Measures saved teachers, ends the run when too much is lost, and publishes the best; one process alone may call.

    Args:
        allowed: by how much a number may fall below the original's.
        first: step from which on the backbone learns; before, it is the original.
        device: on which is measured.
    """

    def __init__(
        self, run: RunFolder, sets: Sequence[Watched], *, allowed: float, first: int, device: torch.device
    ) -> None:
        self.run, self.sets, self.allowed, self.first, self.device = run, sets, allowed, first, device
        self.file = run.path / "guard.jsonl"

    def lines(self) -> list[Line]:
        """Return what was measured of the teachers that there are, the original first."""
        kept = set(self.run.steps())
        return [line for line in read_jsonl(self.file) if line.get("step") in kept]

    def look(self, step: int) -> bool:
        """Measure the teacher of a step, and say whether the run is to end there."""
        lines = [line for line in self.lines() if line["step"] < step]  # later ones are trained anew
        if not lines:
            lines = [{"step": 0} | self._measured(0)]
            said = ", ".join(f"{each.label} {lines[0][each.name]:.1f}" for each in self.sets)
            info(f"guard: the original: {said}; a loss of more than {self.allowed:g} ends the run")
        if step > self.first:
            try:
                lines.append({"step": step} | self._measured(step))
            except Exception as error:  # nothing that fails here is worth the end of a training
                warn(f"guard: step {step} is not measured: {line_of(error)}")
                return False
            said = ", ".join(
                f"{each.label} {lines[-1][each.name]:.1f} ({self._change(lines, each)})" for each in self.sets
            )
            info(f"guard: step {step}: {said}")
        write_jsonl(self.file, lines)
        self.publish(BEST)
        return self.ended()

    def ended(self) -> bool:
        """Tell whether the newest teacher has lost too much."""
        lines = self.lines()
        return bool(lines) and lines[-1]["step"] == self.run.steps()[-1] and bool(self._lost(lines[-1]))

    def best(self) -> int:
        """Return the step of the best teacher that has not lost: by the classes of the folder, else the newest."""
        good = [line for line in self.lines() if not self._lost(line)]
        first = self.sets[0]
        if first.how == "locality":
            return int(good[-1]["step"])
        return int(max(good, key=lambda line: (line[first.name], line["step"]))["step"])

    def publish(self, *files: str) -> None:
        """Make the best teacher these files of the run."""
        best = self.best()
        for name in files:
            if self.run.published(name) != best or not (self.run.path / name).exists():
                with write_atomic(self.run.path / name) as temporary:
                    shutil.copyfile(self.run.checkpoint(best) / MODEL, temporary)

    def verdict(self) -> str:
        """Say in a line what became of it."""
        lines, best = self.lines(), self.best()
        which = f"the teacher of step {best:,}" if best else "the original, which no teacher has outdone"
        lost = self._lost(lines[-1])
        if not lost:
            return f"guard: nothing is lost; published is {which}"
        said = " and ".join(
            f"{each.label} fell from {lines[0][each.name]:.1f} to {lines[-1][each.name]:.1f}" for each in lost
        )
        return (
            f"guard: {said}, by more than {self.allowed:g}: stopped at step {lines[-1]['step']:,}; published is {which}"
        )

    def _lost(self, line: Line) -> list[Watched]:
        original = self.lines()[0]
        return [each for each in self.sets if original[each.name] - line[each.name] > self.allowed]

    def _measured(self, step: int) -> dict[str, float]:
        backbone = load(self.run.checkpoint(step)).to(self.device)
        return {each.name: each.measure(backbone) for each in self.sets}

    @staticmethod
    def _change(lines: Sequence[Line], one: Watched) -> str:
        return f"{lines[-1][one.name] - lines[0][one.name]:+.1f}"
