"""A guard beside a network that learns on: what it could do is measured at every checkpoint, and may not get lost.

Two sets stay the same from step 0, when the teacher is the original: images of the folder that it learns from, and
those of a set that it is to go on understanding. Images with classes are measured by k-NN, each without itself, those
of several domains by retrieval, others by locality: how much more alike neighbouring patches are than distant ones.

    {"step": 0, "folder": 60.1, "sets": {"folder": ["/photos", "knn"]}}      guard.jsonl: the original, and what of it
    {"step": 300, "folder": 61.2}      percent, of locality hundredths; null of a teacher that is not finite
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from safetensors.torch import load_file

from dinokit.checkpoints.load import is_finite, load
from dinokit.checkpoints.store import MODEL, RunFolder
from dinokit.core.files import read_jsonl, write_atomic, write_jsonl
from dinokit.core.messages import RunError, UserError, info, line_of, warn
from dinokit.evaluation import base as evaluations
from dinokit.evaluation import knn, retrieval
from dinokit.features.extraction import forgotten
from dinokit.health.probe import Probe, look, mirrored
from dinokit.health.vitals import places
from dinokit.images.intensity import prepare, stacked
from dinokit.models.features import Backbone
from dinokit.sources.base import Unusable
from dinokit.sources.check import images_of_classes
from dinokit.sources.source import Source, labelled, open_source, splits, thinned

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
        each = [image for _, image in source.each(read, list(range(len(source))), workers=0)]
        found = [image for image in each if torch.is_tensor(image)]
        if len(found) < 2:
            why = "".join([f" ({image.key}: {image.reason})" for image in each if isinstance(image, Unusable)][:1])
            raise UserError(f"the guard looks at images of {self.source}, and fewer than two of them can be read{why}")
        probe = Probe(stacked(found), None, pixels)
        views = probe.batches(backbone.device), mirrored(probe.batches(backbone.device))
        return places(*(look(backbone, each) for each in views))["locality"]


def watched(name: str, source: str, images: Source) -> Watched:
    """Say how a set is measured, by what the images tell that are looked at: by classes where they have company."""
    if images.labels is None or len(images.classes) < 2 or (images.labels < 0).all():
        return Watched(name, source, "locality")
    if images.domains is not None:
        pairs = {pair for pair in zip(images.labels.tolist(), images.domains.tolist(), strict=True) if pair[0] >= 0}
        across = len({label for label, _ in pairs}) < len(pairs)  # a class in two domains
        return Watched(name, source, "retrieval" if across else "locality")
    counts = images_of_classes(thinned(labelled(images), IMAGES))[1]
    shared = counts[counts > 1].sum() >= counts.sum() / 2  # half may find one of their class
    return Watched(name, source, "knn" if shared and (counts > 0).sum() > 1 else "locality")


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
        self.file = run.guard
        self._original: dict[str, float | None] = {}

    def lines(self) -> list[Line]:
        """Return what was measured of the teachers that there are, the original first."""
        kept = set(self.run.steps())
        return [line for line in read_jsonl(self.file) if line.get("step") in kept]

    def check(self) -> None:
        """Refuse to compare with what was measured of other sets; changes nothing.

        Raises:
            UserError: if the run watched other sets, or measured them otherwise.
        """
        lines, wanted = self.lines(), self._sets()
        before = lines[0].get("sets", wanted) if lines else wanted
        if before != wanted:
            raise UserError(
                f"{self.run.path} is guarded by {_named(before)}, not by {_named(wanted)}; give the same --data and "
                "--retain, or another --out"
            )

    def begin(self, original: Callable[[], Backbone]) -> None:
        """Measure what is adapted before anything is trained, if a run did not: what is saved of it, if it is.

        Args:
            original: opens it.
        """
        if not self.lines():  # the file may be another one by now than that which the run has begun with
            self._original = self._measured(0) if 0 in self.run.steps() else self._judged(original())
            odd = [each.source for each in self.sets if self._original[each.name] is None]
            if odd:
                raise UserError(f"what the original makes of {odd[0]} is not finite, so that nothing can be compared")

    def look(self, step: int) -> bool:
        """Measure the teacher of a step, and say whether the run is to end there."""
        lines = [line for line in self.lines() if line["step"] < step]  # later ones are trained anew
        if not lines:
            lines = [{"step": 0} | (self._original or self._measured(0)) | {"sets": self._sets()}]
            said = ", ".join(f"{each.label} {_shown(lines[0][each.name])}" for each in self.sets)
            info(f"guard: the original: {said}; a loss of more than {self.allowed:g} ends the run")
        if step > self.first:
            try:
                lines.append({"step": step} | self._measured(step))
            except (UserError, RunError, OSError) as error:  # not worth the end of a training; the verdict names it
                warn(f"guard: step {step} is not measured: {line_of(error)}")
            else:
                said = ", ".join(
                    f"{each.label} {_shown(lines[-1][each.name])} ({_change(lines, each)})" for each in self.sets
                )
                info(f"guard: step {step}: {said}")
        write_jsonl(self.file, lines)
        self.publish(BEST)
        return self.ended()

    def ended(self) -> bool:
        """Tell whether the newest teacher has lost too much."""
        lines = self.lines()
        return bool(lines) and lines[-1]["step"] == self.run.steps()[-1] and bool(self._lost(lines[-1], lines[0]))

    def best(self) -> int:
        """Return the step of the best teacher that has not lost: by the classes of the folder, else the newest."""
        lines = self.lines()
        good = [line for line in lines if not self._lost(line, lines[0])]
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
        measured = {line["step"] for line in lines}
        left = [step for step in self.run.steps() if step > self.first and step not in measured]
        without = f"; not measured: step {', '.join(f'{step:,}' for step in left)}" if left else ""
        if len(lines) == 1:
            return f"guard: no teacher that has learnt is measured, so that published is the original{without}"
        lost = self._lost(lines[-1], lines[0])
        if not lost:
            return f"guard: nothing is lost; published is {which}{without}"
        said = " and ".join(
            f"{each.label} fell from {_shown(lines[0][each.name])} to {_shown(lines[-1][each.name])}" for each in lost
        )
        last = lines[-1]["step"]
        return f"guard: {said}, by more than {self.allowed:g}: stopped at step {last:,}; published is {which}{without}"

    def _lost(self, line: Line, original: Line) -> list[Watched]:
        names = {each.name: (original[each.name], line[each.name]) for each in self.sets}
        gone = {name for name, (before, now) in names.items() if now is None or before - now > self.allowed}
        return [each for each in self.sets if each.name in gone]

    def _measured(self, step: int) -> dict[str, float | None]:
        """Measure a saved teacher; one that is not finite has lost everything."""
        folder = self.run.checkpoint(step)
        if not all(is_finite(value) for value in load_file(folder / MODEL).values()):
            return {each.name: None for each in self.sets}
        return self._judged(load(folder))

    def _judged(self, backbone: Backbone) -> dict[str, float | None]:
        found = {each.name: each.measure(backbone.to(self.device)) for each in self.sets}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _sets(self) -> dict[str, list[str]]:
        return {each.name: [each.source, each.how] for each in self.sets}


def _shown(number: float | None) -> str:
    return "nothing, for it is not finite" if number is None else f"{number:.1f}"


def _change(lines: Sequence[Line], one: Watched) -> str:
    before, now = lines[0][one.name], lines[-1][one.name]
    return "lost" if now is None else f"{now - before:+.1f}"


def _named(sets: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name} {source} ({LABELS[how]})" for name, (source, how) in sets.items())
